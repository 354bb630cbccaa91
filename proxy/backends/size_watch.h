// SPDX-License-Identifier: GPL-2.0-or-later
//
// Whether a volume's file is still as long as it was, and still has a name.
#ifndef CLOUDBLK_PROXY_BACKENDS_SIZE_WATCH_H_
#define CLOUDBLK_PROXY_BACKENDS_SIZE_WATCH_H_

#include <atomic>
#include <cstdint>
#include <mutex>
#include <string>
#include <vector>

#include "base/worker_pool.h"

namespace cloudblk::proxy {

// A write behind the end of a file that shrank would make it long again, with zeros where data was:
// so the size is looked at while the file is in use, and what lies beyond the least that was seen
// fails. The look may take as long as the storage does: a thread has it, unless the file system is
// one of this host that answers from memory.
class SizeWatch {
 public:
  class Waiter {
   public:
    // The size is known again. On a thread of the watch; returns at once.
    virtual void OnSizeKnown() = 0;

   protected:
    ~Waiter() = default;
  };

  // Of a file that has `size` bytes. `fd` outlives the object. `volume` and `path` are for the log.
  SizeWatch(std::string volume, std::string path, int fd, uint64_t size);

  // Bytes: the least that the file was seen to have. Any thread.
  uint64_t usable() const { return usable_.load(std::memory_order_relaxed); }
  // The volume is given another size: what is seen meanwhile does not count. EndResize says what
  // the file has then, as far as the volume may use it. On one thread.
  void BeginResize();
  void EndResize(uint64_t usable, uint64_t volume_size);

  // Whether usable() is recent. False: `waiter`, which outlives the object or this call's answer,
  // is told when it is. Any thread; neither waits nor allocates while the answer is true.
  bool IsRecent(Waiter* waiter);
  // Looks, on the calling thread, which may take as long as the storage does.
  void Look();

 private:
  void LookAndTell();
  void Note(uint64_t size, bool has_name);  // with mutex_ held

  const std::string volume_;
  const std::string path_;
  const int fd_;
  const bool answers_at_once_;
  std::atomic<uint64_t> usable_;       // bytes
  std::atomic<int64_t> looked_ns_{0};  // coarse clock; when the last look ended
  std::atomic<bool> is_looking_{false};
  std::mutex mutex_;
  // Under mutex_.
  uint64_t volume_size_;  // bytes
  uint32_t resizes_ = 0;  // begun and ended: odd while one is under way
  bool name_missed_ = false;
  std::vector<Waiter*> waiters_;
  WorkerPool thread_{1};  // last: ends before what it uses
};

}  // namespace cloudblk::proxy

#endif  // CLOUDBLK_PROXY_BACKENDS_SIZE_WATCH_H_
