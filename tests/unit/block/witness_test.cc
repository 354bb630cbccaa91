// SPDX-License-Identifier: GPL-2.0-or-later
//
// An export is known again by a block that was flushed to it.
#include "block/witness.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cerrno>
#include <string>

#include "tests/support/cpp/channel_fixture.h"

namespace cloudblk::testing {
namespace {

constexpr int64_t kSecond = 1'000'000'000;

// --- The block ----------------------------------------------------------------------------------

void Flush(Witness* witness, uint32_t channel, uint64_t begin, uint64_t end) {
  witness->NoteWritten(channel, begin, end);
  EXPECT_TRUE(witness->Offer(channel));
  witness->NoteFlushed(channel, true);
}

// Channel 0 has flushed these bytes and reads them back.
KnownBlock Read(Witness* witness, uint64_t begin, uint64_t end) {
  Flush(witness, 0, begin, end);
  std::optional<KnownBlock> block = witness->Choose(0);
  EXPECT_TRUE(block.has_value());
  block->digest = 7;
  return *block;
}

TEST(WitnessTest, ItIsKnownOnceItWasRead) {
  Witness witness(2);
  EXPECT_FALSE(witness.known().has_value());
  const KnownBlock block = Read(&witness, 8192, 65536);
  EXPECT_EQ(block.offset, 8192u);
  EXPECT_EQ(block.length, 4096u);
  EXPECT_FALSE(witness.known().has_value());
  witness.Take(0, block);
  ASSERT_TRUE(witness.known().has_value());
  EXPECT_EQ(witness.known()->digest, 7u);
}

TEST(WitnessTest, WhatWasNotFlushedIsNotChosen) {
  Witness witness(1);
  EXPECT_FALSE(witness.Choose(0).has_value());
  EXPECT_FALSE(witness.Offer(0));
  witness.NoteWritten(0, 0, 512);
  EXPECT_FALSE(witness.Choose(0).has_value());
  EXPECT_TRUE(witness.Offer(0));
  EXPECT_FALSE(witness.Choose(0).has_value());
  witness.NoteFlushed(0, false);
  EXPECT_FALSE(witness.Choose(0).has_value());
  EXPECT_FALSE(witness.offers(0));
}

TEST(WitnessTest, AnotherOneIsChosenWhenItHasChanged) {
  Witness witness(2);
  const KnownBlock block = Read(&witness, 8192, 12288);
  Flush(&witness, 1, 0, 512);
  EXPECT_FALSE(witness.Choose(1).has_value()) << "one is being read";
  witness.Take(0, block);
  EXPECT_FALSE(witness.Choose(1).has_value()) << "one is enough";
  witness.NoteChange(8192, 8704);
  ASSERT_TRUE(witness.Choose(1).has_value());
  EXPECT_FALSE(witness.Choose(1).has_value());
}

TEST(WitnessTest, AChangeThereEndsIt) {
  for (const uint64_t begin : {8191u, 8192u, 12287u}) {
    Witness witness(1);
    const KnownBlock block = Read(&witness, 8192, 12288);
    witness.Take(0, block);
    witness.NoteChange(4096, 8192);
    witness.NoteChange(12288, 16384);
    EXPECT_TRUE(witness.known().has_value()) << "beside it";
    witness.NoteChange(begin, begin + 2);
    EXPECT_FALSE(witness.known().has_value()) << begin;
  }
}

TEST(WitnessTest, SoItDoesAtEachStepBefore) {
  Witness witness(2);
  witness.NoteWritten(1, 8192, 12288);
  witness.NoteChange(8192, 8704);
  EXPECT_FALSE(witness.Offer(1));
  witness.NoteWritten(1, 8192, 12288);
  EXPECT_TRUE(witness.Offer(1));
  witness.NoteChange(8192, 8704);
  witness.NoteFlushed(1, true);
  EXPECT_FALSE(witness.Choose(1).has_value());
  Flush(&witness, 1, 8192, 12288);
  witness.NoteChange(8192, 8704);
  EXPECT_FALSE(witness.Choose(1).has_value());
  const KnownBlock block = Read(&witness, 8192, 12288);
  witness.NoteChange(8192, 8704);
  witness.Take(0, block);
  EXPECT_FALSE(witness.known().has_value());
}

TEST(WitnessTest, NothingIsLeftOfAllOfThem) {
  Witness witness(1);
  const KnownBlock block = Read(&witness, 8192, 12288);
  witness.Take(0, block);
  Flush(&witness, 0, 0, 512);
  witness.NoteWritten(0, 512, 1024);
  witness.Clear();
  EXPECT_FALSE(witness.known().has_value());
  EXPECT_FALSE(witness.Offer(0));
  EXPECT_FALSE(witness.Choose(0).has_value());
  EXPECT_TRUE(Read(&witness, 0, 512).length == 512) << "it goes on";
}

TEST(WitnessTest, AnotherChannelsAnswerIsNotTaken) {
  Witness witness(2);
  const KnownBlock block = Read(&witness, 8192, 12288);
  witness.GiveUp(1);
  witness.Take(1, block);
  EXPECT_FALSE(witness.known().has_value());
  witness.GiveUp(0);
  witness.Take(0, block);
  EXPECT_FALSE(witness.known().has_value());
}

TEST(WitnessTest, ZerosTellNothing) {
  EXPECT_EQ(Witness::DigestOf(std::vector<uint8_t>(4096, 0)), Witness::kNoDigest);
  EXPECT_NE(Witness::DigestOf(std::vector<uint8_t>(4096, 1)), Witness::kNoDigest);
  Witness witness(1);
  KnownBlock block = Read(&witness, 0, 512);
  block.digest = Witness::kNoDigest;
  witness.Take(0, block);
  EXPECT_FALSE(witness.known().has_value());
  Read(&witness, 0, 512);
}

// --- Channels -----------------------------------------------------------------------------------

class NbdWitness : public ::testing::TestWithParam<Speaks> {
 protected:
  static FixtureOptions Options() { return {.protocol = GetParam(), .quarantine_ns = 0}; }

