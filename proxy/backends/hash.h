// SPDX-License-Identifier: GPL-2.0-or-later
#ifndef CLOUDBLK_PROXY_BACKENDS_HASH_H_
#define CLOUDBLK_PROXY_BACKENDS_HASH_H_

#include <string_view>

#include "base/uuid.h"

namespace cloudblk::proxy {

// The same UUID for the same text, on every machine and in every release (FNV-1a, 128 bit; UUID
// version 8). Not for secrets.
inline Uuid HashToUuid(std::string_view text) {
  __extension__ using Wide = unsigned __int128;
  Wide hash = (Wide{0x6c62272e07bb0142} << 64) | 0x62b821756295c58d;
  const Wide prime = (Wide{1} << 88) | 0x13b;
  for (const char c : text) {
    hash ^= static_cast<uint8_t>(c);
    hash *= prime;
  }
  Uuid uuid;
  for (uint8_t& byte : uuid.bytes) {
    byte = static_cast<uint8_t>(hash);
    hash >>= 8;
  }
  uuid.bytes[6] = static_cast<uint8_t>((uuid.bytes[6] & 0x0f) | 0x80);
  uuid.bytes[8] = static_cast<uint8_t>((uuid.bytes[8] & 0x3f) | 0x80);
  return uuid;
}

}  // namespace cloudblk::proxy

#endif  // CLOUDBLK_PROXY_BACKENDS_HASH_H_
