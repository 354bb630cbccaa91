// SPDX-License-Identifier: GPL-2.0-or-later
//
// Small requests beside bulk ones on one channel.
#include <gtest/gtest.h>

#include "tests/support/cpp/channel_fixture.h"

namespace cloudblk::testing {
namespace {

constexpr uint64_t kMiB = 1 << 20;

// Bytes of bulk requests that the server holds.
uint64_t BulkHeld(const ChannelFixture& f) {
  uint64_t bytes = 0;
  for (const FakeServer::Seen& seen : f.server.pending) {
    if (seen.request.length > 4096) bytes += seen.request.length;
  }
  return bytes;
}

class ChannelFairness : public ::testing::TestWithParam<bool> {
 protected:
  ChannelFairness() {
    f.server.open.credit_bytes = 4 * kMiB;
    f.Open();
    f.server.hold = true;
  }
  // Bulk, in either direction.
  void Bulk(uint64_t offset, uint64_t length) {
    if (GetParam()) {
      f.Write(offset, Pattern(length, 1));
    } else {
      f.Read(offset, length);
    }
  }
  void Send() {
    f.channel.Kick();
    f.Run();
  }
  void AnswerAll() {
    f.server.hold = false;
    while (!f.server.pending.empty()) f.server.Answer(0);
    f.Run();
  }
  ChannelFixture f;
};

TEST_P(ChannelFairness, BulkAloneIsBoundedByTheCreditsOnly) {
  Bulk(0, kMiB);
  Send();
  EXPECT_EQ(BulkHeld(f), kMiB);
  EXPECT_EQ(f.server.pending.size(), 4u);
  AnswerAll();
}

TEST_P(ChannelFairness, BesideASmallRequestAWindowBoundsIt) {
  f.Read(2 * kMiB, 4096);
  Send();
  Bulk(0, kMiB);
  Send();
  EXPECT_EQ(BulkHeld(f), BulkWindow::kLeast);
  AnswerAll();
}

TEST_P(ChannelFairness, SoItDoesWhenBothComeTogether) {
  Bulk(0, kMiB);
  f.Read(2 * kMiB, 4096);
  Send();
  EXPECT_EQ(BulkHeld(f), BulkWindow::kLeast);
  AnswerAll();
}

TEST_P(ChannelFairness, SmallRequestsOvertakeWhatIsQueued) {
  f.Read(2 * kMiB, 4096);
  Send();
  Bulk(0, kMiB);
  Send();
  Io* read = f.Read(3 * kMiB, 4096);
  Io* flush = f.Flush();
  Send();
  ASSERT_EQ(f.server.pending.size(), 5u);
  f.server.Answer(3, 2);
  f.Run();
  EXPECT_EQ(read->completions, 1);
  EXPECT_EQ(flush->completions, 1);
  AnswerAll();
}

TEST_P(ChannelFairness, AnswersLetMoreOfItGo) {
  f.Read(2 * kMiB, 4096);
  Send();
  Bulk(0, kMiB);
  Send();
  f.server.Answer(1);
  f.Run();
  // It came without delay, so the window grows too.
  EXPECT_EQ(BulkHeld(f), BulkWindow::kLeast + BulkWindow::kSlice);
  AnswerAll();
}

TEST_P(ChannelFairness, WithoutSmallRequestsForSomeTimeTheWindowIsGone) {
  f.Read(2 * kMiB, 4096);
  Send();
  f.server.Answer(0);
  f.Run();
  Bulk(0, kMiB);
  Send();
  EXPECT_EQ(BulkHeld(f), BulkWindow::kLeast);
  f.loop.Advance(200'000'000);
  f.server.Answer(0);
  f.Run();
  EXPECT_EQ(BulkHeld(f), kMiB - BulkWindow::kSlice);
  AnswerAll();
}

TEST_P(ChannelFairness, SmallRequestsCannotKeepTheCreditsFromIt) {
  for (uint32_t i = 0; i < f.server.open.credit_requests; ++i) f.Read(2 * kMiB, 4096);
  Send();
  Bulk(0, kMiB);
  f.Read(3 * kMiB, 4096);
  Send();
  EXPECT_EQ(BulkHeld(f), 0u);
  f.server.Answer(0);
  f.Run();
  EXPECT_EQ(BulkHeld(f), BulkWindow::kSlice);
  AnswerAll();
}

TEST_P(ChannelFairness, WhatIsSentAgainKeepsItsOrder) {
  f.Read(2 * kMiB, 4096);
  Send();
  Bulk(0, kMiB);
  Send();
  f.Read(3 * kMiB, 4096);
  Send();
  const auto before = f.server.pending;
  f.server.seen.clear();
  f.server.Cut();
  f.Run();
  ASSERT_GE(f.server.seen.size(), before.size());
  for (size_t i = 0; i < before.size(); ++i) {
    EXPECT_EQ(f.server.seen[i].request.offset, before[i].request.offset) << i;
    EXPECT_EQ(f.server.seen[i].request.length, before[i].request.length) << i;
  }
  EXPECT_EQ(BulkHeld(f), BulkWindow::kLeast);
  AnswerAll();
}

TEST_P(ChannelFairness, TheWindowBoundsWhatIsSentAgainAfterALongOutage) {
  f.Read(2 * kMiB, 4096);
  Send();
  Bulk(0, kMiB);
  Send();
  f.on_link = [](size_t, MemoryLink* link) { link->refuses = true; };
  f.server.Cut();
  f.Run();
  f.loop.Advance(1'000'000'000);
  f.on_link = nullptr;
  f.loop.Advance(3'000'000'000);
  ASSERT_TRUE(f.ready());
  EXPECT_EQ(BulkHeld(f), BulkWindow::kLeast);
  AnswerAll();
}

TEST_P(ChannelFairness, ASlowSmallRequestKeepsTheWindowAlsoAfterAReconnect) {
  f.Read(2 * kMiB, 4096);
  Bulk(0, kMiB);
  Send();
  f.server.Cut();
  f.Run();
  // All but the small one.
  while (f.server.pending.size() > 1) {
    f.server.Answer(f.server.pending[0].request.length == 4096 ? 1 : 0);
    f.Run();
  }
  f.loop.Advance(200'000'000);
  Bulk(0, kMiB);
  Send();
  // It has grown beyond all of it by now, but is in force.
  EXPECT_EQ(f.server.pending[1].request.length, BulkWindow::kSlice);
  AnswerAll();
}

TEST_P(ChannelFairness, GivenUpRequestsLeaveNothingInTheWindow) {
  f.Read(2 * kMiB, 4096);
  Bulk(0, kMiB);
  Send();
  f.channel.Revoke();
  f.Run();
  EXPECT_EQ(f.channel.in_flight(), 0u);
  f.Read(2 * kMiB, 4096);
  Bulk(0, kMiB);
  Send();
  EXPECT_EQ(BulkHeld(f), BulkWindow::kLeast);
  AnswerAll();
}

INSTANTIATE_TEST_SUITE_P(Directions, ChannelFairness, ::testing::Bool(),
                         [](const auto& info) { return info.param ? "Writes" : "Reads"; });

}  // namespace
}  // namespace cloudblk::testing
