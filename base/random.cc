// SPDX-License-Identifier: GPL-2.0-or-later
#include "base/random.h"

#include <sys/random.h>

#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>

namespace cloudblk {

void FillRandom(std::span<uint8_t> bytes) {
  while (!bytes.empty()) {
    const ssize_t n = getrandom(bytes.data(), bytes.size(), 0);
    if (n > 0) {
      bytes = bytes.subspan(static_cast<size_t>(n));
    } else if (errno != EINTR) {
      // A kernel that has no such call: nothing that has to be unique could be made.
      std::abort();
    }
  }
}

uint64_t Random64() {
  std::array<uint8_t, sizeof(uint64_t)> bytes;
  FillRandom(bytes);
  uint64_t value;
  std::memcpy(&value, bytes.data(), sizeof(value));
  return value;
}

}  // namespace cloudblk
