// SPDX-License-Identifier: GPL-2.0-or-later
#ifndef CLOUDBLK_PROXY_EXTENT_WRITER_H_
#define CLOUDBLK_PROXY_EXTENT_WRITER_H_

#include <algorithm>
#include <cstdint>
#include <memory>

#include "base/operation.h"
#include "proxy/backend.h"

namespace cloudblk::proxy {

// Makes the answer to a BLOCK_STATUS, from the front to the back. Extents begin and end at
// multiples of the volume's block size: a block that holds both counts as data. On any thread.
class ExtentWriter {
 public:
  ExtentWriter(IoOp* op, uint32_t block_size)
      : op_(op), block_(block_size), at_(op->offset), end_(op->offset + op->extent) {
    op->extents = 0;
  }

  // Where what is to be added next begins, and where it ends at the latest. Bytes.
  uint64_t at() const { return at_; }
  uint64_t end() const { return end_; }

  // All from at() to `to` is data; or has `hole` and `zero`, which the caller knows of each byte of
  // it. False: that was all that the answer has room for, or that was asked about.
  bool AddData(uint64_t to) { return Add(RoundUp(to), false, false); }
  bool Add(uint64_t to, bool hole, bool zero) {
    if (to < end_) to -= to % block_;
    return to <= at_ || Append(to, hole, zero);
  }

 private:
  uint64_t RoundUp(uint64_t to) const { return (to + block_ - 1) / block_ * block_; }
  bool Append(uint64_t to, bool hole, bool zero) {
    to = std::min(to, end_);
    Extent* const list = reinterpret_cast<Extent*>(op_->buffer.data);
    Extent* const last = op_->extents > 0 ? &list[op_->extents - 1] : nullptr;
    if (last != nullptr && last->hole == hole && last->zero == zero) {
      last->length += to - at_;
    } else if (op_->extents == op_->max_extents) {
      return false;
    } else {
      std::construct_at(&list[op_->extents++], Extent{to - at_, hole, zero});
    }
    at_ = to;
    return at_ < end_;
  }

  IoOp* const op_;
  const uint64_t block_;  // bytes
  uint64_t at_;
  const uint64_t end_;
};

// The answer of a storage that knows no better.
inline void AnswerAllData(IoOp* op) {
  ExtentWriter(op, 1).AddData(op->offset + op->extent);
  op->result = 0;
}

}  // namespace cloudblk::proxy

#endif  // CLOUDBLK_PROXY_EXTENT_WRITER_H_
