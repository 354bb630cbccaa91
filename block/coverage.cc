// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/coverage.h"

#include <algorithm>

namespace cloudblk {

bool Coverage::Add(uint64_t begin, uint64_t length) {
  if (length == 0 || begin < front_ || begin > length_ || length > length_ - begin) return false;
  const uint64_t end = begin + length;
  // The first that does not end before this one.
  const auto next = std::ranges::lower_bound(islands_, begin, {}, &Interval::end);
  // It ends where this one begins, or after that.
  const bool joins_before = next != islands_.end() && next->end == begin;
  const auto after = joins_before ? next + 1 : next;
  if (after != islands_.end() && after->begin < end) return false;
  const bool joins_after = after != islands_.end() && after->begin == end;
  if (begin == front_) {
    front_ = joins_after ? after->end : end;
    if (joins_after) islands_.erase(after);
    return true;
  }
  if (joins_before) {
    next->end = joins_after ? after->end : end;
    if (joins_after) islands_.erase(after);
    return true;
  }
  if (joins_after) {
    after->begin = begin;
    return true;
  }
  if (islands_.size() == kMostIslands) return false;
  islands_.insert(next, {begin, end});
  return true;
}

}  // namespace cloudblk
