// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/host_loop.h"

#include <cassert>
#include <cstdlib>
#include <utility>

namespace cloudblk {
namespace {

void OnReadable(void* opaque) { static_cast<FdHandler*>(opaque)->OnReadable(); }
void OnWritable(void* opaque) { static_cast<FdHandler*>(opaque)->OnWritable(); }
bool Poll(void* opaque) { return static_cast<FdHandler*>(opaque)->Poll(); }

class HostTimer final : public Timer {
 public:
  HostTimer(const CloudblkLoopOps* ops, void* loop, std::function<void()> fn)
      : ops_(ops), fn_(std::move(fn)), timer_(ops->timer_new(loop, Fire, this)) {}
  ~HostTimer() override { ops_->timer_free(timer_); }

  void Arm(int64_t deadline_ns) override { ops_->timer_arm(timer_, deadline_ns); }
  void Disarm() override { ops_->timer_arm(timer_, -1); }

 private:
  static void Fire(void* opaque) { static_cast<HostTimer*>(opaque)->fn_(); }

  const CloudblkLoopOps* const ops_;
  const std::function<void()> fn_;
  void* const timer_;
};

}  // namespace

HostLoop::~HostLoop() {
  if (ticket_ != nullptr) ticket_->loop = nullptr;
}

void HostLoop::Watch(int fd, bool readable, bool writable, FdHandler* handler) {
  ops_->watch_fd(loop_, fd, readable ? OnReadable : nullptr, writable ? OnWritable : nullptr,
                 readable ? Poll : nullptr, readable ? OnReadable : nullptr, handler);
}

void HostLoop::Unwatch(int fd) {
  ops_->watch_fd(loop_, fd, nullptr, nullptr, nullptr, nullptr, nullptr);
}

std::unique_ptr<Timer> HostLoop::NewTimer(std::function<void()> fn) {
  return std::make_unique<HostTimer>(ops_, loop_, std::move(fn));
}

void HostLoop::Defer(std::function<void()> fn) {
  deferred_.push_back(std::move(fn));
  if (ticket_ != nullptr) return;
  ticket_ = new Ticket{this};
  ops_->defer(loop_, RunDeferred, ticket_);
}

void HostLoop::RunDeferred(void* opaque) {
  const std::unique_ptr<Ticket> ticket(static_cast<Ticket*>(opaque));
  HostLoop* self = ticket->loop;
  if (self == nullptr) return;
  self->ticket_ = nullptr;
  // What runs may detach its channel, which destroys this loop: nothing of it is touched after.
  std::vector<std::function<void()>> running = std::move(self->deferred_);
  self->deferred_.clear();
  for (auto& fn : running) fn();
}

void HostLoop::Post(std::function<void()>) {
  assert(false);
  std::abort();
}

}  // namespace cloudblk
