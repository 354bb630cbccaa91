// SPDX-License-Identifier: GPL-2.0-or-later
#include "proxy-protocol/nbd/nbd.h"

#include <algorithm>
#include <bit>
#include <cerrno>

namespace cloudblk::nbd {

uint16_t Load16(const uint8_t* p) { return static_cast<uint16_t>(p[0] << 8 | p[1]); }
uint32_t Load32(const uint8_t* p) {
  return static_cast<uint32_t>(Load16(p)) << 16 | static_cast<uint32_t>(Load16(p + 2));
}
uint64_t Load64(const uint8_t* p) {
  return static_cast<uint64_t>(Load32(p)) << 32 | static_cast<uint64_t>(Load32(p + 4));
}
void Store16(uint8_t* p, uint16_t v) {
  p[0] = static_cast<uint8_t>(v >> 8);
  p[1] = static_cast<uint8_t>(v);
}
void Store32(uint8_t* p, uint32_t v) {
  Store16(p, static_cast<uint16_t>(v >> 16));
  Store16(p + 2, static_cast<uint16_t>(v));
}
void Store64(uint8_t* p, uint64_t v) {
  Store32(p, static_cast<uint32_t>(v >> 32));
  Store32(p + 4, static_cast<uint32_t>(v));
}

void EncodeOption(Option option, uint32_t length, uint8_t* out) {
  Store64(out, kOptionMagic);
  Store32(out + 8, static_cast<uint32_t>(option));
  Store32(out + 12, length);
}

void Encode(const Request& request, uint8_t* out) {
  Store32(out, kRequestMagic);
  Store16(out + 4, request.flags);
  Store16(out + 6, static_cast<uint16_t>(request.command));
  Store64(out + 8, request.cookie);
  Store64(out + 16, request.offset);
  Store32(out + 24, request.length);
}

bool Decode(const uint8_t* in, OptionReplyHeader* reply) {
  reply->option = Load32(in + 8);
  reply->type = Load32(in + 12);
  reply->length = Load32(in + 16);
  return Load64(in) == kOptionReplyMagic;
}

bool Decode(const uint8_t* in, SimpleReply* reply) {
  reply->error = Load32(in + 4);
  reply->cookie = Load64(in + 8);
  return Load32(in) == kSimpleReplyMagic;
}

bool Decode(const uint8_t* in, Chunk* chunk) {
  chunk->flags = Load16(in + 4);
  chunk->type = Load16(in + 6);
  chunk->cookie = Load64(in + 8);
  chunk->length = Load32(in + 16);
  return Load32(in) == kChunkMagic;
}

ExportInfo DecodeExport(const uint8_t* in) { return {Load64(in), Load16(in + 8)}; }

BlockSizes DecodeBlockSizes(const uint8_t* in) {
  return {Load32(in), Load32(in + 4), Load32(in + 8)};
}

Descriptor DecodeDescriptor(const uint8_t* in) { return {Load32(in), Load32(in + 4)}; }

bool AreValid(const BlockSizes& sizes) {
  constexpr uint32_t kMostMinimum = 64 << 10;
  return std::has_single_bit(sizes.minimum) && sizes.minimum <= kMostMinimum &&
         std::has_single_bit(sizes.preferred) && sizes.preferred >= sizes.minimum &&
         sizes.max_payload >= sizes.minimum;
}

size_t GoSize(std::string_view name) { return 4 + name.size() + 2 + 2; }

void EncodeGo(std::string_view name, uint8_t* out) {
  Store32(out, static_cast<uint32_t>(name.size()));
  std::ranges::copy(name, out + 4);
  Store16(out + 4 + name.size(), 1);
  Store16(out + 6 + name.size(), InfoType::kBlockSize);
}

size_t SetMetaContextSize(std::string_view name) {
  return 4 + name.size() + 4 + 4 + kAllocation.size();
}

void EncodeSetMetaContext(std::string_view name, uint8_t* out) {
  Store32(out, static_cast<uint32_t>(name.size()));
  out = std::ranges::copy(name, out + 4).out;
  Store32(out, 1);
  Store32(out + 4, static_cast<uint32_t>(kAllocation.size()));
  std::ranges::copy(kAllocation, out + 8);
}

int ErrnoOf(uint32_t error) {
  switch (error) {
    case 1:
      return EPERM;
    case 5:
      return EIO;
    case 12:
      return ENOMEM;
    case 28:
      return ENOSPC;
    case 75:
      return EOVERFLOW;
    case 95:
      return ENOTSUP;
    case 108:
      return ESHUTDOWN;
    default:
      return EINVAL;
  }
}

}  // namespace cloudblk::nbd
