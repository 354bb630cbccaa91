// SPDX-License-Identifier: GPL-2.0-or-later
//
// Latencies counted in buckets whose width grows with the value.
#ifndef CLOUDBLK_TOOLS_HISTOGRAM_H_
#define CLOUDBLK_TOOLS_HISTOGRAM_H_

#include <array>
#include <cstddef>
#include <cstdint>

namespace cloudblk {

// 64 buckets for each power of two: every value is known to better than 1.6 %.
class Histogram {
 public:
  void Add(uint64_t value);
  uint64_t count() const { return count_; }
  double mean() const { return count_ == 0 ? 0 : sum_ / static_cast<double>(count_); }
  uint64_t max() const { return max_; }
  // The value that `percent` % of all are not above; 0 if there are none.
  uint64_t Percentile(double percent) const;

 private:
  static constexpr size_t kSubBits = 6;
  static constexpr size_t kSub = size_t{1} << kSubBits;

  std::array<uint64_t, kSub * (64 - kSubBits + 1)> buckets_{};
  uint64_t count_ = 0;
  uint64_t max_ = 0;
  double sum_ = 0;
};

}  // namespace cloudblk

#endif  // CLOUDBLK_TOOLS_HISTOGRAM_H_
