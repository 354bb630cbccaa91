// SPDX-License-Identifier: GPL-2.0-or-later
//
// What a connection is about to send.
#ifndef CLOUDBLK_BLOCK_OUTBOX_H_
#define CLOUDBLK_BLOCK_OUTBOX_H_

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "base/bounce.h"
#include "base/transport.h"
#include "block/sg_list.h"

namespace cloudblk {

// A sequence of memory to send: headers in memory of its own, data where it is. Its own memory is
// used anew when everything was sent.
class Outbox {
 public:
  // Room for the largest header section and some control frames.
  static constexpr size_t kHeaderRoom = 64 << 10;

  Outbox() { SetRoom(kHeaderRoom); }

  bool empty() const { return next_ == elements_.size(); }
  size_t elements() const { return elements_.size() - next_; }
  size_t free() const { return memory_->size() - used_; }
  // Bytes appended and sent since the outbox was made.
  uint64_t appended() const { return appended_; }
  uint64_t sent() const { return sent_; }
  // Precondition: empty().
  void SetRoom(size_t bytes);
  // Its own memory, from which Reserve gives.
  Bounce* memory() { return memory_.get(); }

  // Memory that is valid until it was sent. Precondition: bytes <= free().
  uint8_t* Reserve(size_t bytes);
  // The last of what was reserved is not needed.
  void Return(size_t bytes) { used_ -= bytes; }
  // `data` is borrowed until it was sent. Precondition: bytes > 0.
  void Append(const void* data, size_t bytes);
  // The next `bytes` bytes of a list, likewise. Precondition: the list has so many.
  void Append(SgCursor list, uint64_t bytes);

  // 0: everything was sent. -EAGAIN: go on when the transport is ready. -EFAULT: of what was
  // borrowed some cannot be read, shortly behind sent(). Else the connection is dead. Counts its
  // calls in *calls.
  int Send(Transport* transport, uint64_t* calls);

  // Forgets what was not sent.
  void Clear();

 private:
  std::unique_ptr<Bounce> memory_;
  size_t used_ = 0;
  uint64_t appended_ = 0;
  uint64_t sent_ = 0;
  std::vector<iovec> elements_;
  size_t next_ = 0;  // the first element that was not sent whole; what was sent of it is cut off
};

}  // namespace cloudblk

#endif  // CLOUDBLK_BLOCK_OUTBOX_H_
