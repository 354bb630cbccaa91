// SPDX-License-Identifier: GPL-2.0-or-later
//
// file:///path: a regular file or a block device.
#ifndef CLOUDBLK_PROXY_BACKENDS_FILE_H_
#define CLOUDBLK_PROXY_BACKENDS_FILE_H_

#include <atomic>
#include <mutex>
#include <string>

#include "base/socket.h"
#include "base/worker_pool.h"
#include "proxy/async_io.h"
#include "proxy/backend.h"
#include "proxy/backends/file_store.h"
#include "proxy/backends/sync_queue.h"

namespace cloudblk::proxy {

class File final : public Backend, public AsyncIoSink {
 public:
  File(const FileOptions& options, OpenedFile file);

  Result<std::unique_ptr<BackendQueue>> Attach(LoopContext& context) override;
  bool Submit(LoopContext& context, IoOp* op);
  Status Resize(uint64_t size) override;
  Status AcquireExclusive() override;
  void ReleaseExclusive() override;
  Status StoreOwner(const std::string& text) override;
  Status SyncAll() override;
  Result<std::string> LoadOwner() override;

  void OnTransferred(IoOp* op, int64_t result) override;

 private:
  // How reads and writes are done: the kernel's asynchronous I/O or, where it would block the loop
  // (libaio on a buffered file), threads.
  enum class Engine { kLibaio, kUring, kThreads };

  void QueueTransfer(IoOp* op);
  // One read or write went as far as it will.
  void Finish(IoOp* op, int result);
  void RunTransfer(IoOp* op);  // on a worker
  void RunRanges(IoOp* op);    // on a worker
  // -ECANCELED: nobody waits for `op` any more.
  int RunRange(const IoOp& op, const Range& range);
  int Discard(const Range& range);
  int WriteZeroes(const IoOp& op, const Range& range);
  int WritePlainZeroes(const IoOp& op, uint64_t offset, uint64_t length);
  int Allocate(int mode, const Range& range);
  // fsync or fdatasync: 0 or -errno, and then the generation is new. Any thread.
  int Sync(int (*sync)(int));
  // Makes it known that a sync failed with `error`: the generation changes. Under
  // generation_mutex_.
  void Latch(int error);
  bool IsBeyondFile(uint64_t end);
  bool IsBeyondDevice(uint64_t end) const;
  Status TakeDevice();
  void NoteSize();
  void LogFirst(int error, const IoOp& op);
  // For Resize: whether the volume may be given that size.
  Status CheckResize(uint64_t size, uint64_t file_size) const;

  // Constant after construction.
  const std::string name_;  // of the volume, for the log
  const FileOptions options_;
  const OpenedFile file_;
  const Engine engine_;
  // Shared by all threads.
  std::atomic<uint64_t> usable_size_;       // bytes; below size() if the file shrank
  std::atomic<int64_t> size_checked_{0};    // coarse clock, nanoseconds
  std::atomic<uint64_t> errors_logged_{0};  // a bit per errno below 64
  std::atomic<bool> zero_range_works_{true};
  std::atomic<int> ranges_under_way_{0};
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
