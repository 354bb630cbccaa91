// SPDX-License-Identifier: GPL-2.0-or-later
//
// The kernel's asynchronous file I/O, as one loop thread uses it for all its volumes: libaio or
// io_uring. Operations are queued and go to the kernel with one system call per batch.
#ifndef CLOUDBLK_PROXY_ASYNC_IO_H_
#define CLOUDBLK_PROXY_ASYNC_IO_H_

#include <cstdint>
#include <memory>

#include "base/event_loop.h"
#include "base/status.h"

namespace cloudblk::proxy {

struct IoOp;

// Told of each transfer that ended, on the loop's thread, never from inside Queue.
class AsyncIoSink {
 public:
  // `result`: bytes transferred (may be short), or -errno.
  virtual void OnTransferred(IoOp* op, int64_t result) = 0;

 protected:
  ~AsyncIoSink() = default;
};

// A read or a write that the kernel does not wait for while it takes it (RWF_NOWAIT): one for which
// it would have to ends with -EAGAIN, and one of a file that cannot say so with -EOPNOTSUPP.
struct Transfer {
  int fd = -1;
  bool write = false;
  uint8_t* data = nullptr;
  uint32_t length = 0;  // bytes
  uint64_t offset = 0;  // bytes
  AsyncIoSink* sink = nullptr;
  IoOp* op = nullptr;
};

class AsyncIo {
 public:
  static constexpr unsigned kDepth = 1024;  // in the kernel at a time; the rest waits here

  // How many operations go to the kernel with the next system call, when `under_way` are there and
  // have not ended. The kernel prepares all of a call before the storage sees the first, so an idle
  // storage gets its first ones by themselves: it works on them while the kernel prepares twice as
  // many.
  static constexpr unsigned NextBatch(unsigned under_way) { return under_way < 2 ? 2 : under_way; }
  // Completions that come together are looked at in parts. The replies of a part go out, and what
  // the client asks for next comes in, before the next part: else client and storage would wait for
  // each other by turns. The storage may be idle until the first part is answered, so that is
  // small.
  static constexpr unsigned kFirstPart = 8;
  static constexpr unsigned kNextPart = 16;

  virtual ~AsyncIo() = default;
  virtual void Queue(const Transfer& transfer) = 0;
  // Hands what is queued to the kernel.
  virtual void Kick() = 0;
};

// `loop` must outlive the object; nothing may be under way when it is destroyed.
Result<std::unique_ptr<AsyncIo>> NewLibaio(EventLoop* loop);
Result<std::unique_ptr<AsyncIo>> NewUring(EventLoop* loop);

}  // namespace cloudblk::proxy

#endif  // CLOUDBLK_PROXY_ASYNC_IO_H_
