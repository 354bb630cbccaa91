// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/native_frame.h"

#include <algorithm>
#include <array>

#include "block/ranges.h"
#include "block/sg_list.h"

namespace cloudblk {
namespace {

static_assert(CLOUDBLK_RANGE_UNMAP == wire::RangeFlag::kUnmap);

uint64_t RoundDown(uint64_t value, uint64_t unit) { return value - value % unit; }

// Of what a server grants we use no more than this. It bounds our memory and how much one Pump
// sends.
constexpr uint32_t kMostCreditRequests = 4096;
constexpr uint64_t kMostCreditBytes = uint64_t{256} << 20;

uint32_t PayloadLength(const Piece& piece, const Limits& limits) {
  const Operation operation = piece.request->operation;
  if (operation == Operation::kWrite) return static_cast<uint32_t>(piece.length());
  if (!HasRanges(operation)) return 0;
  return CountRanges(piece, limits) * static_cast<uint32_t>(wire::kRangeSize);
}

// One frame in the making: its header section, behind that the payloads.
struct Frame {
  const Limits& limits;
  const bool payload_crc;
  Outbox* const outbox;
  uint8_t* crcs;  // where the next one goes

  void AddCrc(std::span<const uint8_t> block) {
    Store32(crcs, wire::Crc32c(0, block));
    crcs += sizeof(uint32_t);
  }
  void AppendData(const Piece& piece);
  void AppendCopy(const Piece& piece);
  void AppendRanges(const Piece& piece, uint32_t bytes);
};

void Frame::AppendData(const Piece& piece) {
  if (payload_crc) return AppendCopy(piece);
  SgCursor cursor(piece.request->iov, piece.begin);
  std::array<iovec, 64> elements;
  uint64_t described;
  for (uint64_t left = piece.length(); left > 0; left -= described) {
    const size_t count = cursor.Describe(left, elements, &described);
    for (size_t i = 0; i < count; ++i) outbox->Append(elements[i].iov_base, elements[i].iov_len);
    if (described < left) cursor.Advance(described);
  }
}

// What is summed must be what is sent, and a guest may change its buffer in between.
void Frame::AppendCopy(const Piece& piece) {
  SgCursor cursor(piece.request->iov, piece.begin);
  uint8_t* const copy = outbox->Reserve(piece.length());
  for (uint64_t at = 0; at < piece.length(); at += wire::kCrcBlock) {
    const size_t n = std::min<uint64_t>(wire::kCrcBlock, piece.length() - at);
    cursor.CopyOut({copy + at, n});
    AddCrc({copy + at, n});
  }
  outbox->Append(copy, piece.length());
}

void Frame::AppendRanges(const Piece& piece, uint32_t bytes) {
  const Request& request = *piece.request;
  uint8_t* const list = outbox->Reserve(bytes);
  uint8_t* at = list;
  WalkRanges(request, piece.begin, piece.end, RangeLimit(request.operation, limits),
             [&](const CloudblkRange& range) {
               at += wire::Encode(wire::Range{range.offset, range.length, range.flags},
                                  {at, wire::kRangeSize});
               return true;
             });
  if (payload_crc) AddCrc({list, bytes});
  outbox->Append(list, bytes);
}

wire::Request Header(const Piece& piece, uint32_t payload) {
  const Request& request = *piece.request;
  wire::Request message;
  message.tag = piece.tag;
  message.operation = static_cast<wire::Operation>(request.operation);
  if (request.fua) message.flags = wire::RequestFlag::kFua;
  if (HasRanges(request.operation)) {
    message.range_count = static_cast<uint16_t>(payload / wire::kRangeSize);
    message.length = payload;
  } else if (request.operation != Operation::kFlush) {
    message.offset = request.offset + piece.begin;
    message.length = static_cast<uint32_t>(piece.length());
  }
  return message;
}

}  // namespace

Limits LimitsFrom(const wire::HelloReply& hello, const wire::OpenReply& open) {
  const uint32_t block = open.logical_block_size;
  const bool crc = (hello.features & wire::Feature::kPayloadCrc) != 0;
  Limits limits;
  limits.max_data = static_cast<uint32_t>(
      RoundDown(std::min<uint64_t>(hello.max_frame_payload, open.credit_bytes), block));
  limits.range_size = wire::kRangeSize;
  limits.max_ranges =
      std::min<uint32_t>(open.max_ranges, hello.max_frame_payload / limits.range_size);
  // At least a block: a server that does not support an operation may say 0, and requests that were
  // accepted before it said so still have to be sent, for it to refuse them.
  limits.max_discard_length = std::max<uint64_t>(block, RoundDown(open.max_discard_length, block));
  limits.max_write_zeroes_length =
      std::max<uint64_t>(block, RoundDown(open.max_write_zeroes_length, block));
  limits.credit_requests = std::min(open.credit_requests, kMostCreditRequests);
  limits.credit_bytes = std::min<uint64_t>(open.credit_bytes, kMostCreditBytes);
  limits.batch_pieces = hello.max_frame_entries;
  limits.batch_payload = hello.max_frame_payload;
  limits.batch_overhead = wire::kFrameHeaderSize + kControlRoom;
  limits.piece_overhead = wire::kRequestHeaderSize;
  if (crc) {
    limits.copies_data = true;
    limits.piece_overhead += wire::CrcBlocks(hello.max_frame_payload) * sizeof(uint32_t);
  }
  return limits;
}

void AppendRequests(const std::vector<Piece*>& pieces, const Limits& limits, bool payload_crc,
                    Outbox* outbox) {
  const size_t entries = pieces.size() * wire::kRequestHeaderSize;
  size_t crcs = 0;
  if (payload_crc) {
    for (const Piece* piece : pieces) crcs += wire::CrcBlocks(PayloadLength(*piece, limits));
  }
  const size_t section = entries + crcs * sizeof(uint32_t);
  const size_t head = wire::kFrameHeaderSize + section;
  uint8_t* const frame = outbox->Reserve(head);
  outbox->Append(frame, head);
  uint8_t* entry = frame + wire::kFrameHeaderSize;
  Frame into{limits, payload_crc, outbox, entry + entries};
  uint32_t total = 0;
  for (Piece* piece : pieces) {
    const Operation operation = piece->request->operation;
    const uint32_t payload = PayloadLength(*piece, limits);
    entry += wire::Encode(Header(*piece, payload), {entry, wire::kRequestHeaderSize});
    if (operation == Operation::kWrite) into.AppendData(*piece);
    if (HasRanges(operation)) into.AppendRanges(*piece, payload);
    total += payload;
    piece->stream_end = outbox->appended();
  }
  wire::FrameHeader header;
  header.type = wire::FrameType::kRequest;
  header.count = static_cast<uint32_t>(pieces.size());
  header.header_length = static_cast<uint32_t>(section);
  header.payload_length = total;
  wire::SealFrame(header, {frame, head});
}

}  // namespace cloudblk
