// SPDX-License-Identifier: GPL-2.0-or-later
#ifndef CLOUDBLK_BLOCK_COVERAGE_H_
#define CLOUDBLK_BLOCK_COVERAGE_H_

#include <cstddef>
#include <cstdint>
#include <vector>

namespace cloudblk {

// Which bytes of [0, length) have come, of data that comes in parts. Parts in order cost nothing;
// parts behind a gap are kept until it is filled.
class Coverage {
 public:
  void Reset(uint64_t length) {
    length_ = length;
    front_ = 0;
    islands_.clear();
  }
  // [begin, begin + length) has come. False, and nothing has changed: it is empty, does not lie
  // within, some of it came before, or there are more gaps than any server has a reason for.
  bool Add(uint64_t begin, uint64_t length);
  bool complete() const { return front_ == length_; }

 private:
  struct Interval {
    uint64_t begin;
    uint64_t end;
  };
  static constexpr size_t kMostIslands = 1024;

  uint64_t length_ = 0;
  uint64_t front_ = 0;             // [0, front_) has come
  std::vector<Interval> islands_;  // beyond front_, in order, with gaps between them
};

}  // namespace cloudblk

#endif  // CLOUDBLK_BLOCK_COVERAGE_H_
