// SPDX-License-Identifier: GPL-2.0-or-later
#include "proxy/backends/sync_queue.h"

#include <cerrno>
#include <utility>

#include "proxy/loop_context.h"

namespace cloudblk::proxy {

SyncQueue::SyncQueue(WorkerPool* workers, const Backend* backend, std::function<int()> sync,
                     std::function<void(int)> on_failure)
    : workers_(workers),
      backend_(backend),
      sync_(std::move(sync)),
      on_failure_(std::move(on_failure)) {}

void SyncQueue::Add(IoOp* op) {
  std::lock_guard lock(mutex_);
  op->next = waiting_;
  waiting_ = op;
  if (running_) return;
  running_ = true;
  workers_->Run([this] { Work(); });
}

void SyncQueue::Work() {
  IoOp* batch;
  {
    std::lock_guard lock(mutex_);
    batch = std::exchange(waiting_, nullptr);
  }
  const int error = sync_();
  if (error != 0) on_failure_(error);
  for (IoOp* op = batch; op != nullptr; op = op->next) {
    if (op->generation != backend_->generation()) op->result = -EIO;
  }
  PostDone(batch);
  std::lock_guard lock(mutex_);
  running_ = waiting_ != nullptr;
  if (running_) workers_->Run([this] { Work(); });
}

void PostDone(IoOp* list) {
  while (list != nullptr) {
    LoopContext* context = list->context;
    IoOp* mine = nullptr;
    IoOp* others = nullptr;
    while (list != nullptr) {
      IoOp* op = list;
      list = op->next;
      IoOp*& to = op->context == context ? mine : others;
      op->next = to;
      to = op;
    }
    context->loop().Post([mine] {
      for (IoOp* op = mine; op != nullptr;) {
        IoOp* next = op->next;
        op->sink->OnIoDone(op);
        op = next;
      }
    });
    list = others;
  }
}

}  // namespace cloudblk::proxy
