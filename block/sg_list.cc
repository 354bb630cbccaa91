// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/sg_list.h"

#include <algorithm>

namespace cloudblk {

void SgCursor::Advance(uint64_t bytes) {
  while (bytes > 0) bytes -= Take(bytes).iov_len;
}

size_t SgCursor::Describe(uint64_t bytes, std::span<iovec> out, uint64_t* described) const {
  size_t used = 0;
  size_t offset = offset_;
  *described = 0;
  for (size_t i = index_; i < list_.size() && used < out.size() && *described < bytes; ++i) {
    const size_t n = std::min<uint64_t>(bytes - *described, list_[i].iov_len - offset);
    out[used++] = {static_cast<uint8_t*>(list_[i].iov_base) + offset, n};
    *described += n;
    offset = 0;
  }
  return used;
}

}  // namespace cloudblk
