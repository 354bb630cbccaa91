// SPDX-License-Identifier: GPL-2.0-or-later
#include "base/uuid.h"

#include <charconv>
#include <system_error>

#include "base/random.h"

namespace cloudblk {
namespace {

bool HasDashBefore(size_t byte) { return byte == 4 || byte == 6 || byte == 8 || byte == 10; }

}  // namespace

std::string ToString(const Uuid& uuid) {
  constexpr std::string_view kDigits = "0123456789abcdef";
  std::string text;
  for (size_t i = 0; i < uuid.bytes.size(); ++i) {
    if (HasDashBefore(i)) text += '-';
    text += kDigits[uuid.bytes[i] >> 4];
    text += kDigits[uuid.bytes[i] & 0x0f];
  }
  return text;
}

std::optional<Uuid> ParseUuid(std::string_view text) {
  if (text.size() != 36) return std::nullopt;
  Uuid uuid;
  size_t at = 0;
  for (size_t i = 0; i < uuid.bytes.size(); ++i) {
    if (HasDashBefore(i) && text[at++] != '-') return std::nullopt;
    const char* begin = text.data() + at;
    const auto [end, error] = std::from_chars(begin, begin + 2, uuid.bytes[i], 16);
    if (error != std::errc{} || end != begin + 2) return std::nullopt;
    at += 2;
  }
  return uuid;
}

Uuid RandomUuid() {
  Uuid uuid;
  FillRandom(uuid.bytes);
  uuid.bytes[6] = static_cast<uint8_t>((uuid.bytes[6] & 0x0f) | 0x40);
  uuid.bytes[8] = static_cast<uint8_t>((uuid.bytes[8] & 0x3f) | 0x80);
  return uuid;
}

}  // namespace cloudblk
