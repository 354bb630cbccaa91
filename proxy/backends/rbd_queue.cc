// SPDX-License-Identifier: GPL-2.0-or-later
#include "proxy/backends/rbd_queue.h"

#include <algorithm>
#include <cassert>
#include <cerrno>
#include <cstdlib>
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

RbdQueue::Task::~Task() { std::free(data); }

RbdQueue::RbdQueue(Rbd* rbd, LoopContext* context)
    : rbd_(rbd), context_(context), image_(rbd->Join(this)) {}

RbdQueue::~RbdQueue() {
  assert(tasks_.empty());
  rbd_->Leave(this);
  rbd_->Drop(std::move(image_));
}

bool RbdQueue::Submit(IoOp* op) {
  op->context = context_;
  op->queue = this;
  op->result = 0;
  if (op->kind == Operation::kRead) {
    op->buffer = context_->buffers().Get(op->length);
    if (op->buffer.data == nullptr) {
      op->result = -ENOMEM;
      return true;
    }
    op->data = op->buffer.data;
  }
  // A client that was put on the blocklist has nothing under way for long.
  if (tasks_.empty() && rbd_->is_other_image(image_.get())) {
    rbd_->Drop(std::exchange(image_, rbd_->image()));
    is_given_up_ = false;
  }
  Task* const task = NewTask(op);
  const int error = is_given_up_ ? -ESHUTDOWN : Begin(task);
  if (error != 0) EndCall(task, error);
  return false;
}

RbdQueue::Task* RbdQueue::NewTask(IoOp* op) {
  if (spare_.empty()) spare_.push_back(std::make_unique<Task>());
  Task* const task = tasks_.emplace_back(std::move(spare_.back())).get();
  spare_.pop_back();
  task->queue = this;
  task->op = op;
  task->index = tasks_.size() - 1;
  task->state.store(Task::kUnderWay, std::memory_order_relaxed);
  task->calls.store(1, std::memory_order_relaxed);
  task->result.store(0, std::memory_order_relaxed);
  task->flushing = false;
  return task;
}

int RbdQueue::Begin(Task* task) {
  IoOp* const op = task->op;
  if (op->kind == Operation::kFlush) return BeginFlush(task);
  if (op->kind == Operation::kBlockStatus) {
    rbd_->RunQuery([this, task] { EndCall(task, FindExtents(task->op)); });
    return 0;
  }
  if (HasRanges(op->kind)) return BeginRanges(task);
  rbd_completion_t completion = nullptr;
  int error = rbd_aio_create_completion(task, OnDone, &completion);
  if (error < 0) return error;
  auto* const data = reinterpret_cast<char*>(op->buffer.data);
  error = op->kind == Operation::kRead
              ? rbd_aio_read(image_->handle(), op->offset, op->length, data, completion)
              : rbd_aio_write(image_->handle(), op->offset, op->length, data, completion);
  if (error < 0) rbd_aio_release(completion);
  return error < 0 ? error : 0;
}

// All at once. The task has a call of its own until all of them are made.
int RbdQueue::BeginRanges(Task* task) {
  int error = 0;
  for (const Range& range : task->op->ranges) {
    if (range.length == 0) continue;
    task->calls.fetch_add(1, std::memory_order_relaxed);
    error = BeginRange(task, range);
    if (error == 0) continue;
    task->calls.fetch_sub(1, std::memory_order_relaxed);
    break;
  }
  EndCall(task, error);
  return 0;
}

