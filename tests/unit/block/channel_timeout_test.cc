// SPDX-License-Identifier: GPL-2.0-or-later
//
// Requests that get no answer in time (request-timeout).
#include <gtest/gtest.h>

#include <cerrno>

#include "base/clock.h"
#include "tests/support/cpp/channel_fixture.h"

namespace cloudblk::testing {
namespace {

constexpr int64_t kTimeout = 5 * kNsPerS;
constexpr int64_t kAtMost = kTimeout + kTimeout / 10;

// Open, with a server that answers nothing.
class ChannelTimeout : public ::testing::Test {
 protected:
  ChannelTimeout() {
    f.channel.SetRequestTimeout(kTimeout);
    f.Open();
    f.server.hold = true;
  }

  ChannelFixture f;
};

TEST_F(ChannelTimeout, FailsWhatIsNotAnsweredWithinATenthMore) {
  // At any place between two steps.
  for (const int64_t begin : {int64_t{0}, kTimeout / 100, kTimeout / 11, 3 * kTimeout / 7}) {
    f.loop.Advance(begin);
    Io* io = f.Write(0, Pattern(512, 1));
    f.Run();
    f.loop.Advance(kTimeout - 1);
    EXPECT_EQ(io->completions, 0);
    f.loop.Advance(kAtMost - kTimeout + 1);
    EXPECT_EQ(io->completions, 1);
    EXPECT_EQ(io->result, -ETIMEDOUT);
  }
}

TEST_F(ChannelTimeout, FencesWhatWasGivenUpBeforeAnythingNewerIsSent) {
  f.Write(0, Pattern(512, 1));
  f.Run();
  f.server.deaf = true;
  f.loop.Advance(kAtMost);
  const size_t seen = f.server.seen.size();
  Io* newer = f.Write(0, Pattern(512, 2));
  f.Run();
  EXPECT_TRUE(f.server.link()->client_closed || f.server.opens.back().incarnation == 1);
  EXPECT_EQ(f.server.seen.size(), seen);
  f.server.deaf = f.server.hold = false;
  f.loop.Advance(kNsPerS);
  EXPECT_EQ(newer->result, 0);
  EXPECT_GT(f.server.opens.back().incarnation, 1u);
  EXPECT_EQ(f.server.disk.substr(0, 512), Pattern(512, 2));
  EXPECT_TRUE(f.state.settled());
}

TEST_F(ChannelTimeout, SendsAgainWhatIsYounger) {
  Io* old = f.Write(0, Pattern(512, 1));
  f.Run();
  f.loop.Advance(kTimeout / 2);
  Io* young = f.Write(512, Pattern(512, 2));
  Io* behind = f.Write(0, Pattern(1024, 3));  // waits for both
  f.Run();
  f.loop.Advance(kAtMost - kTimeout / 2);
  EXPECT_EQ(old->result, -ETIMEDOUT);
  EXPECT_EQ(young->completions + behind->completions, 0);
  f.server.hold = false;
  f.server.Answer(0, f.server.pending.size());
  f.loop.Advance(kNsPerS);
  EXPECT_EQ(young->completions, 1);
  EXPECT_EQ(young->result, 0);
  EXPECT_EQ(behind->completions, 1);
  EXPECT_EQ(f.server.disk.substr(0, 1024), Pattern(1024, 3));
}

TEST_F(ChannelTimeout, FailsAnOldOneThoughOthersAreAnswered) {
  Io* hung = f.Read(0, 512);
  f.Run();
  int answered = 0;
  for (int i = 0; i < 20; ++i) {
    Io* other = f.Write(4096, Pattern(512, 1));
    f.Run();
    if (f.server.pending.size() > 1) f.server.Answer(1);
    f.Run();
    answered += other->completions;
    f.loop.Advance(kTimeout / 16);
    if (hung->completions != 0) break;
  }
  EXPECT_EQ(hung->result, -ETIMEDOUT);
  EXPECT_GT(answered, 10);
}

TEST_F(ChannelTimeout, CountsWhileThereIsNoServer) {
  f.on_link = [](size_t, MemoryLink* link) { link->refuses = true; };
  f.server.Cut();
  f.loop.Advance(kNsPerS);
  Io* io = f.Read(0, 512);
  Io* waits = f.Flush();
  f.Run();
  f.loop.Advance(kTimeout - 1);
  EXPECT_EQ(io->completions, 0);
  f.loop.Advance(kAtMost - kTimeout + 1);
  EXPECT_EQ(io->result, -ETIMEDOUT);
  EXPECT_EQ(waits->result, -ETIMEDOUT);
  // When it is back, all goes on.
  f.on_link = nullptr;
  f.server.hold = false;
  Io* later = f.Write(0, Pattern(512, 1));
  f.loop.Advance(3 * kNsPerS);
  EXPECT_EQ(later->completions, 1);
  EXPECT_EQ(later->result, 0);
}

TEST_F(ChannelTimeout, CanBeChangedWhileRequestsWait) {
  f.channel.SetRequestTimeout(0);
  Io* io = f.Read(0, 512);
  f.Run();
  f.loop.Advance(20 * kTimeout);
  EXPECT_EQ(io->completions, 0);
  f.channel.SetRequestTimeout(kTimeout);
  f.loop.Advance(kTimeout - 1);
  EXPECT_EQ(io->completions, 0);
  f.loop.Advance(kAtMost - kTimeout + 1);
  EXPECT_EQ(io->result, -ETIMEDOUT);
}

TEST_F(ChannelTimeout, CountsOnAfterAnotherLoopHasTakenTheChannel) {
  Io* io = f.Read(0, 512);
  f.Run();
  f.channel.Detach();
  f.loop.Advance(10 * kTimeout);
  f.Attach();
  f.Run();
  EXPECT_EQ(io->completions, 0);
  f.loop.Advance(kAtMost);
  EXPECT_EQ(io->result, -ETIMEDOUT);
}

TEST_F(ChannelTimeout, AnIdleChannelHasNoTimer) {
  f.server.hold = false;
  Io* io = f.Read(0, 512);
  f.Run();
  EXPECT_EQ(io->result, 0);
  f.loop.Advance(2 * f.state.config().answer_timeout_ns);
  EXPECT_EQ(f.loop.next_timer(), -1);
  // And has one when it is not idle any more.
  f.server.hold = true;
  io = f.Read(0, 512);
  f.Run();
  f.loop.Advance(kAtMost);
  EXPECT_EQ(io->result, -ETIMEDOUT);
}

TEST_F(ChannelTimeout, CountsFromTheFirstRequestAfterItWasSet) {
  f.channel.SetRequestTimeout(0);
  f.server.hold = false;
  f.Read(0, 512);
  f.Run();
  f.channel.SetRequestTimeout(kTimeout);
  f.server.hold = true;
  Io* io = f.Read(0, 512);
  f.Run();
  f.loop.Advance(kAtMost);
  EXPECT_EQ(io->result, -ETIMEDOUT);
}

TEST_F(ChannelTimeout, AFlushThatComesLaterTellsTheTruth) {
  for (const bool lost : {false, true}) {
    f.server.hold = false;
    f.Write(4096, Pattern(512, 1));
    f.Run();
    f.server.hold = true;
    Io* given_up = f.Write(0, Pattern(512, 2));
    Io* flush = f.Flush();
    f.Run();
    if (lost) ++f.server.open.generation;
    f.loop.Advance(kAtMost);
    EXPECT_EQ(given_up->result, -ETIMEDOUT);
    EXPECT_EQ(flush->result, -ETIMEDOUT);
    f.server.hold = false;
    Io* later = f.Flush();
    f.loop.Advance(3 * kNsPerS);
    EXPECT_EQ(later->completions, 1);
    EXPECT_EQ(later->result, lost ? -EIO : 0);
  }
}

TEST_F(ChannelTimeout, PiecesOfOneRequestFailTogether) {
  f.server.open.credit_requests = 1;
  f.server.Cut();
  f.Run();
  Io* large = f.Write(0, Pattern(3 << 20, 1));
  f.Run();
  f.server.Answer(0);
  f.Run();
  f.loop.Advance(kAtMost);
  EXPECT_EQ(large->completions, 1);
  EXPECT_EQ(large->result, -ETIMEDOUT);
}

TEST_F(ChannelTimeout, ServesAnotherChannelOnlyAfterTheFence) {
  TwoChannels both;
  auto& [loop, a, b] = both;
  a.channel.SetRequestTimeout(kTimeout);
  a.server.hold = true;
  Io* old = a.Write(0, Pattern(512, 1));
  loop.Run();
  a.server.deaf = true;
  loop.Advance(kAtMost);
  EXPECT_EQ(old->result, -ETIMEDOUT);
  Io* newer = b.Write(0, Pattern(512, 2));
  b.channel.Kick();
  loop.Advance(kNsPerS);
  EXPECT_TRUE(b.server.seen.empty());
  a.server.deaf = a.server.hold = false;
  loop.Advance(3 * kNsPerS);
  EXPECT_EQ(newer->completions, 1);
  EXPECT_EQ(newer->result, 0);
}

}  // namespace
}  // namespace cloudblk::testing
