// SPDX-License-Identifier: GPL-2.0-or-later
//
// A loop that the host program lends through cloudblk.h.
#ifndef CLOUDBLK_BLOCK_HOST_LOOP_H_
#define CLOUDBLK_BLOCK_HOST_LOOP_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "base/event_loop.h"
#include "block/include/cloudblk.h"

namespace cloudblk {

// Destroyed on the loop's thread; what was deferred and did not run then never does.
class HostLoop final : public EventLoop {
 public:
  // `ops` and `loop` outlive the object.
  HostLoop(const CloudblkLoopOps* ops, void* loop) : ops_(ops), loop_(loop) {}
  ~HostLoop() override;
  HostLoop(const HostLoop&) = delete;
  HostLoop& operator=(const HostLoop&) = delete;

  void Watch(int fd, bool readable, bool writable, FdHandler* handler) override;
  void Unwatch(int fd) override;
  std::unique_ptr<Timer> NewTimer(std::function<void()> fn) override;
  void Defer(std::function<void()> fn) override;
  // The seam has no such operation, and nothing of the engine that runs on a host's loop needs it.
  void Post(std::function<void()> fn) override;
  int64_t NowNs() const override { return ops_->now_ns(loop_); }

 private:
  // What the host holds while a call of RunDeferred is due. It cannot be taken back, so that it may
  // outlive the loop: then `loop` is null.
  struct Ticket {
    HostLoop* loop;
  };
  static void RunDeferred(void* opaque);

  const CloudblkLoopOps* const ops_;
  void* const loop_;
  Ticket* ticket_ = nullptr;  // the host's, while not null
  std::vector<std::function<void()>> deferred_;
};

}  // namespace cloudblk

#endif  // CLOUDBLK_BLOCK_HOST_LOOP_H_
