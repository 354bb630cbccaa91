// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/bulk_window.h"

#include <algorithm>

namespace cloudblk {

bool BulkWindow::Limits(int64_t now_ns, bool small_waiting) {
  if (small_seen_ || small_waiting) limited_until_ns_ = now_ns + kHoldNs;
  small_seen_ = false;
  return now_ns < limited_until_ns_;
}

void BulkWindow::Adjust(uint64_t bytes, int64_t latency_ns, int64_t now_ns, uint64_t most) {
  if (now_ns >= interval_end_ns_) {
    previous_shortest_ns_ = shortest_ns_;
    shortest_ns_ = INT64_MAX;
    interval_end_ns_ = now_ns + kShortestNs;
  }
  shortest_ns_ = std::min(shortest_ns_, latency_ns);
  const int64_t shortest_ns = std::min(shortest_ns_, previous_shortest_ns_);
  if (latency_ns / 2 <= shortest_ns) {
    window_ = std::min(window_ + bytes, std::max(most, kLeast));
  } else {
    window_ = std::max(window_ - std::min(window_, bytes), kLeast);
  }
}

void BulkWindow::Reset() {
  in_flight_ = 0;
  window_ = kLeast;
  shortest_ns_ = previous_shortest_ns_ = INT64_MAX;
  interval_end_ns_ = 0;
}

}  // namespace cloudblk
