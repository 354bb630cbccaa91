// SPDX-License-Identifier: GPL-2.0-or-later
//
// The cloudblk wire protocol, version 1: bytes <-> host-order messages (SPEC.md is normative).
//
// Pure functions: no I/O, no allocation, no state; safe from any thread. Encoders write exactly
// as many bytes as the message's k...Size says. Decoders check everything that can be checked from
// the bytes alone (magic, version, reserved fields, caps, sums, CRCs) before they hand a message
// out.
#ifndef CLOUDBLK_PROXY_PROTOCOL_WIRE_H_
#define CLOUDBLK_PROXY_PROTOCOL_WIRE_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "base/bytes.h"
#include "base/uuid.h"
#include "proxy-protocol/wire_table.h"

namespace cloudblk::wire {

#define CLOUDBLK_X(name, value, text) k##name = value,
#define CLOUDBLK_B(name, bit, text) k##name = 1u << bit,
#define CLOUDBLK_O(name, bit, text) | 1u << bit
enum class FrameType : uint8_t { CLOUDBLK_FRAME_TYPES(CLOUDBLK_X) };
enum class Operation : uint8_t { CLOUDBLK_OPERATIONS(CLOUDBLK_X) };
enum class StatusCode : uint32_t { CLOUDBLK_STATUSES(CLOUDBLK_X) };
enum class EventKind : uint32_t { CLOUDBLK_EVENTS(CLOUDBLK_X) };
struct Feature {
  enum : uint64_t { CLOUDBLK_FEATURES(CLOUDBLK_B) kAll = 0 CLOUDBLK_FEATURES(CLOUDBLK_O) };
};
struct RequestFlag {
  enum : uint8_t { CLOUDBLK_REQUEST_FLAGS(CLOUDBLK_B) kAll = 0 CLOUDBLK_REQUEST_FLAGS(CLOUDBLK_O) };
};
struct RangeFlag {
  enum : uint32_t { CLOUDBLK_RANGE_FLAGS(CLOUDBLK_B) kAll = 0 CLOUDBLK_RANGE_FLAGS(CLOUDBLK_O) };
};
struct ReplyFlag {
  enum : uint32_t { CLOUDBLK_REPLY_FLAGS(CLOUDBLK_B) kAll = 0 CLOUDBLK_REPLY_FLAGS(CLOUDBLK_O) };
};
struct ExtentFlag {
  enum : uint32_t { CLOUDBLK_EXTENT_FLAGS(CLOUDBLK_B) kAll = 0 CLOUDBLK_EXTENT_FLAGS(CLOUDBLK_O) };
};
struct OpenFlag {
  enum : uint32_t { CLOUDBLK_OPEN_FLAGS(CLOUDBLK_B) kAll = 0 CLOUDBLK_OPEN_FLAGS(CLOUDBLK_O) };
};
struct VolumeFlag {
  enum : uint32_t { CLOUDBLK_VOLUME_FLAGS(CLOUDBLK_B) kAll = 0 CLOUDBLK_VOLUME_FLAGS(CLOUDBLK_O) };
};
struct CloseFlag {
  enum : uint32_t { CLOUDBLK_CLOSE_FLAGS(CLOUDBLK_B) kAll = 0 CLOUDBLK_CLOSE_FLAGS(CLOUDBLK_O) };
};
struct ResizeFlag {
  enum : uint32_t { CLOUDBLK_RESIZE_FLAGS(CLOUDBLK_B) kAll = 0 CLOUDBLK_RESIZE_FLAGS(CLOUDBLK_O) };
};
#undef CLOUDBLK_X
#undef CLOUDBLK_B
#undef CLOUDBLK_O

// Names for logs and error texts; "UNKNOWN" for a value that the table lacks.
std::string_view Name(FrameType type);
std::string_view Name(Operation operation);
std::string_view Name(StatusCode status);
std::string_view Name(EventKind kind);

inline constexpr uint32_t kMagic = 0x314b4243;  // "CBK1" as it stands on the wire
inline constexpr uint8_t kVersion = 1;

// Sizes in bytes (SPEC.md clause 3 and following).
inline constexpr size_t kFrameHeaderSize = 32;
inline constexpr size_t kHelloSize = 32;
inline constexpr size_t kHelloReplySize = 48;
inline constexpr size_t kOpenSize = 112;
inline constexpr size_t kOpenReplySize = 144;
inline constexpr size_t kRequestHeaderSize = 32;
inline constexpr size_t kRangeSize = 24;
inline constexpr size_t kReplyHeaderSize = 24;
inline constexpr size_t kExtentSize = 16;
inline constexpr size_t kPingSize = 8;
inline constexpr size_t kTokenMessageSize = 32;   // CLAIM and RELEASE
inline constexpr size_t kStatusMessageSize = 16;  // RELEASE_REPLY and others, see StatusMessage
inline constexpr size_t kEventSize = 16;
inline constexpr size_t kCloseSize = 8;
inline constexpr size_t kResizeSize = 16;

// Limits that hold whatever is negotiated; a peer that exceeds one is a broken peer.
inline constexpr uint32_t kMaxFrameEntries = 1024;
inline constexpr uint32_t kMaxFramePayload = 4u << 20;  // bytes
inline constexpr uint32_t kMinFramePayload = 4096;      // bytes; no peer may negotiate less
inline constexpr uint32_t kMaxRanges = 256;             // per request
inline constexpr uint32_t kMaxExtents = 256;            // per reply to a BLOCK_STATUS
inline constexpr uint32_t kMaxText = 1024;              // bytes of any text payload
inline constexpr uint32_t kMaxVolumeName = 255;         // bytes
inline constexpr uint32_t kMaxClientName = 255;         // bytes
inline constexpr uint32_t kCrcBlock = 65536;            // bytes of payload under one CRC
// The largest header section: every entry and its payload CRCs.
inline constexpr uint32_t kMaxHeaderLength =
    kMaxFrameEntries * (kRequestHeaderSize + sizeof(uint32_t)) +
    kMaxFramePayload / kCrcBlock * sizeof(uint32_t);

struct FrameHeader {
  FrameType type{};
  uint16_t flags = 0;
  uint32_t count = 0;           // REQUEST/REPLY: number of entries; else 0
  uint32_t header_length = 0;   // bytes of the header section behind this header
  uint32_t payload_length = 0;  // bytes of payload behind the header section
  uint32_t header_section_crc = 0;
};

struct Hello {
  uint16_t version_min = kVersion;
  uint16_t version_max = kVersion;
  uint32_t max_frame_payload = 0;  // bytes that the client can take and wants to send at most
  uint64_t features = 0;           // offered
  uint64_t required_features = 0;  // refuse rather than go without
  uint32_t max_frame_entries = 0;
};

struct HelloReply {
  StatusCode status = StatusCode::kOk;
  uint16_t version = kVersion;
  uint64_t features = 0;           // in force from here on: a subset of those offered
  uint32_t max_frame_payload = 0;  // bytes, in force: at most what was offered
  uint32_t max_frame_entries = 0;  // in force
  Uuid server;                     // identity of this run of the server
};

struct Open {
  Uuid session;
  uint64_t epoch = 0;
  uint32_t channel = 0;        // 0 .. channel_count-1
  uint32_t channel_count = 1;  // the same for every channel of an epoch
  uint64_t incarnation = 0;
  uint32_t flags = 0;               // OpenFlag
  Uuid volume;                      // with RESUME: the volume this session had; else nil
  uint64_t generation = 0;          // with RESUME: the generation it last saw; else 0
  Uuid token;                       // nil, or a RELEASE's, by which it claims (SPEC.md 11.4)
  uint16_t volume_name_length = 0;  // payload: volume name, then client name (UTF-8, no NUL)
  uint16_t client_name_length = 0;
  Uuid claimer;  // nil, or who claimed the epoch; nil unless CLAIMER is in force
};

struct OpenReply {
  StatusCode status = StatusCode::kOk;
  uint32_t volume_flags = 0;  // VolumeFlag
  Uuid volume;
  uint64_t generation = 0;
  uint64_t size = 0;                     // bytes
  uint32_t logical_block_size = 0;       // bytes; offsets and lengths are multiples of it
  uint32_t physical_block_size = 0;      // bytes
  uint32_t optimal_io_size = 0;          // bytes, 0 unknown
  uint32_t discard_granularity = 0;      // bytes
  uint64_t max_discard_length = 0;       // bytes per range
  uint64_t max_write_zeroes_length = 0;  // bytes per range
  uint32_t max_ranges = 0;               // per request
  uint32_t max_channels = 0;             // per session
  uint32_t credit_requests = 0;          // requests in flight on this channel
  uint32_t lease_ms = 0;                 // how long ownership outlives the last connection
  uint64_t credit_bytes = 0;  // payload bytes of READ and WRITE in flight on this channel
  uint64_t epoch = 0;         // the epoch that the server holds for the session
  uint32_t retry_ms = 0;      // with BUSY: the holder's lease ends in so many ms; 0 it is connected
};

struct Request {
  uint64_t tag = 0;
  uint64_t offset = 0;  // bytes; 0 for FLUSH, DISCARD, WRITE_ZEROES
  // Bytes: data of READ/WRITE; range_count * kRangeSize for ranges; BLOCK_STATUS: the most extents
  // that the answer may have * kExtentSize.
  uint32_t length = 0;
  Operation operation{};
  uint8_t flags = 0;         // RequestFlag
  uint16_t range_count = 0;  // DISCARD, WRITE_ZEROES
  uint64_t extent = 0;       // BLOCK_STATUS: bytes from `offset` that are asked about; else 0

