// SPDX-License-Identifier: GPL-2.0-or-later
#include "tools/stamps.h"

#include <gtest/gtest.h>

#include <utility>

namespace cloudblk {
namespace {

TEST(StampsTest, OnlyTheLatestVersionInItsOwnPlacePasses) {
  Stamps stamps(4, 7);
  std::vector<uint8_t> old(512), now(512), other(512);
  EXPECT_FALSE(stamps.Written(2));
  stamps.FillNext(2, old);
  EXPECT_TRUE(stamps.Written(2));
  EXPECT_TRUE(stamps.Check(2, old));
  stamps.FillNext(2, now);
  stamps.FillNext(3, other);
  EXPECT_TRUE(stamps.Check(2, now));
  EXPECT_FALSE(stamps.Check(2, old));    // a lost write
  EXPECT_FALSE(stamps.Check(2, other));  // a misplaced one
  EXPECT_FALSE(Stamps(4, 8).Check(2, std::vector<uint8_t>(512)));
}

TEST(StampsTest, TornAndShiftedContentIsSeen) {
  Stamps stamps(4, 7);
  std::vector<uint8_t> old(1024), now(1024);
  stamps.FillNext(0, old);
  stamps.FillNext(0, now);
  std::vector<uint8_t> torn(now);
  std::copy(old.begin() + 1016, old.end(), torn.begin() + 1016);
  EXPECT_FALSE(stamps.Check(0, torn));
  std::vector<uint8_t> swapped(now);
  std::swap_ranges(swapped.begin(), swapped.begin() + 512, swapped.begin() + 512);
  EXPECT_FALSE(stamps.Check(0, swapped));
}

}  // namespace
}  // namespace cloudblk
