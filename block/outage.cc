// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/outage.h"

#include <algorithm>
#include <utility>

namespace cloudblk {
namespace {

// A server that restarts is back within that: why it cannot be reached meanwhile is no news.
constexpr int64_t kPatience = 2 * kNsPerS;
// After that long in peace a loss is the first one again.
constexpr int64_t kQuiet = 60 * kNsPerS;
// So many lines are told at once. From then on each waits a second longer than the one before.
constexpr uint32_t kFreeLines = 6;
constexpr int64_t kRarest = 300 * kNsPerS;
constexpr int64_t kFirstReminder = 30 * kNsPerS;

// Bounds what is kept of servers whose names lead elsewhere all the time.
constexpr size_t kMaxServers = 64;

// What was said of a server may name it already.
std::string About(const std::string& server, const std::string& why) {
  return why.find(server) == std::string::npos ? server + ": " + why : why;
}

}  // namespace

std::string WithoutNumbers(std::string text) {
  std::erase_if(text, [](char c) { return (c >= '0' && c <= '9') || c == '.'; });
  return text;
}

bool Outage::MayTell(int64_t now) const {
  return told_ < kFreeLines || now - told_ns_ >= std::min<int64_t>(told_ * kNsPerS, kRarest);
}

std::string Outage::Tell(int64_t now, std::string line) {
  ++told_;
  told_ns_ = reminded_ns_ = now;
  return line;
}

std::string Outage::Since(int64_t now) const {
  return std::to_string((now - since_ns_) / kNsPerS) + " s";
}

std::string Outage::Lost(int64_t now, const std::string& server, const std::string& why,
                         const std::string& next) {
  const std::lock_guard lock(mutex_);
  reason_ = About(server, why);
  const std::string key = WithoutNumbers(reason_);
  // The channels of a session lose their server together.
  if (away_ && key == lost_why_) return {};
  if (!away_) {
    if (now - since_ns_ >= kQuiet) losses_ = told_ = 0;
    away_ = true;
    since_ns_ = reminded_ns_ = now;
    reminded_ = false;
    told_of_.clear();
    ++losses_;
  }
  lost_why_ = key;
  restored_untold_ = false;
  lost_untold_ = MayTell(now) ? std::string() : reason_;
  if (!lost_untold_.empty()) return {};
  std::string line = "lost " + reason_ + "; " + next;
  if (losses_ > 1) line += " (lost " + std::to_string(losses_) + " times in short order)";
  return Tell(now, std::move(line));
}

std::string Outage::Failed(int64_t now, const std::string& server, const std::string& why) {
  const std::lock_guard lock(mutex_);
  if (!away_) {
    away_ = true;
    since_ns_ = reminded_ns_ = now;
    reminded_ = false;
    told_of_.clear();
    lost_why_.clear();
    lost_untold_.clear();
    restored_untold_ = false;
  }
  reason_ = About(server, why);
  if (now - since_ns_ < kPatience) return {};
  const std::string key = WithoutNumbers(why);
  const auto known = told_of_.find(server);
  if ((known == told_of_.end() || known->second != key) && MayTell(now)) {
    if (told_of_.size() >= kMaxServers) told_of_.clear();
    told_of_[server] = key;
    return Tell(now, "not back after " + Since(now) + ", requests wait: " + reason_);
  }
  if (now - reminded_ns_ < (reminded_ ? kRarest : kFirstReminder)) return {};
  reminded_ = true;
  return Tell(now, "still not back after " + Since(now) + ", requests wait: " + reason_);
}

std::string Outage::Restored(int64_t now, const std::string& server) {
  const std::lock_guard lock(mutex_);
  if (!away_) return {};
  away_ = false;
  const int64_t away_ns = now - std::exchange(since_ns_, now);
  // What lasted so long is no storm.
  restored_untold_ = away_ns < kFirstReminder && !MayTell(now);
  if (restored_untold_) return {};
  std::string line = "connected again to " + server;
  if (away_ns >= kNsPerS) line += " after " + std::to_string(away_ns / kNsPerS) + " s";
  // To be back is no good news where it is lost again each time.
  if (!lost_untold_.empty()) {
    line += "; lost " + std::to_string(losses_) + " times in short order: " + lost_untold_;
  }
  return Tell(now, std::move(line));
}

std::string Outage::Holds(int64_t now, const std::string& server) {
  const std::lock_guard lock(mutex_);
  if (away_ || !restored_untold_ || now - since_ns_ < kHolds) return {};
  restored_untold_ = false;
  return Tell(now, "connected again to " + server + " for " + Since(now));
}

bool Outage::restored_untold() const {
  const std::lock_guard lock(mutex_);
  return restored_untold_;
}

bool Outage::away() const {
  const std::lock_guard lock(mutex_);
  return away_;
}

std::string Outage::Describe(int64_t now) const {
  const std::lock_guard lock(mutex_);
  return away_ ? "away for " + Since(now) + ": " + reason_ : "connected";
}

}  // namespace cloudblk