  // Bytes that this request adds to the frame's payload.
  uint32_t PayloadLength() const {
    return operation == Operation::kRead || operation == Operation::kFlush ||
                   operation == Operation::kBlockStatus
               ? 0
               : length;
  }
};

struct Range {
  uint64_t offset = 0;  // bytes
  uint64_t length = 0;  // bytes
  uint32_t flags = 0;   // RangeFlag
};

struct Reply {
  uint64_t tag = 0;
  StatusCode status = StatusCode::kOk;
  uint32_t length = 0;  // bytes of payload that this reply adds to the frame
  uint32_t flags = 0;   // ReplyFlag
};

// What some of the bytes that a BLOCK_STATUS asked about are: the payload of its reply is a list.
struct Extent {
  uint64_t length = 0;  // bytes, not 0
  uint32_t flags = 0;   // ExtentFlag
};

struct Ping {  // and PONG
  uint64_t cookie = 0;
};

struct TokenMessage {  // RELEASE and CLAIM
  Uuid token;
  uint64_t epoch = 0;  // of the session: its present one (RELEASE), the one from here on (CLAIM)
};

// CLAIM_REPLY, RELEASE_REPLY, CLOSE_REPLY, RESIZE_REPLY, ERROR; the payload is a text.
struct StatusMessage {
  StatusCode status = StatusCode::kOk;
  uint64_t epoch = 0;  // of the session, from here on; RESIZE_REPLY, ERROR: 0
};

struct Event {  // the payload is a text: an address or a reason
  EventKind kind{};
  uint64_t value = 0;  // RESIZED: new size in bytes
};

struct Close {
  uint32_t flags = 0;  // CloseFlag
};

struct Resize {
  uint64_t size = 0;   // bytes
  uint32_t flags = 0;  // ResizeFlag
};

// What a decoder can find wrong. Unless it is kOk, *out is not to be used.
enum class DecodeError {
  kOk,
  kTruncated,  // the span is shorter than the message
  kBadMagic,
  kBadVersion,
  kBadHeaderCrc,
  kBadSectionCrc,
  kBadType,
  kReservedSet,  // a reserved bit or field is not zero
  kBadCount,     // entries: none where some must be, some where none may be, or over the cap
  kBadLength,    // a length does not fit its type, its cap or its sum
  kBadOperation,
  kBadStatus,  // an unknown status code or event
};
std::string_view Describe(DecodeError error);

// CRC32C (Castagnoli) of `data`, continuing from `crc` (0 to start).
uint32_t Crc32c(uint32_t crc, std::span<const uint8_t> data);

// The number of CRCs that a payload of `length` bytes has under PAYLOAD_CRC.
inline constexpr uint32_t CrcBlocks(uint32_t length) {
  return length / kCrcBlock + (length % kCrcBlock != 0);
}

// --- Frames -------------------------------------------------------------------------------------

// Writes the frame header into frame[0..32). The header section has to stand behind it already, in
// frame[32 .. 32+header.header_length): both CRCs are computed here (header.header_section_crc
// is ignored). Precondition: frame.size() >= 32 + header.header_length.
void SealFrame(const FrameHeader& header, std::span<uint8_t> frame);

// Limits a receiver holds a frame to: negotiated ones, and kMax... before negotiation.
struct FrameLimits {
  uint32_t max_entries = kMaxFrameEntries;
  uint32_t max_payload = kMaxFramePayload;
  bool payload_crc = false;  // PAYLOAD_CRC is in force
};

// Checks the 32 bytes of a frame header: magic, version, CRC, type, flags, count and lengths
// against the type's layout and the limits. Nothing behind them is looked at.
[[nodiscard]] DecodeError DecodeFrameHeader(std::span<const uint8_t> bytes,
                                            const FrameLimits& limits, FrameHeader* out);

// Checks the header section (exactly header.header_length bytes) against its CRC.
[[nodiscard]] DecodeError CheckHeaderSection(const FrameHeader& header,
                                             std::span<const uint8_t> section);

// --- Messages: the header section of a frame, or an entry of it. ---------------------------------

// `out` has room for the message; returns the bytes written.
size_t Encode(const Hello& message, std::span<uint8_t> out);
size_t Encode(const HelloReply& message, std::span<uint8_t> out);
size_t Encode(const Open& message, std::span<uint8_t> out);
size_t Encode(const OpenReply& message, std::span<uint8_t> out);
size_t Encode(const Request& message, std::span<uint8_t> out);
size_t Encode(const Range& message, std::span<uint8_t> out);
size_t Encode(const Reply& message, std::span<uint8_t> out);
size_t Encode(const Extent& message, std::span<uint8_t> out);
size_t Encode(const Ping& message, std::span<uint8_t> out);
size_t Encode(const TokenMessage& message, std::span<uint8_t> out);
size_t Encode(const StatusMessage& message, std::span<uint8_t> out);
size_t Encode(const Event& message, std::span<uint8_t> out);
size_t Encode(const Close& message, std::span<uint8_t> out);
size_t Encode(const Resize& message, std::span<uint8_t> out);

// Looks at the first k...Size bytes of `in`. kTruncated: there are fewer.
[[nodiscard]] DecodeError Decode(std::span<const uint8_t> in, Hello* out);
[[nodiscard]] DecodeError Decode(std::span<const uint8_t> in, HelloReply* out);
[[nodiscard]] DecodeError Decode(std::span<const uint8_t> in, Open* out);
[[nodiscard]] DecodeError Decode(std::span<const uint8_t> in, OpenReply* out);
[[nodiscard]] DecodeError Decode(std::span<const uint8_t> in, Request* out);
[[nodiscard]] DecodeError Decode(std::span<const uint8_t> in, Range* out);
[[nodiscard]] DecodeError Decode(std::span<const uint8_t> in, Reply* out);
[[nodiscard]] DecodeError Decode(std::span<const uint8_t> in, Extent* out);
[[nodiscard]] DecodeError Decode(std::span<const uint8_t> in, Ping* out);
[[nodiscard]] DecodeError Decode(std::span<const uint8_t> in, TokenMessage* out);
[[nodiscard]] DecodeError Decode(std::span<const uint8_t> in, StatusMessage* out);
[[nodiscard]] DecodeError Decode(std::span<const uint8_t> in, Event* out);
[[nodiscard]] DecodeError Decode(std::span<const uint8_t> in, Close* out);
[[nodiscard]] DecodeError Decode(std::span<const uint8_t> in, Resize* out);

// A whole header section of a REQUEST or REPLY (SPEC.md 8.1, 8.6, 9.1): decodes header.count
// entries into `out`, checks that their payloads sum to header.payload_length and that the CRC
// table, if in force, has exactly the CRCs that these payloads need. `crcs` is set to the table's
// bytes (empty without PAYLOAD_CRC), one u32 a block, in the order of the payloads. Precondition:
// CheckHeaderSection passed and out.size() >= header.count.
[[nodiscard]] DecodeError DecodeRequests(const FrameHeader& header,
                                         std::span<const uint8_t> section,
                                         const FrameLimits& limits, std::span<Request> out,
                                         std::span<const uint8_t>* crcs);
[[nodiscard]] DecodeError DecodeReplies(const FrameHeader& header, std::span<const uint8_t> section,
                                        const FrameLimits& limits, std::span<Reply> out,
                                        std::span<const uint8_t>* crcs);

}  // namespace cloudblk::wire

#endif  // CLOUDBLK_PROXY_PROTOCOL_WIRE_H_
