// SPDX-License-Identifier: GPL-2.0-or-later
//
// What one loop thread lends to everything that runs on it: buffers and asynchronous I/O.
#ifndef CLOUDBLK_PROXY_LOOP_CONTEXT_H_
#define CLOUDBLK_PROXY_LOOP_CONTEXT_H_

#include <deque>
#include <functional>
#include <memory>

#include "base/event_loop.h"
#include "base/status.h"
#include "proxy/async_io.h"
#include "proxy/buffer_pool.h"

namespace cloudblk::proxy {

class LoopContext {
 public:
  // `loop` and `limits`, if there are any, must outlive the context. No operation may be under way
  // when it is destroyed.
  explicit LoopContext(EventLoop* loop, Limits* limits = nullptr);

  EventLoop& loop() { return *loop_; }
  BufferPool& buffers() { return buffers_; }

  // That kind of I/O, made available on this loop, and lives as long as this object. On the
  // loop's thread, or before it runs.
  Result<AsyncIo*> NeedLibaio();
  Result<AsyncIo*> NeedUring();

  // Hands everything that is queued to the kernel: one system call per kind of I/O.
  void Kick();

  // Has `piece` called again and again until it returns true, a short while in each turn, or now
  // and then where there is other work: what is long must not hold up the clients of other volumes.
  // A call takes some ten microseconds at most, and all that was added takes turns.
  void DoPieceByPiece(std::function<bool()> piece);
  // There is other work. Once for many requests.
  void NoteOtherWork() { other_work_ = true; }

  // Called when buffers came into use: frees what is kept after the loop was idle for a while.
  void WatchIdle();

 private:
  static constexpr int64_t kIdleNs = 2'000'000'000;

  // Of one turn, for all pieces; and what others have to themselves then.
  static constexpr int64_t kPiecesNs = 50'000;
  static constexpr int64_t kOthersNs = 1'000'000;

  void OnIdleTimer();
  void DoPieces();

  EventLoop* const loop_;
  BufferPool buffers_;
  std::unique_ptr<AsyncIo> libaio_;
  std::unique_ptr<AsyncIo> uring_;
  // Loop thread only.
  std::deque<std::function<bool()>> pieces_;
  bool other_work_ = false;  // since it was last the turn of pieces
  std::unique_ptr<Timer> pieces_timer_;
  std::unique_ptr<Timer> idle_timer_;
  bool idle_armed_ = false;
  uint64_t gets_seen_ = 0;
};

}  // namespace cloudblk::proxy

#endif  // CLOUDBLK_PROXY_LOOP_CONTEXT_H_
