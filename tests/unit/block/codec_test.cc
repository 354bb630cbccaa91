// SPDX-License-Identifier: GPL-2.0-or-later
//
// What holds for a channel whatever protocol it speaks.
#include "block/codec.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cerrno>

#include "tests/support/cpp/channel_fixture.h"

namespace cloudblk::testing {
namespace {

using ::testing::ElementsAre;

constexpr int64_t kSecond = 1'000'000'000;

class EveryCodec : public ::testing::TestWithParam<Speaks> {
 protected:
  static FixtureOptions Options() { return {.protocol = GetParam(), .restart_loses = true}; }

  static bool speaks_nbd() {
    return GetParam() == Speaks::kNbd || GetParam() == Speaks::kSimpleNbd;
  }

  ChannelFixture f{Options()};
};

INSTANTIATE_TEST_SUITE_P(Codecs, EveryCodec,
                         ::testing::Values(Speaks::kNative, Speaks::kChunked, Speaks::kNbd,
                                           Speaks::kSimpleNbd),
                         [](const auto& info) { return Name(info.param); });

TEST_P(EveryCodec, Opens) {
  f.Open();
  ASSERT_TRUE(f.ready());
  EXPECT_EQ(f.times_ready, 1);
  EXPECT_EQ(f.state.size(), 4u << 20);
  EXPECT_EQ(f.server.opened_names[0].substr(0, 4), "disk");
  EXPECT_EQ(f.server.opens[0].incarnation, 1u);
}

TEST_P(EveryCodec, ReadsAndWrites) {
  f.Open();
  const std::string data = Pattern(12288, 1);
  f.server.disk.replace(8192, data.size(), data);
  Io* read = f.Read(8192, 12288, {512, 3000, 5000});
  Io* write = f.Write(65536, Pattern(4096, 2), {1, 511, 100});
  f.channel.Kick();
  f.Run();
  EXPECT_EQ(read->completions, 1);
  EXPECT_EQ(read->result, 0);
  EXPECT_EQ(read->bytes_stored, 12288u);
  EXPECT_EQ(read->Data(), data);
  EXPECT_EQ(write->result, 0);
  EXPECT_EQ(f.server.disk.substr(65536, 4096), Pattern(4096, 2));
  EXPECT_EQ(f.channel.in_flight(), 0u);
}

TEST_P(EveryCodec, CompleteMaySubmit) {
  f.Open();
  int more = 10;
  f.on_complete = [&] {
    if (more-- > 0) f.Read(4096, 4096);
  };
  f.Read(0, 4096);
  f.channel.Kick();
  f.Run();
  EXPECT_EQ(f.ios.size(), 11u);
  EXPECT_EQ(f.channel.in_flight(), 0u);
}

TEST_P(EveryCodec, TakesAnswersInAnyOrder) {
  f.server.reverse = true;
  f.server.one_by_one = true;
  f.Open();
  f.server.disk = Pattern(f.server.disk.size(), 3);
  std::vector<Io*> reads;
  for (int i = 0; i < 16; ++i) reads.push_back(f.Read(i * 512, 512 * (i + 1)));
  f.channel.Kick();
  f.Run();
  for (int i = 0; i < 16; ++i) {
    EXPECT_EQ(reads[i]->Data(), f.server.disk.substr(i * 512, 512 * (i + 1)));
  }
}

TEST_P(EveryCodec, FlushesForcesDiscardsAndZeroes) {
  f.Open();
  f.server.disk = Pattern(f.server.disk.size(), 4);
  f.Flush();
  f.Write(0, Pattern(512, 5), {}, CLOUDBLK_REQUEST_FUA);
  f.Ranges(CLOUDBLK_OP_DISCARD, {{4096, 4096, 0}, {16384, 512, 0}});
  f.Ranges(CLOUDBLK_OP_WRITE_ZEROES, {{32768, 8192, 0}}, CLOUDBLK_REQUEST_FUA);
  f.channel.Kick();
  f.Run();
  for (const auto& io : f.ios) EXPECT_EQ(io->result, 0);
  EXPECT_EQ(f.server.seen[0].request.operation, wire::Operation::kFlush);
  EXPECT_EQ(f.server.seen[1].request.flags, wire::RequestFlag::kFua);
  EXPECT_EQ(f.server.seen.back().request.flags, wire::RequestFlag::kFua);
  EXPECT_EQ(f.server.disk.substr(4096, 4096), std::string(4096, '\0'));
  EXPECT_EQ(f.server.disk.substr(16384, 512), std::string(512, '\0'));
  EXPECT_EQ(f.server.disk.substr(32768, 8192), std::string(8192, '\0'));
}

TEST_P(EveryCodec, TellsErrorsAsErrno) {
  f.server.hold = true;
  f.Open();
  for (const auto& [status, error] : {std::pair{wire::StatusCode::kIoError, EIO},
                                      {wire::StatusCode::kNoSpace, ENOSPC},
                                      {wire::StatusCode::kInvalid, EINVAL},
                                      {wire::StatusCode::kNotSupported, ENOTSUP},
                                      {wire::StatusCode::kReadOnly, EROFS},
                                      {wire::StatusCode::kOutOfRange, ERANGE},
                                      {wire::StatusCode::kNoMemory, ENOMEM},
                                      {wire::StatusCode::kNotActive, EPERM}}) {
    if (speaks_nbd() && (error == EROFS || error == ERANGE)) continue;  // which has none of these
    Io* io = f.Read(0, 4096);
    f.Run();
    f.server.Answer(0, 1, status);
    f.Run();
    EXPECT_EQ(io->result, -error);
    EXPECT_EQ(io->bytes_stored, 0u);
  }
}

TEST_P(EveryCodec, TakesHolesForZeros) {
  f.server.holes = true;
  f.Open();
  f.server.disk.replace(8192, 4096, Pattern(4096, 6));
  Io* hole = f.Read(0, 4096, {100, 1000});
  Io* data = f.Read(8192, 4096);
  f.Run();
  EXPECT_EQ(hole->Data(), std::string(4096, '\0'));
  EXPECT_EQ(hole->bytes_stored, 4096u);
  EXPECT_EQ(data->Data(), Pattern(4096, 6));
}

TEST_P(EveryCodec, KeepsToTheCredits) {
  if (speaks_nbd()) return;  // which grants none
  f.server.hold = true;
  f.server.open.credit_requests = 4;
  f.Open();
  for (int i = 0; i < 10; ++i) f.Read(i * 4096, 4096);
  f.Run();
  EXPECT_EQ(f.server.pending.size(), 4u);
  f.server.Answer(1, 2);
  f.Run();
  EXPECT_EQ(f.server.pending.size(), 4u);
  f.server.hold = false;
  while (!f.server.pending.empty()) f.server.Answer(0);
  f.Run();
  ASSERT_EQ(f.server.seen.size(), 10u);
  for (int i = 0; i < 10; ++i) EXPECT_EQ(f.server.seen[i].request.offset, i * 4096u);
}

TEST_P(EveryCodec, SplitsWhatIsLong) {
  f.server.hello.max_frame_payload = 5000;
  f.server.open.logical_block_size = 4096;
  f.server.one_by_one = true;
  f.server.reverse = true;
  f.Open();
  f.server.disk = Pattern(f.server.disk.size(), 8);
  Io* read = f.Read(4096, 40960, {1000, 20000});
  Io* write = f.Write(131072, Pattern(40960, 9), {5000, 6000, 7000});
  f.Run();
  EXPECT_EQ(read->completions, 1);
  EXPECT_EQ(read->bytes_stored, 40960u);
  EXPECT_EQ(read->Data(), f.server.disk.substr(4096, 40960));
  EXPECT_EQ(write->completions, 1);
  EXPECT_EQ(f.server.disk.substr(131072, 40960), Pattern(40960, 9));
  EXPECT_EQ(f.server.seen.size(), 20u);
}

TEST_P(EveryCodec, FailsARequestOnceForOneFailedPiece) {
  f.server.hello.max_frame_payload = 4096;
  f.server.hold = true;
  f.Open();
  Io* io = f.Read(0, 12288);
  f.Run();
  ASSERT_EQ(f.server.pending.size(), 3u);
  f.server.Answer(1, 1, wire::StatusCode::kIoError);
  f.server.Answer(1);
  f.Run();
  EXPECT_EQ(io->completions, 0);
  f.server.Answer(0);
  f.Run();
  EXPECT_EQ(io->completions, 1);
  EXPECT_EQ(io->result, -EIO);
  EXPECT_EQ(io->bytes_stored, 12288u);
}

TEST_P(EveryCodec, KeepsOverlappingWritesApart) {
  f.server.hold = true;
  f.Open();
  f.Write(0, Pattern(8192, 1));
  f.Write(4096, Pattern(8192, 2));
  f.Ranges(CLOUDBLK_OP_WRITE_ZEROES, {{8192, 4096, 0}});
  f.Read(0, 4096);
  f.Run();
  EXPECT_EQ(f.server.pending.size(), 2u);
  while (!f.server.pending.empty()) {
    f.server.Answer(0);
    f.Run();
  }
  EXPECT_EQ(f.server.disk.substr(4096, 4096), Pattern(8192, 2).substr(0, 4096));
  EXPECT_EQ(f.server.disk.substr(8192, 4096), std::string(4096, '\0'));
}

TEST_P(EveryCodec, ReplaysInOrderAfterALoss) {
  f.server.hold = true;
  f.Open();
  for (int i = 0; i < 5; ++i) f.Write(i * 4096, Pattern(4096, i));
  f.Run();
  f.server.Answer(2);
  f.Run();
  f.server.Cut();
  f.Run();
  ASSERT_TRUE(f.ready());
  ASSERT_EQ(f.server.opens.size(), 2u);
  EXPECT_EQ(f.server.opens[1].incarnation, 2u);
  ASSERT_EQ(f.server.pending.size(), 4u);
  const uint64_t offsets[] = {0, 4096, 12288, 16384};
  for (int i = 0; i < 4; ++i) EXPECT_EQ(f.server.pending[i].request.offset, offsets[i]);
  f.server.Answer(0, 4);
  f.Run();
  for (const auto& io : f.ios) EXPECT_EQ(io->result, 0);
}

TEST_P(EveryCodec, ReadsAnewWhatCameInPart) {
  f.server.hold = true;
  f.server.disk = Pattern(f.server.disk.size(), 1);
  f.Open();
  Io* io = f.Read(0, 8192);
  f.Run();
  f.server.link()->habits.cut_to_client = f.server.link()->to_client_total + 5000;
  f.server.Answer(0);
  f.Run();
  EXPECT_EQ(io->completions, 0);
  EXPECT_GT(f.server.connections(), 1u);
  f.server.disk = Pattern(f.server.disk.size(), 2);
  f.server.Answer(0);
  f.Run();
  EXPECT_EQ(io->completions, 1);
  EXPECT_EQ(io->Data(), f.server.disk.substr(0, 8192));
}

TEST_P(EveryCodec, ALostGenerationFailsTheNextFlush) {
  f.Open();
  f.Write(0, Pattern(512, 1));
  f.Run();
  ++f.server.open.generation;
  f.server.Cut();
  f.Run();
  Io* told = f.Flush();
  f.Run();
  Io* good = f.Flush();
  f.Run();
  EXPECT_EQ(told->result, -EIO);
  EXPECT_EQ(good->result, 0);
}

TEST_P(EveryCodec, ABusyVolumeIsAskedForAgain) {
  f.Open();
  f.server.open.status = wire::StatusCode::kBusy;
  f.server.open.retry_ms = 100;
  f.server.Cut();
  f.loop.Advance(kSecond);
  EXPECT_GT(f.server.opens.size(), 5u);
  f.server.open.status = wire::StatusCode::kOk;
  f.loop.Advance(kSecond);
  EXPECT_TRUE(f.ready());
}

TEST_P(EveryCodec, GivesUpAtOnceAndStoresNothingAfterwards) {
  f.server.hold = true;
  f.Open();
  Io* read = f.Read(0, 4096);
  Io* write = f.Write(8192, Pattern(512, 1));
  f.Run();
  f.channel.Revoke();
  EXPECT_EQ(read->result, -ECANCELED);
  EXPECT_EQ(write->result, -ECANCELED);
  f.server.hold = false;
  f.Run();
  EXPECT_EQ(read->Data(), std::string(4096, '\xee'));
  Io* later = f.Write(8192, Pattern(512, 2));
  f.Run();
  EXPECT_EQ(later->result, 0);
  EXPECT_EQ(f.server.disk.substr(8192, 512), Pattern(512, 2));
}

TEST_P(EveryCodec, ClosesInOrder) {
  f.Open();
  f.channel.Close(true);
  f.Run();
  EXPECT_EQ(f.times_closed, 1);
  EXPECT_EQ(f.server.closes, 1u);
  EXPECT_EQ(f.channel.state(), Channel::State::kIdle);
}

TEST_P(EveryCodec, AServerThatSaysNothingIsLeft) {
  f.server.silent = true;
  f.Open();
  f.loop.Advance(7 * kSecond);
  EXPECT_EQ(f.server.connections(), 1u);
  f.server.silent = false;
  f.loop.Advance(2 * kSecond);
  EXPECT_TRUE(f.ready());
  EXPECT_EQ(f.failures[0].error, ETIMEDOUT);
}

}  // namespace
}  // namespace cloudblk::testing
