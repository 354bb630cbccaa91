// SPDX-License-Identifier: GPL-2.0-or-later
//
// An image's operations on one loop. Nothing here waits for the cluster. librbd tells of each
// operation on threads of its own; the loop is woken once for all that have ended since.
#ifndef CLOUDBLK_PROXY_BACKENDS_RBD_QUEUE_H_
#define CLOUDBLK_PROXY_BACKENDS_RBD_QUEUE_H_

#include <rbd/librbd.h>
#include <sys/uio.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <rbd/librbd.hpp>
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
  // On the loop's thread, or after it.
  ~RbdQueue() override;

  bool Submit(IoOp* op) override;
  void Kick() override { BeginPending(); }

  // Any thread: `image` is of no more use. What is under way there is lost, soon.
  void PostGiveUp(const RbdImage* image);

 private:
  // What librbd knows of an operation, or of READs or WRITEs that are neighbours and for it one.
  // librbd 16 may keep them for ever once the cluster has shut this client out, so that this one
  // can outlive the operations, with their data.
  struct Task {
    enum State : uint8_t { kUnderWay, kEnded, kGivenUp };

    RbdQueue* queue = nullptr;  // none of these four once it is given up
    IoOp* op = nullptr;         // the first one; linked by `next`
    IoOp* last = nullptr;
    size_t index = 0;  // in tasks_
    std::atomic<State> state{kUnderWay};
    std::atomic<uint32_t> calls{0};  // of librbd, that have not ended
    std::atomic<int> result{0};      // 0, or the first -errno
    bool flushing = false;           // what it has written
    Task* next = nullptr;
    std::vector<iovec> data;     // WRITE: which librbd looks at until the end
    ceph::bufferlist data_read;  // READ: which librbd fills
    uint64_t length = 0;         // READ, WRITE: bytes
    bool owns_data = false;
    ~Task();
  };

  static void OnDone(rbd_completion_t completion, void* task);
  static void OnReadDone(librbd::completion_t completion, void* task);

  // What is begun belongs to librbd's thread at once. Returns 0, or -errno if nothing was begun.
  int Begin(Task* task);
  int BeginRead(Task* task);
  int BeginWrite(Task* task);
  int BeginRanges(Task* task);
  int BeginRange(Task* task, const Range& range);
  int BeginFlush(Task* task);
  int FindExtents(IoOp* op) const;
  Task* NewTask(IoOp* op);
  // Makes the operation a part of the one before. False: it is no neighbour.
  bool Join(IoOp* op);
  void BeginPending();
  // One of its calls has ended, or was not made. Any thread.
  static void EndCall(Task* task, int64_t result);
  void Add(Task* task);
  void TakeCompleted();
  void Finish(Task* task);
  // Gives its operations what was read, as it lies.
  void Lend(Task* task);
  void FinishOp(IoOp* op, int result, bool flushed);
  // Takes it off tasks_.
  std::unique_ptr<Task> Remove(size_t index);
  void GiveUp();

  Rbd* const rbd_;
  LoopContext* const context_;
  std::shared_ptr<RbdImage> image_;
  bool is_given_up_ = false;                  // image_
  Task* pending_ = nullptr;                   // not begun, as neighbours may come
  std::vector<std::unique_ptr<Task>> tasks_;  // under way
  std::vector<std::unique_ptr<Task>> spare_;
  std::atomic<Task*> completed_{nullptr};  // linked by `next`, the last one first
};

}  // namespace cloudblk::proxy

#endif  // CLOUDBLK_PROXY_BACKENDS_RBD_QUEUE_H_
