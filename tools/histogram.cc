// SPDX-License-Identifier: GPL-2.0-or-later
#include "tools/histogram.h"

#include <algorithm>
#include <bit>
#include <cmath>

namespace cloudblk {

void Histogram::Add(uint64_t value) {
  // Values below kSub have a bucket each; above, the highest kSubBits+1 bits choose it.
  const size_t width = static_cast<size_t>(std::bit_width(value));
  const size_t shift = width > kSubBits + 1 ? width - (kSubBits + 1) : 0;
  ++buckets_[(value >> shift) + shift * kSub];
  ++count_;
  sum_ += static_cast<double>(value);
  max_ = std::max(max_, value);
}

uint64_t Histogram::Percentile(double percent) const {
  if (count_ == 0) return 0;
  const auto rank = std::max<uint64_t>(
      1, static_cast<uint64_t>(std::ceil(percent / 100 * static_cast<double>(count_))));
  uint64_t seen = 0;
  for (size_t i = 0; i < buckets_.size(); ++i) {
    seen += buckets_[i];
    if (seen < rank) continue;
    const size_t shift = i < 2 * kSub ? 0 : i / kSub - 1;
    const uint64_t low = static_cast<uint64_t>(i - shift * kSub) << shift;
    return std::min(max_, low + ((uint64_t{1} << shift) - 1));
  }
  return max_;
}

}  // namespace cloudblk
