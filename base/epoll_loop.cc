// SPDX-License-Identifier: GPL-2.0-or-later
#include "base/epoll_loop.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cassert>
#include <cerrno>
#include <climits>
#include <cstring>

#include "base/clock.h"

namespace cloudblk {
namespace {

constexpr int kEventsPerTurn = 64;

Status OutOfDescriptors(const char* what) {
  const int error = errno;
  return Status(error, std::string("cannot create ") + what + ": " + std::strerror(error) +
                           "; raise the limit on open files (ulimit -n)");
}

}  // namespace

class EpollLoop::EpollTimer final : public Timer {
 public:
  EpollTimer(EpollLoop* loop, std::function<void()> fn) : loop_(loop), fn_(std::move(fn)) {}
  ~EpollTimer() override { Disarm(); }

  void Arm(int64_t deadline_ns) override {
    // The node is kept across arms, so that arming does not allocate.
    if (armed_) node_ = loop_->timers_.extract(TimerKey{deadline_ns_, this});
    armed_ = true;
    deadline_ns_ = deadline_ns;
    if (node_.empty()) {
      loop_->timers_.emplace(deadline_ns, this);
      return;
    }
    node_.value() = TimerKey{deadline_ns, this};
    loop_->timers_.insert(std::move(node_));
  }

  void Disarm() override {
    if (!armed_) return;
    armed_ = false;
    node_ = loop_->timers_.extract(TimerKey{deadline_ns_, this});
  }

  // fn may destroy the timer.
  void Fire() {
    Disarm();
    const auto fn = fn_;
    fn();
  }

 private:
  EpollLoop* const loop_;
  const std::function<void()> fn_;
  bool armed_ = false;
  int64_t deadline_ns_ = 0;
  std::set<TimerKey>::node_type node_;
};

Result<std::unique_ptr<EpollLoop>> EpollLoop::Create() {
  UniqueFd epoll(epoll_create1(EPOLL_CLOEXEC));
  if (!epoll) return OutOfDescriptors("an epoll instance");
  UniqueFd wake(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!wake) return OutOfDescriptors("an eventfd");
  epoll_event event{.events = EPOLLIN, .data = {.u64 = static_cast<uint64_t>(wake.get())}};
  if (epoll_ctl(epoll.get(), EPOLL_CTL_ADD, wake.get(), &event) != 0) {
    return OutOfDescriptors("an epoll watch");
  }
  return std::unique_ptr<EpollLoop>(new EpollLoop(std::move(epoll), std::move(wake)));
}

EpollLoop::EpollLoop(UniqueFd epoll, UniqueFd wake)
    : epoll_(std::move(epoll)), wake_(std::move(wake)) {}

EpollLoop::~EpollLoop() { assert(timers_.empty()); }

void EpollLoop::Watch(int fd, bool readable, bool writable, FdHandler* handler) {
  assert(fd >= 0 && handler != nullptr);
  if (watches_.size() <= static_cast<size_t>(fd)) watches_.resize(fd + 1);
  WatchEntry& watch = watches_[fd];
  const uint32_t events = (readable ? EPOLLIN : 0u) | (writable ? EPOLLOUT : 0u);
  if (watch.handler == nullptr) ++watch.serial;
  watch.handler = handler;
  if (watch.events == events) return;
  // A descriptor without interest is taken out: epoll would go on reporting its hang-up.
  const int op = events == 0 ? EPOLL_CTL_DEL : watch.events == 0 ? EPOLL_CTL_ADD : EPOLL_CTL_MOD;
  epoll_event event{.events = events,
                    .data = {.u64 = uint64_t{watch.serial} << 32 | static_cast<uint32_t>(fd)}};
  const int result = epoll_ctl(epoll_.get(), op, fd, &event);
  assert(result == 0);
  static_cast<void>(result);
  watch.events = events;
}

void EpollLoop::Unwatch(int fd) {
  if (fd < 0 || static_cast<size_t>(fd) >= watches_.size()) return;
  WatchEntry& watch = watches_[fd];
  // Errors are of no interest: a descriptor that was closed already has left by itself.
  if (watch.events != 0) epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, fd, nullptr);
  watch.events = 0;
  watch.handler = nullptr;
}

