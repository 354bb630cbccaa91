// SPDX-License-Identifier: GPL-2.0-or-later
//
// An event loop for tests: its clock moves only when told, and its descriptors are numbers.
#ifndef CLOUDBLK_TESTS_SUPPORT_CPP_MANUAL_LOOP_H_
#define CLOUDBLK_TESTS_SUPPORT_CPP_MANUAL_LOOP_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <utility>
#include <vector>

#include "base/event_loop.h"

namespace cloudblk::testing {

struct Readiness {
  bool readable = false;
  bool writable = false;
};

class ManualLoop final : public EventLoop {
 public:
  ~ManualLoop() override;

  void Watch(int fd, bool readable, bool writable, FdHandler* handler) override;
  void Unwatch(int fd) override;
  std::unique_ptr<Timer> NewTimer(std::function<void()> fn) override;
  void Defer(std::function<void()> fn) override {
    ++defers_;
    deferred_.push_back(std::move(fn));
  }
  void Post(std::function<void()> fn) override { deferred_.push_back(std::move(fn)); }
  int64_t NowNs() const override { return now_; }

  // A number that is not in use.
  int NewFd() { return next_fd_++; }
  // How ready a descriptor is. It is asked in each turn while the descriptor is watched.
  void SetReadiness(int fd, std::function<Readiness()> readiness);
  void ForgetReadiness(int fd) { readiness_.erase(fd); }
  // Takes over the other loop's descriptors, for a channel that is attached here instead.
  void CopyReadiness(const ManualLoop& other) { readiness_ = other.readiness_; }
  // Something else that runs in each turn; returns whether it did anything.
  void AddStep(std::function<bool()> step) { steps_.push_back(std::move(step)); }

  // Turns until nothing happens any more, timers that are due included. Fails the test if that
  // does not end.
  void Run();
  // Moves the clock and runs, stopping at each timer on the way.
  void Advance(int64_t ns);
  // The clock moves and nobody looks, until the timers that are due by then go off before all else.
  void Stand(int64_t ns);
  // When the next timer is due; negative: none is armed.
  int64_t next_timer() const { return timers_.empty() ? -1 : timers_.begin()->first; }
  // How often something was put off so far.
  uint64_t defers() const { return defers_; }
  bool watches(int fd) const { return watches_.contains(fd); }
  // Of the first descriptor that is watched.
  FdHandler* handler() const { return watches_.begin()->second.handler; }

 private:
  class ManualTimer;
  struct WatchEntry {
    bool readable;
    bool writable;
    FdHandler* handler;
  };
  bool Turn();
  bool FireTimers();

  int next_fd_ = 1000;
  int64_t now_ = 1'000'000'000;
  std::map<int, WatchEntry> watches_;
  std::map<int, std::function<Readiness()>> readiness_;
  std::vector<std::function<bool()>> steps_;
  std::vector<std::function<void()>> deferred_;
  uint64_t defers_ = 0;
  std::set<std::pair<int64_t, ManualTimer*>> timers_;
};

}  // namespace cloudblk::testing

#endif  // CLOUDBLK_TESTS_SUPPORT_CPP_MANUAL_LOOP_H_
