// SPDX-License-Identifier: GPL-2.0-or-later
#ifndef CLOUDBLK_PROXY_BACKENDS_PLAIN_QUEUE_H_
#define CLOUDBLK_PROXY_BACKENDS_PLAIN_QUEUE_H_

#include <memory>

#include "base/status.h"
#include "proxy/backend.h"
#include "proxy/loop_context.h"

namespace cloudblk::proxy {

// The queue of a backend that takes operations from any loop, and queues them at most in that
// loop's LoopContext: Storage has `bool Submit(LoopContext&, IoOp*)`, as BackendQueue::Submit.
template <typename Storage>
class PlainQueue final : public BackendQueue {
 public:
  // Both outlive the object.
  PlainQueue(Storage* storage, LoopContext* context) : storage_(storage), context_(context) {}

  static Result<std::unique_ptr<BackendQueue>> New(Storage* storage, LoopContext& context) {
    return std::unique_ptr<BackendQueue>(std::make_unique<PlainQueue>(storage, &context));
  }

  bool Submit(IoOp* op) override { return storage_->Submit(*context_, op); }
  void Kick() override { context_->Kick(); }

 private:
  Storage* const storage_;
  LoopContext* const context_;
};

}  // namespace cloudblk::proxy

#endif  // CLOUDBLK_PROXY_BACKENDS_PLAIN_QUEUE_H_
