// SPDX-License-Identifier: GPL-2.0-or-later
//
// A progress bar on stderr for copies that take a while.
#ifndef CLOUDBLK_TOOLS_PROGRESS_H_
#define CLOUDBLK_TOOLS_PROGRESS_H_

#include <chrono>
#include <cstdint>
#include <string>

namespace cloudblk {

// "12.5 MiB" and the like.
std::string HumanBytes(double bytes);

// Draws only where stderr is a terminal and the copy has gone on for half a second.
class Progress {
 public:
  // total: bytes; 0 if not known.
  explicit Progress(uint64_t total);
  ~Progress();  // leaves the line clean
  void Update(uint64_t done);

 private:
  using Clock = std::chrono::steady_clock;

  const uint64_t total_;
  const bool terminal_;
  const Clock::time_point start_ = Clock::now();
  Clock::time_point next_;
  bool drawn_ = false;
};

}  // namespace cloudblk

#endif  // CLOUDBLK_TOOLS_PROGRESS_H_
