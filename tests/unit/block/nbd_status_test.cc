// SPDX-License-Identifier: GPL-2.0-or-later
//
// BLOCK_STATUS by NBD: how it is agreed on, and what good servers and those that lie answer.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cerrno>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "tests/support/cpp/channel_fixture.h"

namespace cloudblk::testing {
namespace {

using ::testing::HasSubstr;

constexpr int64_t kSecond = 1'000'000'000;
constexpr uint16_t kDone = nbd::ChunkFlag::kDone;
constexpr uint32_t kHole = CLOUDBLK_EXTENT_HOLE | CLOUDBLK_EXTENT_ZERO;

using List = std::vector<std::pair<uint64_t, uint32_t>>;
using Descriptors = std::vector<std::pair<uint32_t, uint32_t>>;

List ExtentsOf(const Io& io) {
  EXPECT_EQ(io.completions, 1);
  EXPECT_EQ(io.result, 0);
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

std::string BigEndian(uint64_t value, size_t size) {
  std::string bytes;
  for (size_t i = size; i > 0; --i) bytes += static_cast<char>(value >> (8 * (i - 1)) & 0xff);
  return bytes;
}

// --- The wire ------------------------------------------------------------------------------------

TEST(NbdStatusBytes, OfTheOption) {
  const std::string expected(
      "\0\0\0\4disk\0\0\0\1\0\0\0\x0f"
      "base:allocation",
      31);
  std::string bytes(nbd::SetMetaContextSize("disk"), 'x');
  nbd::EncodeSetMetaContext("disk", reinterpret_cast<uint8_t*>(bytes.data()));
  EXPECT_EQ(bytes, expected);
}

TEST(NbdStatusBytes, OfTheRequest) {
  ChannelFixture f{FixtureOptions{.protocol = Speaks::kNbd}};
  f.Open();
  f.server.deaf = true;
  f.BlockStatus({8192, 65536, 0}, 4);
  f.Run();
  const std::string sent = f.server.link()->to_server;
  ASSERT_EQ(sent.size(), nbd::kRequestSize);
  EXPECT_EQ(sent.substr(0, 8), std::string("\x25\x60\x95\x13\0\0\0\7", 8));
  EXPECT_EQ(sent.substr(16), std::string("\0\0\0\0\0\0\x20\0\0\1\0\0", 12));
  f.server.deaf = false;
  f.Run();
}

// --- Negotiation ---------------------------------------------------------------------------------

class NbdContextTest : public ::testing::Test {
 protected:
  NbdFakeServer& server() { return f.nbd_server(); }
  // The server serves, and is not asked.
  void ExpectNone() {
    f.Open();
    ASSERT_TRUE(f.ready());
    EXPECT_EQ(f.server.connections(), 1u);
    ASSERT_FALSE(f.state.promises().block_status);
    CloudblkExtent extent;
    const iovec iov{&extent, sizeof(extent)};
    const CloudblkRange range{0, 4096, 0};
    EXPECT_EQ(f.TrySubmit({CLOUDBLK_OP_BLOCK_STATUS, 0, 0, &iov, 1, 1, &range, nullptr}), -ENOTSUP);
    const Io* read = f.Read(0, 4096);
    f.Run();
    EXPECT_EQ(read->result, 0);
  }

  ChannelFixture f{FixtureOptions{.protocol = Speaks::kNbd}};
};

TEST_F(NbdContextTest, AServerThatGrantsItIsAsked) {
  f.Open();
  EXPECT_TRUE(f.state.promises().block_status);
  Io* status = f.BlockStatus({0, 4096, 0}, 1);
  f.Run();
  EXPECT_EQ(ExtentsOf(*status), (List{{4096, kHole}}));
}

TEST_F(NbdContextTest, AServerWithSimpleRepliesIsNot) {
  server().structured = false;
  ExpectNone();
}

TEST_F(NbdContextTest, NorOneThatGrantsNothing) {
  server().contexts = false;
  ExpectNone();
}

TEST_F(NbdContextTest, NorOneThatDoesNotKnowTheOption) {
  server().contexts = false;
  server().context_error = nbd::OptionReply::kUnsupported;
  ExpectNone();
}

TEST_F(NbdContextTest, WhatWasGrantedBeforeARefusalDoesNotHold) {
  server().context_error = nbd::OptionReply::kPolicy;
  ExpectNone();
}

TEST_F(NbdContextTest, RepliesThatCannotBeEndTheConnection) {
  const auto reply = [](uint32_t type, const std::string& data) {
    return NbdFakeServer::OptionReply(nbd::Option::kSetMetaContext, type, data);
  };
  const auto context = [&](const std::string& data) {
    return reply(nbd::OptionReply::kMetaContext, data);
  };
  const std::pair<std::string, const char*> cases[] = {
      {context("abc"), "a context without its id"},
      {context("\0\0\0\1"), "a context without its id"},
      {context(BigEndian(1, 4)), "a context that was not asked for"},
      {context(BigEndian(1, 4) + "base:allocatio"), "a context that was not asked for"},
      {context(BigEndian(1, 4) + "base:allocation."), "a context that was not asked for"},
      {context(BigEndian(1, 4) + "base:allocation"), "a context that came before"},
      {reply(nbd::OptionReply::kAck, "x"), "ACK with data"},
      {reply(nbd::OptionReply::kInfo, BigEndian(0, 2)), "unknown reply"},
      {NbdFakeServer::OptionReply(nbd::Option::kGo, nbd::OptionReply::kAck, ""), "not asked for"}};
  for (const auto& [bytes, text] : cases) {
    ChannelFixture one(FixtureOptions{.protocol = Speaks::kNbd});
    one.nbd_server().before_context = bytes;
    one.Open();
    ASSERT_FALSE(one.failures.empty()) << text;
    EXPECT_EQ(one.failures[0].error, EPROTO);
    EXPECT_THAT(one.failures[0].text, HasSubstr(text));
  }
  ChannelFixture late(FixtureOptions{.protocol = Speaks::kNbd});
  late.nbd_server().before_go = NbdFakeServer::OptionReply(
      nbd::Option::kGo, nbd::OptionReply::kMetaContext, BigEndian(1, 4) + "base:allocation");
  late.Open();
  ASSERT_FALSE(late.failures.empty());
  EXPECT_THAT(late.failures[0].text, HasSubstr("unknown reply"));
}

// --- Answers -------------------------------------------------------------------------------------

class NbdStatusTest : public ::testing::Test {
 protected:
  explicit NbdStatusTest(uint64_t export_size = 0) {
    f.server.disk.replace(8192, 4096, Pattern(4096, 1));
    f.nbd_server().export_size = export_size;
    f.server.hold = true;
    f.Open();
  }
  // What the host gets for [0, length), with room for `most`, when the server says that.
  List Answered(const Descriptors& descriptors, uint64_t length = 65536, size_t most = 300) {
    Io* status = f.BlockStatus({0, length, 0}, most);
    f.Run();
    EXPECT_EQ(f.server.pending.size(), 1u);
    f.server.Send(NbdFakeServer::StatusChunk(kDone, tag(), descriptors));
    f.server.pending.clear();
    f.Run();
    EXPECT_EQ(f.server.connections(), 1u);
    return ExtentsOf(*status);
  }
  uint64_t tag(size_t i = 0) const { return f.server.pending[i].request.tag; }

  ChannelFixture f{FixtureOptions{.protocol = Speaks::kNbd}};
};

TEST_F(NbdStatusTest, ComesAmongOtherAnswers) {
  f.server.hold = false;
  Io* first = f.Read(8192, 4096, {100, 1000});
  Io* status = f.BlockStatus({0, 65536, 0}, 16);
  Io* last = f.Read(0, 16384);
  f.Run();
  EXPECT_EQ(ExtentsOf(*status), (List{{8192, kHole}, {4096, 0}, {53248, kHole}}));
  EXPECT_EQ(first->Data(), f.server.disk.substr(8192, 4096));
  EXPECT_EQ(last->Data(), f.server.disk.substr(0, 16384));
  EXPECT_EQ(f.server.connections(), 1u);
}

TEST_F(NbdStatusTest, MayComeInAnyPieces) {
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

TEST_F(NbdStatusTest, ChunksOfTwoAnswersMayAlternate) {
  Io* one = f.BlockStatus({0, 65536, 0}, 4);
  Io* other = f.BlockStatus({0, 4096, 0}, 4);
  f.Run();
  const std::string end = NbdFakeServer::Chunk(kDone, nbd::ChunkType::kNone, tag(), "");
  f.server.Send(NbdFakeServer::StatusChunk(0, tag(), {{65536, 3}}));
  f.server.Send(NbdFakeServer::StatusChunk(kDone, tag(1), {{4096, 0}}));
  f.Run();
  EXPECT_EQ(one->completions, 0);
  EXPECT_EQ(ExtentsOf(*other), (List{{4096, 0}}));
  f.server.Send(end);
  f.server.pending.clear();
  f.Run();
  EXPECT_EQ(ExtentsOf(*one), (List{{65536, kHole}}));
}

TEST_F(NbdStatusTest, FlagsAreThoseOfTheEngineAndOthersAreNone) {
  EXPECT_EQ(
      Answered({{512, 1}, {512, 2}, {512, 3}, {512, 0xfffffffc}}),
      (List{{512, CLOUDBLK_EXTENT_HOLE}, {512, CLOUDBLK_EXTENT_ZERO}, {512, kHole}, {512, 0}}));
}

TEST_F(NbdStatusTest, WhatIsAlikeIsOneExtent) {
  EXPECT_EQ(Answered({{512, 3}, {512, 0xf3}, {1024, 0}, {512, 0}}),
            (List{{1024, kHole}, {1536, 0}}));
}

TEST_F(NbdStatusTest, WhatThereIsNoRoomForIsLeftOut) {
  Descriptors many;
  for (uint32_t i = 0; i < 1000; ++i) many.emplace_back(512, i % 2 * 3);
  const List two = Answered(many, 1 << 20, 2);
  EXPECT_EQ(two, (List{{512, 0}, {512, kHole}}));
  EXPECT_EQ(Answered(many, 1 << 20, 300).size(), 256u);
  // Nothing joins what was left out to what was kept.
  EXPECT_EQ(Answered({{512, 0}, {512, 3}, {512, 0}}, 65536, 1), (List{{512, 0}}));
}

TEST_F(NbdStatusTest, TheLastOneMayReachBeyondTheRange) {
  EXPECT_EQ(Answered({{512, 0}, {UINT32_MAX, 3}}), (List{{512, 0}, {65024, kHole}}));
  EXPECT_EQ(Answered({{UINT32_MAX, 3}}), (List{{65536, kHole}}));
}

TEST_F(NbdStatusTest, ABlockOfSeveralIsWhatAllOfThemAre) {
  EXPECT_EQ(Answered({{100, 3}, {200, 2}, {212, 3}, {512, 3}}),
            (List{{512, CLOUDBLK_EXTENT_ZERO}, {512, kHole}}));
  EXPECT_EQ(Answered({{1000, 3}, {24, 0}, {1536, 3}}),
            (List{{512, kHole}, {512, 0}, {1536, kHole}}));
  EXPECT_EQ(Answered({{100, 3}, {1436, 0}, {100, 3}, {100, 0}}), (List{{1536, 0}}));
  EXPECT_EQ(Answered({{600, 3}, {5000, 3}, {32, 3}}), (List{{5632, kHole}}));
}

TEST_F(NbdStatusTest, OfABlockThatIsNotToldOfAsAWholeNothingIsKnown) {
  EXPECT_EQ(Answered({{1000, 3}}), (List{{512, kHole}}));
  EXPECT_EQ(Answered({{511, 3}}), (List{{512, 0}}));
}

TEST_F(NbdStatusTest, ThatFailsSaysSo) {
  Io* status = f.BlockStatus({0, 65536, 0}, 16);
  Io* simple = f.BlockStatus({0, 65536, 0}, 16);
  Io* late = f.BlockStatus({0, 65536, 0}, 16);
  f.Run();
  f.server.Send(NbdFakeServer::ErrorChunk(kDone, tag(0), 5, "says the server"));
  f.server.Send(NbdFakeServer::SimpleReply(28, tag(1)));
  f.server.Send(NbdFakeServer::StatusChunk(0, tag(2), {{512, 0}}));
  f.server.Send(NbdFakeServer::ErrorChunk(kDone, tag(2), 12, ""));
  f.server.pending.clear();
  f.Run();
  EXPECT_EQ(status->result, -EIO);
  EXPECT_EQ(status->bytes_stored, 0u);
  EXPECT_EQ(simple->result, -ENOSPC);
  EXPECT_EQ(late->result, -ENOMEM);
  EXPECT_EQ(f.server.connections(), 1u);
}

// Nothing is stored, and the next connection serves.
TEST_F(NbdStatusTest, AnswersThatCannotBeEndTheConnection) {
  // Of a tag that is not known yet.
  constexpr uint64_t kTag = 0x1122334455667788;
  const auto chunk = [](const Descriptors& list) {
    return NbdFakeServer::StatusChunk(kDone, kTag, list);
  };
  const auto raw = [](uint16_t flags, const std::string& payload) {
    return NbdFakeServer::Chunk(flags, nbd::ChunkType::kBlockStatus, kTag, payload);
  };
  const std::string id = BigEndian(NbdFakeServer::kContext, 4);
  const std::string one = BigEndian(512, 4) + BigEndian(3, 4);
  const std::string too_long = BigEndian(nbd::kChunkMagic, 4) + BigEndian(kDone, 2) +
                               BigEndian(nbd::ChunkType::kBlockStatus, 2) + BigEndian(kTag, 8) +
                               BigEndian(4 + 8 * ((1 << 20) + 1), 4);
  const std::pair<std::string, const char*> cases[] = {
      {raw(kDone, ""), "length cannot be"},
      {raw(kDone, id), "length cannot be"},
      {raw(kDone, id.substr(1)), "length cannot be"},
      {raw(kDone, id + one.substr(1)), "length cannot be"},
      {raw(kDone, id + one + "x"), "length cannot be"},
      {too_long, "length cannot be"},
      {raw(kDone, BigEndian(NbdFakeServer::kContext + 1, 4) + one),
       "extents of an unknown context"},
      {chunk({{0, 0}}), "not what was asked about"},
      {chunk({{512, 3}, {0, 0}}), "not what was asked about"},
      {chunk({{65536, 3}, {512, 0}}), "not what was asked about"},
      {chunk({{66048, 3}, {512, 0}}), "not what was asked about"},
      {chunk({{UINT32_MAX, 3}, {UINT32_MAX, 0}}), "not what was asked about"},
      {raw(0, id + one) + raw(kDone, id + one), "extents that came before"},
      {NbdFakeServer::Chunk(kDone, nbd::ChunkType::kNone, kTag, ""), "without its extents"},
      {NbdFakeServer::SimpleReply(0, kTag), "a simple reply to a BLOCK_STATUS"},
      {NbdFakeServer::DataChunk(kDone, kTag, 0, Pattern(512, 1)), "not within its request"},
      {NbdFakeServer::HoleChunk(kDone, kTag, 0, 512), "not within its request"},
      {NbdFakeServer::StatusChunk(kDone, kTag + 1, {{512, 0}}), "a cookie that no request"}};
  for (const auto& [bytes, text] : cases) {
    ChannelFixture g{FixtureOptions{.protocol = Speaks::kNbd}};
    g.server.hold = true;
    g.Open();
    Io* status = g.BlockStatus({0, 65536, 0}, 4);
    g.Run();
    ASSERT_EQ(g.server.pending.size(), 1u);
    const uint64_t tag = g.server.pending[0].request.tag;
    std::string sent = bytes;
    for (const uint64_t offset : {0, 1}) {
      for (size_t at; (at = sent.find(BigEndian(kTag + offset, 8))) != std::string::npos;) {
        sent.replace(at, 8, BigEndian(tag + offset, 8));
      }
    }
    g.server.Send(sent);
    g.Run();
    EXPECT_EQ(g.server.connections(), 2u) << text;
    ASSERT_FALSE(g.failures.empty()) << text;
    EXPECT_EQ(g.failures[0].error, EPROTO) << text;
    EXPECT_THAT(g.failures[0].text, HasSubstr(text));
    ASSERT_EQ(status->completions, 0) << text;
    ASSERT_EQ(g.server.pending.size(), 1u);
    g.server.Answer(0);
    g.Run();
    EXPECT_EQ(ExtentsOf(*status), (List{{65536, kHole}})) << text;
  }
}

TEST_F(NbdStatusTest, ExtentsThatNobodyAskedForEndTheConnection) {
  for (const bool reads : {true, false}) {
    ChannelFixture g{FixtureOptions{.protocol = Speaks::kNbd}};
    g.server.hold = true;
    g.Open();
    Io* io = reads ? g.Read(0, 4096) : g.Write(0, Pattern(4096, 1));
    g.Run();
    const uint64_t tag = g.server.pending[0].request.tag;
    g.server.Send(NbdFakeServer::StatusChunk(kDone, tag, {{4096, 3}}));
    g.Run();
    EXPECT_EQ(g.server.connections(), 2u);
    ASSERT_FALSE(g.failures.empty());
    EXPECT_THAT(g.failures[0].text, HasSubstr("extents that nobody asked for"));
    EXPECT_EQ(io->completions, 0);
    g.server.Answer(0);
    g.Run();
    EXPECT_EQ(io->result, 0);
  }
}

TEST_F(NbdStatusTest, ComesAgainAfterACut) {
  Io* status = f.BlockStatus({0, 65536, 0}, 16);
  f.Run();
  // As far as it came, it does not count.
  f.server.Send(NbdFakeServer::StatusChunk(0, tag(), {{65536, 0}}));
  f.Run();
  f.server.Cut();
  f.Run();
  EXPECT_EQ(f.server.connections(), 2u);
  EXPECT_EQ(status->completions, 0);
  ASSERT_EQ(f.server.pending.size(), 1u);
  f.server.Answer(0);
  f.Run();
  EXPECT_EQ(ExtentsOf(*status).size(), 3u);
}

TEST_F(NbdStatusTest, AServerThatDoesNotGrantItAnyMoreIsNotAsked) {
  Io* status = f.BlockStatus({0, 65536, 0}, 16);
  f.Run();
  f.nbd_server().contexts = false;
  f.server.Cut();
  f.loop.Advance(kSecond);
  EXPECT_TRUE(f.ready());
  EXPECT_EQ(f.server.connections(), 2u);
  EXPECT_EQ(status->completions, 1);
  EXPECT_EQ(status->result, -ENOTSUP);
  EXPECT_EQ(f.server.seen.size(), 1u);
  // And the next one that grants it is.
  f.nbd_server().contexts = true;
  f.server.Cut();
  f.loop.Advance(kSecond);
  Io* again = f.BlockStatus({0, 4096, 0}, 1);
  f.Run();
  ASSERT_EQ(f.server.pending.size(), 1u);
  f.server.Answer(0);
  f.Run();
  EXPECT_EQ(ExtentsOf(*again), (List{{4096, kHole}}));
}

class HugeNbdStatusTest : public NbdStatusTest {
 protected:
  HugeNbdStatusTest() : NbdStatusTest(uint64_t{8} << 40) {}
};

TEST_F(HugeNbdStatusTest, SoMuchIsAskedAboutAtATime) {
  constexpr uint64_t kAll = uint64_t{8} << 40;
  EXPECT_EQ(Answered({{1 << 30, 3}}, kAll), (List{{1 << 30, kHole}}));
  EXPECT_EQ(f.server.seen[0].request.extent, 1u << 30);
  // What the server tells of itself beyond that is good all the same.
  EXPECT_EQ(Answered({{512, 0}, {UINT32_MAX - 511, 3}}, kAll),
            (List{{512, 0}, {uint64_t{UINT32_MAX} - 511, kHole}}));
}

}  // namespace
}  // namespace cloudblk::testing
