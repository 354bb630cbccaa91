// SPDX-License-Identifier: GPL-2.0-or-later
//
// rbd:///pool/[namespace/]image[@snapshot]: an image of a Ceph cluster.
#ifndef CLOUDBLK_PROXY_BACKENDS_RBD_H_
#define CLOUDBLK_PROXY_BACKENDS_RBD_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "base/worker_pool.h"
#include "proxy/backend.h"
#include "proxy/backends/rbd_image.h"
#include "proxy/backends/rbd_lock.h"

namespace cloudblk::proxy {

class RbdQueue;

class Rbd final : public Backend, private RbdLock::Host {
 public:
  Rbd(RbdOptions options, std::shared_ptr<RbdImage> image, uint64_t size, const Geometry& geometry);
  ~Rbd() override;

  Result<std::unique_ptr<BackendQueue>> Attach(LoopContext& context) override;
  Status Resize(uint64_t size) override;
  void LookAtSize() override;
  void FindTrouble(const TroubleFn& done) override;
  Status AcquireExclusive(bool takeover) override;
  void ReleaseExclusive() override;
  Status StoreOwner(const std::string& text, bool lasting) override;
  Status SyncAll() override;
  Result<std::string> LoadOwner() override;

  // --- For its queues. Any thread.

  // What begins and ends as a queue of this volume; the image to use.
  std::shared_ptr<RbdImage> Join(RbdQueue* queue);
  void Leave(RbdQueue* queue);
  // The image that is open now. It is opened anew when the cluster has put this client on its
  // blocklist.
  std::shared_ptr<RbdImage> image() const;
  bool is_other_image(const RbdImage* image) const {
    return current_.load(std::memory_order_acquire) != image;
  }
  // Closes it if nobody else has it.
  void Drop(std::shared_ptr<RbdImage> image);
  // An operation on `image` was refused for that reason.
  void NoteBlocklisted(const RbdImage* image);
  // A flush failed with this -errno: the generation changes.
  void NoteFlushFailed(int error);
  void LogFirst(int error, const IoOp& op);
  void LogGivenUp(size_t operations);
  // Runs `fn`, which asks the cluster, on a thread.
  void RunQuery(std::function<void()> fn) { query_thread_.Run(std::move(fn)); }

 private:
  // RbdLock::Host
  void LetGo(std::function<void()> done) override { NoteLetGo(std::move(done)); }
  void RunOnThread(std::function<void()> fn) override { thread_.Run(std::move(fn)); }
  void OnBlocklisted() override { NoteBlocklisted(image().get()); }

  // False: it was known already, or is another image's.
  bool MarkBlocklisted(const RbdImage* image);
  static void OnUpdate(void* arg);
  void WatchSize();
  Status OpenAgain();
  // The generation is that of what the image has kept.
  void LoadFailures();
  void SetGeneration();
  void StoreFailures();

  const RbdOptions options_;
  mutable std::mutex image_mutex_;
  // Under image_mutex_.
  std::shared_ptr<RbdImage> image_;
  bool is_blocklisted_ = false;  // the image has to be opened anew
  std::vector<RbdQueue*> queues_;

  std::atomic<const RbdImage*> current_;    // image_
  std::optional<uint64_t> size_watch_;      // of image_; on Ownership's executor but at both ends
  std::atomic<uint64_t> errors_logged_{0};  // a bit per errno below 64
  std::mutex failures_mutex_;
  uint64_t failures_ = 0;  // flushes that have failed; under failures_mutex_
  RbdLock lock_;           // on Ownership's executor
  // Last: their threads end before anything that they use.
  WorkerPool thread_{1};
  WorkerPool query_thread_{1};
};

}  // namespace cloudblk::proxy

#endif  // CLOUDBLK_PROXY_BACKENDS_RBD_H_
