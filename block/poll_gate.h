// SPDX-License-Identifier: GPL-2.0-or-later
//
// When a loop that busy-polls should look at a socket, and when it should let others run.
#ifndef CLOUDBLK_BLOCK_POLL_GATE_H_
#define CLOUDBLK_BLOCK_POLL_GATE_H_

#include <algorithm>
#include <cstdint>

namespace cloudblk {

// A look at a socket is a system call, so a loop that polls must not look each time it comes round.
// This learns how long the server's bytes keep it waiting, and says when they are likely there:
// a look that found nothing makes it wait longer the next time, one that found something a little
// less. So it comes to rest where most first looks succeed. Times in nanoseconds of one clock.
class PollGate {
 public:
  // Nothing is there now, and something is to come.
  void Wait(int64_t now) {
    since_ = now;
    next_ = now + wait_;
    missed_ = false;
  }
  bool Due(int64_t now) const { return now >= next_; }
  // Looked and found nothing.
  void Miss(int64_t now) {
    missed_ = true;
    wait_ = std::min(wait_ + wait_ / 4 + kStep, kMost);
    next_ = now + std::max(wait_ / 4, kLeastPause);
  }
  // Something came, and the wait starts anew.
  void Hit(int64_t now) {
    // If the loop slept and the bytes woke it, it should have looked earlier.
    wait_ = std::min(wait_, (now - since_) * 3 / 4);
    if (!missed_) wait_ -= wait_ / 16;
    Wait(now);
  }

  int64_t wait() const { return wait_; }

 private:
  static constexpr int64_t kStep = 256;
  static constexpr int64_t kLeastPause = 1000;
  // Longer than a loop polls at a stretch.
  static constexpr int64_t kMost = 1'000'000;

  int64_t wait_ = 0;
  int64_t since_ = 0;
  int64_t next_ = 0;
  bool missed_ = false;  // since the wait began
};

// When a loop that polls in vain should offer its processor to others. A server on this host may be
// waiting for this very processor, for as long as it is polled for. But who takes it may also be
// busy with something else, and then keep it for as long as the scheduler lets it: so what is lost
// that way is bounded to one hundredth of the time. Times in nanoseconds of one clock.
class YieldGate {
 public:
  bool Due(int64_t now) const { return now >= next_; }
  // Yielded from `begin` to `end`.
  void Yielded(int64_t begin, int64_t end) {
    // A shorter time is what a server takes to answer.
    if (end - begin > kLong) next_ = end + 100 * (end - begin);
  }

 private:
  static constexpr int64_t kLong = 200'000;

  int64_t next_ = 0;
};

}  // namespace cloudblk

#endif  // CLOUDBLK_BLOCK_POLL_GATE_H_
