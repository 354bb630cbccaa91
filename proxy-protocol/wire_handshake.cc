// SPDX-License-Identifier: GPL-2.0-or-later
//
// HELLO and OPEN, and their answers.
#include "proxy-protocol/wire_fields.h"

namespace cloudblk::wire {

size_t Encode(const Hello& m, std::span<uint8_t> bytes) {
  Writer out(bytes);
  out.U16(m.version_min);
  out.U16(m.version_max);
  out.U32(m.max_frame_payload);
  out.U64(m.features);
  out.U64(m.required_features);
  out.U32(m.max_frame_entries);
  out.Pad(4);
  return out.size();
}

DecodeError Decode(std::span<const uint8_t> bytes, Hello* m) {
  if (bytes.size() < kHelloSize) return DecodeError::kTruncated;
  Reader in(bytes);
  m->version_min = in.U16();
  m->version_max = in.U16();
  m->max_frame_payload = in.U32();
  m->features = in.U64();
  m->required_features = in.U64();
  m->max_frame_entries = in.U32();
  in.Pad(4);
  // Unknown features are no error: a later version may offer more (SPEC.md 5.4).
  if (m->version_min > m->version_max || m->max_frame_payload < kMinFramePayload ||
      m->max_frame_entries == 0) {
    return DecodeError::kBadLength;
  }
  return Finish(in);
}

size_t Encode(const HelloReply& m, std::span<uint8_t> bytes) {
  Writer out(bytes);
  out.U32(static_cast<uint32_t>(m.status));
  out.U16(m.version);
  out.Pad(2);
  out.U64(m.features);
  out.U32(m.max_frame_payload);
  out.U32(m.max_frame_entries);
  out.Id(m.server);
  out.Pad(8);
  return out.size();
}

DecodeError Decode(std::span<const uint8_t> bytes, HelloReply* m) {
  if (bytes.size() < kHelloReplySize) return DecodeError::kTruncated;
  Reader in(bytes);
  const uint32_t status = in.U32();
  m->version = in.U16();
  in.Pad(2);
  m->features = in.U64();
  m->max_frame_payload = in.U32();
  m->max_frame_entries = in.U32();
  m->server = in.Id();
  in.Pad(8);
  if (!IsStatusCode(status)) return DecodeError::kBadStatus;
  m->status = static_cast<StatusCode>(status);
  if (m->status == StatusCode::kOk) {
    if (m->version != kVersion) return DecodeError::kBadVersion;
    if ((m->features & ~uint64_t{Feature::kAll}) != 0) return DecodeError::kReservedSet;
    if (m->max_frame_payload < kMinFramePayload || m->max_frame_payload > kMaxFramePayload ||
        m->max_frame_entries == 0 || m->max_frame_entries > kMaxFrameEntries) {
      return DecodeError::kBadLength;
    }
  }
  return Finish(in);
}

size_t Encode(const Open& m, std::span<uint8_t> bytes) {
  Writer out(bytes);
  out.Id(m.session);
  out.U64(m.epoch);
  out.U32(m.channel);
  out.U32(m.channel_count);
  out.U64(m.incarnation);
  out.U32(m.flags);
  out.Pad(4);
  out.Id(m.volume);
  out.U64(m.generation);
  out.Id(m.token);
  out.U16(m.volume_name_length);
  out.U16(m.client_name_length);
  out.Pad(4);
  out.Id(m.claimer);
  return out.size();
}

DecodeError Decode(std::span<const uint8_t> bytes, Open* m) {
  if (bytes.size() < kOpenSize) return DecodeError::kTruncated;
  Reader in(bytes);
  m->session = in.Id();
  m->epoch = in.U64();
  m->channel = in.U32();
  m->channel_count = in.U32();
  m->incarnation = in.U64();
  m->flags = in.U32();
  in.Pad(4);
  m->volume = in.Id();
  m->generation = in.U64();
  m->token = in.Id();
  m->volume_name_length = in.U16();
  m->client_name_length = in.U16();
  in.Pad(4);
  m->claimer = in.Id();
  if ((m->flags & ~uint32_t{OpenFlag::kAll}) != 0) return DecodeError::kReservedSet;
  if (m->channel >= m->channel_count || m->session.IsNil() || m->volume_name_length == 0 ||
      m->volume_name_length > kMaxVolumeName || m->client_name_length > kMaxClientName) {
    return DecodeError::kBadLength;
  }
  return Finish(in);
}

size_t Encode(const OpenReply& m, std::span<uint8_t> bytes) {
  Writer out(bytes);
  out.U32(static_cast<uint32_t>(m.status));
  out.U32(m.volume_flags);
  out.Id(m.volume);
  out.U64(m.generation);
  out.U64(m.size);
  out.U32(m.logical_block_size);
  out.U32(m.physical_block_size);
  out.U32(m.optimal_io_size);
  out.U32(m.discard_granularity);
  out.U64(m.max_discard_length);
  out.U64(m.max_write_zeroes_length);
  out.U32(m.max_ranges);
  out.U32(m.max_channels);
  out.U32(m.credit_requests);
  out.U32(m.lease_ms);
  out.U64(m.credit_bytes);
  out.U64(m.epoch);
  out.U32(m.retry_ms);
  out.Pad(36);
  return out.size();
}

namespace {

// The bounds of SPEC.md 6.3 without which a client could not compute with these numbers.
bool GeometryHolds(const OpenReply& m) {
  const auto power_of_two = [](uint32_t v) { return v != 0 && (v & (v - 1)) == 0; };
  return power_of_two(m.logical_block_size) && m.logical_block_size >= 512 &&
         m.logical_block_size <= kMinFramePayload && power_of_two(m.physical_block_size) &&
         m.physical_block_size >= m.logical_block_size && m.size % m.logical_block_size == 0 &&
         m.size <= uint64_t{INT64_MAX} && m.max_ranges >= 1 && m.max_ranges <= kMaxRanges &&
         m.max_channels >= 1 && m.credit_requests >= 1 && m.credit_bytes >= kMinFramePayload;
}

}  // namespace

DecodeError Decode(std::span<const uint8_t> bytes, OpenReply* m) {
  if (bytes.size() < kOpenReplySize) return DecodeError::kTruncated;
  Reader in(bytes);
  const uint32_t status = in.U32();
  m->volume_flags = in.U32();
  m->volume = in.Id();
  m->generation = in.U64();
  m->size = in.U64();
  m->logical_block_size = in.U32();
  m->physical_block_size = in.U32();
  m->optimal_io_size = in.U32();
  m->discard_granularity = in.U32();
  m->max_discard_length = in.U64();
  m->max_write_zeroes_length = in.U64();
  m->max_ranges = in.U32();
  m->max_channels = in.U32();
  m->credit_requests = in.U32();
  m->lease_ms = in.U32();
  m->credit_bytes = in.U64();
  m->epoch = in.U64();
  m->retry_ms = in.U32();
  in.Pad(36);
  if (!IsStatusCode(status)) return DecodeError::kBadStatus;
  m->status = static_cast<StatusCode>(status);
  if ((m->volume_flags & ~uint32_t{VolumeFlag::kAll}) != 0) return DecodeError::kReservedSet;
  if (m->status == StatusCode::kOk && !GeometryHolds(*m)) return DecodeError::kBadLength;
  return Finish(in);
}

}  // namespace cloudblk::wire
