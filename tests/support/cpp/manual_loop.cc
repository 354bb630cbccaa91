// SPDX-License-Identifier: GPL-2.0-or-later
#include "tests/support/cpp/manual_loop.h"

#include <gtest/gtest.h>

namespace cloudblk::testing {

class ManualLoop::ManualTimer final : public Timer {
 public:
  ManualTimer(ManualLoop* loop, std::function<void()> fn) : loop_(loop), fn_(std::move(fn)) {}
  ~ManualTimer() override { Disarm(); }
  void Arm(int64_t deadline_ns) override {
    Disarm();
    deadline_ = deadline_ns;
    loop_->timers_.emplace(deadline_, this);
  }
  void Disarm() override { loop_->timers_.erase({deadline_, this}); }
  void Fire() {
    Disarm();
    const auto fn = fn_;
    fn();
  }

 private:
  ManualLoop* const loop_;
  const std::function<void()> fn_;
  int64_t deadline_ = 0;
};

ManualLoop::~ManualLoop() {
  EXPECT_TRUE(timers_.empty());
  EXPECT_TRUE(watches_.empty());
}

void ManualLoop::Watch(int fd, bool readable, bool writable, FdHandler* handler) {
  ASSERT_TRUE(readiness_.contains(fd));
  watches_[fd] = {readable, writable, handler};
}

void ManualLoop::Unwatch(int fd) { watches_.erase(fd); }

std::unique_ptr<Timer> ManualLoop::NewTimer(std::function<void()> fn) {
  return std::make_unique<ManualTimer>(this, std::move(fn));
}

void ManualLoop::SetReadiness(int fd, std::function<Readiness()> readiness) {
  readiness_[fd] = std::move(readiness);
}

bool ManualLoop::FireTimers() {
  bool any = false;
  for (; !timers_.empty() && timers_.begin()->first <= now_; any = true) {
    timers_.begin()->second->Fire();
  }
  return any;
}

void ManualLoop::Stand(int64_t ns) {
  now_ += ns;
  FireTimers();
}

bool ManualLoop::Turn() {
  bool busy = false;
  for (const auto& step : steps_) busy |= step();
  // A copy: handlers watch and unwatch.
  const auto watches = watches_;
  for (const auto& [fd, watch] : watches) {
    const auto live = [&, fd = fd] { return watches_.contains(fd) && readiness_.contains(fd); };
    if (live() && watches_[fd].readable && readiness_[fd]().readable) {
      watches_[fd].handler->OnReadable();
      busy = true;
    }
    if (live() && watches_[fd].writable && readiness_[fd]().writable) {
      watches_[fd].handler->OnWritable();
      busy = true;
    }
  }
  busy |= FireTimers();
  std::vector<std::function<void()>> deferred;
  deferred.swap(deferred_);
  for (const auto& fn : deferred) fn();
  return busy || !deferred.empty();
}

void ManualLoop::Run() {
  constexpr int kMost = 1'000'000;
  for (int i = 0; i < kMost; ++i) {
    if (!Turn()) return;
  }
  FAIL() << "the loop does not come to rest";
}

void ManualLoop::Advance(int64_t ns) {
  const int64_t end = now_ + ns;
  Run();
  while (!timers_.empty() && timers_.begin()->first <= end) {
    now_ = std::max(now_, timers_.begin()->first);
    Run();
  }
  now_ = end;
  Run();
}

}  // namespace cloudblk::testing
