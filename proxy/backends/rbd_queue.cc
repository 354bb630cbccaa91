// SPDX-License-Identifier: GPL-2.0-or-later
#include "proxy/backends/rbd_queue.h"

#include <algorithm>
#include <cassert>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "proxy/backends/rbd.h"
#include "proxy/extent_writer.h"
#include "proxy/loop_context.h"

namespace cloudblk::proxy {
namespace {

// Bytes that one BLOCK_STATUS looks at: a thousand objects.
constexpr uint64_t kMostLookedAt = uint64_t{4} << 30;
// Bytes of neighbours that librbd has as one: what a client may have under way at once should still
// be several.
constexpr uint64_t kMostJoined = 1 << 20;
// What ends an iteration early.
constexpr int kEnough = -ECANCELED;

bool MovesData(Operation kind) { return kind == Operation::kRead || kind == Operation::kWrite; }

}  // namespace

RbdQueue::Task::~Task() {
  if (!owns_data) return;
  for (const iovec& piece : data) std::free(piece.iov_base);
}

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
    // The data comes in the library's memory, which is as much.
    op->buffer = context_->buffers().Count(op->length);
  }
  // A client that was put on the blocklist has nothing under way for long.
  if (tasks_.empty() && rbd_->is_other_image(image_.get())) {
    rbd_->Drop(std::exchange(image_, rbd_->image()));
    is_given_up_ = false;
  }
  if (Join(op)) return false;
  BeginPending();
  Task* const task = NewTask(op);
  if (is_given_up_) {
    EndCall(task, -ESHUTDOWN);
  } else {
    pending_ = task;
    if (!MovesData(op->kind)) BeginPending();
  }
  return false;
}

RbdQueue::Task* RbdQueue::NewTask(IoOp* op) {
  if (spare_.empty()) spare_.push_back(std::make_unique<Task>());
  Task* const task = tasks_.emplace_back(std::move(spare_.back())).get();
  spare_.pop_back();
  task->queue = this;
  task->op = task->last = op;
  op->next = nullptr;
  task->index = tasks_.size() - 1;
  task->state.store(Task::kUnderWay, std::memory_order_relaxed);
  task->calls.store(1, std::memory_order_relaxed);
  task->result.store(0, std::memory_order_relaxed);
  task->flushing = false;
  task->data.clear();
  task->length = MovesData(op->kind) ? op->length : 0;
  if (op->kind == Operation::kWrite) task->data.push_back({op->buffer.data, op->length});
  return task;
}

// What costs is librbd's operation, and less its bytes.
bool RbdQueue::Join(IoOp* op) {
  if (pending_ == nullptr || !MovesData(op->kind)) return false;
  Task* const task = pending_;
  const IoOp& first = *task->op;
  if (op->kind != first.kind || op->fua != first.fua || op->offset != first.offset + task->length ||
      task->length + op->length > kMostJoined) {
    return false;
  }
  op->next = nullptr;
  task->last = task->last->next = op;
  if (op->kind == Operation::kWrite) task->data.push_back({op->buffer.data, op->length});
  task->length += op->length;
  return true;
}

void RbdQueue::BeginPending() {
  if (pending_ == nullptr) return;
  Task* const task = std::exchange(pending_, nullptr);
  const int error = Begin(task);
  if (error != 0) EndCall(task, error);
}

int RbdQueue::Begin(Task* task) {
  const Operation kind = task->op->kind;
  if (kind == Operation::kRead) return BeginRead(task);
  if (kind == Operation::kWrite) return BeginWrite(task);
  if (HasRanges(kind)) return BeginRanges(task);
  if (kind == Operation::kFlush) return BeginFlush(task);
  rbd_->RunQuery([this, task] { EndCall(task, FindExtents(task->op)); });
  return 0;
}

int RbdQueue::BeginRead(Task* task) {
  auto* const completion = new librbd::RBD::AioCompletion(task, OnReadDone);
  const int error =
      image_->reader().aio_read(task->op->offset, task->length, task->data_read, completion);
  if (error < 0) completion->release();
  return error < 0 ? error : 0;
}

