// SPDX-License-Identifier: GPL-2.0-or-later
//
// Flushes of one storage, merged: those that wait share the next sync.
#ifndef CLOUDBLK_PROXY_BACKENDS_SYNC_QUEUE_H_
#define CLOUDBLK_PROXY_BACKENDS_SYNC_QUEUE_H_

#include <functional>
#include <mutex>

#include "base/worker_pool.h"
#include "proxy/backend.h"

namespace cloudblk::proxy {

class SyncQueue {
 public:
  // `sync` makes everything that was done before it is called durable: 0 or -errno. After a failure
  // `on_failure` is called, before any operation is told. By its return the backend's generation
  // has to have changed: only by that the operations fail. Both run on a thread of `workers`, one
  // at a time.
  SyncQueue(WorkerPool* workers, const Backend* backend, std::function<int()> sync,
            std::function<void(int)> on_failure);

  // Ends `op` (on its loop) after a sync that began after this call. It fails with -EIO if that
  // sync fails or if any failed since the operation's connection was opened (SPEC.md 10.3).
  // Any thread.
  void Add(IoOp* op);

 private:
  void Work();

  WorkerPool* const workers_;
  const Backend* const backend_;
  const std::function<int()> sync_;
  const std::function<void(int)> on_failure_;
  std::mutex mutex_;
  // Under mutex_.
  IoOp* waiting_ = nullptr;
  bool running_ = false;
};

// Tells the sinks of a list of operations (linked by `next`) that they are done, each on its own
// loop. Any thread.
void PostDone(IoOp* list);

}  // namespace cloudblk::proxy

#endif  // CLOUDBLK_PROXY_BACKENDS_SYNC_QUEUE_H_
