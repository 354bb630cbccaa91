// SPDX-License-Identifier: GPL-2.0-or-later
//
// Calls that are due at a time, for what belongs to no loop.
#ifndef CLOUDBLK_PROXY_ALARM_CLOCK_H_
#define CLOUDBLK_PROXY_ALARM_CLOCK_H_

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <thread>

namespace cloudblk::proxy {

// Any thread.
class AlarmClock {
 public:
  virtual ~AlarmClock() = default;

  // Has fn called once, at `at_ns` or soon after, in place of what `owner` asked for before. Never
  // called from inside Set.
  virtual void Set(const void* owner, int64_t at_ns, std::function<void()> fn) = 0;
  // What `owner` asked for is not called any more, and not being called.
  virtual void Cancel(const void* owner) = 0;
};

// Goes by MonotonicNs, on a thread of its own; what it calls returns at once.
class ThreadAlarmClock final : public AlarmClock {
 public:
  // std::system_error: the host allows no more threads.
  ThreadAlarmClock();
  ~ThreadAlarmClock() override;
  ThreadAlarmClock(const ThreadAlarmClock&) = delete;
  ThreadAlarmClock& operator=(const ThreadAlarmClock&) = delete;

  void Set(const void* owner, int64_t at_ns, std::function<void()> fn) override;
  void Cancel(const void* owner) override;

 private:
  struct Alarm {
    int64_t at_ns = 0;
    std::function<void()> fn;
  };

  void Work();

  std::mutex mutex_;
  // Under mutex_.
  std::condition_variable changed_;
  std::map<const void*, Alarm> alarms_;
  const void* calling_ = nullptr;
  bool stop_ = false;
  std::thread thread_;  // last
};

}  // namespace cloudblk::proxy

#endif  // CLOUDBLK_PROXY_ALARM_CLOCK_H_
