// SPDX-License-Identifier: GPL-2.0-or-later
#include <fmt/format.h>
#include <liburing.h>

#include <array>
#include <cassert>
#include <cerrno>
#include <cstring>
#include <deque>
#include <vector>

#include "proxy/async_io.h"

namespace cloudblk::proxy {
namespace {

class Uring final : public AsyncIo, public FdHandler {
 public:
  // Takes the ring over.
  Uring(EventLoop* loop, const io_uring& ring) : loop_(loop), ring_(ring), slots_(kDepth) {
    for (Slot& slot : slots_) free_.push_back(&slot);
    loop_->Watch(ring_.ring_fd, true, false, this);
  }

  ~Uring() override {
    assert(free_.size() == kDepth && waiting_.empty());
    loop_->Unwatch(ring_.ring_fd);
    io_uring_queue_exit(&ring_);
  }

  void Queue(const Transfer& transfer) override { waiting_.push_back(transfer); }

  void Kick() override {
    do {
      FillBatch();
      // A refusal (out of memory, completions not reaped) leaves the entries in the ring: the next
      // kick hands them over, at the latest when something under way ends.
      while (io_uring_sq_ready(&ring_) != 0) {
        const int submitted = io_uring_submit(&ring_);
        if (submitted == -EINTR) continue;
        if (submitted <= 0) {
          Retry();
          return;
        }
      }
    } while (!waiting_.empty() && !free_.empty());
  }

  void OnReadable() override {
    std::array<io_uring_cqe*, kReapedPerTurn> entries;
    const unsigned n = io_uring_peek_batch_cqe(&ring_, entries.data(), entries.size());
    for (unsigned i = 0; i < n; ++i) {
      Slot* slot = static_cast<Slot*>(io_uring_cqe_get_data(entries[i]));
      const Transfer transfer = slot->transfer;
      free_.push_back(slot);
      transfer.sink->OnTransferred(transfer.op, entries[i]->res);
    }
    io_uring_cq_advance(&ring_, n);
    // What is left keeps the ring readable.
    Kick();
  }
  void OnWritable() override {}

 private:
  struct Slot {
    Transfer transfer;
  };

  void FillBatch() {
    unsigned room = NextBatch(kDepth - free_.size());
    for (; room > 0 && !waiting_.empty() && !free_.empty(); --room) {
      io_uring_sqe* sqe = io_uring_get_sqe(&ring_);
      if (sqe == nullptr) break;
      Slot* slot = free_.back();
      free_.pop_back();
      slot->transfer = waiting_.front();
      waiting_.pop_front();
      const Transfer& t = slot->transfer;
      if (t.write) {
        io_uring_prep_write(sqe, t.fd, t.data, t.length, t.offset);
      } else {
        io_uring_prep_read(sqe, t.fd, t.data, t.length, t.offset);
      }
      io_uring_sqe_set_data(sqe, slot);
    }
  }

  void Retry() {
    if (retry_armed_) return;
    retry_armed_ = true;
    loop_->Defer([this] {
      retry_armed_ = false;
      OnReadable();
    });
  }

  EventLoop* const loop_;
  // Loop thread only.
  io_uring ring_;
  std::vector<Slot> slots_;
  std::vector<Slot*> free_;
  std::deque<Transfer> waiting_;
  bool retry_armed_ = false;
};

}  // namespace

Result<std::unique_ptr<AsyncIo>> NewUring(EventLoop* loop) {
  io_uring ring{};
  const int error = io_uring_queue_init(AsyncIo::kDepth, &ring, IORING_SETUP_CLAMP);
  if (error != 0) {
    return Status(-error, fmt::format("io_uring is not to be had here ({}); use aio=libaio",
                                      strerror(-error)));
  }
  // A child process (a fence command) has no business with the ring.
  io_uring_ring_dontfork(&ring);
  return std::unique_ptr<AsyncIo>(std::make_unique<Uring>(loop, ring));
}

}  // namespace cloudblk::proxy
