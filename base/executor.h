// SPDX-License-Identifier: GPL-2.0-or-later
#ifndef CLOUDBLK_BASE_EXECUTOR_H_
#define CLOUDBLK_BASE_EXECUTOR_H_

#include <functional>

namespace cloudblk {

// Where work that may block is done: on threads (WorkerPool), or when a test says so.
class Executor {
 public:
  virtual ~Executor() = default;

  // Runs fn once, never from inside Run. Any thread.
  virtual void Run(std::function<void()> fn) = 0;
  // Whether all that was given to it has been done. Any thread.
  virtual bool idle() const = 0;
};

}  // namespace cloudblk

#endif  // CLOUDBLK_BASE_EXECUTOR_H_
