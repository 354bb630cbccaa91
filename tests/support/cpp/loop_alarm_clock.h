// SPDX-License-Identifier: GPL-2.0-or-later
#ifndef CLOUDBLK_TESTS_SUPPORT_CPP_LOOP_ALARM_CLOCK_H_
#define CLOUDBLK_TESTS_SUPPORT_CPP_LOOP_ALARM_CLOCK_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <utility>

#include "proxy/alarm_clock.h"
#include "tests/support/cpp/manual_loop.h"

namespace cloudblk::testing {

// Goes by a loop's clock, on that loop.
class LoopAlarmClock final : public proxy::AlarmClock {
 public:
  explicit LoopAlarmClock(ManualLoop* loop) : loop_(loop) {}
  void Set(const void* owner, int64_t at_ns, std::function<void()> fn) override {
    std::unique_ptr<Timer>& timer = timers_[owner];
    timer = loop_->NewTimer(std::move(fn));
    timer->Arm(at_ns);
  }
  void Cancel(const void* owner) override { timers_.erase(owner); }

 private:
  ManualLoop* const loop_;
  std::map<const void*, std::unique_ptr<Timer>> timers_;
};

}  // namespace cloudblk::testing

#endif  // CLOUDBLK_TESTS_SUPPORT_CPP_LOOP_ALARM_CLOCK_H_
