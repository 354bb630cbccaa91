// SPDX-License-Identifier: GPL-2.0-or-later
#include "proxy/loop_context.h"

#include <malloc.h>

#include <utility>

namespace cloudblk::proxy {

LoopContext::LoopContext(EventLoop* loop, Limits* limits)
    : loop_(loop),
      buffers_(limits),
      pieces_timer_(loop->NewTimer([this] { DoPieces(); })),
      idle_timer_(loop->NewTimer([this] { OnIdleTimer(); })) {}

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

void LoopContext::DoPieceByPiece(std::function<bool()> piece) {
  pieces_.push_back(std::move(piece));
  if (pieces_.size() == 1) loop_->Defer([this] { DoPieces(); });
}

void LoopContext::DoPieces() {
  const int64_t end = loop_->NowNs() + kPiecesNs;
  do {
    // It stays in the list meanwhile: one that is added by it must not ask for this turn again.
    const bool done = pieces_.front()();
    if (!done) pieces_.push_back(std::move(pieces_.front()));
    pieces_.pop_front();
  } while (!pieces_.empty() && loop_->NowNs() < end);
  if (pieces_.empty()) return;
  if (std::exchange(other_work_, false)) {
    pieces_timer_->Arm(loop_->NowNs() + kOthersNs);
  } else {
    loop_->Defer([this] { DoPieces(); });
  }
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
