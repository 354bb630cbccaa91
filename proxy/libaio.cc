// SPDX-License-Identifier: GPL-2.0-or-later
#include <fmt/format.h>
#include <libaio.h>
#include <sys/eventfd.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cassert>
#include <cerrno>
#include <cstring>
#include <deque>
#include <vector>

#include "proxy/async_io.h"

namespace cloudblk::proxy {
namespace {

class Libaio final : public AsyncIo, public FdHandler {
 public:
  Libaio(EventLoop* loop, io_context_t context, int event_fd)
      : loop_(loop),
        context_(context),
        event_fd_(event_fd),
        retry_(loop->NewTimer([this] { Kick(); })) {
    for (unsigned i = 0; i < kDepth; ++i) free_.push_back(&slots_[i]);
    loop_->Watch(event_fd_, true, false, this);
  }

  ~Libaio() override {
    assert(free_.size() == kDepth && waiting_.empty());
    loop_->Unwatch(event_fd_);
    io_destroy(context_);
    close(event_fd_);
  }

  void Queue(const Transfer& transfer) override { waiting_.push_back(transfer); }

  void Kick() override {
    while (!waiting_.empty() && !free_.empty()) {
      const long count = FillBatch();
      const int submitted = io_submit(context_, count, batch_.data());
      const long taken = std::max(submitted, 0);
      for (long i = count - 1; i >= taken; --i) TakeBack(batch_[i]);
      if (taken == count) continue;
      if (submitted == -EINTR) continue;
      // The kernel has no memory, or no room in its queue, for more: what is under way makes room
      // when it ends. If nothing is, a timer tries again.
      if (submitted >= 0 || submitted == -EAGAIN) {
        if (free_.size() == kDepth) retry_->Arm(loop_->NowNs() + kRetryNs);
        return;
      }
      FailFirst(submitted);
    }
  }

  void OnReadable() override { Reap(); }
  void OnWritable() override {}

 private:
  static constexpr int64_t kRetryNs = 1'000'000;

  struct Slot {
    iocb control;
    Transfer transfer;
  };

  // All that has ended.
  void Fetch() {
    uint64_t count;
    // Reset before the ring is read: what ends in between raises it again.
    [[maybe_unused]] const ssize_t got = read(event_fd_, &count, sizeof(count));
    timespec now{};
    const int n = io_getevents(context_, 0, ended_.size(), ended_.data(), &now);
    head_ = 0;
    tail_ = static_cast<unsigned>(std::max(n, 0));
  }

  void Reap() {
    unsigned part = kNextPart;
    if (head_ == tail_) {
      Fetch();
      part = kFirstPart;
    }
    for (; part > 0 && head_ < tail_; --part) {
      const io_event& event = ended_[head_++];
      Slot* slot = static_cast<Slot*>(event.data);
      const Transfer transfer = slot->transfer;
      free_.push_back(slot);
      transfer.sink->OnTransferred(transfer.op, static_cast<int64_t>(event.res));
    }
    Kick();
    if (head_ < tail_ && !reap_deferred_) {
      reap_deferred_ = true;
      loop_->Defer([this] {
        reap_deferred_ = false;
        Reap();
      });
    }
  }

  unsigned UnderWay() const { return kDepth - free_.size() - (tail_ - head_); }

  long FillBatch() {
    const size_t most = std::min<size_t>(NextBatch(UnderWay()), batch_.size());
    long count = 0;
    while (!waiting_.empty() && !free_.empty() && count < static_cast<long>(most)) {
      Slot* slot = free_.back();
      free_.pop_back();
      slot->transfer = waiting_.front();
      waiting_.pop_front();
      const Transfer& t = slot->transfer;
      const auto offset = static_cast<long long>(t.offset);
      if (t.write) {
        io_prep_pwrite(&slot->control, t.fd, t.data, t.length, offset);
      } else {
        io_prep_pread(&slot->control, t.fd, t.data, t.length, offset);
      }
      slot->control.aio_rw_flags = RWF_NOWAIT;
      io_set_eventfd(&slot->control, event_fd_);
      slot->control.data = slot;
      batch_[count++] = &slot->control;
    }
    return count;
  }

  void TakeBack(iocb* control) {
    Slot* slot = static_cast<Slot*>(control->data);
    waiting_.push_front(slot->transfer);
    free_.push_back(slot);
  }

  // io_submit's error is about the first of the batch.
  void FailFirst(int error) {
    const Transfer transfer = waiting_.front();
    waiting_.pop_front();
    loop_->Defer([transfer, error] { transfer.sink->OnTransferred(transfer.op, error); });
  }

  EventLoop* const loop_;
  const io_context_t context_;
  const int event_fd_;
  const std::unique_ptr<Timer> retry_;
  // Loop thread only.
  std::deque<Transfer> waiting_;
  std::vector<Slot*> free_;
  std::array<iocb*, 256> batch_;
  // What has ended; from head_ to tail_ not looked at yet.
  std::array<io_event, kDepth> ended_;
  unsigned head_ = 0;
  unsigned tail_ = 0;
  bool reap_deferred_ = false;
  std::array<Slot, kDepth> slots_;
};

}  // namespace

Result<std::unique_ptr<AsyncIo>> NewLibaio(EventLoop* loop) {
  io_context_t context = nullptr;
  const int error = io_setup(AsyncIo::kDepth, &context);
  if (error != 0) {
    return Status(-error, fmt::format("cannot set up Linux AIO: {}{}", strerror(-error),
                                      error == -EAGAIN ? "; raise the sysctl fs.aio-max-nr" : ""));
  }
  const int event_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
  if (event_fd < 0) {
    const int saved = errno;
    io_destroy(context);
    return Status(saved, fmt::format("cannot make an eventfd: {}", strerror(saved)));
  }
  return std::unique_ptr<AsyncIo>(std::make_unique<Libaio>(loop, context, event_fd));
}

}  // namespace cloudblk::proxy
