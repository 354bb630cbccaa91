// SPDX-License-Identifier: GPL-2.0-or-later
#ifndef CLOUDBLK_BLOCK_QUARANTINE_H_
#define CLOUDBLK_BLOCK_QUARANTINE_H_

#include <atomic>
#include <cstdint>
#include <mutex>
#include <vector>

namespace cloudblk {

// Where writes may still land that a lost connection has taken along, at servers that do not fence:
// they were not answered, and the server may carry them out at any time. They are sent again, or
// their user has given them up. Whatever else would change data there has to wait, or the lost
// write could undo it; and where it was given up a read too, or what it sees could change later.
//
// How long is not known. A server that is stopped may go on hours later, but one that has answered
// the channel's next connection runs: from then on the time counts.
//
// Of a session, for all its channels. Any thread. Times are those of one monotonic clock.
class Quarantine {
 public:
  explicit Quarantine(int64_t hold_ns) : hold_ns_(hold_ns) {}

  // Whether there is anything. As long as there is not, that is all that a request has to ask.
  bool any() const { return any_.load(std::memory_order_acquire); }

  // A connection of that channel was lost with an unanswered write of bytes [begin, end), which is
  // going to be sent again.
  void Add(uint32_t channel, uint64_t begin, uint64_t end);
  // It is sent again as two, of which the second begins there.
  void Split(uint32_t channel, uint64_t begin, uint64_t middle, uint64_t end);
  // It was answered when it was sent again, or is never going to be.
  void NoteAnswered(uint32_t channel, uint64_t begin, uint64_t end);
  void NoteGivenUp(uint32_t channel, uint64_t begin, uint64_t end);
  // The server has answered a new connection of the channel.
  void NoteOpened(uint32_t channel, int64_t now_ns);

  // Whether a request has to wait that reads or writes there. Forgets what is over.
  bool Holds(uint64_t begin, uint64_t end, bool writes, int64_t now_ns);
  // Whether there still is something by then.
  bool HoldsAnything(int64_t now_ns);

 private:
  struct Extent {
    uint64_t begin;
    uint64_t end;
    uint32_t channel;
    bool answered = false;
    bool given_up = false;
    int64_t since_ns = -1;  // when the time began to count; -1: it does not yet
  };

  Extent* Find(uint32_t channel, uint64_t begin, uint64_t end);
  void Sweep(int64_t now_ns);

  const int64_t hold_ns_;
  std::atomic<bool> any_{false};
  std::mutex mutex_;
  std::vector<Extent> extents_;  // under mutex_
};

}  // namespace cloudblk

#endif  // CLOUDBLK_BLOCK_QUARANTINE_H_
