// SPDX-License-Identifier: GPL-2.0-or-later
#include "proxy/log_limit.h"

namespace cloudblk::proxy {

LogLimit::LogLimit(EventLoop* loop) : loop_(loop), timer_(loop->NewTimer([this] { OnTimer(); })) {}

void LogLimit::Log(spdlog::level::level_enum level, const std::string& kind,
                   const std::string& line) {
  if (kinds_.empty()) timer_->Arm(loop_->NowNs() + kQuietNs);
  Kind& known = kinds_[kind];
  known.level = level;
  if (known.logged < kAtOnce) {
    ++known.logged;
    spdlog::log(level, "{}", line);
  } else {
    ++known.more;
    known.last = line;
  }
}

// Who goes on at it is told of by one line each time; who has stopped is forgotten.
void LogLimit::OnTimer() {
  Report();
  std::erase_if(kinds_, [](const auto& entry) { return entry.second.last.empty(); });
  for (auto& [name, kind] : kinds_) kind.last.clear();
  if (!kinds_.empty()) timer_->Arm(loop_->NowNs() + kQuietNs);
}

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
