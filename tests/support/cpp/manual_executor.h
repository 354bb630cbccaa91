// SPDX-License-Identifier: GPL-2.0-or-later
//
// An executor for tests: what it is given is done when the test says so.
#ifndef CLOUDBLK_TESTS_SUPPORT_CPP_MANUAL_EXECUTOR_H_
#define CLOUDBLK_TESTS_SUPPORT_CPP_MANUAL_EXECUTOR_H_

#include <deque>
#include <functional>
#include <utility>

#include "base/executor.h"

namespace cloudblk::testing {

class ManualExecutor final : public Executor {
 public:
  void Run(std::function<void()> fn) override { waiting_.push_back(std::move(fn)); }
  bool idle() const override { return waiting_.empty(); }

  // Does the next thing. False: there is none.
  bool Step() {
    if (waiting_.empty()) return false;
    const std::function<void()> fn = std::move(waiting_.front());
    waiting_.pop_front();
    fn();
    return true;
  }
  void Clear() { waiting_.clear(); }

 private:
  std::deque<std::function<void()>> waiting_;
};

}  // namespace cloudblk::testing

#endif  // CLOUDBLK_TESTS_SUPPORT_CPP_MANUAL_EXECUTOR_H_
