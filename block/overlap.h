// SPDX-License-Identifier: GPL-2.0-or-later
//
// Keeps overlapping writes of one channel apart (SPEC.md 8.13), which makes replay safe.
#ifndef CLOUDBLK_BLOCK_OVERLAP_H_
#define CLOUDBLK_BLOCK_OVERLAP_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "block/request.h"

namespace cloudblk {

// Byte intervals of the volume, each with an owner.
class IntervalSet {
 public:
  bool empty() const { return begin_.empty(); }
  bool Overlaps(uint64_t begin, uint64_t end) const;
  bool Overlaps(const Request& request) const;
  void Add(const Request& request);
  void Remove(const Request& request);
  void Clear();

 private:
  void Add(uint64_t begin, uint64_t end, const Request* owner);

  // One array for each field, scanned from end to end: with the hundred or so writes that are in
  // flight at a time this is cheaper than a tree, and allocates nothing.
  std::vector<uint64_t> begin_;
  std::vector<uint64_t> end_;
  std::vector<const Request*> owner_;
};

class OverlapGuard {
 public:
  // Precondition: the request writes. True: it may be sent. False: it overlaps an earlier one that
  // has not completed, and Complete will hand it out.
  bool Admit(Request* request);

  // An admitted request is over. Calls release(Request*) for each that may be sent now, in the
  // order they came.
  template <typename F>
  void Complete(const Request& request, F&& release) {
    running_.Remove(request);
    if (waiting_.empty()) return;
    // Waiting ones are compared with those that came before them, hence the set is built anew.
    waiting_intervals_.Clear();
    for (Request* next = waiting_.front(); next != nullptr;) {
      Request* candidate = next;
      next = candidate->next;
      if (running_.Overlaps(*candidate) || waiting_intervals_.Overlaps(*candidate)) {
        waiting_intervals_.Add(*candidate);
        continue;
      }
      waiting_.Remove(candidate);
      running_.Add(*candidate);
      release(candidate);
    }
  }

  // The request that has waited longest, or null.
  const Request* first_waiting() const { return waiting_.front(); }
  // Takes out the waiting requests, one after the other; null when there is none.
  Request* TakeWaiting();

 private:
  IntervalSet running_;
  LinkedList<Request> waiting_;
  IntervalSet waiting_intervals_;
};

}  // namespace cloudblk

#endif  // CLOUDBLK_BLOCK_OVERLAP_H_
