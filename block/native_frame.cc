// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/native_frame.h"

#include <algorithm>

#include "block/ranges.h"
#include "block/sg_list.h"

namespace cloudblk {
namespace {

static_assert(CLOUDBLK_RANGE_UNMAP == wire::RangeFlag::kUnmap);
static_assert(CLOUDBLK_EXTENT_HOLE == wire::ExtentFlag::kHole);
static_assert(CLOUDBLK_EXTENT_ZERO == wire::ExtentFlag::kZero);

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
  uint8_t* crcs;    // where the next one goes
  uint8_t* copied;  // with payload_crc: the next WRITE's data

  void AddCrcs(std::span<const uint8_t> payload) {
    for (; !payload.empty(); crcs += sizeof(uint32_t)) {
      const size_t n = std::min<size_t>(wire::kCrcBlock, payload.size());
      Store32(crcs, wire::Crc32c(0, payload.first(n)));
      payload = payload.subspan(n);
    }
  }
  void AppendData(const Piece& piece);
  void AppendCopied(const Piece& piece);
  void AppendRanges(const Piece& piece, uint32_t bytes);
};

void Frame::AppendData(const Piece& piece) {
  if (payload_crc) return AppendCopied(piece);
  outbox->Append(SgCursor(piece.request->iov, piece.begin), piece.length());
}

void Frame::AppendCopied(const Piece& piece) {
  AddCrcs({copied, piece.length()});
  outbox->Append(copied, piece.length());
  copied += piece.length();
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
  if (payload_crc) AddCrcs({list, bytes});
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
  } else if (request.operation == Operation::kBlockStatus) {
    const uint64_t extents = std::min<uint64_t>(piece.max_extents(), wire::kMaxExtents);
    message.offset = request.ranges.front().offset;
    message.extent = request.ranges.front().length;
    message.length = static_cast<uint32_t>(extents * wire::kExtentSize);
  } else if (request.operation != Operation::kFlush) {
    message.offset = request.offset + piece.begin;
    message.length = static_cast<uint32_t>(piece.length());
  }
  return message;
}

// Copies the WRITE data of the pieces to `to`, one after the other: what is summed must be what is
// sent, and a guest may change its buffer in between. Returns how many pieces are left, moving
// those behind them whose data cannot be read.
size_t CopyData(std::span<Piece*> pieces, CopyBatch* copies, Outbox* outbox, uint8_t* to) {
  size_t count = pieces.size();
  while (true) {
    size_t at = static_cast<size_t>(to - outbox->memory()->data());
    for (Piece* piece : pieces.first(count)) {
      if (piece->request->operation != Operation::kWrite) continue;
      SgCursor cursor(piece->request->iov, piece->begin);
      copies->Add(piece, at, &cursor, piece->length());
      at += piece->length();
    }
    if (copies->Fetch()) return count;
    const auto readable = [](const Piece* piece) { return piece->error == 0; };
    const auto end = std::stable_partition(pieces.begin(), pieces.begin() + count, readable);
    count = static_cast<size_t>(end - pieces.begin());
  }
}

}  // namespace

Limits LimitsFrom(const wire::HelloReply& hello, const wire::OpenReply& open) {
  const uint32_t block = open.logical_block_size;
  const bool crc = (hello.features & wire::Feature::kPayloadCrc) != 0;
  Limits limits;
  limits.block_status = (hello.features & wire::Feature::kBlockStatus) != 0;
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

size_t AppendRequests(std::span<Piece*> pieces, const Limits& limits, CopyBatch* copies,
                      Outbox* outbox) {
  const bool payload_crc = copies != nullptr;
  uint8_t* copied = nullptr;
  if (payload_crc) {
    size_t data = 0;
    for (const Piece* piece : pieces) {
      if (piece->request->operation == Operation::kWrite) data += piece->length();
    }
    copied = outbox->Reserve(data);
    copies->SetBounce(outbox->memory());
    pieces = pieces.first(CopyData(pieces, copies, outbox, copied));
    if (pieces.empty()) {
      outbox->Return(data);
      return 0;
    }
  }
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
  Frame into{limits, payload_crc, outbox, entry + entries, copied};
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
  return pieces.size();
}

}  // namespace cloudblk
