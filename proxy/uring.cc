// SPDX-License-Identifier: GPL-2.0-or-later
#include <fmt/format.h>
#include <liburing.h>
#include <sys/uio.h>

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
  Uring(EventLoop* loop, const io_uring& ring)
      : loop_(loop), retry_(loop->NewTimer([this] { OnReadable(); })), ring_(ring), slots_(kDepth) {
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
      // kick hands them over, or the timer.
      while (io_uring_sq_ready(&ring_) != 0) {
        const int submitted = io_uring_submit(&ring_);
        if (submitted == -EINTR) continue;
        if (submitted <= 0) {
          retry_->Arm(loop_->NowNs() + kRetryNs);
          return;
        }
      }
    } while (!waiting_.empty() && !free_.empty());
  }

  void OnReadable() override {
    io_uring_cqe* entry;
    for (unsigned part = more_ ? kNextPart : kFirstPart;
         part > 0 && io_uring_peek_cqe(&ring_, &entry) == 0; --part) {
      Slot* slot = static_cast<Slot*>(io_uring_cqe_get_data(entry));
      const Transfer transfer = slot->transfer;
      const int result = entry->res;
      io_uring_cqe_seen(&ring_, entry);
      free_.push_back(slot);
      transfer.sink->OnTransferred(transfer.op, result);
    }
    // What is left keeps the ring readable.
    more_ = io_uring_cq_ready(&ring_) > 0;
    Kick();
  }
  void OnWritable() override {}

 private:
  static constexpr int64_t kRetryNs = 1'000'000;

  struct Slot {
    Transfer transfer;
  };

  unsigned UnderWay() const { return kDepth - free_.size() - io_uring_cq_ready(&ring_); }

  void FillBatch() {
    unsigned room = NextBatch(UnderWay());
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
      sqe->rw_flags = RWF_NOWAIT;
      io_uring_sqe_set_data(sqe, slot);
    }
  }

  EventLoop* const loop_;
  const std::unique_ptr<Timer> retry_;
  // Loop thread only.
  io_uring ring_;
  std::vector<Slot> slots_;
  std::vector<Slot*> free_;
  std::deque<Transfer> waiting_;
  bool more_ = false;  // the last turn left some that have ended
};

// Kernels before 5.6 know these operations by other names only.
bool CanReadAndWrite(io_uring* ring) {
  io_uring_probe* probe = io_uring_get_probe_ring(ring);
  if (probe == nullptr) return false;
  const bool can = io_uring_opcode_supported(probe, IORING_OP_READ) != 0 &&
                   io_uring_opcode_supported(probe, IORING_OP_WRITE) != 0;
  io_uring_free_probe(probe);
  return can;
}

}  // namespace

Result<std::unique_ptr<AsyncIo>> NewUring(EventLoop* loop) {
  io_uring ring{};
  const auto refused = [](int error) {
    return Status(error, fmt::format("io_uring is not to be had here ({}; see the sysctl "
                                     "kernel.io_uring_disabled, and seccomp)",
                                     strerror(error)));
  };
  const int error = io_uring_queue_init(AsyncIo::kDepth, &ring, IORING_SETUP_CLAMP);
  if (error != 0) return refused(-error);
  if (!CanReadAndWrite(&ring)) {
    io_uring_queue_exit(&ring);
    return refused(EOPNOTSUPP);
  }
  // A child process must not have a share of the ring.
  io_uring_ring_dontfork(&ring);
  return std::unique_ptr<AsyncIo>(std::make_unique<Uring>(loop, ring));
}

}  // namespace cloudblk::proxy
