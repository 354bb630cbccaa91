// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/overlap.h"

namespace cloudblk {

bool IntervalSet::Overlaps(uint64_t begin, uint64_t end) const {
  // Without an early exit: there is hardly ever a hit, and the loop has no branch to mispredict.
  bool hit = false;
  for (size_t i = 0; i < begin_.size(); ++i) hit |= (begin < end_[i]) & (begin_[i] < end);
  return hit;
}

bool IntervalSet::Overlaps(const Request& request) const {
  if (!HasRanges(request.operation)) {
    return Overlaps(request.offset, request.offset + request.length);
  }
  for (const CloudblkRange& range : request.ranges) {
    if (Overlaps(range.offset, range.offset + range.length)) return true;
  }
  return false;
}

void IntervalSet::Add(const Request& request) {
  if (!HasRanges(request.operation)) {
    Add(request.offset, request.offset + request.length, &request);
    return;
  }
  for (const CloudblkRange& range : request.ranges) {
    Add(range.offset, range.offset + range.length, &request);
  }
}

void IntervalSet::Add(uint64_t begin, uint64_t end, const Request* owner) {
  begin_.push_back(begin);
  end_.push_back(end);
  owner_.push_back(owner);
}

void IntervalSet::Remove(const Request& request) {
  for (size_t i = 0; i < owner_.size();) {
    if (owner_[i] != &request) {
      ++i;
      continue;
    }
    owner_[i] = owner_.back();
    begin_[i] = begin_.back();
    end_[i] = end_.back();
    owner_.pop_back();
    begin_.pop_back();
    end_.pop_back();
    if (!HasRanges(request.operation)) return;
  }
}

void IntervalSet::Clear() {
  begin_.clear();
  end_.clear();
  owner_.clear();
}

bool OverlapGuard::Admit(Request* request) {
  if (!running_.Overlaps(*request) &&
      (waiting_.empty() || !waiting_intervals_.Overlaps(*request))) {
    running_.Add(*request);
    return true;
  }
  waiting_.PushBack(request);
  waiting_intervals_.Add(*request);
  return false;
}

Request* OverlapGuard::TakeWaiting() {
  if (waiting_.empty()) return nullptr;
  Request* request = waiting_.PopFront();
  if (waiting_.empty()) waiting_intervals_.Clear();
  return request;
}

}  // namespace cloudblk
