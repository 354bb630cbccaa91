// SPDX-License-Identifier: GPL-2.0-or-later
//
// file:///path: a regular file or a block device.
#ifndef CLOUDBLK_PROXY_BACKENDS_FILE_H_
#define CLOUDBLK_PROXY_BACKENDS_FILE_H_

#include <array>
#include <atomic>
#include <functional>
#include <mutex>
#include <string>

#include "base/socket.h"
#include "base/worker_pool.h"
#include "proxy/async_io.h"
#include "proxy/backend.h"
#include "proxy/backends/file_store.h"
#include "proxy/backends/size_watch.h"
#include "proxy/backends/sync_queue.h"

namespace cloudblk::proxy {

class File final : public Backend {
 public:
  File(const FileOptions& options, OpenedFile file);

  Result<std::unique_ptr<BackendQueue>> Attach(LoopContext& context) override;
  Status Resize(uint64_t size) override;
  Status AcquireExclusive(bool takeover) override;
  void ReleaseExclusive() override;
  Status StoreOwner(const std::string& text, bool lasting) override;
  Status SyncAll() override;
  Result<std::string> LoadOwner() override;

  // --- For its queues. Any thread.

  int fd() const { return file_.fd; }
  bool is_block_device() const { return file_.block_device; }
  // Bytes: what lies beyond fails, though the volume may be larger.
  uint64_t usable_size() const { return file_.block_device ? size() : watch_.usable(); }
  // See SizeWatch::IsRecent.
  bool SizeIsRecent(SizeWatch::Waiter* waiter) {
    return file_.block_device || watch_.IsRecent(waiter);
  }
  // On a thread.
  void LookAtFile() {
    if (!file_.block_device) watch_.Look();
  }
  bool IsBeyondDevice(uint64_t end) const;
  // Whether direct I/O is at its end after so many bytes of an operation.
  bool CannotGoOnAt(uint32_t transferred) const {
    return file_.direct && transferred % geometry_.logical_block_size != 0;
  }
  // Whether the kernel can be told to refuse a read or a write (RWF_NOWAIT) for which it would have
  // to wait.
  bool may_refuse_to_wait(bool write) const {
    return may_refuse_[write].load(std::memory_order_relaxed);
  }
  void CannotRefuseToWait(bool write) { may_refuse_[write].store(false); }
  void RunTransferOnThread(std::function<void()> fn);
  void RunRangesOnThread(IoOp* op);
  // Of a file that is no block device, whose extents nobody knows.
  void FindExtentsOnThread(IoOp* op);
  // Ends `op` after a sync.
  void Flush(IoOp* op) { syncs_.Add(op); }
  void LogFirst(int error, const IoOp& op);

 private:
  // Null: none, which leaves threads.
  Result<AsyncIo*> ChooseIo(LoopContext& context) const;
  void RunRanges(IoOp* op);  // on a worker
  // -ECANCELED: nobody waits for `op` any more.
  int RunRange(const IoOp& op, const Range& range);
  int FindExtents(IoOp* op);
  int Discard(const Range& range);
  int WriteZeroes(const IoOp& op, const Range& range);
  int WritePlainZeroes(const IoOp& op, uint64_t offset, uint64_t length);
  int Allocate(int mode, const Range& range);
  // fsync or fdatasync: 0 or -errno, and then the generation is new. Any thread.
  int Sync(int (*sync)(int));
  // Makes it known that a sync failed with `error`: the generation changes. Under
  // generation_mutex_.
  void Latch(int error);
  Status TakeDevice();
  // Names this file and that record.
  std::string OwnerOf(const std::string& record) const;
  // For Resize: whether the volume may be given that size.
  Status CheckResize(uint64_t size, uint64_t file_size) const;

  // Constant after construction.
  const std::string name_;  // of the volume, for the log
  const FileOptions options_;
  const OpenedFile file_;
  // Shared by all threads.
  SizeWatch watch_;                                          // of a file that is no block device
  std::array<std::atomic<bool>, 2> may_refuse_{true, true};  // reads, writes
  std::atomic<uint64_t> errors_logged_{0};                   // a bit per errno below 64
  std::atomic<bool> zero_range_works_{true};
  const FileAttributes attributes_;
  std::mutex generation_mutex_;
  FileGeneration file_generation_;  // under generation_mutex_
  UniqueFd device_;                 // of a block device, while it is held; under Ownership's lock
  SyncQueue syncs_;
  // Last: their threads end before anything they use. Transfers and ranges may end in a sync.
  WorkerPool sync_threads_;
  WorkerPool range_threads_;
  WorkerPool transfer_threads_;
};

}  // namespace cloudblk::proxy

#endif  // CLOUDBLK_PROXY_BACKENDS_FILE_H_
