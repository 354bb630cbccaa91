// SPDX-License-Identifier: GPL-2.0-or-later
//
// What a server may have lost, and whose flush has to say so (SPEC.md 10).
#include <gtest/gtest.h>

#include <cerrno>

#include "tests/support/cpp/channel_fixture.h"

namespace cloudblk::testing {
namespace {

class ChannelGeneration : public ::testing::Test {
 protected:
  void Restart() {
    ++f.server.open.generation;
    f.server.Cut();
    // It may be the second loss in a row, which the client waits after
    f.loop.Advance(100'000'000);
    ASSERT_TRUE(f.ready());
  }
  int FlushNow() {
    Io* io = f.Flush();
    f.Run();
    EXPECT_EQ(io->completions, 1);
    return io->result;
  }
  ChannelFixture f;
};

TEST_F(ChannelGeneration, UnflushedWritesFailTheNextFlushOnce) {
  f.Open();
  f.Write(0, Pattern(512, 1));
  f.Run();
  Restart();
  const size_t before = f.server.seen.size();
  EXPECT_EQ(FlushNow(), -EIO);
  EXPECT_EQ(f.server.seen.size(), before) << "such a flush must not be sent";
  EXPECT_EQ(FlushNow(), 0);
}

TEST_F(ChannelGeneration, ZeroesAndDiscardsAreWritesToo) {
  f.Open();
  for (const CloudblkOperation operation : {CLOUDBLK_OP_WRITE_ZEROES, CLOUDBLK_OP_DISCARD}) {
    f.Ranges(operation, {{0, 512, 0}});
    f.Run();
    Restart();
    EXPECT_EQ(FlushNow(), -EIO);
    EXPECT_EQ(FlushNow(), 0);
  }
}

TEST_F(ChannelGeneration, FlushedWritesAreSafe) {
  f.Open();
  f.Write(0, Pattern(512, 1));
  f.Run();
  EXPECT_EQ(FlushNow(), 0);
  Restart();
  EXPECT_EQ(FlushNow(), 0);
}

TEST_F(ChannelGeneration, AFailedFlushCoversNothing) {
  f.Open();
  f.Write(0, Pattern(512, 1));
  f.Run();
  f.server.hold = true;
  f.Flush();
  f.Run();
  f.server.Answer(0, 1, wire::StatusCode::kIoError);
  f.server.hold = false;
  f.Run();
  Restart();
  EXPECT_EQ(FlushNow(), -EIO);
}

TEST_F(ChannelGeneration, AFailedFlushOpensTheVolumeAnewOnceForAGeneration) {
  f.Open();
  f.server.hold = true;
  const auto fail_flush = [&] {
    Io* flush = f.Flush();
    f.Run();
    f.server.Answer(0, 1, wire::StatusCode::kIoError);
    f.Run();
    EXPECT_EQ(flush->result, -EIO);
  };
  fail_flush();
  EXPECT_EQ(f.server.connections(), 2u);
  fail_flush();
  EXPECT_EQ(f.server.connections(), 2u);
  Restart();
  EXPECT_EQ(f.server.connections(), 3u);
  fail_flush();
  EXPECT_EQ(f.server.connections(), 4u);
}

TEST_F(ChannelGeneration, SoDoesAForcedWrite) {
  f.Open();
  f.server.hold = true;
  Io* write = f.Write(0, Pattern(512, 1), {}, CLOUDBLK_REQUEST_FUA);
  f.Run();
  f.server.Answer(0, 1, wire::StatusCode::kIoError);
  f.Run();
  EXPECT_EQ(write->result, -EIO);
  EXPECT_EQ(f.server.connections(), 2u);
}

TEST_F(ChannelGeneration, AFlushCoversOnlyWhatWasCompletedWhenItWasSent) {
  f.server.hold = true;
  f.Open();
  f.Flush();
  f.Write(0, Pattern(512, 1));
  f.Run();
  f.server.Answer(1);  // the write
  f.server.Answer(0);  // the flush, which was sent before
  f.Run();
  f.server.hold = false;
  Restart();
  EXPECT_EQ(FlushNow(), -EIO);
}

TEST_F(ChannelGeneration, AReplayedFlushFailsToo) {
  f.Open();
  f.Write(0, Pattern(512, 1));
  f.Run();
  f.server.hold = true;
  Io* flush = f.Flush();
  f.Run();
  Restart();
  EXPECT_EQ(flush->completions, 1);
  EXPECT_EQ(flush->result, -EIO);
}

TEST_F(ChannelGeneration, AllFlushesThatWereUnderWayFail) {
  f.Open();
  f.Write(0, Pattern(512, 1));
  f.Run();
  f.server.hold = true;
  Io* first = f.Flush();
  Io* second = f.Flush();
  f.Run();
  f.server.hold = false;
  Restart();
  EXPECT_EQ(first->result, -EIO);
  EXPECT_EQ(second->result, -EIO);
  EXPECT_EQ(FlushNow(), 0);
}

// It fails, but who wrote the rest does not hear of it.
TEST_F(ChannelGeneration, AFlushFromBeforeAWriteDoesNotTellThatItIsLost) {
  f.server.hold = true;
  f.Open();
  Io* flush = f.Flush();
  Io* write = f.Write(0, Pattern(512, 1));
  f.Run();
  f.server.Answer(1);
  f.Run();
  ASSERT_EQ(write->completions, 1);
  f.server.hold = false;
  Restart();
  EXPECT_EQ(flush->result, -EIO);
  EXPECT_EQ(FlushNow(), -EIO);
  EXPECT_EQ(FlushNow(), 0);
}

TEST_F(ChannelGeneration, NorDoesOneFromBeforeAWriteThatWasHalfAnswered) {
  f.server.hello.max_frame_payload = 4096;
  f.server.open.credit_requests = 1;
  f.server.hold = true;
  f.Open();
  Io* write = f.Write(0, Pattern(8192, 1));
  f.Run();
  f.server.Answer(0);
  f.Run();
  Restart();
  Io* flush = f.Flush();  // waits for a credit
  f.Run();
  ASSERT_EQ(write->completions, 0);
  f.server.hold = false;
  f.server.Answer(0);
  f.Run();
  ASSERT_EQ(write->result, 0);
  EXPECT_EQ(flush->result, -EIO);
  EXPECT_EQ(FlushNow(), -EIO);
  EXPECT_EQ(FlushNow(), 0);
}

TEST_F(ChannelGeneration, AWriteCacheThatNobodyKnowsOfIsNotWrittenTo) {
  f.server.open.volume_flags &= ~uint32_t{wire::VolumeFlag::kWriteCache};
  f.Open();
  ASSERT_TRUE(f.ready());
  f.server.open.volume_flags |= wire::VolumeFlag::kWriteCache;
  f.server.Cut();
  Io* write = f.Write(0, Pattern(512, 1));
  f.loop.Advance(100'000'000);
  EXPECT_FALSE(f.ready());
  EXPECT_EQ(write->completions, 0);
  f.server.open.volume_flags &= ~uint32_t{wire::VolumeFlag::kWriteCache};
  f.loop.Advance(3'000'000'000);
  EXPECT_EQ(write->result, 0);
}

TEST_F(ChannelGeneration, AFlushOfTheHostsOwnLeavesItToTheUsersToFail) {
  f.Open();
  f.Write(0, Pattern(512, 1));
  f.Run();
  Restart();
  const size_t before = f.server.seen.size();
  CloudblkRequest own{};
  own.operation = CLOUDBLK_OP_FLUSH;
  own.flags = CLOUDBLK_REQUEST_OWN;
  own.opaque = f.ios.emplace_back(std::make_unique<Io>()).get();
  ASSERT_EQ(f.channel.Submit(own), 0);
  f.Run();
  EXPECT_EQ(f.server.seen.size(), before + 1);
  EXPECT_EQ(FlushNow(), -EIO);
  EXPECT_EQ(FlushNow(), 0);
}

// The host gave them up, as for a machine that stops, and submits them again when it goes on.
TEST_F(ChannelGeneration, AllFlushesThatGoOnTellWhatWasLostMeanwhile) {
  f.Open();
  f.Write(0, Pattern(512, 1));
  f.Run();
  f.server.hold = true;
  f.Flush();
  f.Flush();
  f.Run();
  f.channel.Revoke();
  f.server.hold = false;
  Restart();
  Io* first = f.Flush(CLOUDBLK_REQUEST_AGAIN);
  Io* second = f.Flush(CLOUDBLK_REQUEST_AGAIN);
  f.Run();
  EXPECT_EQ(first->result, -EIO);
  EXPECT_EQ(second->result, -EIO);
  EXPECT_EQ(FlushNow(), 0);
}

TEST_F(ChannelGeneration, AFlushThatGoesOnCoversNothingThatCameAfterIt) {
  f.server.hold = true;
  f.Open();
  f.Flush();
  Io* write = f.Write(0, Pattern(512, 1));
  f.Run();
  f.server.Answer(1);
  f.Run();
  ASSERT_EQ(write->result, 0);
  f.channel.Revoke();
  f.server.hold = false;
  Restart();
  Io* flush = f.Flush(CLOUDBLK_REQUEST_AGAIN);
  f.Run();
  EXPECT_EQ(flush->result, -EIO);
  EXPECT_EQ(FlushNow(), -EIO);
  EXPECT_EQ(FlushNow(), 0);
}

TEST_F(ChannelGeneration, AFlushThatGoesOnIsOkWhereNothingWasLost) {
  f.Open();
  f.Write(0, Pattern(512, 1));
  f.Run();
  Restart();
  EXPECT_EQ(FlushNow(), -EIO);
  f.server.hold = true;
  f.Flush();
  f.Run();
  f.channel.Revoke();
  f.server.hold = false;
  f.loop.Advance(100'000'000);
  Io* flush = f.Flush(CLOUDBLK_REQUEST_AGAIN);
  f.Run();
  EXPECT_EQ(flush->result, 0);
}

TEST_F(ChannelGeneration, ForcedWritesNeedNoFlush) {
  f.Open();
  f.Write(0, Pattern(512, 1), {}, CLOUDBLK_REQUEST_FUA);
  f.Run();
  Restart();
  EXPECT_EQ(FlushNow(), 0);
}

TEST_F(ChannelGeneration, AVolumeWithoutCacheLosesNothing) {
  f.server.open.volume_flags &= ~uint32_t{wire::VolumeFlag::kWriteCache};
  f.Open();
  f.Write(0, Pattern(512, 1));
  f.Run();
  Restart();
  EXPECT_EQ(FlushNow(), 0);
}

TEST_F(ChannelGeneration, AWriteThatWasHalfAnsweredBeforeTheLossCounts) {
  f.server.hello.max_frame_payload = 4096;
  f.server.hold = true;
  f.Open();
  Io* write = f.Write(0, Pattern(8192, 1));
  f.Run();
  f.server.Answer(0);  // the first half
  f.Run();
  f.server.hold = false;
  Restart();  // the second half is replayed, the first one may be lost
  EXPECT_EQ(write->result, 0);
  EXPECT_EQ(FlushNow(), -EIO);
  EXPECT_EQ(FlushNow(), 0);
}

TEST_F(ChannelGeneration, ReplayedWritesAreNew) {
  f.server.hold = true;
  f.Open();
  f.Write(0, Pattern(512, 1));
  f.Run();
  f.server.hold = false;
  Restart();
  EXPECT_EQ(FlushNow(), 0);
}

TEST(SessionGeneration, AnyChannelsFlushFailsForAllChannelsWrites) {
  TwoChannels both;
  auto& [loop, a, b] = both;
  a.Write(0, Pattern(512, 1));
  a.Run();
  ++a.server.open.generation;
  ++b.server.open.generation;
  b.server.Cut();
  a.server.Cut();
  a.Run();
  Io* flush = b.Flush();
  a.Run();
  EXPECT_EQ(flush->result, -EIO);
  flush = a.Flush();
  a.Run();
  EXPECT_EQ(flush->result, 0);
}

TEST(SessionGeneration, FlushesThatWereUnderWayFailOnEveryChannel) {
  TwoChannels both;
  auto& [loop, a, b] = both;
  a.Write(0, Pattern(512, 1));
  a.Run();
  a.server.hold = b.server.hold = true;
  Io* first = a.Flush();
  Io* second = b.Flush();
  a.Run();
  a.server.hold = b.server.hold = false;
  for (ChannelFixture* one : {&a, &b}) {
    ++one->server.open.generation;
    one->server.Cut();
    one->Run();
  }
  EXPECT_EQ(first->result, -EIO);
  EXPECT_EQ(second->result, -EIO);
}

// It was submitted when nobody had been told, so that its success would be believed.
TEST(SessionGeneration, AFlushThatWaitsFailsThoughALaterOneHasTold) {
  TwoChannels both;
  auto& [loop, a, b] = both;
  a.Write(0, Pattern(512, 1));
  a.Run();
  for (ChannelFixture* one : {&a, &b}) ++one->server.open.generation;
  b.server.silent = true;
  for (ChannelFixture* one : {&a, &b}) one->server.Cut();
  a.Run();
  ASSERT_TRUE(a.ready());
  Io* waiting = b.Flush();
  b.Run();
  Io* later = a.Flush();
  a.Run();
  ASSERT_EQ(waiting->completions, 0);
  EXPECT_EQ(later->result, -EIO);
  b.server.silent = false;
  b.server.Cut();
  loop.Advance(3'000'000'000);
  ASSERT_EQ(waiting->completions, 1);
  EXPECT_EQ(waiting->result, -EIO);
  Io* after = b.Flush();
  b.Run();
  EXPECT_EQ(after->result, 0);
}

// Else each of its writes would count as lost, and no flush of the other succeed again.
TEST(SessionGeneration, AChannelThatServesAnOldGenerationIsOpenedAnew) {
  TwoChannels both;
  auto& [loop, a, b] = both;
  b.server.hold = true;
  Io* first = b.Flush();
  b.Run();
  ++a.server.open.generation;
  ++b.server.open.generation;
  b.server.Answer(0, 1, wire::StatusCode::kIoError);
  b.server.hold = false;
  b.Run();
  EXPECT_EQ(first->result, -EIO);
  ASSERT_TRUE(b.ready());
  int failed = 0;
  for (uint32_t i = 0; i < 5; ++i) {
    Io* write = a.Write(0, Pattern(512, i));
    a.Run();
    EXPECT_EQ(write->result, 0);
    Io* flush = b.Flush();
    b.Run();
    if (flush->result != 0) ++failed;
  }
  EXPECT_EQ(failed, 1);
  EXPECT_EQ(a.server.connections(), 2u);
  EXPECT_EQ(b.server.connections(), 2u);
}

// A server that cannot make up its mind is not asked for ever.
TEST(SessionGeneration, ChannelsOfUnlikeGenerationsAreOpenedAnewOnce) {
  TwoChannels both;
  auto& [loop, a, b] = both;
  ++b.server.open.generation;
  b.server.Cut();
  for (uint32_t i = 0; i < 10; ++i) {
    Io* write = a.Write(0, Pattern(512, i));
    Io* other = b.Write(4096, Pattern(512, i));
    loop.Advance(3'000'000'000);
    EXPECT_EQ(write->result, 0);
    EXPECT_EQ(other->result, 0);
  }
  EXPECT_LE(a.server.connections(), 2u);
  EXPECT_LE(b.server.connections(), 3u);
}

TEST(SessionGeneration, AnAnswerThatComesLateOverAnOldConnectionCounts) {
  TwoChannels both;
  auto& [loop, a, b] = both;
  a.server.hold = true;
  a.Write(0, Pattern(512, 1));
  a.Run();
  // The server dies. Channel b has reconnected already when a finds its answer in the socket.
  ++b.server.open.generation;
  b.server.Cut();
  b.Run();
  ASSERT_TRUE(b.ready());
  a.server.Answer(0);
  a.Run();
  Io* flush = b.Flush();
  b.Run();
  EXPECT_EQ(flush->result, -EIO);
}

}  // namespace
}  // namespace cloudblk::testing
