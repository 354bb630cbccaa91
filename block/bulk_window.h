// SPDX-License-Identifier: GPL-2.0-or-later
//
// How much bulk data may be in flight beside small requests.
#ifndef CLOUDBLK_BLOCK_BULK_WINDOW_H_
#define CLOUDBLK_BLOCK_BULK_WINDOW_H_

#include <cstdint>

#include "block/request.h"

namespace cloudblk {

// Whatever is sent stands in one stream, so a small request waits for all the data sent before it,
// and its answer for all the data answered before. As long as there are small requests, the bytes
// of bulk requests in flight are therefore bounded by a window; without them only the credits
// bound.
//
// The window follows the delay, as TCP Vegas does: it grows while bulk data is answered within
// twice the shortest time seen, and shrinks when it takes longer, for then it waits in a queue
// somewhere. So over a network of 1 ms and 10 Gbit/s it grows to the 1.2 MB and more that fill the
// path, and a small request waits for 1 ms at most; on one host it stays at its least.
class BulkWindow {
 public:
  // Requests of more bytes are bulk.
  static constexpr uint64_t kBulkLength = 32 << 10;
  // A bulk request is cut into pieces of this length while the window is in force.
  static constexpr uint64_t kSlice = 32 << 10;
  // Two slices: while one is carried out the other is on its way. With more, the slowest small
  // reads on one host took more than three times as long as without bulk data.
  static constexpr uint64_t kLeast = 2 * kSlice;

  static bool IsBulk(const Request& request) {
    return request.length > kBulkLength && !HasRanges(request.operation);
  }

  uint64_t in_flight() const { return in_flight_; }  // bytes

  // A small request is sent.
  void NoteSmall() { small_seen_ = true; }
  // Whether the window is in force. To be asked before bulk pieces are sent; `small_waiting`: a
  // small request waits to be sent or answered.
  bool Limits(int64_t now_ns, bool small_waiting);
  // Whether another `bytes` may be sent. One piece always may.
  bool Admits(uint64_t bytes) const { return in_flight_ == 0 || in_flight_ + bytes <= window_; }

  void Send(uint64_t bytes) { in_flight_ += bytes; }
  void Answer(uint64_t bytes) { in_flight_ -= bytes; }
  // Bytes that were sent while the window was in force are answered. `most`: what it may grow to.
  void Adjust(uint64_t bytes, int64_t latency_ns, int64_t now_ns, uint64_t most);
  // A new connection: nothing is in flight and its path is unknown. The load is the same.
  void Reset();

 private:
  // For how long after the last small request the window stays in force.
  static constexpr int64_t kHoldNs = 100'000'000;
  // How long the shortest time is believed, as paths and disks change: as long as BBR does.
  static constexpr int64_t kShortestNs = 10'000'000'000;

  uint64_t in_flight_ = 0;
  uint64_t window_ = kLeast;
  bool small_seen_ = false;  // since Limits was asked last
  int64_t limited_until_ns_ = 0;
  // The shortest time to an answer, in this interval of kShortestNs and in the one before.
  int64_t shortest_ns_ = INT64_MAX;
  int64_t previous_shortest_ns_ = INT64_MAX;
  int64_t interval_end_ns_ = 0;
};

}  // namespace cloudblk

#endif  // CLOUDBLK_BLOCK_BULK_WINDOW_H_
