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

#include "base/executor.h"

namespace cloudblk {

// One thread at first, and more when work waits, up to a limit; they stay until the end. What may
// hang has pools of its own, so that it holds up nobody else's calls.
class WorkerPool final : public Executor {
 public:
  // std::system_error: the host allows no more threads.
  explicit WorkerPool(size_t max_threads);
  WorkerPool(const WorkerPool&) = delete;
  WorkerPool& operator=(const WorkerPool&) = delete;
  // Runs what was queued, then ends the threads.
  ~WorkerPool() override;

  // With one thread: in order.
  void Run(std::function<void()> fn) override;
  bool idle() const override;

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
