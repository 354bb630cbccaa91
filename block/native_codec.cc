// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/native_codec.h"

#include <algorithm>
#include <array>
#include <cassert>

#include "block/sg_list.h"

namespace cloudblk {
namespace {

uint64_t RoundDown(uint64_t value, uint64_t unit) { return value - value % unit; }

uint64_t RangeLimit(wire::Operation operation, const NativeLimits& limits) {
  return operation == wire::Operation::kDiscard ? limits.discard_length
                                                : limits.write_zeroes_length;
}

// What a server may take of our memory, and how long one Kick may be: it promises as it likes.
constexpr uint32_t kMostCreditRequests = 4096;
constexpr uint64_t kMostCreditBytes = uint64_t{256} << 20;

// Cuts the bytes [begin, end) of a request's ranges into ranges of at most `most` bytes. Calls
// emit(range) for each until it returns false; returns where the last accepted one ended.
template <typename F>
uint64_t WalkRanges(const Request& request, uint64_t begin, uint64_t end, uint64_t most, F&& emit) {
  uint64_t at = 0;  // where the present range starts
  for (const CloudblkRange& range : request.ranges) {
    const uint64_t range_end = at + range.length;
    while (begin < std::min(end, range_end)) {
      const uint64_t length = std::min({most, range_end - begin, end - begin});
      if (!emit(wire::Range{range.offset + (begin - at), length, range.flags})) return begin;
      begin += length;
    }
    at = range_end;
  }
  return begin;
}

uint32_t CountRanges(const Piece& piece, const NativeLimits& limits) {
  uint32_t count = 0;
  WalkRanges(*piece.request, piece.begin, piece.end, RangeLimit(piece.request->operation, limits),
             [&](const wire::Range&) {
               ++count;
               return true;
             });
  return count;
}

}  // namespace

NativeLimits LimitsFrom(const wire::HelloReply& hello, const wire::OpenReply& open) {
  const uint32_t block = open.logical_block_size;
  NativeLimits limits;
  limits.frame.max_entries = hello.max_frame_entries;
  limits.frame.max_payload = hello.max_frame_payload;
  limits.frame.payload_crc = (hello.features & wire::Feature::kPayloadCrc) != 0;
  limits.hole_reply = (hello.features & wire::Feature::kHoleReply) != 0;
  limits.data_length = static_cast<uint32_t>(
      RoundDown(std::min<uint64_t>(hello.max_frame_payload, open.credit_bytes), block));
  limits.max_ranges = std::min<uint32_t>(
      open.max_ranges, hello.max_frame_payload / static_cast<uint32_t>(wire::kRangeSize));
  // A server that does not support an operation may say 0; requests that were accepted before it
  // said so are then refused by it, one by one.
  limits.discard_length = std::max<uint64_t>(block, RoundDown(open.max_discard_length, block));
  limits.write_zeroes_length =
      std::max<uint64_t>(block, RoundDown(open.max_write_zeroes_length, block));
  limits.credit_requests = std::min(open.credit_requests, kMostCreditRequests);
  limits.credit_bytes = std::min<uint64_t>(open.credit_bytes, kMostCreditBytes);
  return limits;
}

uint64_t FittingEnd(const Request& request, uint64_t begin, uint64_t end,
                    const NativeLimits& limits) {
  if (!HasRanges(request.operation)) return std::min(end, begin + limits.data_length);
  uint32_t count = 0;
  return WalkRanges(request, begin, end, RangeLimit(request.operation, limits),
                    [&](const wire::Range&) { return ++count <= limits.max_ranges; });
}

bool RequestFrame::Grown(const Piece& piece, Size* grown) const {
  const wire::Operation operation = piece.request->operation;
  uint64_t payload = 0;
  uint64_t copied = 0;
  if (operation == wire::Operation::kWrite) {
    payload = piece.length();
    copied = limits_.frame.payload_crc ? payload : 0;
  } else if (HasRanges(operation)) {
    payload = copied = CountRanges(piece, limits_) * wire::kRangeSize;
  }
  Size size = size_;
  size.payload += payload;
  size.copied += copied;
  if (limits_.frame.payload_crc) size.crcs += wire::CrcBlocks(static_cast<uint32_t>(payload));
  const uint64_t memory = wire::kFrameHeaderSize + (pieces_.size() + 1) * wire::kRequestHeaderSize +
                          size.crcs * sizeof(uint32_t) + size.copied + kControlRoom;
  if (pieces_.size() == limits_.frame.max_entries || size.payload > limits_.frame.max_payload ||
      memory > outbox_->free()) {
    return false;
  }
  if (grown != nullptr) *grown = size;
  return true;
}

void RequestFrame::Add(Piece* piece) {
  const bool fits = Grown(*piece, &size_);
  assert(fits);
  static_cast<void>(fits);
  pieces_.push_back(piece);
}

void RequestFrame::Seal() {
  const size_t section = pieces_.size() * wire::kRequestHeaderSize + size_.crcs * sizeof(uint32_t);
  const size_t head = wire::kFrameHeaderSize + section;
  uint8_t* const frame = outbox_->Reserve(head);
  outbox_->Append(frame, head);
  uint8_t* entry = frame + wire::kFrameHeaderSize;
  uint8_t* crcs = entry + pieces_.size() * wire::kRequestHeaderSize;
  for (Piece* piece : pieces_) {
    const Request& request = *piece->request;
    wire::Request message;
    message.tag = piece->tag;
    message.operation = request.operation;
    if (request.fua) message.flags = wire::RequestFlag::kFua;
    if (HasRanges(request.operation)) {
      message.range_count = static_cast<uint16_t>(CountRanges(*piece, limits_));
      message.length = message.range_count * static_cast<uint32_t>(wire::kRangeSize);
    } else if (request.operation != wire::Operation::kFlush) {
      message.offset = request.offset + piece->begin;
      message.length = static_cast<uint32_t>(piece->length());
    }
    entry += wire::Encode(message, {entry, wire::kRequestHeaderSize});
    AppendPayload(*piece, &crcs);
    piece->stream_end = outbox_->appended();
  }
  wire::FrameHeader header;
  header.type = wire::FrameType::kRequest;
  header.count = static_cast<uint32_t>(pieces_.size());
  header.header_length = static_cast<uint32_t>(section);
  header.payload_length = static_cast<uint32_t>(size_.payload);
  wire::SealFrame(header, {frame, head});
}

void RequestFrame::AppendPayload(const Piece& piece, uint8_t** crcs) {
  const Request& request = *piece.request;
  if (HasRanges(request.operation)) return AppendRanges(piece, crcs);
  if (request.operation != wire::Operation::kWrite) return;
  if (limits_.frame.payload_crc) return AppendCopy(piece, crcs);
  SgCursor cursor(request.iov, piece.begin);
  std::array<iovec, 64> elements;
  uint64_t described;
  for (uint64_t left = piece.length(); left > 0; left -= described) {
    const size_t count = cursor.Describe(left, elements, &described);
    for (size_t i = 0; i < count; ++i) outbox_->Append(elements[i].iov_base, elements[i].iov_len);
    if (described < left) cursor.Advance(described);
  }
}

void RequestFrame::AppendRanges(const Piece& piece, uint8_t** crcs) {
  const Request& request = *piece.request;
  const size_t bytes = CountRanges(piece, limits_) * wire::kRangeSize;
  uint8_t* const list = outbox_->Reserve(bytes);
  uint8_t* at = list;
  WalkRanges(request, piece.begin, piece.end, RangeLimit(request.operation, limits_),
             [&](const wire::Range& range) {
               at += wire::Encode(range, {at, wire::kRangeSize});
               return true;
             });
  if (limits_.frame.payload_crc) {
    wire::Store32(*crcs, wire::Crc32c(0, {list, bytes}));
    *crcs += sizeof(uint32_t);
  }
  outbox_->Append(list, bytes);
}

void RequestFrame::AppendCopy(const Piece& piece, uint8_t** crcs) {
  SgCursor cursor(piece.request->iov, piece.begin);
  uint8_t* const copy = outbox_->Reserve(piece.length());
  for (uint64_t at = 0; at < piece.length(); at += wire::kCrcBlock) {
    const size_t n = std::min<uint64_t>(wire::kCrcBlock, piece.length() - at);
    cursor.CopyOut({copy + at, n});
    wire::Store32(*crcs, wire::Crc32c(0, {copy + at, n}));
    *crcs += sizeof(uint32_t);
  }
  outbox_->Append(copy, piece.length());
}

}  // namespace cloudblk
