// SPDX-License-Identifier: GPL-2.0-or-later
//
// Lines of the log that anybody who reaches the port can cause, as often as he likes.
#ifndef CLOUDBLK_PROXY_LOG_LIMIT_H_
#define CLOUDBLK_PROXY_LOG_LIMIT_H_

#include <spdlog/spdlog.h>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "base/event_loop.h"
#include "proxy/alarm_clock.h"

namespace cloudblk::proxy {

// The first lines of a kind are logged as they are; then one in ten seconds says how many more
// there were.
class LogLimit {
 public:
  // What a stranger causes.
  static constexpr uint32_t kAtOnce = 5;
  // Who has or had a volume: all of it while machines start, end and move as they do, and when the
  // clients of a volume that is shared come back together.
  static constexpr uint32_t kOfVolume = 32;
  static constexpr int64_t kQuietNs = 10'000'000'000;

  // Of one loop, on its thread. `loop` outlives the object.
  explicit LogLimit(EventLoop* loop);
  // Of any thread. `alarm` goes by `clock` (nanoseconds) and outlives the object.
  LogLimit(AlarmClock* alarm, std::function<int64_t()> clock);
  LogLimit(const LogLimit&) = delete;
  LogLimit& operator=(const LogLimit&) = delete;
  // Says what it has not said yet.
  ~LogLimit();

  // `kind`: one of few, of which so many lines are logged `at_once`.
  void Log(spdlog::level::level_enum level, const std::string& kind, const std::string& line,
           uint32_t at_once = kAtOnce);

 private:
  struct Kind {
    uint32_t logged = 0;
    uint64_t more = 0;
    spdlog::level::level_enum level{};
    std::string last;
  };

  void OnTimer();
  void Report();

  std::unique_ptr<Timer> timer_;  // null: alarm_ is
  AlarmClock* const alarm_ = nullptr;
  const std::function<void()> arm_;  // has OnTimer called after kQuietNs

  std::mutex mutex_;
  std::map<std::string, Kind> kinds_;  // of the last ten seconds
};

}  // namespace cloudblk::proxy

#endif  // CLOUDBLK_PROXY_LOG_LIMIT_H_
