// SPDX-License-Identifier: GPL-2.0-or-later
//
// Requests and replies, and the batches of them that a frame carries.
#include "proxy-protocol/wire_fields.h"

namespace cloudblk::wire {
namespace {

uint32_t PayloadOf(const Request& r) { return r.PayloadLength(); }
uint32_t PayloadOf(const Reply& r) { return r.length; }

// Entries, the sum of their payloads, and the CRC table behind them.
template <typename Entry>
DecodeError DecodeBatch(const FrameHeader& header, std::span<const uint8_t> section,
                        size_t entry_size, const FrameLimits& limits, std::span<Entry> out,
                        std::span<const uint8_t>* crcs) {
  const size_t entries = header.count * entry_size;
  if (section.size() != header.header_length || section.size() < entries) {
    return DecodeError::kTruncated;
  }
  uint64_t payload = 0;
  uint64_t blocks = 0;
  for (uint32_t i = 0; i < header.count; ++i) {
    const DecodeError error = Decode(section.subspan(i * entry_size, entry_size), &out[i]);
    if (error != DecodeError::kOk) return error;
    if (out[i].length > limits.max_payload) return DecodeError::kBadLength;
    payload += PayloadOf(out[i]);
    blocks += CrcBlocks(PayloadOf(out[i]));
  }
  if (payload != header.payload_length) return DecodeError::kBadLength;
  const uint64_t table = limits.payload_crc ? blocks * 4 : 0;
  if (section.size() - entries != table) return DecodeError::kBadLength;
  *crcs = section.subspan(entries);
  return DecodeError::kOk;
}

DecodeError CheckBlockStatus(const Request& m) {
  if (m.range_count != 0) return DecodeError::kBadCount;
  if (m.flags != 0) return DecodeError::kReservedSet;
  if (m.length == 0 || m.length % kExtentSize != 0 || m.length > kMaxExtents * kExtentSize ||
      m.extent == 0 || m.extent > uint64_t{INT64_MAX} ||
      m.offset > uint64_t{INT64_MAX} - m.extent) {
    return DecodeError::kBadLength;
  }
  return DecodeError::kOk;
}

}  // namespace

size_t Encode(const Request& m, std::span<uint8_t> bytes) {
  Writer out(bytes);
  out.U64(m.tag);
  out.U64(m.offset);
  out.U32(m.length);
  out.U8(static_cast<uint8_t>(m.operation));
  out.U8(m.flags);
  out.U16(m.range_count);
  out.U64(m.extent);
  return out.size();
}

DecodeError Decode(std::span<const uint8_t> bytes, Request* m) {
  if (bytes.size() < kRequestHeaderSize) return DecodeError::kTruncated;
  Reader in(bytes);
  m->tag = in.U64();
  m->offset = in.U64();
  m->length = in.U32();
  m->operation = static_cast<Operation>(in.U8());
  m->flags = in.U8();
  m->range_count = in.U16();
  m->extent = in.U64();
  if ((m->flags & ~unsigned{RequestFlag::kAll}) != 0) return DecodeError::kReservedSet;
  const DecodeError rest = m->extent == 0 ? DecodeError::kOk : DecodeError::kReservedSet;
  switch (m->operation) {
    case Operation::kRead:
    case Operation::kWrite:
      if (m->range_count != 0) return DecodeError::kBadCount;
      if (m->length == 0 || m->offset > uint64_t{INT64_MAX} - m->length) {
        return DecodeError::kBadLength;
      }
      if (m->operation == Operation::kRead && m->flags != 0) return DecodeError::kReservedSet;
      return rest;
    case Operation::kFlush:
      if (m->range_count != 0) return DecodeError::kBadCount;
      if (m->length != 0 || m->offset != 0) return DecodeError::kBadLength;
      if (m->flags != 0) return DecodeError::kReservedSet;
      return rest;
    case Operation::kDiscard:
    case Operation::kWriteZeroes:
      if (m->range_count == 0 || m->range_count > kMaxRanges) return DecodeError::kBadCount;
      if (m->length != m->range_count * kRangeSize || m->offset != 0) {
        return DecodeError::kBadLength;
      }
      if (m->operation == Operation::kDiscard && m->flags != 0) return DecodeError::kReservedSet;
      return rest;
    case Operation::kBlockStatus:
      return CheckBlockStatus(*m);
  }
  return DecodeError::kBadOperation;
}

size_t Encode(const Range& m, std::span<uint8_t> bytes) {
  Writer out(bytes);
  out.U64(m.offset);
  out.U64(m.length);
  out.U32(m.flags);
  out.Pad(4);
  return out.size();
}

DecodeError Decode(std::span<const uint8_t> bytes, Range* m) {
  if (bytes.size() < kRangeSize) return DecodeError::kTruncated;
  Reader in(bytes);
  m->offset = in.U64();
  m->length = in.U64();
  m->flags = in.U32();
  in.Pad(4);
  if ((m->flags & ~uint32_t{RangeFlag::kAll}) != 0) return DecodeError::kReservedSet;
  if (m->length > uint64_t{INT64_MAX} || m->offset > uint64_t{INT64_MAX} - m->length) {
    return DecodeError::kBadLength;
  }
  return Finish(in);
}

size_t Encode(const Extent& m, std::span<uint8_t> bytes) {
  Writer out(bytes);
  out.U64(m.length);
  out.U32(m.flags);
  out.Pad(4);
  return out.size();
}

DecodeError Decode(std::span<const uint8_t> bytes, Extent* m) {
  if (bytes.size() < kExtentSize) return DecodeError::kTruncated;
  Reader in(bytes);
  m->length = in.U64();
  m->flags = in.U32();
  in.Pad(4);
  if ((m->flags & ~uint32_t{ExtentFlag::kAll}) != 0) return DecodeError::kReservedSet;
  if (m->length == 0 || m->length > uint64_t{INT64_MAX}) return DecodeError::kBadLength;
  return Finish(in);
}

size_t Encode(const Reply& m, std::span<uint8_t> bytes) {
  Writer out(bytes);
  out.U64(m.tag);
  out.U32(static_cast<uint32_t>(m.status));
  out.U32(m.length);
  out.U32(m.flags);
  out.Pad(4);
  return out.size();
}

DecodeError Decode(std::span<const uint8_t> bytes, Reply* m) {
  if (bytes.size() < kReplyHeaderSize) return DecodeError::kTruncated;
  Reader in(bytes);
  m->tag = in.U64();
  const uint32_t status = in.U32();
  m->length = in.U32();
  m->flags = in.U32();
  in.Pad(4);
  if (!IsStatusCode(status)) return DecodeError::kBadStatus;
  m->status = static_cast<StatusCode>(status);
  if ((m->flags & ~uint32_t{ReplyFlag::kAll}) != 0) return DecodeError::kReservedSet;
  // Neither an error nor a hole has a payload.
  if (m->length != 0 && (m->status != StatusCode::kOk || m->flags != 0))
    return DecodeError::kBadLength;
  if (m->flags != 0 && m->status != StatusCode::kOk) return DecodeError::kReservedSet;
  return Finish(in);
}

DecodeError DecodeRequests(const FrameHeader& header, std::span<const uint8_t> section,
                           const FrameLimits& limits, std::span<Request> out,
                           std::span<const uint8_t>* crcs) {
  return DecodeBatch(header, section, kRequestHeaderSize, limits, out, crcs);
}

DecodeError DecodeReplies(const FrameHeader& header, std::span<const uint8_t> section,
                          const FrameLimits& limits, std::span<Reply> out,
                          std::span<const uint8_t>* crcs) {
  return DecodeBatch(header, section, kReplyHeaderSize, limits, out, crcs);
}

}  // namespace cloudblk::wire
