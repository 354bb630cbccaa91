// SPDX-License-Identifier: GPL-2.0-or-later
//
// BLOCK_STATUS in the engine: what the host gets, from good servers, old ones and those that lie.
#include <gtest/gtest.h>

#include <cerrno>
#include <cstring>

#include "tests/support/cpp/channel_fixture.h"

namespace cloudblk::testing {
namespace {

constexpr uint32_t kHole = CLOUDBLK_EXTENT_HOLE | CLOUDBLK_EXTENT_ZERO;

using List = std::vector<std::pair<uint64_t, uint32_t>>;

List ExtentsOf(const Io& io) {
  EXPECT_EQ(io.completions, 1);
  EXPECT_EQ(io.result, 0);
  EXPECT_EQ(io.bytes_stored % sizeof(CloudblkExtent), 0u);
  const std::string data = io.Data();
  List list;
  for (uint64_t at = 0; at < io.bytes_stored; at += sizeof(CloudblkExtent)) {
    CloudblkExtent extent;
    std::memcpy(&extent, &data[at], sizeof(extent));
    EXPECT_EQ(extent.reserved, 0u);
    list.emplace_back(extent.length, extent.flags);
  }
  return list;
}

class BlockStatus : public ::testing::TestWithParam<bool> {
 protected:
  BlockStatus() {
    f.server.disk.replace(8192, 4096, Pattern(4096, 1));
    if (GetParam()) f.server.hello.features |= wire::Feature::kPayloadCrc;
    f.Open();
  }