std::unique_ptr<Timer> EpollLoop::NewTimer(std::function<void()> fn) {
  return std::make_unique<EpollTimer>(this, std::move(fn));
}

void EpollLoop::Defer(std::function<void()> fn) { deferred_.push_back(std::move(fn)); }

void EpollLoop::Post(std::function<void()> fn) {
  {
    const std::lock_guard lock(mutex_);
    posted_.push_back(std::move(fn));
  }
  Wake();
}

int64_t EpollLoop::NowNs() const { return MonotonicNs(); }

void EpollLoop::Run() {
  while (!stop_.load(std::memory_order_acquire)) RunOnce(-1);
  stop_.store(false, std::memory_order_release);
  RunPosted();
}

void EpollLoop::Stop() {
  stop_.store(true, std::memory_order_release);
  Wake();
}

void EpollLoop::Wake() {
  const uint64_t one = 1;
  // It can only fail when the counter is at its limit, and then the loop wakes up anyway.
  [[maybe_unused]] const ssize_t ignored = write(wake_.get(), &one, sizeof(one));
}

int EpollLoop::WaitMs(int64_t timeout_ns) const {
  if (!deferred_.empty()) return 0;
  int64_t wait = timeout_ns;
  if (!timers_.empty()) {
    const int64_t due = std::max<int64_t>(0, timers_.begin()->first - NowNs());
    wait = wait < 0 ? due : std::min(wait, due);
  }
  if (wait < 0) return -1;
  // Rounded up: a wait that ends before the timer is due would be followed by others of 0 ms.
  return static_cast<int>(std::min<int64_t>(INT_MAX, wait / kNsPerMs + (wait % kNsPerMs != 0)));
}

void EpollLoop::RunOnce(int64_t timeout_ns) {
  std::array<epoll_event, kEventsPerTurn> events;
  const int count = epoll_wait(epoll_.get(), events.data(), events.size(), WaitMs(timeout_ns));
  bool woken = false;
  for (int i = 0; i < count; ++i) {
    if (events[i].data.u64 == static_cast<uint64_t>(wake_.get())) {
      woken = true;
    } else {
      Dispatch(events[i].data.u64, events[i].events);
    }
  }
  RunTimers();
  if (woken) {
    uint64_t value;
    [[maybe_unused]] const ssize_t ignored = read(wake_.get(), &value, sizeof(value));
    RunPosted();
  }
  RunDeferred();
}

void EpollLoop::Dispatch(uint64_t key, uint32_t events) {
  const size_t fd = key & UINT32_MAX;
  const uint32_t serial = static_cast<uint32_t>(key >> 32);
  const auto live = [&](uint32_t interest) {
    const WatchEntry& watch = watches_[fd];
    return watch.handler != nullptr && watch.serial == serial && (watch.events & interest) != 0;
  };
  // An error or a hang-up shows itself in the next read or write.
  const bool broken = (events & (EPOLLERR | EPOLLHUP)) != 0;
  if ((broken || (events & EPOLLIN) != 0) && live(EPOLLIN)) watches_[fd].handler->OnReadable();
  if ((broken || (events & EPOLLOUT) != 0) && live(EPOLLOUT)) watches_[fd].handler->OnWritable();
}

void EpollLoop::RunTimers() {
  if (timers_.empty()) return;
  // One reading of the clock: a timer that arms itself again for now waits for the next turn.
  const int64_t now = NowNs();
  while (!timers_.empty() && timers_.begin()->first <= now) timers_.begin()->second->Fire();
}

void EpollLoop::RunPosted() {
  std::vector<std::function<void()>> batch;
  {
    const std::lock_guard lock(mutex_);
    batch.swap(posted_);
  }
  for (auto& fn : batch) fn();
}

void EpollLoop::RunDeferred() {
  if (deferred_.empty()) return;
  // What these defer runs in the next turn, so that descriptors are served in between.
  running_.swap(deferred_);
  for (auto& fn : running_) fn();
  running_.clear();
}

}  // namespace cloudblk
