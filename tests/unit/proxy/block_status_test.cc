// SPDX-License-Identifier: GPL-2.0-or-later
//
// SPEC.md 8.16 at the server: who may ask for what, and what it is answered.
#include <gtest/gtest.h>

#include "proxy/request_stream.h"
#include "tests/unit/proxy/test_server.h"

namespace cloudblk::proxy {
namespace {

using Code = wire::StatusCode;

constexpr uint64_t kMiB = 1 << 20;
constexpr uint32_t kHole = wire::ExtentFlag::kHole | wire::ExtentFlag::kZero;

class BlockStatusServer : public testing::TestWithParam<const char*> {
 protected:
  std::unique_ptr<RawClient> Opened(uint32_t flags = wire::OpenFlag::kActive, uint8_t session = 1,
                                    uint64_t features = wire::Feature::kBlockStatus) {
    std::unique_ptr<RawClient> client = server_.Connect();
    EXPECT_EQ(client->Open(OpenOf(session, flags), GetParam(), features), Code::kOk);
    return client;
  }
  // (length, flags) of the extents of a reply.
  static std::vector<std::pair<uint64_t, uint32_t>> ExtentsOf(const ReceivedReply& reply) {
    EXPECT_EQ(reply.reply.status, Code::kOk);
    EXPECT_EQ(reply.data.size() % wire::kExtentSize, 0u);
    std::vector<std::pair<uint64_t, uint32_t>> extents;
    for (size_t at = 0; at < reply.data.size(); at += wire::kExtentSize) {
      wire::Extent extent;
      EXPECT_EQ(wire::Decode(std::span(reply.data).subspan(at), &extent), wire::DecodeError::kOk);
      extents.emplace_back(extent.length, extent.flags);
    }
    return extents;
  }

  TempFolder folder_;
  TestServer server_{{{"memory", "memory:?size=8M"},
                      {"file", "file://" + (folder_ / "f.img") + "?size=8M&create=on"}}};
};

using List = std::vector<std::pair<uint64_t, uint32_t>>;

TEST_P(BlockStatusServer, TellsWhereThereIsData) {
  for (const uint64_t crc : {uint64_t{0}, uint64_t{wire::Feature::kPayloadCrc}}) {
    const auto client =
        Opened(wire::OpenFlag::kActive, crc != 0 ? 2 : 1, wire::Feature::kBlockStatus | crc);
    if (crc == 0) {
      ASSERT_EQ(client->Do(WriteOf(1, kMiB, 65536), Pattern(65536, 1)), Code::kOk);
    }
    // Among others, in one frame.
    ASSERT_TRUE(client->Send(RequestFrame({ReadOf(2, kMiB, 512), BlockStatusOf(3, 0, 8 * kMiB),
                                           BlockStatusOf(4, kMiB, 512), ReadOf(5, kMiB, 512)})));
    EXPECT_EQ(ExtentsOf(client->ReplyTo(3)),
              (List{{kMiB, kHole}, {65536, 0}, {7 * kMiB - 65536, kHole}}));
    EXPECT_EQ(ExtentsOf(client->ReplyTo(4)), (List{{512, 0}}));
    const Bytes data = Pattern(65536, 1);
    EXPECT_EQ(client->ReplyTo(2).data, Bytes(data.begin(), data.begin() + 512));
    EXPECT_EQ(client->ReplyTo(5).data, Bytes(data.begin(), data.begin() + 512));
    ASSERT_TRUE(client->Send(RequestFrame({BlockStatusOf(6, 0, 8 * kMiB, 2)})));
    EXPECT_EQ(ExtentsOf(client->ReplyTo(6)), (List{{kMiB, kHole}, {65536, 0}}));
    ASSERT_TRUE(client->Send(
        Frame(wire::FrameType::kClose, Encoded(wire::Close{wire::CloseFlag::kEndSession}))));
    ASSERT_TRUE(client->ReceiveOf(wire::FrameType::kCloseReply));
  }
}

TEST_P(BlockStatusServer, WhoObservesMayAskToo) {
  const auto holder = Opened();
  ASSERT_EQ(holder->Do(WriteOf(1, 0, 65536), Pattern(65536, 1)), Code::kOk);
  const auto client = Opened(0, 2);
  ASSERT_TRUE(client->Send(RequestFrame({BlockStatusOf(1, 0, kMiB), ReadOf(2, 0, 512)})));
  EXPECT_EQ(ExtentsOf(client->ReplyTo(1)), (List{{65536, 0}, {kMiB - 65536, kHole}}));
  EXPECT_EQ(client->ReplyTo(2).reply.status, Code::kNotActive);
}

TEST_P(BlockStatusServer, IsHeldToTheVolume) {
  const auto client = Opened();
  EXPECT_EQ(client->Do(BlockStatusOf(1, 8 * kMiB - 512, 1024)), Code::kOutOfRange);
  EXPECT_EQ(client->Do(BlockStatusOf(2, INT64_MAX - 511, 511)), Code::kOutOfRange);
  EXPECT_EQ(client->Do(BlockStatusOf(3, 256, 512)), Code::kInvalid);
  EXPECT_EQ(client->Do(BlockStatusOf(4, 0, 513)), Code::kInvalid);
  EXPECT_EQ(client->Do(BlockStatusOf(5, 8 * kMiB - 512, 512)), Code::kOk);
}

// As many as there are credits, which all are answered.
TEST_P(BlockStatusServer, ManyAtOnce) {
  const auto client = Opened();
  std::vector<wire::Request> requests;
  for (uint64_t tag = 0; tag < kCreditRequests; ++tag) {
    requests.push_back(BlockStatusOf(tag, tag * 4096, 4096, 1));
  }
  ASSERT_TRUE(client->Send(RequestFrame(requests)));
  for (uint64_t tag = 0; tag < kCreditRequests; ++tag) {
    EXPECT_EQ(ExtentsOf(client->ReplyTo(tag)), (List{{4096, kHole}}));
  }
}

TEST_P(BlockStatusServer, MustBeInForce) {
  const auto client = Opened(wire::OpenFlag::kActive, 1, wire::Feature::kHoleReply);
  ASSERT_TRUE(client->Send(RequestFrame({BlockStatusOf(1, 0, 512)})));
  EXPECT_TRUE(client->Ended());
  EXPECT_EQ(client->text, "BLOCK_STATUS is not in force");
}

INSTANTIATE_TEST_SUITE_P(Volumes, BlockStatusServer, testing::Values("memory", "file"),
                         [](const auto& info) { return std::string(info.param); });

}  // namespace
}  // namespace cloudblk::proxy
