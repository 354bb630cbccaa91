// SPDX-License-Identifier: GPL-2.0-or-later
#ifndef CLOUDBLK_TESTS_UNIT_PROXY_MANUAL_ALARM_CLOCK_H_
#define CLOUDBLK_TESTS_UNIT_PROXY_MANUAL_ALARM_CLOCK_H_

#include <cstdint>
#include <functional>
#include <map>
#include <utility>

#include "proxy/alarm_clock.h"

namespace cloudblk::proxy {

// Rings when it is told the time, on the caller's thread.
class ManualAlarmClock final : public AlarmClock {
 public:
  void Set(const void* owner, int64_t at_ns, std::function<void()> fn) override {
    alarms_.insert_or_assign(owner, std::pair(at_ns, std::move(fn)));
  }
  void Cancel(const void* owner) override { alarms_.erase(owner); }
  void Ring(int64_t now) {
    for (auto it = alarms_.begin(); it != alarms_.end();) {
      if (it->second.first > now) {
        ++it;
        continue;
      }
      const std::function<void()> fn = std::move(it->second.second);
      alarms_.erase(it);
      fn();
      it = alarms_.begin();
    }
  }

 private:
  std::map<const void*, std::pair<int64_t, std::function<void()>>> alarms_;
};

}  // namespace cloudblk::proxy

#endif  // CLOUDBLK_TESTS_UNIT_PROXY_MANUAL_ALARM_CLOCK_H_
