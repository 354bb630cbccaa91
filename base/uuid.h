// SPDX-License-Identifier: GPL-2.0-or-later
#ifndef CLOUDBLK_BASE_UUID_H_
#define CLOUDBLK_BASE_UUID_H_

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace cloudblk {

// As RFC 9562 lays it out.
struct Uuid {
  std::array<uint8_t, 16> bytes{};
  bool operator==(const Uuid&) const = default;
  bool IsNil() const { return *this == Uuid{}; }
};

// 8-4-4-4-12, in lower case.
std::string ToString(const Uuid& uuid);
// Reads that, and upper case too. Nothing: it is something else.
std::optional<Uuid> ParseUuid(std::string_view text);

// A random one (version 4). Any thread.
Uuid RandomUuid();

}  // namespace cloudblk

#endif  // CLOUDBLK_BASE_UUID_H_
