// SPDX-License-Identifier: GPL-2.0-or-later
#ifndef CLOUDBLK_BASE_CLOCK_H_
#define CLOUDBLK_BASE_CLOCK_H_

#include <cstdint>
#include <ctime>

namespace cloudblk {

inline constexpr int64_t kNsPerS = 1'000'000'000;
inline constexpr int64_t kNsPerMs = 1'000'000;

// Nanoseconds of CLOCK_MONOTONIC. Any thread.
inline int64_t MonotonicNs() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * kNsPerS + now.tv_nsec;
}

}  // namespace cloudblk

#endif  // CLOUDBLK_BASE_CLOCK_H_
