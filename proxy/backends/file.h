// SPDX-License-Identifier: GPL-2.0-or-later
//
// file:///path: a regular file or a block device.
#ifndef CLOUDBLK_PROXY_BACKENDS_FILE_H_
#define CLOUDBLK_PROXY_BACKENDS_FILE_H_

#include <atomic>
#include <string>

#include "proxy/async_io.h"
#include "proxy/backend.h"
#include "proxy/backends/file_store.h"
#include "proxy/backends/sync_queue.h"
#include "proxy/worker_pool.h"

namespace cloudblk::proxy {

class File final : public Backend, public AsyncIoSink {
 public:
  File(const FileOptions& options, OpenedFile file);

  Status Prepare(LoopContext& context) override;
  bool Submit(LoopContext& context, IoOp* op) override;
  Status Resize(uint64_t size) override;
  Status AcquireExclusive() override;
  void ReleaseExclusive() override;
  Status StoreOwner(const std::string& text) override;
  std::string LoadOwner() override;

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
  int Discard(const wire::Range& range);
  int WriteZeroes(const wire::Range& range);
  int WritePlainZeroes(uint64_t offset, uint64_t length);
  int Allocate(int mode, const wire::Range& range);
  // After a sync failed with `error`.
  void Latch(int error);
  bool IsBeyondFile(uint64_t end);
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
  FileGeneration file_generation_;  // on the thread that syncs; else none uses it
  SyncQueue syncs_;
  WorkerPool workers_;  // last: its threads end before anything they use
};

}  // namespace cloudblk::proxy

#endif  // CLOUDBLK_PROXY_BACKENDS_FILE_H_