  ChannelFixture f{FixtureOptions{.payload_crc = GetParam()}};
};

TEST_P(BlockStatus, BringsExtentsAmongOtherAnswers) {
  Io* first = f.Read(8192, 4096, {100, 1000});
  Io* status = f.BlockStatus({0, 65536, 0}, 16);
  Io* all = f.BlockStatus({4096, 4096, 0}, 1);
  Io* last = f.Read(0, 16384);
  f.Run();
  EXPECT_EQ(ExtentsOf(*status), (List{{8192, kHole}, {4096, 0}, {53248, kHole}}));
  EXPECT_EQ(ExtentsOf(*all), (List{{4096, kHole}}));
  EXPECT_EQ(first->Data(), f.server.disk.substr(8192, 4096));
  EXPECT_EQ(last->Data(), f.server.disk.substr(0, 16384));
  EXPECT_EQ(f.server.connections(), 1u);
}

TEST_P(BlockStatus, AsksForNoMoreThanThereIsRoomFor) {
  Io* two = f.BlockStatus({0, 65536, 0}, 2);
  Io* many = f.BlockStatus({0, 65536, 0}, 1000);
  f.Run();
  EXPECT_EQ(ExtentsOf(*two), (List{{8192, kHole}, {4096, 0}}));
  EXPECT_EQ(two->Data().size(), 2 * sizeof(CloudblkExtent));
  EXPECT_EQ(ExtentsOf(*many).size(), 3u);
  EXPECT_EQ(f.server.seen[1].request.length, wire::kMaxExtents * wire::kExtentSize);
}

// Cut before every byte of the answer, and once more for the request.
TEST_P(BlockStatus, ComesAgainAfterACut) {
  f.server.hold = true;
  Io* status = f.BlockStatus({0, 65536, 0}, 16);
  f.Run();
  ASSERT_EQ(f.server.pending.size(), 1u);
  f.server.Cut();
  f.Run();
  EXPECT_EQ(f.server.connections(), 2u);
  EXPECT_EQ(status->completions, 0);
  ASSERT_EQ(f.server.pending.size(), 1u);
  f.server.Answer(0);
  f.Run();
  EXPECT_EQ(ExtentsOf(*status).size(), 3u);
}

// Whatever the pieces that the answer comes in.
TEST_P(BlockStatus, TheAnswerMayComeInAnyPieces) {
  f.server.hold = true;
  for (const size_t step : {1, 7, 50}) {
    Io* status = f.BlockStatus({0, 65536, 0}, 16);
    Io* read = f.Read(8192, 512);
    f.Run();
    ASSERT_EQ(f.server.pending.size(), 2u);
    f.server.Answer(0, 2);
    f.RunInPieces(step);
    EXPECT_EQ(ExtentsOf(*status).size(), 3u);
    EXPECT_EQ(read->Data(), f.server.disk.substr(8192, 512));
  }
}

TEST_P(BlockStatus, ThatFailsSaysSo) {
  f.server.hold = true;
  Io* status = f.BlockStatus({0, 65536, 0}, 16);
  f.Run();
  f.server.Answer(0, 1, wire::StatusCode::kIoError);
  f.Run();
  EXPECT_EQ(status->completions, 1);
  EXPECT_EQ(status->result, -EIO);
  EXPECT_EQ(status->bytes_stored, 0u);
}

// Nothing is stored, and the next connection serves.
TEST_P(BlockStatus, AListThatCannotBeEndsTheConnection) {
  const auto list = [](const std::vector<wire::Extent>& extents) {
    std::string bytes(extents.size() * wire::kExtentSize, '\0');
    for (size_t i = 0; i < extents.size(); ++i) {
      wire::Encode(extents[i],
                   {reinterpret_cast<uint8_t*>(&bytes[i * wire::kExtentSize]), wire::kExtentSize});
    }
    return bytes;
  };
  std::string reserved = list({{512, 0}});
  reserved.back() = 1;
  const std::vector<std::string> bad = {
      "",
      list({{512, 0}}).substr(0, 15),
      list({{512, 0}, {512, 1}}) + "x",
      list({{0, 0}}),
      list({{512, 4}}),
      list({{100, 0}}),
      list({{65536, 0}, {512, 1}}),
      list({{66048, 0}}),
      list({{uint64_t{1} << 63, 0}}),
      list({{INT64_MAX - 511, 0}, {INT64_MAX - 511, 1}, {1024, 0}}),
      list({{512, 0}, {512, 1}, {512, 0}, {512, 1}, {512, 0}}),
      reserved,
  };
  for (const std::string& payload : bad) {
    ChannelFixture g{FixtureOptions{.payload_crc = GetParam()}};
    if (GetParam()) g.server.hello.features |= wire::Feature::kPayloadCrc;
    g.server.hold = true;
    g.Open();
    Io* status = g.BlockStatus({0, 65536, 0}, 4);
    g.Run();
    ASSERT_EQ(g.server.pending.size(), 1u);
    g.server.SendReply({{g.server.pending[0].request.tag, wire::StatusCode::kOk,
                         static_cast<uint32_t>(payload.size()), 0}},
                       payload);
    g.Run();
    EXPECT_EQ(g.server.connections(), 2u) << payload.size();
    ASSERT_EQ(status->completions, 0) << payload.size();
    EXPECT_EQ(status->Data(), std::string(4 * sizeof(CloudblkExtent), '\xee'));
    ASSERT_EQ(g.server.pending.size(), 1u);
    g.server.Answer(0);
    g.Run();
    EXPECT_EQ(ExtentsOf(*status), (List{{65536, kHole}}));
  }
}

INSTANTIATE_TEST_SUITE_P(PayloadCrc, BlockStatus, ::testing::Bool());

TEST(BlockStatusOf, SubmitIsHeldToTheVolume) {
  ChannelFixture f;
  f.Open();
  CloudblkExtent extents[2];
  const auto submit = [&](const CloudblkRange& range, size_t room, uint32_t ranges = 1,
                          uint32_t flags = 0) {
    const iovec iov{extents, room};
    return f.TrySubmit({CLOUDBLK_OP_BLOCK_STATUS, flags, 0, &iov, 1, ranges, &range, nullptr});
  };
  EXPECT_EQ(submit({0, f.server.open.size + 512, 0}, sizeof(extents)), -EINVAL);
  EXPECT_EQ(submit({0, 100, 0}, sizeof(extents)), -EINVAL);
  EXPECT_EQ(submit({0, 0, 0}, sizeof(extents)), -EINVAL);
  EXPECT_EQ(submit({0, 512, 1}, sizeof(extents)), -EINVAL);
  EXPECT_EQ(submit({0, 512, 0}, sizeof(CloudblkExtent) - 1), -EINVAL);
  EXPECT_EQ(submit({0, 512, 0}, sizeof(extents), 0), -EINVAL);
  EXPECT_EQ(submit({0, 512, 0}, sizeof(extents), 1, CLOUDBLK_REQUEST_FUA), -EINVAL);
  EXPECT_TRUE(f.server.seen.empty());
}

TEST(BlockStatusOf, WhoObservesMayAsk) {
  ChannelFixture f{FixtureOptions{.observe = true}};
  f.Open();
  Io* status = f.BlockStatus({0, 4096, 0}, 1);
  f.Run();
  EXPECT_EQ(ExtentsOf(*status), (List{{4096, kHole}}));
}

TEST(BlockStatusOf, AnOldServerIsNotAsked) {
  ChannelFixture f;
  f.server.hello.features &= ~uint64_t{wire::Feature::kBlockStatus};
  f.Open();
  CloudblkExtent extent;
  const iovec iov{&extent, sizeof(extent)};
  const CloudblkRange range{0, 4096, 0};
  EXPECT_EQ(f.TrySubmit({CLOUDBLK_OP_BLOCK_STATUS, 0, 0, &iov, 1, 1, &range, nullptr}), -ENOTSUP);
}

TEST(BlockStatusOf, AServerThatBecameAnOldOneIsNotAsked) {
  ChannelFixture f;
  f.Open();
  f.server.hold = true;
  Io* status = f.BlockStatus({0, 4096, 0}, 1);
  f.Run();
  f.server.hello.features &= ~uint64_t{wire::Feature::kBlockStatus};
  f.server.Cut();
  f.Run();
  EXPECT_EQ(f.server.connections(), 2u);
  EXPECT_EQ(status->completions, 1);
  EXPECT_EQ(status->result, -ENOTSUP);
  EXPECT_EQ(f.server.seen.size(), 1u);
}

}  // namespace
}  // namespace cloudblk::testing
