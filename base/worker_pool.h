// SPDX-License-Identifier: GPL-2.0-or-later
//
// Threads for calls that block, which may not run on a loop.
#ifndef CLOUDBLK_BASE_WORKER_POOL_H_
#define CLOUDBLK_BASE_WORKER_POOL_H_

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace cloudblk {

// One thread, and more when there is work for them, up to a limit; they stay. Each backend has its
// own pool, so that a storage that hangs holds up nobody else's calls.
class WorkerPool {
 public:
  // std::system_error: the host allows no more threads.
  explicit WorkerPool(size_t max_threads);
  WorkerPool(const WorkerPool&) = delete;
  WorkerPool& operator=(const WorkerPool&) = delete;
  // Runs what was queued, then ends the threads.
  ~WorkerPool();

  // Runs fn once on one of the threads. Any thread.
  void Run(std::function<void()> fn);
  // Whether all that was given to it has been done. Any thread.
  bool idle() const;

 private:
  void Work();

  const size_t max_threads_;
  mutable std::mutex mutex_;
  // All below: under mutex_.
  std::condition_variable wake_;
  std::deque<std::function<void()>> queue_;
  std::vector<std::thread> threads_;
  size_t idle_ = 0;
  bool stop_ = false;
};

}  // namespace cloudblk

#endif  // CLOUDBLK_BASE_WORKER_POOL_H_
