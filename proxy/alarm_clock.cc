// SPDX-License-Identifier: GPL-2.0-or-later
#include "proxy/alarm_clock.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "base/clock.h"

namespace cloudblk::proxy {

ThreadAlarmClock::ThreadAlarmClock() : thread_([this] { Work(); }) {}

ThreadAlarmClock::~ThreadAlarmClock() {
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void ThreadAlarmClock::Set(const void* owner, int64_t at_ns, std::function<void()> fn) {
  {
    std::lock_guard lock(mutex_);
    alarms_.insert_or_assign(owner, Alarm{at_ns, std::move(fn)});
  }
  changed_.notify_all();
}

void ThreadAlarmClock::Cancel(const void* owner) {
  std::unique_lock lock(mutex_);
  alarms_.erase(owner);
  changed_.wait(lock, [&] { return calling_ != owner; });
}

void ThreadAlarmClock::Work() {
  std::unique_lock lock(mutex_);
  while (!stop_) {
    const auto next =
        std::ranges::min_element(alarms_, {}, [](const auto& entry) { return entry.second.at_ns; });
    if (next == alarms_.end()) {
      changed_.wait(lock);
      continue;
    }
    const int64_t left = next->second.at_ns - MonotonicNs();
    if (left > 0) {
      changed_.wait_for(lock, std::chrono::nanoseconds(left));
      continue;
    }
    calling_ = next->first;
    const std::function<void()> fn = std::move(next->second.fn);
    alarms_.erase(next);
    lock.unlock();
    fn();
    lock.lock();
    calling_ = nullptr;
    changed_.notify_all();
  }
}

}  // namespace cloudblk::proxy
