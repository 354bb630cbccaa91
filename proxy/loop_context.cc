// SPDX-License-Identifier: GPL-2.0-or-later
#include "proxy/loop_context.h"

#include <malloc.h>

namespace cloudblk::proxy {

LoopContext::LoopContext(EventLoop* loop)
    : loop_(loop), idle_timer_(loop->NewTimer([this] { OnIdleTimer(); })) {}

Result<AsyncIo*> LoopContext::NeedLibaio() {
  if (libaio_ != nullptr) return libaio_.get();
  Result<std::unique_ptr<AsyncIo>> made = NewLibaio(loop_);
  if (!made.ok()) return made.status();
  libaio_ = std::move(*made);
  return libaio_.get();
}

Result<AsyncIo*> LoopContext::NeedUring() {
  if (uring_ != nullptr) return uring_.get();
  Result<std::unique_ptr<AsyncIo>> made = NewUring(loop_);
  if (!made.ok()) return made.status();
  uring_ = std::move(*made);
  return uring_.get();
}

void LoopContext::Kick() {
  if (libaio_ != nullptr) libaio_->Kick();
  if (uring_ != nullptr) uring_->Kick();
}

void LoopContext::WatchIdle() {
  if (idle_armed_) return;
  idle_armed_ = true;
  gets_seen_ = buffers_.gets();
  idle_timer_->Arm(loop_->NowNs() + kIdleNs);
}

void LoopContext::OnIdleTimer() {
  idle_armed_ = false;
  if (buffers_.gets() != gets_seen_ || buffers_.handed_out() != 0) {
    WatchIdle();
    return;
  }
  if (buffers_.kept() == 0) return;
  buffers_.Trim();
  // The buffers sit between small long-lived objects: without this the heap keeps its high-water
  // mark.
  malloc_trim(0);
}

}  // namespace cloudblk::proxy
