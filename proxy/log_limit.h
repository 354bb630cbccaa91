// SPDX-License-Identifier: GPL-2.0-or-later
//
// Lines of the log that anybody who reaches the port can cause, as often as he likes.
#ifndef CLOUDBLK_PROXY_LOG_LIMIT_H_
#define CLOUDBLK_PROXY_LOG_LIMIT_H_

#include <spdlog/spdlog.h>

#include <cstdint>
#include <map>
#include <memory>
#include <string>

#include "base/event_loop.h"

namespace cloudblk::proxy {

// Of one loop, on its thread. The first lines of a kind are logged as they are; then one in ten
// seconds says how many more there were.
class LogLimit {
 public:
  static constexpr uint32_t kAtOnce = 5;
  static constexpr int64_t kQuietNs = 10'000'000'000;

  // `loop` outlives the object.
  explicit LogLimit(EventLoop* loop);
  // Says what it has not said yet.
  ~LogLimit() { Report(); }

  // `kind`: one of few.
  void Log(spdlog::level::level_enum level, const std::string& kind, const std::string& line);

 private:
  struct Kind {
    uint32_t logged = 0;
    uint64_t more = 0;
    spdlog::level::level_enum level{};
    std::string last;
  };

  void OnTimer();
  void Report();

  EventLoop* const loop_;
  std::map<std::string, Kind> kinds_;  // of the last ten seconds
  std::unique_ptr<Timer> timer_;
};

}  // namespace cloudblk::proxy

#endif  // CLOUDBLK_PROXY_LOG_LIMIT_H_
