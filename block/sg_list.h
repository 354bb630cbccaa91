// SPDX-License-Identifier: GPL-2.0-or-later
//
// A position in scattered memory. Nothing here touches that: it is the guest's, and may not be
// there (bounce.h).
#ifndef CLOUDBLK_BLOCK_SG_LIST_H_
#define CLOUDBLK_BLOCK_SG_LIST_H_

#include <sys/uio.h>

#include <algorithm>
#include <cassert>
#include <cstddef>
#include <cstdint>
#include <span>

namespace cloudblk {

// Walks over iovecs that it does not own. Precondition of everything that moves: so many bytes are
// left.
class SgCursor {
 public:
  SgCursor() = default;
  explicit SgCursor(std::span<const iovec> list) : list_(list) {}
  SgCursor(std::span<const iovec> list, uint64_t offset) : list_(list) { Advance(offset); }

  void Advance(uint64_t bytes);
  // Describes the next at most `bytes` bytes in at most out.size() elements, without moving.
  // Returns the elements used; *described gets the bytes.
  size_t Describe(uint64_t bytes, std::span<iovec> out, uint64_t* described) const;
  // The next bytes, at most so many, that lie in one piece; moves behind them.
  iovec Take(uint64_t bytes) {
    assert(index_ < list_.size());
    const iovec& element = list_[index_];
    const size_t n = std::min<uint64_t>(bytes, element.iov_len - offset_);
    const iovec taken{static_cast<uint8_t*>(element.iov_base) + offset_, n};
    offset_ += n;
    if (offset_ == element.iov_len) {
      ++index_;
      offset_ = 0;
    }
    return taken;
  }

 private:
  std::span<const iovec> list_;
  size_t index_ = 0;
  size_t offset_ = 0;  // in list_[index_]
};

}  // namespace cloudblk

#endif  // CLOUDBLK_BLOCK_SG_LIST_H_