int RbdQueue::BeginRange(Task* task, const Range& range) {
  rbd_completion_t completion = nullptr;
  int error = rbd_aio_create_completion(task, OnDone, &completion);
  if (error < 0) return error;
  if (task->op->kind == Operation::kDiscard) {
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

int RbdQueue::BeginFlush(Task* task) {
  rbd_completion_t completion = nullptr;
  int error = rbd_aio_create_completion(task, OnDone, &completion);
  if (error < 0) return error;
  error = rbd_aio_flush(image_->handle(), completion);
  if (error < 0) rbd_aio_release(completion);
  return error < 0 ? error : 0;
}

void RbdQueue::OnDone(rbd_completion_t completion, void* arg) {
  const int64_t result = rbd_aio_get_return_value(completion);
  rbd_aio_release(completion);
  EndCall(static_cast<Task*>(arg), result);
}

void RbdQueue::EndCall(Task* task, int64_t result) {
  int none = 0;
  if (result < 0) task->result.compare_exchange_strong(none, static_cast<int>(result));
  if (task->calls.fetch_sub(1, std::memory_order_acq_rel) != 1) return;
  auto state = Task::kUnderWay;
  if (task->state.compare_exchange_strong(state, Task::kEnded)) {
    task->queue->Add(task);
  } else {
    delete task;
  }
}

void RbdQueue::Add(Task* task) {
  Task* head = completed_.load(std::memory_order_relaxed);
  do {
    task->next = head;
  } while (!completed_.compare_exchange_weak(head, task, std::memory_order_release,
                                             std::memory_order_relaxed));
  if (head == nullptr) context_->loop().Post([this] { TakeCompleted(); });
}

void RbdQueue::TakeCompleted() {
  Task* list = completed_.exchange(nullptr, std::memory_order_acquire);
  Task* in_order = nullptr;
  while (list != nullptr) {
    Task* task = std::exchange(list, list->next);
    task->next = std::exchange(in_order, task);
  }
  while (in_order != nullptr) Finish(std::exchange(in_order, in_order->next));
}

void RbdQueue::Finish(Task* task) {
  IoOp* const op = task->op;
  op->result = task->result.load(std::memory_order_relaxed);
  if (op->result == 0 && op->fua && !task->flushing && !is_given_up_) {
    task->flushing = true;
    task->calls.store(1, std::memory_order_relaxed);
    task->state.store(Task::kUnderWay, std::memory_order_relaxed);
    const int error = BeginFlush(task);
    if (error != 0) EndCall(task, error);
    return;
  }
  const bool flushed = op->kind == Operation::kFlush || task->flushing;
  spare_.push_back(Remove(task));
  if (op->result == -ESHUTDOWN || is_given_up_) {
    rbd_->NoteBlocklisted(image_.get());
    op->result = IoOp::kLost;
  } else if (op->result != 0) {
    rbd_->LogFirst(-op->result, *op);
    if (flushed) rbd_->NoteFlushFailed(op->result);
  }
  if (flushed && op->result == 0 && op->generation != rbd_->generation()) op->result = -EIO;
  op->sink->OnIoDone(op);
}

std::unique_ptr<RbdQueue::Task> RbdQueue::Remove(Task* task) {
  const size_t index = task->index;
  std::swap(tasks_[index], tasks_.back());
  tasks_[index]->index = index;
  std::unique_ptr<Task> removed = std::move(tasks_.back());
  tasks_.pop_back();
  return removed;
}

void RbdQueue::PostGiveUp(const RbdImage* image) {
  context_->loop().Post([this, image] {
    if (image == image_.get()) GiveUp();
  });
}

void RbdQueue::GiveUp() {
  is_given_up_ = true;
  IoOp* lost = nullptr;
  size_t count = 0;
  for (size_t i = tasks_.size(); i-- > 0;) {
    Task* const task = tasks_[i].get();
    IoOp* const op = task->op;
    // A thread of ours is at it, and the library does not keep what that asks.
    if (op->kind == Operation::kBlockStatus) continue;
    auto state = Task::kUnderWay;
    // Where librbd owns the data from now on, it must not be used again before it has let go.
    task->data = op->buffer.data;
    if (!task->state.compare_exchange_strong(state, Task::kGivenUp)) {
      task->data = nullptr;
      continue;
    }
    context_->buffers().GiveAway(&op->buffer);
    // Its last call frees it.
    [[maybe_unused]] const Task* const disowned = Remove(task).release();
    op->data = nullptr;
    op->result = IoOp::kLost;
    op->next = std::exchange(lost, op);
    ++count;
  }
  if (count != 0) rbd_->LogGivenUp(count);
  while (lost != nullptr) {
    IoOp* const op = std::exchange(lost, lost->next);
    op->sink->OnIoDone(op);
  }
}

}  // namespace cloudblk::proxy
