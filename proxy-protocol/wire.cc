// SPDX-License-Identifier: GPL-2.0-or-later
#include "proxy-protocol/wire.h"

#include <isa-l/crc.h>

#include <algorithm>

namespace cloudblk::wire {
namespace {

// Writes fields one after the other; Pad writes the reserved bytes, which are zero.
class Writer {
 public:
  explicit Writer(std::span<uint8_t> out) : out_(out) {}
  void U8(uint8_t v) { out_[at_++] = v; }
  void U16(uint16_t v) { Store16(&out_[at_], v), at_ += 2; }
  void U32(uint32_t v) { Store32(&out_[at_], v), at_ += 4; }
  void U64(uint64_t v) { Store64(&out_[at_], v), at_ += 8; }
  void Id(const Uuid& v) { std::ranges::copy(v.bytes, &out_[at_]), at_ += 16; }
  void Pad(size_t n) { std::fill_n(&out_[at_], n, uint8_t{0}), at_ += n; }
  size_t size() const { return at_; }

 private:
  std::span<uint8_t> out_;
  size_t at_ = 0;
};

// The mirror of Writer. Precondition: the span is as long as the message; Pad remembers whether a
// reserved byte was set.
class Reader {
 public:
  explicit Reader(std::span<const uint8_t> in) : in_(in) {}
  uint8_t U8() { return in_[at_++]; }
  uint16_t U16() { return at_ += 2, Load16(&in_[at_ - 2]); }
  uint32_t U32() { return at_ += 4, Load32(&in_[at_ - 4]); }
  uint64_t U64() { return at_ += 8, Load64(&in_[at_ - 8]); }
  Uuid Id() {
    Uuid v;
    std::copy_n(&in_[at_], 16, v.bytes.begin());
    at_ += 16;
    return v;
  }
  void Pad(size_t n) {
    for (size_t i = 0; i < n; ++i) reserved_ |= in_[at_++];
  }
  bool reserved_clear() const { return reserved_ == 0; }