  static size_t Reads(const ChannelFixture& f) {
    return std::ranges::count(f.server.seen, wire::Operation::kRead,
                              [](const auto& seen) { return seen.request.operation; });
  }

  // Writes a block, which is durable then.
  static void WriteAndFlush(ChannelFixture* f, uint64_t offset, std::string_view data) {
    Io* write = f->Write(offset, data);
    f->Run();
    Io* flush = f->Flush();
    f->Run();
    EXPECT_EQ(write->result, 0);
    EXPECT_EQ(write->completions, 1);
    EXPECT_EQ(flush->result, 0);
    EXPECT_EQ(flush->completions, 1);
  }
  static bool Logged(const std::string& text) {
    return std::ranges::any_of(ChannelFixture::logged, [&](const std::string& line) {
      return line.find(text) != std::string::npos;
    });
  }
};

TEST_P(NbdWitness, AServerThatLostWhatWasFlushedIsRefused) {
  ChannelFixture f(Options());
  f.Open();
  WriteAndFlush(&f, 8192, Pattern(4096, 1));
  EXPECT_EQ(Reads(f), 1u) << "the block is read back";
  const std::string content = f.server.disk;
  f.server.disk.assign(content.size(), '\0');
  f.server.Cut();
  Io* read = f.Read(0, 512);
  f.loop.Advance(kSecond);
  EXPECT_FALSE(f.ready());
  EXPECT_EQ(read->completions, 0);
  EXPECT_TRUE(Logged("4096 bytes at offset 8192 differ from what was flushed"));
  // Its data is back.
  f.server.disk = content;
  f.loop.Advance(60 * kSecond);
  EXPECT_TRUE(f.ready());
  EXPECT_EQ(read->completions, 1);
  EXPECT_EQ(read->result, 0);
}

TEST_P(NbdWitness, AServerThatKeptItIsNot) {
  ChannelFixture f(Options());
  f.Open();
  WriteAndFlush(&f, 8192, Pattern(512, 1));
  for (int i = 0; i < 3; ++i) {
    f.server.Cut();
    f.loop.Advance(kSecond);
    EXPECT_TRUE(f.ready());
    EXPECT_EQ(Reads(f), 2u + i) << "of that block, each time";
  }
}

TEST_P(NbdWitness, WhatAFlushDoesNotCoverIsNot) {
  ChannelFixture f(Options());
  f.Open();
  f.server.hold = true;
  Io* flush = f.Flush();
  f.Run();
  f.server.hold = false;
  Io* write = f.Write(8192, Pattern(512, 1));
  f.Run();
  ASSERT_EQ(write->completions, 1);
  f.server.Answer(0);
  f.Run();
  EXPECT_EQ(flush->completions, 1);
  EXPECT_EQ(Reads(f), 0u);
  WriteAndFlush(&f, 4096, Pattern(512, 2));
  EXPECT_EQ(Reads(f), 1u);
}

TEST_P(NbdWitness, ABlockThatIsWrittenAgainIsNotLookedFor) {
  ChannelFixture f(Options());
  f.Open();
  WriteAndFlush(&f, 8192, Pattern(4096, 1));
  // Neither flushed nor answered: the server may have it or not.
  f.server.hold = true;
  Io* again = f.Write(8192, Pattern(512, 2));
  f.Run();
  f.server.hold = false;
  f.server.disk.replace(8192, 512, Pattern(512, 3));
  f.server.Cut();
  f.loop.Advance(kSecond);
  EXPECT_TRUE(f.ready());
  EXPECT_EQ(again->result, 0);
  EXPECT_EQ(again->completions, 1);
  // So is one that is discarded.
  f.loop.Advance(kSecond);
  WriteAndFlush(&f, 16384, Pattern(4096, 1));
  const size_t reads = Reads(f);
  f.Ranges(CLOUDBLK_OP_DISCARD, {{16384, 4096, 0}});
  f.Run();
  f.server.Cut();
  f.loop.Advance(kSecond);
  EXPECT_TRUE(f.ready());
  EXPECT_EQ(Reads(f), reads);
}

// As a journal's superblock, or a database's: at once, and then nothing more is written.
TEST_P(NbdWitness, ABlockThatIsFlushedAgainAndAgainIsKnownInTheEnd) {
  ChannelFixture f(Options());
  f.Open();
  for (uint32_t i = 0; i < 5; ++i) WriteAndFlush(&f, 8192, Pattern(4096, i));
  f.server.disk.assign(f.server.disk.size(), '\0');
  f.server.Cut();
  f.loop.Advance(kSecond);
  EXPECT_FALSE(f.ready());
}

TEST_P(NbdWitness, WhenOneIsDiscardedTheLastFlushHasAnother) {
  ChannelFixture f(Options());
  f.Open();
  WriteAndFlush(&f, 8192, Pattern(4096, 1));
  WriteAndFlush(&f, 16384, Pattern(4096, 2));
  f.Ranges(CLOUDBLK_OP_DISCARD, {{8192, 4096, 0}});
  f.Run();
  EXPECT_EQ(Reads(f), 2u);
  f.server.disk.assign(f.server.disk.size(), '\0');
  f.server.Cut();
  f.loop.Advance(kSecond);
  EXPECT_FALSE(f.ready());
  EXPECT_TRUE(Logged("offset 16384"));
}

struct Two {
  explicit Two(Speaks protocol)
      : a(FixtureOptions{.protocol = protocol, .channels = 2, .loop = &loop}),
        b(FixtureOptions{
            .protocol = protocol, .channels = 2, .index = 1, .shared = &a.state, .loop = &loop}) {
    ChannelFixture::logged.clear();
    a.Open();
    b.Open();
  }
  ManualLoop loop;
  ChannelFixture a;
  ChannelFixture b;
};

// What a channel has lost may land at any time: no block is known from what was there before.
TEST_P(NbdWitness, AnotherChannelsLostWriteIsNoLossOfTheServer) {
  Two two(GetParam());
  Io* old = two.b.Write(8192, Pattern(4096, 1));
  two.b.Run();
  EXPECT_EQ(old->result, 0);
  two.a.server.hold = true;
  two.a.Write(8192, Pattern(4096, 2));
  two.a.Run();
  two.a.server.hold_opens = true;
  two.a.server.silent = true;
  two.a.server.Cut();
  two.a.Run();
  two.b.Flush();
  two.b.Run();
  EXPECT_EQ(Reads(two.b), 0u);
  // The first sending lands after all.
  two.a.server.disk.replace(8192, 4096, Pattern(4096, 2));
  two.a.server.hold = two.a.server.hold_opens = two.a.server.silent = false;
  two.a.server.Cut();
  two.loop.Advance(30 * kSecond);
  EXPECT_TRUE(two.a.ready());
}

// Of two writes that race, one may be lost and land behind the other, which a flush covers
// meanwhile.
TEST_P(NbdWitness, NothingIsReadBackWhileALostWriteMayLand) {
  Two two(GetParam());
  two.a.server.hold = true;
  Io* lost = two.a.Write(8192, Pattern(4096, 2));
  two.a.Run();
  two.b.server.hold = true;
  Io* other = two.b.Write(8192, Pattern(4096, 1));
  two.b.Run();
  two.a.server.hold_opens = true;
  two.a.server.Cut();
  two.a.Run();
  two.b.server.hold = false;
  two.b.server.Answer(0);
  two.b.Run();
  ASSERT_EQ(other->completions, 1);
  two.b.Flush();
  two.b.Run();
  EXPECT_EQ(Reads(two.b), 0u);
  two.a.server.hold = two.a.server.hold_opens = false;
  two.a.server.Cut();
  two.loop.Advance(30 * kSecond);
  EXPECT_TRUE(two.a.ready());
  EXPECT_EQ(lost->completions, 1);
}

// The one that failed may have taken with it what another channel had written: the next flush of
// that one succeeds all the same, as the kernel tells such an error once.
TEST_P(NbdWitness, AfterAFlushThatFailedNothingWrittenBeforeIsRead) {
  Two two(GetParam());
  Io* write = two.b.Write(8192, Pattern(4096, 1));
  two.b.Run();
  ASSERT_EQ(write->result, 0);
  two.a.server.hold = true;
  Io* failed = two.a.Flush();
  two.a.Run();
  two.a.server.hold = false;
  two.a.server.Answer(0, 1, wire::StatusCode::kIoError);
  two.a.Run();
  ASSERT_EQ(failed->completions, 1);
  EXPECT_NE(failed->result, 0);
  // The first one is told of the loss.
  for (const bool fails : {true, false}) {
    Io* flush = two.b.Flush();
    two.b.Run();
    EXPECT_EQ(flush->completions, 1);
    EXPECT_EQ(flush->result != 0, fails);
  }
  EXPECT_EQ(Reads(two.b), 0u);
}

TEST_P(NbdWitness, ABlockThatIsWrittenWhileItIsComparedIsNoLoss) {
  Two two(GetParam());
  WriteAndFlush(&two.b, 8192, Pattern(4096, 1));
  ASSERT_EQ(Reads(two.b), 1u);
  two.a.server.hold = true;
  two.a.server.Cut();
  two.loop.Advance(kSecond);
  ASSERT_EQ(two.a.server.pending.size(), 1u);
  two.b.Write(8192, Pattern(4096, 2));
  two.b.Run();
  two.a.server.hold = false;
  two.a.server.Answer(0);
  two.loop.Advance(10 * kSecond);
  EXPECT_TRUE(two.a.ready());
  EXPECT_FALSE(Logged("differ from what was flushed"));
}

TEST_P(NbdWitness, AnErrorOfTheReadEndsNothing) {
  ChannelFixture f(Options());
  f.Open();
  Io* write = f.Write(8192, Pattern(4096, 1));
  f.Run();
  f.server.hold = true;
  Io* flush = f.Flush();
  f.Run();
  f.server.Answer(0);
  f.Run();
  ASSERT_EQ(f.server.pending.size(), 1u);
  f.server.Answer(0, 1, wire::StatusCode::kIoError);
  f.server.hold = false;
  f.Run();
  EXPECT_EQ(write->result + flush->result, 0);
  WriteAndFlush(&f, 16384, Pattern(4096, 1));
  EXPECT_EQ(Reads(f), 2u);
}

TEST_P(NbdWitness, NothingFollowsTheRelease) {
  ChannelFixture f(Options());
  f.Open();
  WriteAndFlush(&f, 8192, Pattern(4096, 1));
  WriteAndFlush(&f, 16384, Pattern(4096, 2));
  f.state.witness().NoteChange(8192, 8704);
  f.server.open.status = wire::StatusCode::kIoError;  // it stays at this connection
  f.channel.Release();
  f.Run();
  EXPECT_EQ(Reads(f), 1u);
  EXPECT_TRUE(f.state.witness().offers(0)) << "it was not even asked for";
  EXPECT_EQ(f.server.closes, 1u);
}

TEST_P(NbdWitness, ItIsReadWithinADeadline) {
  ChannelFixture f(Options());
  f.Open();
  WriteAndFlush(&f, 8192, Pattern(4096, 1));
  f.server.hold = true;
  f.server.Cut();
  f.loop.Advance(kSecond);
  EXPECT_FALSE(f.ready());
  EXPECT_EQ(f.server.pending.size(), 1u);
  const size_t reads = Reads(f);
  f.loop.Advance(120 * kSecond);
  EXPECT_GT(Reads(f), reads) << "a server that stands still is left";
  f.server.hold = false;
  f.server.Cut();
  f.loop.Advance(60 * kSecond);
  EXPECT_TRUE(f.ready());
}

TEST_P(NbdWitness, WhereItCannotBeReadNothingIsTold) {
  ChannelFixture f(Options());
  f.Open();
  WriteAndFlush(&f, 8192, Pattern(4096, 1));
  f.server.hold = true;
  f.server.Cut();
  f.loop.Advance(kSecond);
  ASSERT_EQ(f.server.pending.size(), 1u);
  f.server.Answer(0, 1, wire::StatusCode::kIoError);
  f.server.hold = false;
  f.Run();
  EXPECT_TRUE(f.ready());
}

INSTANTIATE_TEST_SUITE_P(Nbd, NbdWitness, ::testing::Values(Speaks::kNbd, Speaks::kSimpleNbd),
                         [](const auto& info) { return Name(info.param); });

}  // namespace
}  // namespace cloudblk::testing
