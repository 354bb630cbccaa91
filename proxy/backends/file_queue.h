// SPDX-License-Identifier: GPL-2.0-or-later
//
// A file volume's operations on one loop. Nothing here waits for the storage: not even when an
// operation is handed to the kernel, which is asked not to.
#ifndef CLOUDBLK_PROXY_BACKENDS_FILE_QUEUE_H_
#define CLOUDBLK_PROXY_BACKENDS_FILE_QUEUE_H_

#include <cstdint>
#include <deque>
#include <vector>

#include "proxy/async_io.h"
#include "proxy/backend.h"
#include "proxy/backends/size_watch.h"

namespace cloudblk::proxy {

class File;
class LoopContext;

class FileQueue final : public BackendQueue, private AsyncIoSink, private SizeWatch::Waiter {
 public:
  // `file` and `context` outlive the object. `io` is the loop's; null: all is done on threads.
  FileQueue(File* file, LoopContext* context, AsyncIo* io);
  ~FileQueue() override;

  bool Submit(IoOp* op) override;
  void Kick() override;

 private:
  // AsyncIoSink
  void OnTransferred(IoOp* op, int64_t result) override;
  // SizeWatch::Waiter
  void OnSizeKnown() override;

  bool SubmitTransfer(IoOp* op);
  void Transfer(IoOp* op);
  void TransferOnThread(IoOp* op);
  void RunTransfer(IoOp* op);  // on a thread
  // The kernel would have had to wait.
  void Delay(IoOp* op);
  void ResubmitDelayed();  // when one has ended
  // One read or write went as far as it will.
  void Finish(IoOp* op, int result);
  void FailBeyondEnd(IoOp* op);

  File* const file_;
  LoopContext* const context_;
  AsyncIo* const io_;
  std::vector<IoOp*> held_;    // until the file's size is known
  std::deque<IoOp*> delayed_;  // until one that is under way ends
  uint32_t under_way_ = 0;     // in the kernel, by io_
};

}  // namespace cloudblk::proxy

#endif  // CLOUDBLK_PROXY_BACKENDS_FILE_QUEUE_H_
