// SPDX-License-Identifier: GPL-2.0-or-later
//
// Copying from and to memory that may not be there.
#ifndef CLOUDBLK_BASE_BOUNCE_H_
#define CLOUDBLK_BASE_BOUNCE_H_

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "base/socket.h"

namespace cloudblk {

// A buffer of our own, and copies between it and the memory of requests. The host may be unable to
// provide a page of that: its file was cut off, its tmpfs is full, the page is poisoned. A
// processor that touches it is killed by SIGBUS, but the kernel says EFAULT. So the buffer is a
// file in memory, which the kernel reads from and writes to.
//
// Where the kernel gives no such file the processor copies, and nothing survives such a page.
class Bounce {
 public:
  explicit Bounce(size_t size);
  ~Bounce();
  Bounce(const Bounce&) = delete;
  Bounce& operator=(const Bounce&) = delete;

  uint8_t* data() const { return data_; }
  size_t size() const { return size_; }

  // Each moves all bytes of the elements, in order, from or to `at` and what follows it in the
  // buffer, and uses the elements up. Returns the first element of which a byte cannot be touched,
  // or their number: all is done. With up to IOV_MAX elements that takes one system call.
  size_t Store(size_t at, std::span<iovec> to) const;
  size_t Fetch(size_t at, std::span<iovec> from);
  // Store in one go of bytes [at, end), which are as many as the elements take. False: it did not
  // go, and the elements are as they were.
  bool StoreAll(size_t at, size_t end, std::span<const iovec> to) const;
  // Stores zeros; the buffer is not used.
  size_t Zero(std::span<iovec> to) const;

  // Whether all of this can be read. Overwrites the buffer's beginning.
  bool CanFetch(std::span<const iovec> from);

 private:
  const size_t size_;
  UniqueFd file_;
  uint8_t* data_;
  std::unique_ptr<uint8_t[]> memory_;  // without a file
};

}  // namespace cloudblk

#endif  // CLOUDBLK_BASE_BOUNCE_H_
