// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/bulk_window.h"

#include <gtest/gtest.h>

namespace cloudblk {
namespace {

constexpr int64_t kMs = 1'000'000;
constexpr uint64_t kMost = 4 << 20;
constexpr uint64_t kSlice = BulkWindow::kSlice;

// The bytes that may be in flight.
uint64_t SizeOf(BulkWindow window) {
  while (window.Admits(kSlice)) window.Send(kSlice);
  return window.in_flight();
}

// Answers to as many slices, each after that time.
void Answer(BulkWindow* window, int count, int64_t latency_ns, int64_t now_ns = kMs) {
  for (int i = 0; i < count; ++i) window->Adjust(kSlice, latency_ns, now_ns, kMost);
}

TEST(BulkWindow, IsInForceBesideSmallRequestsAndSomeTimeAfter) {
  BulkWindow window;
  EXPECT_FALSE(window.Limits(1 * kMs, false));
  EXPECT_TRUE(window.Limits(2 * kMs, true));
  EXPECT_TRUE(window.Limits(101 * kMs, false));
  EXPECT_FALSE(window.Limits(102 * kMs, false));
  window.NoteSmall();
  EXPECT_TRUE(window.Limits(1000 * kMs, false));
  EXPECT_FALSE(window.Limits(1100 * kMs, false));
}

TEST(BulkWindow, OnePieceMayAlwaysBeInFlight) {
  BulkWindow window;
  EXPECT_TRUE(window.Admits(kMost));
  window.Send(kMost);
  EXPECT_FALSE(window.Admits(512));
  window.Answer(kMost);
  EXPECT_TRUE(window.Admits(kMost));
}

TEST(BulkWindow, FillsALongPath) {
  BulkWindow window;
  EXPECT_EQ(SizeOf(window), BulkWindow::kLeast);
  Answer(&window, 40, kMs);
  EXPECT_EQ(SizeOf(window), BulkWindow::kLeast + 40 * kSlice);
  Answer(&window, 1000, kMs);
  EXPECT_EQ(SizeOf(window), kMost);
}

TEST(BulkWindow, ShrinksWhenDataWaitsInAQueue) {
  BulkWindow window;
  Answer(&window, 40, kMs);
  Answer(&window, 10, 2 * kMs);
  EXPECT_EQ(SizeOf(window), BulkWindow::kLeast + 50 * kSlice);
  Answer(&window, 20, 3 * kMs);
  EXPECT_EQ(SizeOf(window), BulkWindow::kLeast + 30 * kSlice);
  Answer(&window, 1000, 3 * kMs);
  EXPECT_EQ(SizeOf(window), BulkWindow::kLeast);
}

TEST(BulkWindow, ForgetsAPathThatWasShorter) {
  BulkWindow window;
  Answer(&window, 1, kMs);
  Answer(&window, 1000, 5 * kMs, 10'002 * kMs);
  EXPECT_EQ(SizeOf(window), BulkWindow::kLeast);
  Answer(&window, 10, 5 * kMs, 20'003 * kMs);
  EXPECT_EQ(SizeOf(window), BulkWindow::kLeast + 10 * kSlice);
}

}  // namespace
}  // namespace cloudblk