int RbdQueue::BeginWrite(Task* task) {
  rbd_completion_t completion = nullptr;
  int error = rbd_aio_create_completion(task, OnDone, &completion);
  if (error < 0) return error;
  const uint64_t offset = task->op->offset;
  const auto& data = task->data;
  if (data.size() == 1) {
    auto* const bytes = static_cast<const char*>(data.front().iov_base);
    error = rbd_aio_write(image_->handle(), offset, task->length, bytes, completion);
  } else {
    error = rbd_aio_writev(image_->handle(), data.data(), static_cast<int>(data.size()), offset,
                           completion);
  }
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

void RbdQueue::OnReadDone(librbd::completion_t completion, void* arg) {
  auto* const done = static_cast<librbd::RBD::AioCompletion*>(completion);
  const int64_t result = done->get_return_value();
  done->release();
  auto* const task = static_cast<Task*>(arg);
  // Of an image that has become smaller librbd reads less.
  const bool is_short = result >= 0 && task->data_read.length() < task->length;
  EndCall(task, is_short ? -EIO : result);
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
  const IoOp& first = *task->op;
  const int result = task->result.load(std::memory_order_relaxed);
  if (result == 0 && first.fua && !task->flushing && !is_given_up_) {
    task->flushing = true;
    task->calls.store(1, std::memory_order_relaxed);
    task->state.store(Task::kUnderWay, std::memory_order_relaxed);
    const int error = BeginFlush(task);
    if (error != 0) EndCall(task, error);
    return;
  }
  const bool flushed = first.kind == Operation::kFlush || task->flushing;
  const bool joined = task->op != task->last;
  if (first.kind == Operation::kRead && result == 0 && !is_given_up_) Lend(task);
  IoOp* next = task->op;
  task->data_read.clear();
  spare_.push_back(Remove(task->index));
  while (next != nullptr) {
    IoOp* const op = std::exchange(next, next->next);
    if (joined && result != 0 && result != -ESHUTDOWN && !is_given_up_) {
      // Whose fault it is shows where each is alone.
      Task* const alone = NewTask(op);
      const int error = Begin(alone);
      if (error != 0) EndCall(alone, error);
    } else {
      FinishOp(op, result, flushed);
    }
  }
}

void RbdQueue::Lend(Task* task) {
  const auto data = std::make_shared<const ceph::bufferlist>(std::move(task->data_read));
  auto at = data->begin();
  for (IoOp* op = task->op; op != nullptr; op = op->next) {
    const char* piece = nullptr;
    const size_t length = at.get_ptr_and_advance(op->length, &piece);
    if (length == op->length) {
      op->data = reinterpret_cast<const uint8_t*>(piece);
      op->lent = data;
      continue;
    }
    // It lies in more than one object.
    context_->buffers().Put(&op->buffer);
    op->buffer = context_->buffers().Get(op->length);
    if (op->buffer.data == nullptr) {
      at += op->length - static_cast<unsigned>(length);
      op->result = -ENOMEM;
      continue;
    }
    memcpy(op->buffer.data, piece, length);
    at.copy(op->length - static_cast<unsigned>(length),
            reinterpret_cast<char*>(op->buffer.data) + length);
    op->data = op->buffer.data;
  }
}

void RbdQueue::FinishOp(IoOp* op, int result, bool flushed) {
  if (op->result == 0) op->result = result;
  if (result == -ESHUTDOWN || is_given_up_) {
    rbd_->NoteBlocklisted(image_.get());
    op->result = IoOp::kLost;
  } else if (result != 0) {
    rbd_->LogFirst(-result, *op);
    if (flushed) rbd_->NoteFlushFailed(result);
  }
  if (flushed && op->result == 0 && op->generation != rbd_->generation()) op->result = -EIO;
  op->sink->OnIoDone(op);
}

std::unique_ptr<RbdQueue::Task> RbdQueue::Remove(size_t index) {
  std::unique_ptr<Task> removed = std::move(tasks_[index]);
  if (index != tasks_.size() - 1) {
    tasks_[index] = std::move(tasks_.back());
    tasks_[index]->index = index;
  }
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
  if (pending_ != nullptr) EndCall(std::exchange(pending_, nullptr), -ESHUTDOWN);
  IoOp* lost = nullptr;
  size_t count = 0;
  for (size_t i = tasks_.size(); i-- > 0;) {
    Task* const task = tasks_[i].get();
    IoOp* next = task->op;
    // A thread of ours is at it, and the library does not keep what that asks.
    if (next->kind == Operation::kBlockStatus) continue;
    auto state = Task::kUnderWay;
    // Where librbd owns the data from now on, it must not be used again before it has let go.
    task->owns_data = true;
    if (!task->state.compare_exchange_strong(state, Task::kGivenUp)) {
      task->owns_data = false;
      continue;
    }
    // Its last call frees it, and may have done so.
    [[maybe_unused]] const Task* const disowned = Remove(i).release();
    while (next != nullptr) {
      IoOp* const op = std::exchange(next, next->next);
      if (op->kind == Operation::kWrite) context_->buffers().GiveAway(&op->buffer);
      op->result = IoOp::kLost;
      op->next = std::exchange(lost, op);
      ++count;
    }
  }
  if (count != 0) rbd_->LogGivenUp(count);
  while (lost != nullptr) {
    IoOp* const op = std::exchange(lost, lost->next);
    op->sink->OnIoDone(op);
  }
}

}  // namespace cloudblk::proxy
