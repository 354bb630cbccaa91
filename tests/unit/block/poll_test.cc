// SPDX-License-Identifier: GPL-2.0-or-later
//
// What a loop that busy-polls sees of a channel.
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "block/poll_gate.h"
#include "tests/support/cpp/channel_fixture.h"

namespace {
thread_local int yields = 0;
}  // namespace

// In place of the C library's: a yield leaves no other trace.
extern "C" int sched_yield() noexcept {
  ++yields;
  return static_cast<int>(syscall(SYS_sched_yield));
}

namespace cloudblk::testing {
namespace {

constexpr int64_t kUs = 1000;

// Waits for something that comes `latency` after the wait began, looking when the gate says so and
// otherwise every 100 ns, as a polling loop does. Returns how many looks it took.
int Await(PollGate* gate, int64_t* now, int64_t latency) {
  gate->Wait(*now);
  const int64_t there = *now + latency;
  for (int looks = 0;; *now += 100) {
    if (!gate->Due(*now)) continue;
    ++looks;
    if (*now >= there) {
      gate->Hit(*now);
      return looks;
    }
    gate->Miss(*now);
  }
}

uint64_t ReceiveCalls(const ChannelFixture& f) {
  CloudblkStats stats{};
  f.channel.FillStats(&stats);
  return stats.receive_calls;
}

TEST(PollGate, LearnsHowLongToWait) {
  PollGate gate;
  int64_t now = 0;
  for (int i = 0; i < 50; ++i) Await(&gate, &now, 20 * kUs);
  int looks = 0;
  const int64_t start = now;
  for (int i = 0; i < 100; ++i) looks += Await(&gate, &now, 20 * kUs);
  EXPECT_LE(looks, 250);
  // And the looks do not come late: at most a quarter of the wait.
  EXPECT_LE(now - start, 100 * 25 * kUs);
}

TEST(PollGate, FollowsAServerThatBecomesFaster) {
  PollGate gate;
  int64_t now = 0;
  for (int i = 0; i < 100; ++i) Await(&gate, &now, 200 * kUs);
  EXPECT_GE(gate.wait(), 100 * kUs);
  for (int i = 0; i < 100; ++i) Await(&gate, &now, 5 * kUs);
  EXPECT_LE(gate.wait(), 6 * kUs);
}

TEST(PollGate, WhoIsWokenLooksEarlierTheNextTime) {
  PollGate gate;
  int64_t now = 0;
  for (int i = 0; i < 100; ++i) Await(&gate, &now, 500 * kUs);
  gate.Wait(now);
  gate.Hit(now + 10 * kUs);
  EXPECT_LT(gate.wait(), 10 * kUs);
}

TEST(YieldGate, GoesOnWhileTheProcessorComesBackSoon) {
  YieldGate gate;
  for (int64_t now = 0; now < 1000 * kUs; now += 50 * kUs) {
    EXPECT_TRUE(gate.Due(now));
    gate.Yielded(now, now + 40 * kUs);
  }
}

TEST(YieldGate, LosesNoMoreThanAHundredthToABusyNeighbour) {
  YieldGate gate;
  int64_t lost = 0;
  int64_t now = 0;
  for (; now < 10'000'000 * kUs; now += 10 * kUs) {
    if (!gate.Due(now)) continue;
    gate.Yielded(now, now + 3000 * kUs);
    lost += 3000 * kUs;
    now += 3000 * kUs;
  }
  EXPECT_GT(lost, 0);
  EXPECT_LE(lost, now / 100 + 3000 * kUs);
}

TEST(ChannelPoll, LooksOnlyWhileAnAnswerIsDue) {
  ChannelFixture f;
  f.Open();
  const uint64_t before = ReceiveCalls(f);
  EXPECT_FALSE(f.loop.handler()->Poll());
  EXPECT_EQ(ReceiveCalls(f), before);
  f.server.hold = true;
  f.Read(0, 512);
  f.Run();
  // A look that finds nothing puts the next one off.
  for (int i = 0; i < 100; ++i) EXPECT_FALSE(f.loop.handler()->Poll());
  EXPECT_EQ(ReceiveCalls(f), before + 1);
  f.server.Answer(0);
  f.Run();
}

TEST(ChannelPoll, YieldsOnceAfterALookThatFoundNothing) {
  ChannelFixture f;
  f.Open();
  f.server.hold = true;
  yields = 0;
  EXPECT_FALSE(f.loop.handler()->Poll());
  EXPECT_EQ(yields, 0);
  Io* io = f.Read(0, 512);
  f.Run();
  for (int i = 0; i < 100; ++i) EXPECT_FALSE(f.loop.handler()->Poll());
  EXPECT_EQ(yields, 1);
  f.server.Answer(0);
  f.Run();
  EXPECT_EQ(io->completions, 1);
  EXPECT_EQ(yields, 1);
}

TEST(ChannelPoll, CompletesWhenTheLoopComesToIt) {
  ChannelFixture f;
  f.Open();
  f.server.disk = Pattern(f.server.disk.size(), 1);
  Io* io = f.Read(0, 8192);
  f.channel.Kick();
  while (f.server.Step()) {
  }
  EXPECT_TRUE(f.loop.handler()->Poll());
  EXPECT_TRUE(f.loop.handler()->Poll());
  EXPECT_EQ(io->completions, 0);
  f.loop.handler()->OnReadable();
  EXPECT_EQ(io->completions, 1);
  EXPECT_EQ(io->Data(), f.server.disk.substr(0, 8192));
}

TEST(ChannelPoll, WhatWasFoundIsNotLostWhenTheChannelMoves) {
  ChannelFixture f;
  f.Open();
  Io* io = f.Read(0, 512);
  f.channel.Kick();
  while (f.server.Step()) {
  }
  EXPECT_TRUE(f.loop.handler()->Poll());
  f.channel.Detach();
  EXPECT_EQ(io->completions, 0);
  f.Attach();
  f.Run();
  EXPECT_EQ(io->completions, 1);
  EXPECT_EQ(io->result, 0);
  EXPECT_EQ(f.server.connections(), 1u);
}

TEST(ChannelPoll, ALostConnectionIsGivenUpOnlyWhenTheLoopComesToIt) {
  ChannelFixture f;
  f.server.hold = true;
  f.Open();
  Io* io = f.Read(0, 512);
  f.Run();
  const int was_ready = f.times_ready;
  f.server.link()->server_closed = true;
  EXPECT_TRUE(f.loop.handler()->Poll());
  EXPECT_EQ(f.channel.state(), Channel::State::kReady);
  f.server.hold = false;
  f.loop.handler()->OnReadable();
  EXPECT_NE(f.channel.state(), Channel::State::kReady);
  f.Run();
  EXPECT_EQ(f.times_ready, was_ready + 1);
  EXPECT_EQ(io->completions, 1);
  EXPECT_EQ(io->result, 0);
}

}  // namespace
}  // namespace cloudblk::testing
