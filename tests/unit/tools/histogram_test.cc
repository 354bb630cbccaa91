// SPDX-License-Identifier: GPL-2.0-or-later
#include "tools/histogram.h"

#include <gtest/gtest.h>

namespace cloudblk {
namespace {

TEST(HistogramTest, EmptyHasNoPercentile) {
  const Histogram empty;
  EXPECT_EQ(empty.Percentile(50), 0u);
  EXPECT_EQ(empty.count(), 0u);
}

TEST(HistogramTest, SmallValuesAreExact) {
  Histogram h;
  for (uint64_t v = 1; v <= 100; ++v) h.Add(v);
  EXPECT_EQ(h.Percentile(50), 50u);
  EXPECT_EQ(h.Percentile(99), 99u);
  EXPECT_EQ(h.Percentile(100), 100u);
  EXPECT_DOUBLE_EQ(h.mean(), 50.5);
}

TEST(HistogramTest, LargeValuesAreKnownToBetterThanTwoPercent) {
  for (uint64_t v : {uint64_t{127}, uint64_t{128}, uint64_t{129}, uint64_t{1000},
                     uint64_t{123456789}, uint64_t{1} << 40, UINT64_MAX}) {
    Histogram h;
    h.Add(0);
    h.Add(v);
    h.Add(UINT64_MAX);
    const uint64_t got = h.Percentile(60);
    EXPECT_GE(got, v) << v;
    EXPECT_LE(static_cast<double>(got), static_cast<double>(v) * 1.016) << v;
  }
}

}  // namespace
}  // namespace cloudblk
