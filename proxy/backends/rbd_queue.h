// SPDX-License-Identifier: GPL-2.0-or-later
//
// An image's operations on one loop. Nothing here waits for the cluster. librbd tells of each
// operation on threads of its own; the loop is woken once for all that have ended since.
#ifndef CLOUDBLK_PROXY_BACKENDS_RBD_QUEUE_H_
#define CLOUDBLK_PROXY_BACKENDS_RBD_QUEUE_H_

#include <rbd/librbd.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "proxy/backend.h"

namespace cloudblk::proxy {

class LoopContext;
class Rbd;
class RbdImage;

class RbdQueue final : public BackendQueue {
 public:
  // Both outlive the object.
  RbdQueue(Rbd* rbd, LoopContext* context);
  ~RbdQueue() override;

  bool Submit(IoOp* op) override;
  void Kick() override {}

 private:
  static void OnDone(rbd_completion_t completion, void* op);

  // What is begun belongs to librbd's thread at once. Returns 0, or -errno if nothing was begun.
  int Begin(IoOp* op);
  int BeginRanges(IoOp* op);
  int BeginRange(IoOp* op, const Range& range);
  int BeginFlush(IoOp* op);
  int FindExtents(IoOp* op) const;
  // One of the calls of `op` has ended, or was not made. Any thread.
  void EndCall(IoOp* op, int64_t result);
  void Add(IoOp* op);
  void TakeCompleted();
  void Finish(IoOp* op);

  Rbd* const rbd_;
  LoopContext* const context_;
  std::shared_ptr<RbdImage> image_;
  uint32_t under_way_ = 0;
  std::atomic<IoOp*> completed_{nullptr};  // linked by `next`, the last one first
};

}  // namespace cloudblk::proxy

#endif  // CLOUDBLK_PROXY_BACKENDS_RBD_QUEUE_H_
