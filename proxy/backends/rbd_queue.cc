// SPDX-License-Identifier: GPL-2.0-or-later
#include "proxy/backends/rbd_queue.h"

#include <algorithm>
#include <cassert>
#include <cerrno>
#include <utility>

#include "proxy/backends/rbd.h"
#include "proxy/extent_writer.h"
#include "proxy/loop_context.h"

namespace cloudblk::proxy {
namespace {

// Bytes that one BLOCK_STATUS looks at: a thousand objects.
constexpr uint64_t kMostLookedAt = uint64_t{4} << 30;
// What ends an iteration early.
constexpr int kEnough = -ECANCELED;

}  // namespace

RbdQueue::RbdQueue(Rbd* rbd, LoopContext* context)
    : rbd_(rbd), context_(context), image_(rbd->image()) {}

RbdQueue::~RbdQueue() {
  assert(under_way_ == 0);
  rbd_->Drop(std::move(image_));
}

bool RbdQueue::Submit(IoOp* op) {
  op->context = context_;
  op->queue = this;
  op->result = 0;
  op->calls = 1;
  op->flushing = false;
  if (op->kind == Operation::kRead) {
    op->buffer = context_->buffers().Get(op->length);
    if (op->buffer.data == nullptr) {
      op->result = -ENOMEM;
      return true;
    }
    op->data = op->buffer.data;
  }
  // A client that was put on the blocklist has nothing under way for long.
  if (under_way_ == 0 && rbd_->is_other_image(image_.get())) {
    rbd_->Drop(std::exchange(image_, rbd_->image()));
  }
  ++under_way_;
  const int error = Begin(op);
  if (error != 0) EndCall(op, error);
  return false;
}

int RbdQueue::Begin(IoOp* op) {
  if (op->kind == Operation::kFlush) return BeginFlush(op);
  if (op->kind == Operation::kBlockStatus) {
    rbd_->RunQuery([this, op] { EndCall(op, FindExtents(op)); });
    return 0;
  }
  if (HasRanges(op->kind)) return BeginRanges(op);
  rbd_completion_t completion = nullptr;
  int error = rbd_aio_create_completion(op, OnDone, &completion);
  if (error < 0) return error;
  auto* const data = reinterpret_cast<char*>(op->buffer.data);
  error = op->kind == Operation::kRead
              ? rbd_aio_read(image_->handle(), op->offset, op->length, data, completion)
              : rbd_aio_write(image_->handle(), op->offset, op->length, data, completion);
  if (error < 0) rbd_aio_release(completion);
  return error < 0 ? error : 0;
}

// All at once. The operation has a call of its own until all of them are made.
int RbdQueue::BeginRanges(IoOp* op) {
  for (const Range& range : op->ranges) {
    if (range.length == 0) continue;
    std::atomic_ref(op->calls).fetch_add(1, std::memory_order_relaxed);
    const int error = BeginRange(op, range);
    if (error == 0) continue;
    EndCall(op, error);
    break;
  }
  EndCall(op, 0);
  return 0;
}

int RbdQueue::BeginRange(IoOp* op, const Range& range) {
  rbd_completion_t completion = nullptr;
  int error = rbd_aio_create_completion(op, OnDone, &completion);
  if (error < 0) return error;
  if (op->kind == Operation::kDiscard) {
    error = rbd_aio_discard(image_->handle(), range.offset, range.length, completion);
  } else {
    const int flags = range.unmap ? 0 : RBD_WRITE_ZEROES_FLAG_THICK_PROVISION;
    error =
        rbd_aio_write_zeroes(image_->handle(), range.offset, range.length, completion, flags, 0);
  }
  if (error < 0) rbd_aio_release(completion);
  return error < 0 ? error : 0;
}

// By whole objects, as the object map has them. On a thread.
int RbdQueue::FindExtents(IoOp* op) const {
  ExtentWriter writer(op, rbd_->geometry().logical_block_size);
  const uint64_t end = std::min(writer.end(), op->offset + kMostLookedAt);
  const auto tell = [](uint64_t offset, size_t length, int exists, void* arg) {
    auto* const to = static_cast<ExtentWriter*>(arg);
    const bool goes_on =
        to->Add(offset, true, true) && (exists == 0 || to->AddData(offset + length));
    return goes_on ? 0 : kEnough;
  };
  const int error = rbd_diff_iterate2(image_->handle(), nullptr, op->offset, end - op->offset, 1, 1,
                                      tell, &writer);
  if (error < 0 && error != kEnough) return error;
  if (error == 0) writer.Add(end, true, true);
  if (op->extents == 0) writer.AddData(end);
  return 0;
}

int RbdQueue::BeginFlush(IoOp* op) {
  rbd_completion_t completion = nullptr;
  int error = rbd_aio_create_completion(op, OnDone, &completion);
  if (error < 0) return error;
  error = rbd_aio_flush(image_->handle(), completion);
  if (error < 0) rbd_aio_release(completion);
  return error < 0 ? error : 0;
}

void RbdQueue::OnDone(rbd_completion_t completion, void* arg) {
  auto* const op = static_cast<IoOp*>(arg);
  const int64_t result = rbd_aio_get_return_value(completion);
  rbd_aio_release(completion);
  static_cast<RbdQueue*>(op->queue)->EndCall(op, result);
}

void RbdQueue::EndCall(IoOp* op, int64_t result) {
  int none = 0;
  if (result < 0) {
    std::atomic_ref(op->result).compare_exchange_strong(none, static_cast<int>(result));
  }
  if (std::atomic_ref(op->calls).fetch_sub(1, std::memory_order_acq_rel) == 1) Add(op);
}

void RbdQueue::Add(IoOp* op) {
  IoOp* head = completed_.load(std::memory_order_relaxed);
  do {
    op->next = head;
  } while (!completed_.compare_exchange_weak(head, op, std::memory_order_release,
                                             std::memory_order_relaxed));
  if (head == nullptr) context_->loop().Post([this] { TakeCompleted(); });
}

void RbdQueue::TakeCompleted() {
  IoOp* list = completed_.exchange(nullptr, std::memory_order_acquire);
  IoOp* in_order = nullptr;
  while (list != nullptr) {
    IoOp* op = std::exchange(list, list->next);
    op->next = std::exchange(in_order, op);
  }
  while (in_order != nullptr) Finish(std::exchange(in_order, in_order->next));
}

void RbdQueue::Finish(IoOp* op) {
  if (op->result == 0 && op->fua && !op->flushing) {
    op->flushing = true;
    op->calls = 1;
    const int error = BeginFlush(op);
    if (error != 0) EndCall(op, error);
    return;
  }
  --under_way_;
  const bool flushed = op->kind == Operation::kFlush || op->flushing;
  if (op->result == -ESHUTDOWN) {
    rbd_->NoteBlocklisted(image_.get());
    op->result = IoOp::kLost;
  } else if (op->result != 0) {
    rbd_->LogFirst(-op->result, *op);
    if (flushed) rbd_->NoteFlushFailed(op->result);
  }
  if (flushed && op->result == 0 && op->generation != rbd_->generation()) op->result = -EIO;
  op->sink->OnIoDone(op);
}

}  // namespace cloudblk::proxy