 private:
  std::span<const uint8_t> in_;
  size_t at_ = 0;
  uint8_t reserved_ = 0;
};

DecodeError Finish(const Reader& in) {
  return in.reserved_clear() ? DecodeError::kOk : DecodeError::kReservedSet;
}

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

#define CLOUDBLK_CASE(name, value, text) case value:
bool IsStatus(uint32_t v) {
  switch (v) {
    CLOUDBLK_STATUSES(CLOUDBLK_CASE)
    return true;
  }
  return false;
}
bool IsEvent(uint32_t v) {
  switch (v) {
    CLOUDBLK_EVENTS(CLOUDBLK_CASE)
    return true;
  }
  return false;
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
  // Every payload rounds its blocks up by itself, so there are at most `count` more than in one
  // run.
  const uint32_t most = entries + 4 * (h.count + h.payload_length / kCrcBlock);
  if (h.header_length < entries || h.header_length > most || (h.header_length - entries) % 4 != 0) {
    return DecodeError::kBadLength;
  }
  return DecodeError::kOk;
}

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

}  // namespace

std::string_view Name(FrameType v) { return FrameName(static_cast<uint32_t>(v)); }
std::string_view Name(Operation v) { return OperationName(static_cast<uint32_t>(v)); }
std::string_view Name(Status v) { return StatusName(static_cast<uint32_t>(v)); }
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
    case DecodeError::kBadText:
      return "a text is not UTF-8";
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
  // Magic and version come before the CRC: a peer of another protocol deserves the better message.
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
  // A later version may offer more here; features are therefore not reserved bits. A server answers
  // the ones it knows.
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
  if (!IsStatus(status)) return DecodeError::kBadStatus;
  m->status = static_cast<Status>(status);
  if (m->status == Status::kOk) {
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
  out.Pad(20);
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
  in.Pad(20);
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

// What a client must be able to rely on before it computes with these numbers.
static bool GeometryHolds(const OpenReply& m) {
  const auto power_of_two = [](uint32_t v) { return v != 0 && (v & (v - 1)) == 0; };
  return power_of_two(m.logical_block_size) && m.logical_block_size >= 512 &&
         m.logical_block_size <= kMinFramePayload && power_of_two(m.physical_block_size) &&
         m.physical_block_size >= m.logical_block_size && m.size % m.logical_block_size == 0 &&
         m.size <= uint64_t{INT64_MAX} && m.max_ranges >= 1 && m.max_ranges <= kMaxRanges &&
         m.max_channels >= 1 && m.credit_requests >= 1 && m.credit_bytes >= kMinFramePayload;
}

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
  if (!IsStatus(status)) return DecodeError::kBadStatus;
  m->status = static_cast<Status>(status);
  if ((m->volume_flags & ~uint32_t{VolumeFlag::kAll}) != 0) return DecodeError::kReservedSet;
  if (m->status == Status::kOk && !GeometryHolds(*m)) return DecodeError::kBadLength;
  return Finish(in);
}

size_t Encode(const Request& m, std::span<uint8_t> bytes) {
  Writer out(bytes);
  out.U64(m.tag);
  out.U64(m.offset);
  out.U32(m.length);
  out.U8(static_cast<uint8_t>(m.operation));
  out.U8(m.flags);
  out.U16(m.range_count);
  out.Pad(8);
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
  in.Pad(8);
  if ((m->flags & ~unsigned{RequestFlag::kAll}) != 0) return DecodeError::kReservedSet;
  switch (m->operation) {
    case Operation::kRead:
    case Operation::kWrite:
      if (m->range_count != 0) return DecodeError::kBadCount;
      if (m->length == 0 || m->offset > uint64_t{INT64_MAX} - m->length) {
        return DecodeError::kBadLength;
      }
      if (m->operation == Operation::kRead && m->flags != 0) return DecodeError::kReservedSet;
      return Finish(in);
    case Operation::kFlush:
      if (m->range_count != 0) return DecodeError::kBadCount;
      if (m->length != 0 || m->offset != 0) return DecodeError::kBadLength;
      if (m->flags != 0) return DecodeError::kReservedSet;
      return Finish(in);
    case Operation::kDiscard:
    case Operation::kWriteZeroes:
      if (m->range_count == 0 || m->range_count > kMaxRanges) return DecodeError::kBadCount;
      if (m->length != m->range_count * kRangeSize || m->offset != 0) {
        return DecodeError::kBadLength;
      }
      if (m->operation == Operation::kDiscard && m->flags != 0) return DecodeError::kReservedSet;
      return Finish(in);
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
  if (!IsStatus(status)) return DecodeError::kBadStatus;
  m->status = static_cast<Status>(status);
  if ((m->flags & ~uint32_t{ReplyFlag::kAll}) != 0) return DecodeError::kReservedSet;
  // Neither an error nor a hole has a payload.
  if (m->length != 0 && (m->status != Status::kOk || m->flags != 0)) return DecodeError::kBadLength;
  if (m->flags != 0 && m->status != Status::kOk) return DecodeError::kReservedSet;
  return Finish(in);
}

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
  if (!IsStatus(status)) return DecodeError::kBadStatus;
  m->status = static_cast<Status>(status);
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

bool IsText(std::span<const uint8_t> text) {
  for (size_t i = 0; i < text.size();) {
    const uint8_t lead = text[i];
    if (lead == 0) return false;
    const size_t more = lead < 0x80                   ? 0
                        : lead >= 0xc2 && lead < 0xe0 ? 1
                        : lead >= 0xe0 && lead < 0xf0 ? 2
                        : lead >= 0xf0 && lead < 0xf5 ? 3
                                                      : 4;
    if (more == 4 || i + more >= text.size()) return false;
    for (size_t k = 1; k <= more; ++k) {
      if ((text[i + k] & 0xc0) != 0x80) return false;
    }
    // Overlong forms, surrogates and what lies beyond U+10FFFF.
    const uint8_t second = more != 0 ? text[i + 1] : 0x80;
    if ((lead == 0xe0 && second < 0xa0) || (lead == 0xed && second > 0x9f) ||
        (lead == 0xf0 && second < 0x90) || (lead == 0xf4 && second > 0x8f)) {
      return false;
    }
    i += more + 1;
  }
  return true;
}

}  // namespace cloudblk::wire
