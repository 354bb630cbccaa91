// SPDX-License-Identifier: GPL-2.0-or-later
#include "base/worker_pool.h"

#include <system_error>
#include <utility>

namespace cloudblk {

WorkerPool::WorkerPool(size_t max_threads) : max_threads_(max_threads) {
  threads_.emplace_back([this] { Work(); });
}

WorkerPool::~WorkerPool() {
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
  }
  wake_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void WorkerPool::Run(std::function<void()> fn) {
  {
    std::lock_guard lock(mutex_);
    queue_.push_back(std::move(fn));
    if (queue_.size() > idle_ && threads_.size() < max_threads_) {
      try {
        threads_.emplace_back([this] { Work(); });
      } catch (const std::system_error&) {
        // The host allows no more threads: those that are there do it.
      }
    }
  }
  wake_.notify_one();
}

bool WorkerPool::idle() const {
  std::lock_guard lock(mutex_);
  return queue_.empty() && idle_ == threads_.size();
}

void WorkerPool::Work() {
  std::unique_lock lock(mutex_);
  for (;;) {
    ++idle_;
    wake_.wait(lock, [this] { return stop_ || !queue_.empty(); });
    --idle_;
    if (queue_.empty()) return;
    std::function<void()> fn = std::move(queue_.front());
    queue_.pop_front();
    lock.unlock();
    fn();
    lock.lock();
  }
}

}  // namespace cloudblk
