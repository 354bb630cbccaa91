// SPDX-License-Identifier: GPL-2.0-or-later
#include "tools/extents.h"

#include <fmt/core.h>

#include <algorithm>
#include <cerrno>

namespace cloudblk {
namespace {

constexpr size_t kMostExtents = 256;

}  // namespace

Status ExtentReader::Ask() {
  const CloudblkInfo info = client_->info();
  const uint64_t block = info.logical_block_size;
  next_ = 0;
  next_begin_ = at_ - at_ % block;
  const uint64_t length = (end_ + block - 1) / block * block - next_begin_;
  answer_.assign(kMostExtents, {});
  int result = info.block_status ? client_->BlockStatus(next_begin_, length, answer_) : -ENOTSUP;
  if (result == -ENOTSUP) {
    answer_.front() = {length, 0, 0};
    result = 0;
  }
  if (result < 0) {
    return Status(
        -result, fmt::format("cannot learn where the volume has data: {}", DescribeErrno(-result)));
  }
  // The answer has filled the front.
  std::erase_if(answer_, [](const CloudblkExtent& extent) { return extent.length == 0; });
  return Status::Ok();
}

Result<ExtentReader::Extent> ExtentReader::Next() {
  Extent found{.offset = at_};
  while (at_ < end_) {
    if (next_ == answer_.size()) {
      const Status asked = Ask();
      if (!asked.ok()) return asked;
    }
    const CloudblkExtent& extent = answer_[next_];
    const bool hole = (extent.flags & CLOUDBLK_EXTENT_HOLE) != 0;
    const bool zero = (extent.flags & CLOUDBLK_EXTENT_ZERO) != 0;
    if (found.length != 0 && (hole != found.hole || zero != found.zero)) break;
    found.hole = hole;
    found.zero = zero;
    next_begin_ += extent.length;
    ++next_;
    const uint64_t end = std::min(next_begin_, end_);
    found.length += end - at_;
    at_ = end;
  }
  return found;
}

}  // namespace cloudblk
