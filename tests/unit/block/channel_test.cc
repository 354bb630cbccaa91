// SPDX-License-Identifier: GPL-2.0-or-later
//
// Requests over one healthy connection of the native protocol; codec_test.cc has what holds for
// any.
#include "block/channel.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cerrno>

#include "tests/support/cpp/channel_fixture.h"

namespace cloudblk::testing {
namespace {

using ::testing::ElementsAre;

TEST(ChannelOpen, HandshakeGoesOutInOneAndCarriesTheSession) {
  ChannelFixture f;
  f.Open();
  ASSERT_TRUE(f.ready());
  ASSERT_EQ(f.server.opens.size(), 1u);
  const wire::Open& open = f.server.opens[0];
  EXPECT_EQ(open.session, f.state.config().uuid);
  EXPECT_EQ(open.epoch, 1u);
  EXPECT_EQ(open.incarnation, 1u);
  EXPECT_EQ(open.flags, uint32_t{wire::OpenFlag::kActive});
  EXPECT_TRUE(open.volume.IsNil());
  EXPECT_EQ(f.server.opened_names[0], "disktest");
  EXPECT_EQ(f.times_ready, 1);
  EXPECT_EQ(f.state.size(), 4u << 20);
}

TEST(ChannelOpen, WhatTheServerSaysOfTheVolumeIsKept) {
  ChannelFixture f;
  f.server.note = "its storage is away";
  f.Open();
  ASSERT_TRUE(f.ready());
  EXPECT_EQ(f.state.note(), "its storage is away");
}

TEST(ChannelIo, ABatchIsOneFrameOneSendOneReceiveAndOneCompletion) {
  ChannelFixture f;
  f.Open();
  CloudblkStats before{}, after{};
  f.channel.FillStats(&before);
  for (int i = 0; i < 32; ++i) f.Read(i * 4096, 4096);
  f.channel.Kick();
  f.Run();
  f.channel.FillStats(&after);
  EXPECT_EQ(after.frames_sent - before.frames_sent, 1u);
  EXPECT_EQ(after.send_calls - before.send_calls, 1u);
  EXPECT_EQ(after.requests - before.requests, 32u);
  EXPECT_EQ(after.bytes_read - before.bytes_read, 32u * 4096);
  EXPECT_LE(after.receive_calls - before.receive_calls, 2u);
  EXPECT_THAT(f.batches, ElementsAre(32));
}

TEST(ChannelIo, WithoutKickItGoesOutAtTheEndOfTheTurn) {
  ChannelFixture f;
  f.Open();
  Io* io = f.Read(0, 4096);
  EXPECT_TRUE(f.server.seen.empty());
  f.Run();
  EXPECT_EQ(io->completions, 1);
}

TEST(ChannelIo, FlushFuaDiscardAndWriteZeroes) {
  ChannelFixture f;
  f.Open();
  f.server.disk = Pattern(f.server.disk.size(), 4);
  f.Flush();
  f.Write(0, Pattern(512, 5), {}, CLOUDBLK_REQUEST_FUA);
  f.Ranges(CLOUDBLK_OP_DISCARD, {{4096, 4096, 0}, {16384, 512, 0}});
  f.Ranges(CLOUDBLK_OP_WRITE_ZEROES, {{32768, 8192, CLOUDBLK_RANGE_UNMAP}}, CLOUDBLK_REQUEST_FUA);
  f.channel.Kick();
  f.Run();
  for (const auto& io : f.ios) EXPECT_EQ(io->result, 0);
  ASSERT_EQ(f.server.seen.size(), 4u);
  EXPECT_EQ(f.server.seen[0].request.operation, wire::Operation::kFlush);
  EXPECT_EQ(f.server.seen[1].request.flags, wire::RequestFlag::kFua);
  ASSERT_EQ(f.server.seen[2].ranges.size(), 2u);
  EXPECT_EQ(f.server.seen[2].ranges[1].offset, 16384u);
  EXPECT_EQ(f.server.seen[3].ranges[0].flags, wire::RangeFlag::kUnmap);
  EXPECT_EQ(f.server.seen[3].request.flags, wire::RequestFlag::kFua);
  EXPECT_EQ(f.server.disk.substr(32768, 8192), std::string(8192, '\0'));
}

TEST(ChannelIo, RefusesBadRequestsAndKeepsNothing) {
  FixtureOptions options;
  ChannelFixture f(options);
  f.Open();
  std::string memory(8192, 'x');
  iovec iov{memory.data(), 4096};
  const auto with = [&](CloudblkOperation operation, uint64_t offset, size_t length,
                        uint32_t flags) {
    iov.iov_len = length;
    return f.TrySubmit({operation, flags, offset, &iov, 1, 0, nullptr, nullptr});
  };
  EXPECT_EQ(with(CLOUDBLK_OP_READ, 1, 512, 0), -EINVAL);
  EXPECT_EQ(with(CLOUDBLK_OP_READ, 0, 511, 0), -EINVAL);
  EXPECT_EQ(with(CLOUDBLK_OP_READ, 0, 0, 0), -EINVAL);
  EXPECT_EQ(with(CLOUDBLK_OP_WRITE, f.state.size(), 512, 0), -EINVAL);
  EXPECT_EQ(with(CLOUDBLK_OP_WRITE, f.state.size() - 512, 1024, 0), -EINVAL);
  EXPECT_EQ(with(CLOUDBLK_OP_WRITE, UINT64_MAX - 511, 512, 0), -EINVAL);
  EXPECT_EQ(with(CLOUDBLK_OP_READ, 0, 512, CLOUDBLK_REQUEST_FUA), -EINVAL);
  EXPECT_EQ(with(static_cast<CloudblkOperation>(7), 0, 512, 0), -EINVAL);
  // 512, were it not for the overflow.
  const iovec huge[] = {{memory.data(), SIZE_MAX}, {memory.data(), 513}};
  EXPECT_EQ(f.TrySubmit({CLOUDBLK_OP_WRITE, 0, 0, huge, 2, 0, nullptr, nullptr}), -EINVAL);
  const auto range = [&](CloudblkOperation operation, CloudblkRange range) {
    return f.TrySubmit({operation, 0, 0, nullptr, 0, 1, &range, nullptr});
  };
  EXPECT_EQ(range(CLOUDBLK_OP_DISCARD, {0, 0, 0}), -EINVAL);
  EXPECT_EQ(range(CLOUDBLK_OP_DISCARD, {0, 512, CLOUDBLK_RANGE_UNMAP}), -EINVAL);
  EXPECT_EQ(range(CLOUDBLK_OP_WRITE_ZEROES, {f.state.size(), 512, 0}), -EINVAL);
  EXPECT_EQ(range(CLOUDBLK_OP_WRITE_ZEROES, {512, 513, 0}), -EINVAL);
  EXPECT_EQ(f.TrySubmit({CLOUDBLK_OP_DISCARD, 0, 0, nullptr, 0, 0, nullptr, nullptr}), -EINVAL);
  f.Run();
  EXPECT_TRUE(f.server.seen.empty());
  EXPECT_EQ(f.channel.in_flight(), 0u);
}

TEST(ChannelIo, RefusesWhatTheVolumeCannot) {
  ChannelFixture f;
  f.server.open.volume_flags = wire::VolumeFlag::kReadOnly;
  f.Open();
  std::string memory(512, 'x');
  iovec iov{memory.data(), 512};
  CloudblkRange range{0, 512, 0};
  EXPECT_EQ(f.TrySubmit({CLOUDBLK_OP_WRITE, 0, 0, &iov, 1, 0, nullptr, nullptr}), -EROFS);
  EXPECT_EQ(f.TrySubmit({CLOUDBLK_OP_DISCARD, 0, 0, nullptr, 0, 1, &range, nullptr}), -EROFS);
  ChannelFixture g;
  g.server.open.volume_flags = 0;
  g.Open();
  EXPECT_EQ(g.TrySubmit({CLOUDBLK_OP_DISCARD, 0, 0, nullptr, 0, 1, &range, nullptr}), -ENOTSUP);
  EXPECT_EQ(g.TrySubmit({CLOUDBLK_OP_WRITE_ZEROES, 0, 0, nullptr, 0, 1, &range, nullptr}),
            -ENOTSUP);
  ChannelFixture h(FixtureOptions{.observe = true});
  h.Open();
  EXPECT_EQ(h.server.opens[0].flags, 0u);
  EXPECT_EQ(h.TrySubmit({CLOUDBLK_OP_READ, 0, 0, &iov, 1, 0, nullptr, nullptr}), -ENOTSUP);
}

TEST(ChannelCredits, BytesCountToo) {
  ChannelFixture f;
  f.server.hold = true;
  f.server.open.credit_bytes = 256 << 10;
  f.Open();
  for (int i = 0; i < 5; ++i) f.Write(i * 131072, Pattern(131072, i));
  f.Run();
  EXPECT_EQ(f.server.pending.size(), 2u);
  f.server.Answer(0);
  f.Run();
  EXPECT_EQ(f.server.pending.size(), 2u);
  while (!f.server.pending.empty()) {
    f.server.Answer(0);
    f.Run();
  }
  for (int i = 0; i < 5; ++i) {
    EXPECT_EQ(f.server.disk.substr(i * 131072, 131072), Pattern(131072, i));
  }
}

TEST(ChannelPieces, RangesAreSplitByLengthAndNumber) {
  ChannelFixture f;
  f.server.open.max_ranges = 3;
  f.server.open.max_discard_length = 10000;  // 9728 in whole blocks
  f.Open();
  f.server.disk = Pattern(f.server.disk.size(), 10);
  std::string expected = f.server.disk;
  const std::vector<CloudblkRange> ranges = {{0, 30720, 0}, {65536, 512, 0}, {131072, 20480, 0}};
  for (const CloudblkRange& range : ranges) {
    expected.replace(range.offset, range.length, std::string(range.length, '\0'));
  }
  Io* io = f.Ranges(CLOUDBLK_OP_DISCARD, ranges);
  f.Run();
  EXPECT_EQ(io->completions, 1);
  EXPECT_EQ(io->result, 0);
  EXPECT_EQ(f.server.disk, expected);
  EXPECT_EQ(f.server.seen.size(), 3u);  // 4 + 1 + 3 ranges
}

TEST(ChannelPieces, EveryPieceOfAForcedWriteIsForced) {
  ChannelFixture f;
  f.server.hello.max_frame_payload = 4096;
  f.server.open.max_ranges = 1;
  f.Open();
  f.Write(0, Pattern(12288, 1), {}, CLOUDBLK_REQUEST_FUA);
  f.Ranges(CLOUDBLK_OP_WRITE_ZEROES, {{65536, 512, 0}, {131072, 512, 0}}, CLOUDBLK_REQUEST_FUA);
  f.Run();
  EXPECT_EQ(f.server.seen.size(), 5u);
  for (const FakeServer::Seen& seen : f.server.seen) {
    EXPECT_EQ(seen.request.flags, wire::RequestFlag::kFua);
  }
}

TEST(ChannelPieces, RangesAreNoMoreThanAFrameHolds) {
  ChannelFixture f;
  f.server.hello.max_frame_payload = 4096;
  f.server.open.max_ranges = wire::kMaxRanges;
  f.Open();
  std::vector<CloudblkRange> ranges;
  for (uint64_t i = 0; i < wire::kMaxRanges; ++i) ranges.push_back({i * 1024, 512, 0});
  Io* io = f.Ranges(CLOUDBLK_OP_DISCARD, ranges);
  f.Run();
  EXPECT_EQ(io->completions, 1);
  EXPECT_EQ(io->result, 0);
}

TEST(ChannelPieces, NoneIsLongerThanTheCredits) {
  ChannelFixture f;
  f.server.open.credit_bytes = wire::kMinFramePayload;
  f.Open();
  Io* io = f.Write(0, Pattern(65536, 1));
  f.Run();
  EXPECT_EQ(io->completions, 1);
  EXPECT_EQ(f.server.disk.substr(0, 65536), Pattern(65536, 1));
}

TEST(ChannelPieces, ManyElementsAreMoreThanOneSystemCallTakes) {
  ChannelFixture f;
  f.Open();
  const std::vector<size_t> elements(2999, 50);
  Io* write = f.Write(0, Pattern(153600, 11), elements);
  f.Run();
  EXPECT_EQ(write->result, 0);
  Io* read = f.Read(0, 153600, elements);
  f.Run();
  EXPECT_EQ(read->Data(), Pattern(153600, 11));
}

TEST(ChannelFrames, HoldNoMoreThanNegotiated) {
  ChannelFixture f;
  f.server.hello.max_frame_entries = 3;
  f.server.hello.max_frame_payload = 8192;
  f.server.hold = true;
  f.Open();
  for (int i = 0; i < 7; ++i) f.Read(i * 4096, 4096);
  for (int i = 0; i < 3; ++i) f.Write((16 + i) * 4096, Pattern(4096, i));
  f.Run();
  std::vector<uint32_t> frames;
  for (const auto& seen : f.server.seen) frames.push_back(seen.frame);
  EXPECT_THAT(frames, ElementsAre(0, 0, 0, 1, 1, 1, 2, 2, 2, 3));
}

TEST(ChannelOverlap, AnOverlappingWriteWaitsAndSoDoThoseBehindIt) {
  ChannelFixture f;
  f.server.hold = true;
  f.Open();
  f.Write(0, Pattern(8192, 1));
  f.Write(4096, Pattern(8192, 2));                        // waits for the first
  f.Ranges(CLOUDBLK_OP_WRITE_ZEROES, {{8192, 4096, 0}});  // waits for the second
  f.Write(65536, Pattern(4096, 3));                       // free
  f.Read(0, 4096);                                        // free
  f.Flush();                                              // free
  f.Run();
  EXPECT_EQ(f.server.pending.size(), 4u);
  f.server.Answer(0);
  f.Run();
  ASSERT_EQ(f.server.seen.size(), 5u);
  EXPECT_EQ(f.server.seen[4].request.offset, 4096u);
  while (!f.server.pending.empty()) {
    f.server.Answer(0);
    f.Run();
  }
  ASSERT_EQ(f.server.seen.size(), 6u);
  EXPECT_EQ(f.server.disk.substr(4096, 4096), Pattern(8192, 2).substr(0, 4096));
  EXPECT_EQ(f.server.disk.substr(8192, 4096), std::string(4096, '\0'));
}

TEST(ChannelCrc, DataIsSummedBothWays) {
  ChannelFixture f(FixtureOptions{.payload_crc = true});
  f.server.hello.features |= wire::Feature::kPayloadCrc;
  f.Open();
  ASSERT_TRUE(f.ready());
  // Several blocks, not a multiple of one, in small elements.
  const size_t length = 3 * 65536 + 1536;
  const std::vector<size_t> elements(100, 700);
  Io* write = f.Write(512, Pattern(length, 1), elements);
  f.Ranges(CLOUDBLK_OP_DISCARD, {{1 << 20, 4096, 0}});
  f.Run();
  EXPECT_EQ(write->result, 0);
  Io* read = f.Read(512, length, elements);
  Io* small = f.Read(0, 512);
  f.Run();
  EXPECT_EQ(read->Data(), Pattern(length, 1));
  EXPECT_EQ(small->Data(), std::string(512, '\0'));
}

TEST(ChannelCrc, CorruptDataIsNeverStoredAndReadAgain) {
  ChannelFixture f(FixtureOptions{.payload_crc = true});
  f.server.hello.features |= wire::Feature::kPayloadCrc;
  f.Open();
  f.server.disk.replace(0, 4096, Pattern(4096, 1));
  f.server.corrupt_data = true;
  f.server.hold = true;
  Io* read = f.Read(0, 4096);
  f.Run();
  f.server.Answer(0);
  // Received, found wrong, and the connection is gone: not a byte of it may show.
  f.Run();
  EXPECT_EQ(read->completions, 0);
  EXPECT_EQ(read->Data(), std::string(4096, '\xee'));
  EXPECT_EQ(f.server.connections(), 2u);
  f.server.Answer(0);
  f.Run();
  EXPECT_EQ(read->Data(), Pattern(4096, 1));
  EXPECT_EQ(read->result, 0);
}

TEST(ChannelCrc, AServerThatCannotIsRefused) {
  ChannelFixture f(FixtureOptions{.payload_crc = true});
  f.Open();
  EXPECT_FALSE(f.ready());
  ASSERT_FALSE(f.failures.empty());
  EXPECT_EQ(f.failures[0].error, EPROTO);
}

}  // namespace
}  // namespace cloudblk::testing
