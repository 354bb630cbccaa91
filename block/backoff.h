// SPDX-License-Identifier: GPL-2.0-or-later
#ifndef CLOUDBLK_BLOCK_BACKOFF_H_
#define CLOUDBLK_BLOCK_BACKOFF_H_

#include <algorithm>
#include <cstdint>
#include <random>

#include "base/clock.h"

namespace cloudblk {

// How long to wait before the next connection.
class Backoff {
 public:
  static constexpr int64_t kMost = 2000 * kNsPerMs;
  // While a volume is opened for the first time, for which somebody waits.
  static constexpr int64_t kOpening = 1000 * kNsPerMs;

  explicit Backoff(uint64_t seed) : jitter_(static_cast<std::minstd_rand::result_type>(seed)) {}

  // A connection is about to be made.
  void NoteAttempt() { ++attempts_; }
  // A connection has held for kMost, which alone says that the server is well: the next one may be
  // made at once.
  void Reset() { attempts_ = 0; }

  // Nanoseconds from the beginning of one attempt to the next. `retry_ms`: a server that is there
  // said when to ask again, or 0. `most`: at most so long.
  int64_t Delay(uint32_t retry_ms, int64_t most) {
    // The first attempt after a loss is made at once. Not so when connections break as soon as they
    // are made, though something was answered over each.
    if (attempts_ == 0) return 0;
    int64_t delay = std::min(most, kFirst << std::min<uint32_t>(attempts_ - 1, 20));
    if (retry_ms != 0) {
      // Not at once, over and over, where the server says so.
      delay = std::min(kBusyMost, std::max(delay, retry_ms * kNsPerMs));
    }
    // Between a half and the whole of it, so that the clients of a server do not come as one.
    const double share = static_cast<double>(jitter_() - std::minstd_rand::min()) /
                         static_cast<double>(std::minstd_rand::max() - std::minstd_rand::min());
    return static_cast<int64_t>(static_cast<double>(delay) * (0.5 + share / 2));
  }

 private:
  static constexpr int64_t kFirst = 10 * kNsPerMs;
  // Sooner than the lease ends: its holder may come back and give the volume up.
  static constexpr int64_t kBusyMost = 500 * kNsPerMs;

  std::minstd_rand jitter_;
  uint32_t attempts_ = 0;  // since the last connection that held
};

}  // namespace cloudblk

#endif  // CLOUDBLK_BLOCK_BACKOFF_H_
