// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/quarantine.h"

#include <algorithm>

namespace cloudblk {

void Quarantine::Add(uint32_t channel, uint64_t begin, uint64_t end) {
  const std::lock_guard lock(mutex_);
  // Of one that is lost again the time begins anew.
  Extent* extent = Find(channel, begin, end);
  if (extent != nullptr) {
    *extent = {begin, end, channel};
  } else {
    extents_.push_back({begin, end, channel});
  }
  any_.store(true, std::memory_order_release);
}

void Quarantine::Split(uint32_t channel, uint64_t begin, uint64_t middle, uint64_t end) {
  const std::lock_guard lock(mutex_);
  Extent* extent = Find(channel, begin, end);
  if (extent == nullptr) return;
  Extent second = *extent;
  extent->end = second.begin = middle;
  extents_.push_back(second);
}

void Quarantine::NoteAnswered(uint32_t channel, uint64_t begin, uint64_t end) {
  const std::lock_guard lock(mutex_);
  if (Extent* extent = Find(channel, begin, end)) extent->answered = true;
}

void Quarantine::NoteGivenUp(uint32_t channel, uint64_t begin, uint64_t end) {
  const std::lock_guard lock(mutex_);
  if (Extent* extent = Find(channel, begin, end)) extent->given_up = true;
}

void Quarantine::NoteOpened(uint32_t channel, int64_t now_ns) {
  if (!any()) return;
  const std::lock_guard lock(mutex_);
  for (Extent& extent : extents_) {
    if (extent.channel == channel && extent.since_ns < 0) extent.since_ns = now_ns;
  }
}

bool Quarantine::Holds(uint64_t begin, uint64_t end, bool writes, int64_t now_ns) {
  const std::lock_guard lock(mutex_);
  Sweep(now_ns);
  return std::ranges::any_of(extents_, [&](const Extent& extent) {
    return extent.begin < end && begin < extent.end && (writes || extent.given_up);
  });
}

bool Quarantine::HoldsAnything(int64_t now_ns) {
  if (!any()) return false;
  const std::lock_guard lock(mutex_);
  Sweep(now_ns);
  return !extents_.empty();
}

Quarantine::Extent* Quarantine::Find(uint32_t channel, uint64_t begin, uint64_t end) {
  const auto found = std::ranges::find_if(extents_, [&](const Extent& extent) {
    return extent.channel == channel && extent.begin == begin && extent.end == end;
  });
  return found == extents_.end() ? nullptr : &*found;
}

void Quarantine::Sweep(int64_t now_ns) {
  std::erase_if(extents_, [&](const Extent& extent) {
    return extent.since_ns >= 0 && (extent.answered || extent.given_up) &&
           now_ns - extent.since_ns >= hold_ns_;
  });
  if (extents_.empty()) any_.store(false, std::memory_order_release);
}

}  // namespace cloudblk
