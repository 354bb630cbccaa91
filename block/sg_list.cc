// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/sg_list.h"

#include <algorithm>
#include <cassert>
#include <cstring>

namespace cloudblk {

template <typename F>
void SgCursor::ForEach(uint64_t bytes, F&& f) {
  while (bytes > 0) {
    assert(index_ < list_.size());
    const iovec& element = list_[index_];
    const size_t n = std::min<uint64_t>(bytes, element.iov_len - offset_);
    f(static_cast<uint8_t*>(element.iov_base) + offset_, n);
    bytes -= n;
    offset_ += n;
    if (offset_ == element.iov_len) {
      ++index_;
      offset_ = 0;
    }
  }
}

void SgCursor::Advance(uint64_t bytes) {
  ForEach(bytes, [](uint8_t*, size_t) {});
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

void SgCursor::CopyIn(std::span<const uint8_t> from) {
  ForEach(from.size(), [&](uint8_t* to, size_t n) {
    std::memcpy(to, from.data(), n);
    from = from.subspan(n);
  });
}

void SgCursor::CopyOut(std::span<uint8_t> to) {
  ForEach(to.size(), [&](const uint8_t* from, size_t n) {
    std::memcpy(to.data(), from, n);
    to = to.subspan(n);
  });
}

void SgCursor::Zero(uint64_t bytes) {
  ForEach(bytes, [](uint8_t* to, size_t n) { std::memset(to, 0, n); });
}

}  // namespace cloudblk
