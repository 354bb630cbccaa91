// SPDX-License-Identifier: GPL-2.0-or-later
#include "proxy/log_limit.h"

#include <utility>

namespace cloudblk::proxy {

LogLimit::LogLimit(EventLoop* loop)
    : timer_(loop->NewTimer([this] { OnTimer(); })),
      arm_([this, loop] { timer_->Arm(loop->NowNs() + kQuietNs); }) {}

LogLimit::LogLimit(AlarmClock* alarm, std::function<int64_t()> clock)
    : alarm_(alarm), arm_([this, alarm, clock = std::move(clock)] {
        alarm->Set(this, clock() + kQuietNs, [this] { OnTimer(); });
      }) {}

LogLimit::~LogLimit() {
  if (alarm_ != nullptr) alarm_->Cancel(this);
  Report();
}

void LogLimit::Log(spdlog::level::level_enum level, const std::string& kind,
                   const std::string& line, uint32_t at_once) {
  std::lock_guard lock(mutex_);
  if (kinds_.empty()) arm_();
  Kind& known = kinds_[kind];
  known.level = level;
  if (known.logged < at_once) {
    ++known.logged;
    spdlog::log(level, "{}", line);
  } else {
    ++known.more;
    known.last = line;
  }
}

// Who goes on at it is told of by one line each time; who has stopped is forgotten.
void LogLimit::OnTimer() {
  std::lock_guard lock(mutex_);
  Report();
  std::erase_if(kinds_, [](const auto& entry) { return entry.second.last.empty(); });
  for (auto& [name, kind] : kinds_) kind.last.clear();
  if (!kinds_.empty()) arm_();
}

// With mutex_ held, or by the destructor.
void LogLimit::Report() {
  for (auto& [name, kind] : kinds_) {
    if (kind.more == 1) {
      spdlog::log(kind.level, "{}", kind.last);
    } else if (kind.more != 0) {
      spdlog::log(kind.level, "{} (and {} more like it)", kind.last, kind.more - 1);
    }
    kind.more = 0;
  }
}

}  // namespace cloudblk::proxy
