// SPDX-License-Identifier: GPL-2.0-or-later
//
// Frames and names; the messages are in wire_handshake.cc, wire_requests.cc and wire_control.cc.
#include "proxy-protocol/wire.h"

#include <isa-l/crc.h>

#include "base/operation.h"
#include "proxy-protocol/wire_fields.h"

namespace cloudblk::wire {

// What goes from the wire to the rest of the program, and back, is cast.
static_assert(static_cast<int>(Operation::kRead) == static_cast<int>(cloudblk::Operation::kRead));
static_assert(static_cast<int>(Operation::kWrite) == static_cast<int>(cloudblk::Operation::kWrite));
static_assert(static_cast<int>(Operation::kFlush) == static_cast<int>(cloudblk::Operation::kFlush));
static_assert(static_cast<int>(Operation::kDiscard) ==
              static_cast<int>(cloudblk::Operation::kDiscard));
static_assert(static_cast<int>(Operation::kWriteZeroes) ==
              static_cast<int>(cloudblk::Operation::kWriteZeroes));
static_assert(static_cast<int>(Operation::kBlockStatus) ==
              static_cast<int>(cloudblk::Operation::kBlockStatus));
namespace {

#define CLOUDBLK_CASE(name, value, text) \
  case value:                            \
    return text;

std::string_view FrameName(uint32_t v) {
  switch (v) { CLOUDBLK_FRAME_TYPES(CLOUDBLK_CASE) }
  return "UNKNOWN";
}
std::string_view OperationName(uint32_t v) {
  switch (v) { CLOUDBLK_OPERATIONS(CLOUDBLK_CASE) }
  return "UNKNOWN";
}
std::string_view StatusName(uint32_t v) {
  switch (v) { CLOUDBLK_STATUSES(CLOUDBLK_CASE) }
  return "UNKNOWN";
}
std::string_view EventName(uint32_t v) {
  switch (v) { CLOUDBLK_EVENTS(CLOUDBLK_CASE) }
  return "UNKNOWN";
}
#undef CLOUDBLK_CASE

// What a frame of each type looks like: the fixed size of its header section (for batches: of one
// entry) and the most payload it may have (for batches: the negotiated limit).
struct Layout {
  size_t section;
  bool batch;
  uint32_t max_payload;
};

bool LayoutOf(uint32_t type, const FrameLimits& limits, Layout* out) {
  switch (static_cast<FrameType>(type)) {
    case FrameType::kHello:
      return *out = {kHelloSize, false, 0}, true;
    case FrameType::kHelloReply:
      return *out = {kHelloReplySize, false, kMaxText}, true;
    case FrameType::kOpen:
      return *out = {kOpenSize, false, kMaxVolumeName + kMaxClientName}, true;
    case FrameType::kOpenReply:
      return *out = {kOpenReplySize, false, kMaxText}, true;
    case FrameType::kRequest:
      return *out = {kRequestHeaderSize, true, limits.max_payload}, true;
    case FrameType::kReply:
      return *out = {kReplyHeaderSize, true, limits.max_payload}, true;
    case FrameType::kPing:
    case FrameType::kPong:
      return *out = {kPingSize, false, 0}, true;
    case FrameType::kRelease:
    case FrameType::kClaim:
      return *out = {kTokenMessageSize, false, 0}, true;
    case FrameType::kReleaseReply:
    case FrameType::kClaimReply:
    case FrameType::kCloseReply:
    case FrameType::kResizeReply:
    case FrameType::kError:
      return *out = {kStatusMessageSize, false, kMaxText}, true;
    case FrameType::kEvent:
      return *out = {kEventSize, false, kMaxText}, true;
    case FrameType::kClose:
      return *out = {kCloseSize, false, 0}, true;
    case FrameType::kResize:
      return *out = {kResizeSize, false, 0}, true;
  }
  return false;
}

DecodeError CheckLengths(const FrameHeader& h, const FrameLimits& limits) {
  Layout layout;
  if (!LayoutOf(static_cast<uint32_t>(h.type), limits, &layout)) return DecodeError::kBadType;
  if (h.payload_length > layout.max_payload) return DecodeError::kBadLength;
  if (!layout.batch) {
    if (h.count != 0) return DecodeError::kBadCount;
    return h.header_length == layout.section ? DecodeError::kOk : DecodeError::kBadLength;
  }
  if (h.count == 0 || h.count > limits.max_entries || h.count > kMaxFrameEntries) {
    return DecodeError::kBadCount;
  }
  const uint32_t entries = h.count * static_cast<uint32_t>(layout.section);
  if (!limits.payload_crc) {
    return h.header_length == entries ? DecodeError::kOk : DecodeError::kBadLength;
  }
  // Each entry's last block may be a short one, so there are at most `count` more than whole ones.
  const uint32_t most = entries + 4 * (h.count + h.payload_length / kCrcBlock);
  if (h.header_length < entries || h.header_length > most || (h.header_length - entries) % 4 != 0) {
    return DecodeError::kBadLength;
  }
  return DecodeError::kOk;
}

}  // namespace

std::string_view Name(FrameType v) { return FrameName(static_cast<uint32_t>(v)); }
std::string_view Name(Operation v) { return OperationName(static_cast<uint32_t>(v)); }
std::string_view Name(StatusCode v) { return StatusName(static_cast<uint32_t>(v)); }
std::string_view Name(EventKind v) { return EventName(static_cast<uint32_t>(v)); }

std::string_view Describe(DecodeError error) {
  switch (error) {
    case DecodeError::kOk:
      return "no error";
    case DecodeError::kTruncated:
      return "message is cut short";
    case DecodeError::kBadMagic:
      return "frame does not start with the magic number (not a cloudblk peer?)";
    case DecodeError::kBadVersion:
      return "frame has another protocol version";
    case DecodeError::kBadHeaderCrc:
      return "CRC of the frame header does not match";
    case DecodeError::kBadSectionCrc:
      return "CRC of the header section does not match";
    case DecodeError::kBadType:
      return "unknown frame type";
    case DecodeError::kReservedSet:
      return "a reserved bit or field is not zero";
    case DecodeError::kBadCount:
      return "number of entries out of bounds";
    case DecodeError::kBadLength:
      return "a length is out of bounds or does not add up";
    case DecodeError::kBadOperation:
      return "unknown operation";
    case DecodeError::kBadStatus:
      return "unknown status or event";
  }
  return "unknown error";
}

uint32_t Crc32c(uint32_t crc, std::span<const uint8_t> data) {
  // ISA-L's routine leaves both inversions to the caller, and takes a pointer to mutable bytes that
  // it only reads.
  return ~crc32_iscsi(const_cast<uint8_t*>(data.data()), static_cast<int>(data.size()), ~crc);
}

void SealFrame(const FrameHeader& header, std::span<uint8_t> frame) {
  Writer out(frame);
  out.U32(kMagic);
  out.U8(kVersion);
  out.U8(static_cast<uint8_t>(header.type));
  out.U16(header.flags);
  out.U32(header.count);
  out.U32(header.header_length);
  out.U32(header.payload_length);
  out.Pad(4);
  out.U32(Crc32c(0, frame.subspan(kFrameHeaderSize, header.header_length)));
  out.U32(Crc32c(0, frame.first(kFrameHeaderSize - 4)));
}

DecodeError DecodeFrameHeader(std::span<const uint8_t> bytes, const FrameLimits& limits,
                              FrameHeader* out) {
  if (bytes.size() < kFrameHeaderSize) return DecodeError::kTruncated;
  Reader in(bytes.first(kFrameHeaderSize));
  // The magic number comes before the CRC: of a peer of another protocol the text should say so.
  if (in.U32() != kMagic) return DecodeError::kBadMagic;
  const uint8_t version = in.U8();
  const uint8_t type = in.U8();
  FrameHeader h;
  h.flags = in.U16();
  h.count = in.U32();
  h.header_length = in.U32();
  h.payload_length = in.U32();
  in.Pad(4);
  h.header_section_crc = in.U32();
  if (in.U32() != Crc32c(0, bytes.first(kFrameHeaderSize - 4))) return DecodeError::kBadHeaderCrc;
  if (version != kVersion) return DecodeError::kBadVersion;
  if (h.flags != 0 || !in.reserved_clear()) return DecodeError::kReservedSet;
  h.type = static_cast<FrameType>(type);
  const DecodeError error = CheckLengths(h, limits);
  if (error == DecodeError::kOk) *out = h;
  return error;
}

DecodeError CheckHeaderSection(const FrameHeader& header, std::span<const uint8_t> section) {
  if (section.size() != header.header_length) return DecodeError::kTruncated;
  return Crc32c(0, section) == header.header_section_crc ? DecodeError::kOk
                                                         : DecodeError::kBadSectionCrc;
}

}  // namespace cloudblk::wire
