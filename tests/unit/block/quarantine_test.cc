// SPDX-License-Identifier: GPL-2.0-or-later
//
// Writes of a lost connection that a server which does not fence may still carry out.
#include "block/quarantine.h"

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <cerrno>

#include "tests/support/cpp/channel_fixture.h"

namespace cloudblk::testing {
namespace {

constexpr int64_t kSecond = 1'000'000'000;
constexpr int64_t kHold = 10 * kSecond;

TEST(QuarantineTest, TimeCountsFromTheNextAnswer) {
  Quarantine q(kHold);
  EXPECT_FALSE(q.any());
  q.Add(0, 4096, 8192);
  EXPECT_TRUE(q.any());
  q.NoteAnswered(0, 4096, 8192);
  EXPECT_TRUE(q.Holds(8191, 9000, true, 100 * kSecond)) << "nobody has heard of the server";
  q.NoteOpened(1, 100 * kSecond);
  EXPECT_TRUE(q.Holds(0, 4097, true, 200 * kSecond)) << "another channel's server";
  q.NoteOpened(0, 200 * kSecond);
  EXPECT_TRUE(q.Holds(0, 4097, true, 210 * kSecond - 1));
  EXPECT_FALSE(q.Holds(0, 4096, true, 210 * kSecond - 1)) << "beside it";
  EXPECT_FALSE(q.Holds(8192, 9000, true, 210 * kSecond - 1));
  EXPECT_FALSE(q.Holds(0, 4097, true, 210 * kSecond));
  EXPECT_FALSE(q.any());
}

TEST(QuarantineTest, AReplayHasToBeAnswered) {
  Quarantine q(kHold);
  q.Add(0, 0, 512);
  q.NoteOpened(0, 0);
  EXPECT_TRUE(q.Holds(0, 512, true, 100 * kSecond));
  q.NoteAnswered(0, 0, 512);
  EXPECT_FALSE(q.Holds(0, 512, true, 100 * kSecond));
}

TEST(QuarantineTest, OneThatIsLostAgainBeginsAnew) {
  Quarantine q(kHold);
  q.Add(0, 0, 512);
  q.NoteOpened(0, 0);
  q.Add(0, 0, 512);
  q.NoteOpened(0, 9 * kSecond);
  q.NoteAnswered(0, 0, 512);
  EXPECT_TRUE(q.Holds(0, 512, true, 11 * kSecond));
  EXPECT_FALSE(q.Holds(0, 512, true, 19 * kSecond));
}

TEST(QuarantineTest, ReadsWaitForWhatWasGivenUp) {
  Quarantine q(kHold);
  q.Add(0, 0, 512);
  q.Add(0, 512, 1024);
  q.NoteGivenUp(0, 0, 512);
  q.NoteOpened(0, 0);
  EXPECT_TRUE(q.Holds(0, 512, false, 1));
  EXPECT_FALSE(q.Holds(512, 1024, false, 1));
  EXPECT_FALSE(q.Holds(0, 512, false, kHold));
  EXPECT_TRUE(q.HoldsAnything(kHold)) << "the other one was not answered";
}

TEST(QuarantineTest, OneThatIsSentInTwoIsOverWithBoth) {
  Quarantine q(0);
  q.Add(0, 0, 1024);
  q.NoteOpened(0, 0);
  q.Split(0, 0, 512, 1024);
  q.NoteAnswered(0, 0, 512);
  EXPECT_FALSE(q.Holds(0, 512, true, 1));
  EXPECT_TRUE(q.Holds(512, 1024, true, 1));
  q.NoteAnswered(0, 512, 1024);
  EXPECT_FALSE(q.any() && q.Holds(0, 1024, true, 1));
}

// --- Channels -----------------------------------------------------------------------------------

FixtureOptions Nbd(int64_t quarantine_ns) {
  return {.protocol = Speaks::kNbd, .quarantine_ns = quarantine_ns};
}

// A write that the server has taken, and whose connection is lost. The fixture's server forgets it;
// the test carries it out when it likes.
struct Lost {
  explicit Lost(ChannelFixture* f) {
    f->server.hold = true;
    write = f->Write(4096, Pattern(4096, 1));
    f->Run();
    EXPECT_EQ(f->server.pending.size(), 1u);
    f->server.Cut();
    f->Run();
    EXPECT_TRUE(f->ready());
    f->server.hold = false;
    while (!f->server.pending.empty()) f->server.Answer(0);
    f->Run();
    EXPECT_EQ(write->result, 0);
  }
  Io* write;
};

TEST(NbdQuarantine, AnOverlappingWriteWaitsAndOthersDoNot) {
  ChannelFixture f(Nbd(kHold));
  f.Open();
  const Lost lost(&f);
  Io* over = f.Write(7680, Pattern(1024, 2));
  Io* zeroes = f.Ranges(CLOUDBLK_OP_WRITE_ZEROES, {{0, 4608, 0}});
  Io* beside = f.Write(8704, Pattern(512, 3));
  Io* read = f.Read(4096, 4096);
  Io* flush = f.Flush();
  f.loop.Advance(kHold - kSecond);
  EXPECT_EQ(beside->result, 0);
  EXPECT_EQ(read->completions, 1);
  EXPECT_EQ(read->Data(), Pattern(4096, 1));
  EXPECT_EQ(flush->completions, 1);
  EXPECT_EQ(over->completions, 0);
  EXPECT_EQ(zeroes->completions, 0);
  // What was lost lands.
  f.server.disk.replace(4096, 4096, Pattern(4096, 1));
  f.loop.Advance(2 * kSecond);
  EXPECT_EQ(over->completions, 1);
  EXPECT_EQ(zeroes->completions, 1);
  EXPECT_EQ(f.server.disk.substr(7680, 1024), Pattern(1024, 2));
  EXPECT_EQ(f.server.disk.substr(0, 4608), std::string(4608, '\0'));
}

TEST(NbdQuarantine, WithoutItNothingWaits) {
  ChannelFixture f(Nbd(0));
  f.Open();
  const Lost lost(&f);
  Io* over = f.Write(7680, Pattern(1024, 2));
  f.Run();
  EXPECT_EQ(over->completions, 1);
}

TEST(NbdQuarantine, ItHoldsForAllChannels) {
  ManualLoop loop;
  FixtureOptions options = Nbd(kHold);
  options.channels = 2;
  options.loop = &loop;
  ChannelFixture a(options);
  options.index = 1;
  options.shared = &a.state;
  ChannelFixture b(options);
  a.Open();
  b.Open();
  const Lost lost(&a);
  Io* over = b.Write(4096, Pattern(512, 2));
  loop.Advance(kHold - kSecond);
  EXPECT_EQ(over->completions, 0);
  loop.Advance(2 * kSecond);
  EXPECT_EQ(over->completions, 1);
}

TEST(NbdQuarantine, AReadWaitsForWhatWasGivenUp) {
  ChannelFixture f(Nbd(kHold));
  f.Open();
  f.server.hold = true;
  f.Write(4096, Pattern(4096, 1));
  f.Run();
  f.channel.Revoke();
  f.server.hold = false;
  f.Run();
  Io* read = f.Read(4096, 512);
  Io* other = f.Read(0, 4096);
  f.loop.Advance(kHold - kSecond);
  EXPECT_EQ(other->completions, 1);
  EXPECT_EQ(read->completions, 0);
  f.server.disk.replace(4096, 4096, Pattern(4096, 1));
  f.loop.Advance(2 * kSecond);
  EXPECT_EQ(read->completions, 1);
  EXPECT_EQ(read->Data(), Pattern(4096, 1).substr(0, 512));
}

// Other requests must not put off its time again and again.
TEST(NbdQuarantine, OneThatWaitsIsNotForgottenUnderLoad) {
  ChannelFixture f(Nbd(kHold));
  f.Open();
  const Lost lost(&f);
  Io* over = f.Write(4096, Pattern(512, 2));
  for (int64_t ns = 0; ns < kHold + kSecond; ns += 10'000'000) {
    f.Read(65536, 512);
    f.channel.Kick();
    f.loop.Advance(10'000'000);
  }
  EXPECT_EQ(over->completions, 1);
}

TEST(NbdQuarantine, AWriteWithoutItsMemoryHoldsUpNobodyForEver) {
  const iovec page{mmap(nullptr, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), 4096};
  ChannelFixture f(Nbd(kHold));
  f.habits.untouchable = page;
  f.Open();
  f.ios.push_back(std::make_unique<Io>());
  Io* write = f.ios.back().get();
  ASSERT_EQ(f.TrySubmit({CLOUDBLK_OP_WRITE, 0, 4096, &page, 1, 0, nullptr, write}), 0);
  f.Run();
  EXPECT_EQ(write->result, -EFAULT);
  Io* over = f.Write(4096, Pattern(512, 2));
  Io* read = f.Read(4608, 512);
  f.loop.Advance(kHold + kSecond);
  EXPECT_EQ(over->completions, 1);
  EXPECT_EQ(read->completions, 1);
  munmap(page.iov_base, page.iov_len);
}

TEST(NbdQuarantine, WhatWaitsCanBeGivenUp) {
  ChannelFixture f(Nbd(kHold));
  f.Open();
  const Lost lost(&f);
  Io* over = f.Write(4096, Pattern(512, 2));
  Io* behind = f.Write(4096, Pattern(512, 3));
  f.Run();
  f.channel.Revoke();
  EXPECT_EQ(over->result, -ECANCELED);
  EXPECT_EQ(behind->result, -ECANCELED);
}

TEST(NbdQuarantine, WhatWaitsIsTakenAlongToAnotherLoop) {
  ChannelFixture f(Nbd(kHold));
  f.Open();
  const Lost lost(&f);
  Io* over = f.Write(4096, Pattern(512, 2));
  f.Run();
  f.channel.Detach();
  f.Attach();
  f.loop.Advance(kHold + kSecond);
  EXPECT_EQ(over->completions, 1);
}

TEST(NbdQuarantine, TheNativeProtocolFences) {
  ChannelFixture f(FixtureOptions{.quarantine_ns = kHold});
  f.Open();
  const Lost lost(&f);
  Io* over = f.Write(7680, Pattern(1024, 2));
  f.Run();
  EXPECT_EQ(over->completions, 1);
}

}  // namespace
}  // namespace cloudblk::testing
