// SPDX-License-Identifier: GPL-2.0-or-later
//
// PING, RELEASE, CLAIM, CLOSE and RESIZE, the answers to them, EVENT and ERROR.
#include "proxy-protocol/wire_fields.h"

namespace cloudblk::wire {
namespace {

#define CLOUDBLK_CASE(name, value, text) case value:
bool IsEvent(uint32_t v) {
  switch (v) {
    CLOUDBLK_EVENTS(CLOUDBLK_CASE)
    return true;
  }
  return false;
}
#undef CLOUDBLK_CASE

}  // namespace

size_t Encode(const Ping& m, std::span<uint8_t> bytes) {
  Writer out(bytes);
  out.U64(m.cookie);
  return out.size();
}

DecodeError Decode(std::span<const uint8_t> bytes, Ping* m) {
  if (bytes.size() < kPingSize) return DecodeError::kTruncated;
  m->cookie = Load64(bytes.data());
  return DecodeError::kOk;
}

size_t Encode(const TokenMessage& m, std::span<uint8_t> bytes) {
  Writer out(bytes);
  out.Id(m.token);
  out.U64(m.epoch);
  out.Pad(8);
  return out.size();
}

DecodeError Decode(std::span<const uint8_t> bytes, TokenMessage* m) {
  if (bytes.size() < kTokenMessageSize) return DecodeError::kTruncated;
  Reader in(bytes);
  m->token = in.Id();
  m->epoch = in.U64();
  in.Pad(8);
  if (m->token.IsNil()) return DecodeError::kBadLength;
  return Finish(in);
}

size_t Encode(const StatusMessage& m, std::span<uint8_t> bytes) {
  Writer out(bytes);
  out.U32(static_cast<uint32_t>(m.status));
  out.Pad(4);
  out.U64(m.epoch);
  return out.size();
}

DecodeError Decode(std::span<const uint8_t> bytes, StatusMessage* m) {
  if (bytes.size() < kStatusMessageSize) return DecodeError::kTruncated;
  Reader in(bytes);
  const uint32_t status = in.U32();
  in.Pad(4);
  m->epoch = in.U64();
  if (!IsStatusCode(status)) return DecodeError::kBadStatus;
  m->status = static_cast<StatusCode>(status);
  return Finish(in);
}

size_t Encode(const Event& m, std::span<uint8_t> bytes) {
  Writer out(bytes);
  out.U32(static_cast<uint32_t>(m.kind));
  out.Pad(4);
  out.U64(m.value);
  return out.size();
}

DecodeError Decode(std::span<const uint8_t> bytes, Event* m) {
  if (bytes.size() < kEventSize) return DecodeError::kTruncated;
  Reader in(bytes);
  const uint32_t kind = in.U32();
  in.Pad(4);
  m->value = in.U64();
  if (!IsEvent(kind)) return DecodeError::kBadStatus;
  m->kind = static_cast<EventKind>(kind);
  return Finish(in);
}

size_t Encode(const Close& m, std::span<uint8_t> bytes) {
  Writer out(bytes);
  out.U32(m.flags);
  out.Pad(4);
  return out.size();
}

DecodeError Decode(std::span<const uint8_t> bytes, Close* m) {
  if (bytes.size() < kCloseSize) return DecodeError::kTruncated;
  Reader in(bytes);
  m->flags = in.U32();
  in.Pad(4);
  if ((m->flags & ~uint32_t{CloseFlag::kAll}) != 0) return DecodeError::kReservedSet;
  return Finish(in);
}

size_t Encode(const Resize& m, std::span<uint8_t> bytes) {
  Writer out(bytes);
  out.U64(m.size);
  out.U32(m.flags);
  out.Pad(4);
  return out.size();
}

DecodeError Decode(std::span<const uint8_t> bytes, Resize* m) {
  if (bytes.size() < kResizeSize) return DecodeError::kTruncated;
  Reader in(bytes);
  m->size = in.U64();
  m->flags = in.U32();
  in.Pad(4);
  if ((m->flags & ~uint32_t{ResizeFlag::kAll}) != 0) return DecodeError::kReservedSet;
  if (m->size > uint64_t{INT64_MAX}) return DecodeError::kBadLength;
  return Finish(in);
}

}  // namespace cloudblk::wire
