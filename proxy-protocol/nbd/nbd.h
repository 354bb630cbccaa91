// SPDX-License-Identifier: GPL-2.0-or-later
//
// The messages of NBD (the NBD project's doc/proto.md) as a client sends and gets them: fixed
// newstyle negotiation, simple and structured replies. Pure functions from bytes to host-order
// messages and back. All integers of the wire are big-endian.
#ifndef CLOUDBLK_PROXY_PROTOCOL_NBD_NBD_H_
#define CLOUDBLK_PROXY_PROTOCOL_NBD_NBD_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

namespace cloudblk::nbd {

inline constexpr uint16_t kDefaultPort = 10809;
inline constexpr size_t kMaxName = 4096;  // bytes, of an export's name and of a text
// What may be asked for of a server that says nothing of payloads.
inline constexpr uint32_t kDefaultMaxPayload = 32 << 20;

inline constexpr uint64_t kGreetingMagic = 0x4e42444d41474943;  // "NBDMAGIC"
inline constexpr uint64_t kOptionMagic = 0x49484156454f5054;    // "IHAVEOPT"
inline constexpr uint64_t kOldstyleMagic = 0x0000420281861253;
inline constexpr uint64_t kOptionReplyMagic = 0x0003e889045565a9;
inline constexpr uint32_t kRequestMagic = 0x25609513;
inline constexpr uint32_t kSimpleReplyMagic = 0x67446698;
inline constexpr uint32_t kChunkMagic = 0x668e33ef;

inline constexpr size_t kMagicSize = 8;
inline constexpr size_t kFlagsSize = 2;  // the server's, behind two magics
inline constexpr size_t kClientFlagsSize = 4;
inline constexpr size_t kOptionSize = 16;       // and its data
inline constexpr size_t kOptionReplySize = 20;  // and its data
inline constexpr size_t kExportInfoSize = 12;
inline constexpr size_t kBlockSizeInfoSize = 14;
inline constexpr size_t kRequestSize = 28;
inline constexpr size_t kSimpleReplySize = 16;
inline constexpr size_t kChunkSize = 20;     // and its payload
inline constexpr size_t kDataChunkHead = 8;  // of the payload of kOffsetData, before the data
inline constexpr size_t kHoleChunkPayload = 12;
inline constexpr size_t kErrorChunkHead = 6;  // of the payload of kError, before the text
inline constexpr size_t kMaxErrorPayload = kErrorChunkHead + kMaxName + 8;
inline constexpr size_t kContextIdSize = 4;   // of kMetaContext's data, and of kBlockStatus
inline constexpr size_t kDescriptorSize = 8;  // of kBlockStatus, behind the context's id
inline constexpr uint32_t kMaxDescriptors = 1 << 20;

// The metadata context that tells where an export has data.
inline constexpr std::string_view kAllocation = "base:allocation";

// The server's handshake flags, and the client's.
struct HandshakeFlag {
  enum : uint16_t { kFixedNewstyle = 1, kNoZeroes = 2 };
};

enum class Option : uint32_t {
  kAbort = 2,
  kStartTls = 5,
  kGo = 7,
  kStructuredReply = 8,
  kSetMetaContext = 10,
};

// Types of the replies to an option; errors have the highest bit.
struct OptionReply {
  enum : uint32_t {
    kAck = 1,
    kInfo = 3,
    kMetaContext = 4,
    kError = uint32_t{1} << 31,
    kUnsupported = kError + 1,
    kPolicy = kError + 2,
    kInvalid = kError + 3,
    kPlatform = kError + 4,
    kTlsRequired = kError + 5,
    kUnknown = kError + 6,
    kShutdown = kError + 7,
    kBlockSizeRequired = kError + 8,
    kTooBig = kError + 9,
  };
};

struct InfoType {
  enum : uint16_t { kExport = 0, kBlockSize = 3 };
};

// What an export is and can do.
struct ExportFlag {
  enum : uint16_t {
    kHasFlags = 1 << 0,
    kReadOnly = 1 << 1,
    kFlush = 1 << 2,
    kFua = 1 << 3,
    kRotational = 1 << 4,
    kTrim = 1 << 5,
    kWriteZeroes = 1 << 6,
    kMultiConn = 1 << 8,
    kFastZero = 1 << 11,
  };
};

enum class Command : uint16_t {
  kRead = 0,
  kWrite = 1,
  kDisconnect = 2,
  kFlush = 3,
  kTrim = 4,
  kWriteZeroes = 6,
  kBlockStatus = 7,
};

struct CommandFlag {
  enum : uint16_t { kFua = 1 << 0, kNoHole = 1 << 1 };
};

struct ChunkFlag {
  enum : uint16_t { kDone = 1 << 0 };
};

struct ChunkType {
  enum : uint16_t {
    kNone = 0,
    kOffsetData = 1,
    kOffsetHole = 2,
    kBlockStatus = 5,
    kErrorBit = 1 << 15,
    kError = kErrorBit + 1,
    kErrorOffset = kErrorBit + 2,
  };
};

// Of a descriptor of kAllocation; others are to be ignored.
struct StateFlag {
  enum : uint32_t { kHole = 1 << 0, kZero = 1 << 1 };
};

struct OptionReplyHeader {
  uint32_t option = 0;
  uint32_t type = 0;
  uint32_t length = 0;  // bytes of data behind it
};

struct ExportInfo {
  uint64_t size = 0;  // bytes
  uint16_t flags = 0;
};

struct BlockSizes {
  uint32_t minimum = 0;  // bytes; all of them
  uint32_t preferred = 0;
  uint32_t max_payload = 0;
};

struct Request {
  uint16_t flags = 0;
  Command command{};
  uint64_t cookie = 0;
  uint64_t offset = 0;
  uint32_t length = 0;
};

struct SimpleReply {
  uint32_t error = 0;
  uint64_t cookie = 0;
};

struct Chunk {
  uint16_t flags = 0;
  uint16_t type = 0;
  uint64_t cookie = 0;
  uint32_t length = 0;  // bytes of payload
};

// What a number of bytes are, that lie one behind the other.
struct Descriptor {
  uint32_t length = 0;  // bytes
  uint32_t flags = 0;   // StateFlag
};

uint16_t Load16(const uint8_t* p);
uint32_t Load32(const uint8_t* p);
uint64_t Load64(const uint8_t* p);
void Store16(uint8_t* p, uint16_t v);
void Store32(uint8_t* p, uint32_t v);
void Store64(uint8_t* p, uint64_t v);

// Each writes as many bytes as its message has.
void EncodeOption(Option option, uint32_t length, uint8_t* out);
void Encode(const Request& request, uint8_t* out);

// Each reads as many bytes as its message has. False: a magic is wrong.
bool Decode(const uint8_t* in, OptionReplyHeader* reply);
bool Decode(const uint8_t* in, SimpleReply* reply);
bool Decode(const uint8_t* in, Chunk* chunk);
ExportInfo DecodeExport(const uint8_t* in);      // behind the type
BlockSizes DecodeBlockSizes(const uint8_t* in);  // behind the type
Descriptor DecodeDescriptor(const uint8_t* in);
// Whether these may be.
bool AreValid(const BlockSizes& sizes);

// The data of a GO for the export, which asks for block sizes too: its size, and what writes it.
size_t GoSize(std::string_view name);
void EncodeGo(std::string_view name, uint8_t* out);
// The same of a SET_META_CONTEXT, which asks for kAllocation of the export.
size_t SetMetaContextSize(std::string_view name);
void EncodeSetMetaContext(std::string_view name, uint8_t* out);

// A positive errno for an error of the wire, which is not 0.
int ErrnoOf(uint32_t error);

}  // namespace cloudblk::nbd

#endif  // CLOUDBLK_PROXY_PROTOCOL_NBD_NBD_H_
