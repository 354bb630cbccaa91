// SPDX-License-Identifier: GPL-2.0-or-later
//
// What only NBD has: its negotiation, its replies, and servers that break its rules.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cerrno>
#include <string>
#include <vector>

#include "block/nbd_negotiation.h"
#include "tests/support/cpp/channel_fixture.h"

namespace cloudblk::testing {
namespace {

using ::testing::HasSubstr;

constexpr int64_t kSecond = 1'000'000'000;

std::string BigEndian(uint64_t value, size_t size) {
  std::string bytes;
  for (size_t i = size; i > 0; --i) bytes += static_cast<char>(value >> (8 * (i - 1)) & 0xff);
  return bytes;
}

// --- Negotiation
// ----------------------------------------------------------------------------------

class NbdOpenTest : public ::testing::Test {
 protected:
  // What an opening that fails says.
  std::string Refusal() {
    f.Open();
    EXPECT_FALSE(f.ready());
    return f.failures.empty() ? "nothing" : f.failures[0].text;
  }
  NbdFakeServer& server() { return f.nbd_server(); }

  ChannelFixture f{FixtureOptions{.protocol = Speaks::kNbd}};
};

TEST_F(NbdOpenTest, LearnsWhatTheExportIs) {
  server().export_size = (4 << 20) - 100;
  f.Open();
  ASSERT_TRUE(f.ready());
  EXPECT_EQ(server().opened_names[0], "disk");
  EXPECT_EQ(f.state.size(), (4u << 20) - 512);
  EXPECT_EQ(f.state.volume().logical_block_size, 512u);
  EXPECT_EQ(f.state.volume().physical_block_size, 4096u);
  EXPECT_EQ(f.state.volume().max_discard_length, 1u << 30);
  EXPECT_TRUE(f.state.write_cache());
  EXPECT_FALSE(f.state.read_only());
  EXPECT_THAT(f.state.note(), HasSubstr("the last 412 bytes"));
}

TEST_F(NbdOpenTest, GoesWithoutBlockSizesAndStructuredReplies) {
  server().block_sizes = false;
  server().structured = false;
  f.Open();
  ASSERT_TRUE(f.ready());
  Io* io = f.Read(0, 4096);
  f.Run();
  EXPECT_EQ(io->result, 0);
}

TEST_F(NbdOpenTest, ServersThatRefuseAreUnderstood) {
  const std::pair<uint32_t, const char*> cases[] = {
      {nbd::OptionReply::kUnknown,
       "there is no export 'disk' there; check the name: says the server"},
      {nbd::OptionReply::kUnsupported, "NBD_OPT_GO"},
      {nbd::OptionReply::kTlsRequired, "it wants TLS"},
      {nbd::OptionReply::kPolicy, "its policy forbids export 'disk': says the server"},
      {nbd::OptionReply::kPlatform, "does not open export 'disk': says the server"},
      {nbd::OptionReply::kShutdown, "is about to stop"}};
  for (const auto& [type, text] : cases) {
    ChannelFixture one(FixtureOptions{.protocol = Speaks::kNbd});
    one.nbd_server().go_error = type;
    one.Open();
    ASSERT_FALSE(one.failures.empty());
    EXPECT_TRUE(one.failures[0].refused());
    EXPECT_THAT(one.failures[0].text, HasSubstr(text));
    EXPECT_EQ(one.failures[0].may_pass(), type == nbd::OptionReply::kShutdown);
  }
}

TEST_F(NbdOpenTest, WhatIsNoServerOfThisProtocolIsNamed) {
  const std::pair<std::string, const char*> cases[] = {
      {"SSH-2.0-OpenSSH_9.2p1\r\n", "does not greet as one"},
      {BigEndian(nbd::kGreetingMagic, 8) + "SSH-2.0-", "does not greet as one"},
      {BigEndian(nbd::kGreetingMagic, 8) + BigEndian(nbd::kOldstyleMagic, 8) + std::string(136, 0),
       "oldstyle"},
      {BigEndian(nbd::kGreetingMagic, 8) + BigEndian(nbd::kOptionMagic, 8) + BigEndian(0, 2),
       "fixed newstyle"}};
  for (const auto& [greeting, text] : cases) {
    ChannelFixture one(FixtureOptions{.protocol = Speaks::kNbd});
    one.nbd_server().greeting = greeting;
    one.Open();
    ASSERT_FALSE(one.failures.empty());
    EXPECT_THAT(one.failures[0].text, HasSubstr(text));
  }
}

TEST_F(NbdOpenTest, AnExportOfNothingIsRefused) {
  server().export_size = 511;
  EXPECT_THAT(Refusal(), HasSubstr("its export has 511 bytes"));
}

TEST_F(NbdOpenTest, BlocksThatNoGuestCanHaveAreRefused) {
  server().open.logical_block_size = 65536;
  EXPECT_THAT(Refusal(), HasSubstr("blocks of 65536 bytes"));
}

TEST_F(NbdOpenTest, ADiskThatCannotFlushIsRefused) {
  server().flags &= ~nbd::ExportFlag::kFlush;
  EXPECT_THAT(Refusal(), HasSubstr("noflush=accept"));
}

TEST_F(NbdOpenTest, UnlessThatIsAcceptedOrItIsNotWritten) {
  for (const bool accept : {false, true}) {
    ChannelFixture one(
        FixtureOptions{.protocol = Speaks::kNbd, .accept_no_flush = accept, .read_only = !accept});
    one.nbd_server().flags &= ~nbd::ExportFlag::kFlush;
    one.Open();
    EXPECT_TRUE(one.ready());
    EXPECT_FALSE(one.state.write_cache());
  }
}

TEST_F(NbdOpenTest, RepliesToOptionsThatCannotBeEndTheConnection) {
  const auto reply = [](uint32_t type, const std::string& data) {
    return NbdFakeServer::OptionReply(nbd::Option::kGo, type, data);
  };
  std::string infos;
  for (int i = 0; i < 65; ++i) infos += reply(nbd::OptionReply::kInfo, BigEndian(77, 2));
  std::string bad_magic = reply(nbd::OptionReply::kAck, "");
  bad_magic[0] ^= 1;
  const std::pair<std::string, const char*> cases[] = {
      {bad_magic, "magic"},
      {NbdFakeServer::OptionReply(nbd::Option::kAbort, 1, ""), "not asked for"},
      {reply(nbd::OptionReply::kAck, "x"), "ACK with data"},
      {reply(nbd::OptionReply::kAck, ""), "without the export's size"},
      {reply(nbd::OptionReply::kInfo, "x"), "without its type"},
      {reply(nbd::OptionReply::kInfo, BigEndian(0, 2)), "bad INFO_EXPORT"},
      {reply(nbd::OptionReply::kInfo, BigEndian(0, 2) + BigEndian(UINT64_MAX, 8) + BigEndian(1, 2)),
       "which is too much"},
      {reply(nbd::OptionReply::kInfo, BigEndian(3, 2) + BigEndian(1, 4)), "bad INFO_BLOCK_SIZE"},
      {reply(nbd::OptionReply::kInfo,
             BigEndian(3, 2) + BigEndian(3, 4) + BigEndian(4096, 4) + BigEndian(65536, 4)),
       "block sizes that cannot be"},
      {reply(nbd::OptionReply::kInfo,
             BigEndian(3, 2) + BigEndian(4096, 4) + BigEndian(512, 4) + BigEndian(65536, 4)),
       "block sizes that cannot be"},
      {reply(2, "x"), "unknown reply"},
      {infos, "more INFO"},
      {BigEndian(nbd::kOptionReplyMagic, 8) + BigEndian(7, 4) + BigEndian(3, 4) +
           BigEndian(UINT32_MAX, 4),
       "too long"}};
  for (const auto& [bytes, text] : cases) {
    ChannelFixture one(FixtureOptions{.protocol = Speaks::kNbd});
    one.nbd_server().before_go = bytes;
    one.Open();
    ASSERT_FALSE(one.failures.empty()) << text;
    // Where the rest is in order it is an NBD server, whose export is the matter.
    EXPECT_EQ(one.failures[0].refused(), one.failures[0].error == ENOTSUP);
    EXPECT_TRUE(one.failures[0].refused() || one.failures[0].error == EPROTO);
    EXPECT_THAT(one.failures[0].text, HasSubstr(text));
  }
}

TEST_F(NbdOpenTest, AnExportThatShrankIsWaitedFor) {
  f.Open();
  Io* io = f.Write(0, Pattern(512, 1));
  server().export_size = 1 << 20;
  f.server.Cut();
  f.loop.Advance(kSecond);
  EXPECT_FALSE(f.ready());
  EXPECT_EQ(io->completions, 0);
  EXPECT_THAT(f.failures.back().text, HasSubstr("has 1048576 bytes now, and had 4194304"));
  server().export_size = 8 << 20;
  f.loop.Advance(3 * kSecond);
  EXPECT_TRUE(f.ready());
  EXPECT_EQ(io->result, 0);
  EXPECT_TRUE(f.HasEvent(CLOUDBLK_EVENT_RESIZED));
}

TEST_F(NbdOpenTest, SoIsOneThatCannotBeWrittenAnyMore) {
  f.Open();
  server().open.volume_flags |= wire::VolumeFlag::kReadOnly;
  f.server.Cut();
  f.loop.Advance(kSecond);
  EXPECT_FALSE(f.ready());
  EXPECT_THAT(f.failures.back().text, HasSubstr("cannot be written any more"));
}

TEST_F(NbdOpenTest, SeveralConnectionsWaitForTheServerThatAllowedThem) {
  ManualLoop loop;
  ChannelFixture a(FixtureOptions{.protocol = Speaks::kNbd, .channels = 2, .loop = &loop});
  a.Open();
  ASSERT_TRUE(a.ready());
  a.nbd_server().flags &= ~nbd::ExportFlag::kMultiConn;
  a.server.Cut();
  loop.Advance(kSecond);
  EXPECT_FALSE(a.ready());
  EXPECT_THAT(a.failures.back().text, HasSubstr("several connections"));
  a.nbd_server().flags |= nbd::ExportFlag::kMultiConn;
  loop.Advance(3 * kSecond);
  EXPECT_TRUE(a.ready());
}

// --- Replies ------------------------------------------------------------------------------------

class NbdReplyTest : public ::testing::TestWithParam<Speaks> {
 protected:
  NbdReplyTest() {
    f.server.hold = true;
    f.server.disk = Pattern(f.server.disk.size(), 1);
    f.Open();
    read = f.Read(4096, 4096, {100, 1000});
    write = f.Write(65536, Pattern(512, 2));
    f.Run();
    EXPECT_EQ(f.server.pending.size(), 2u);
    tag = f.server.pending[0].request.tag;
    write_tag = f.server.pending[1].request.tag;
  }
  void Send(const std::string& bytes) {
    f.server.Send(bytes);
    f.Run();
  }
  // The connection was dropped for that, and the next one serves.
  void ExpectDropped(const char* why) {
    EXPECT_EQ(f.server.connections(), 2u) << why;
    ASSERT_FALSE(f.failures.empty());
    EXPECT_EQ(f.failures[0].error, EPROTO);
    EXPECT_THAT(f.failures[0].text, HasSubstr(why));
    EXPECT_EQ(read->completions, 0);
    ASSERT_EQ(f.server.pending.size(), 2u);
    f.server.Answer(0, 2);
    f.Run();
    EXPECT_EQ(read->result, 0);
    EXPECT_EQ(read->Data(), f.server.disk.substr(4096, 4096));
    EXPECT_EQ(write->result, 0);
  }

  static constexpr uint16_t kDone = nbd::ChunkFlag::kDone;

  ChannelFixture f{FixtureOptions{.protocol = GetParam()}};
  Io* read;
  Io* write;
  uint64_t tag;
  uint64_t write_tag;
};

INSTANTIATE_TEST_SUITE_P(Both, NbdReplyTest, ::testing::Values(Speaks::kNbd, Speaks::kSimpleNbd),
                         [](const auto& info) { return Name(info.param); });

using NbdChunkTest = NbdReplyTest;
INSTANTIATE_TEST_SUITE_P(Structured, NbdChunkTest, ::testing::Values(Speaks::kNbd),
                         [](const auto& info) { return Name(info.param); });

TEST_P(NbdReplyTest, AWrongMagic) {
  Send(BigEndian(0x12345678, 4) + std::string(24, 0));
  ExpectDropped("magic");
}

TEST_P(NbdReplyTest, ACookieThatNobodyWaitsUnder) {
  Send(NbdFakeServer::SimpleReply(0, write_tag + 1));
  ExpectDropped("cookie");
}

TEST_P(NbdReplyTest, AnAnswerThatComesTwice) {
  f.server.Answer(1);
  f.Run();
  EXPECT_EQ(write->completions, 1);
  Send(NbdFakeServer::SimpleReply(0, write_tag));
  EXPECT_EQ(f.server.connections(), 2u);
  EXPECT_THAT(f.failures[0].text, HasSubstr("cookie"));
  f.server.Answer(0);
  f.Run();
  EXPECT_EQ(read->Data(), f.server.disk.substr(4096, 4096));
}

TEST_P(NbdReplyTest, AServerThatStopsIsComeBackTo) {
  Send(NbdFakeServer::SimpleReply(108, write_tag));
  EXPECT_EQ(f.server.connections(), 2u);
  EXPECT_EQ(write->completions, 0);
  f.server.Answer(0, 2);
  f.Run();
  EXPECT_EQ(write->result, 0);
  EXPECT_EQ(read->result, 0);
}

TEST_P(NbdReplyTest, AnUnknownErrorIsAnError) {
  Send(NbdFakeServer::SimpleReply(4711, write_tag));
  EXPECT_EQ(write->result, -EINVAL);
  f.server.pending.pop_back();
  f.server.Answer(0);
  f.Run();
}

TEST_P(NbdReplyTest, ChunksWhereNoneWereAgreedOn) {
  if (GetParam() == Speaks::kNbd) {
    Send(NbdFakeServer::SimpleReply(0, tag, Pattern(4096, 9)));
    return ExpectDropped("a simple reply to a READ");
  }
  Send(NbdFakeServer::DataChunk(kDone, tag, 4096, Pattern(4096, 9)));
  ExpectDropped("magic");
}

TEST_P(NbdChunkTest, DataBeyondTheRequest) {
  Send(NbdFakeServer::DataChunk(kDone, tag, 4096 + 4000, Pattern(97, 3)));
  EXPECT_EQ(read->bytes_stored, 0u);
  ExpectDropped("not within its request");
}

TEST_P(NbdChunkTest, DataBeforeTheRequest) {
  Send(NbdFakeServer::DataChunk(kDone, tag, 4095, Pattern(97, 3)));
  ExpectDropped("not within its request");
}

TEST_P(NbdChunkTest, DataThatCameBefore) {
  Send(NbdFakeServer::DataChunk(0, tag, 4096, Pattern(100, 3)));
  Send(NbdFakeServer::HoleChunk(0, tag, 4195, 100));
  ExpectDropped("came before");
}

TEST_P(NbdChunkTest, DataThatNobodyAskedFor) {
  Send(NbdFakeServer::DataChunk(kDone, write_tag, 65536, Pattern(512, 3)));
  ExpectDropped("not within its request");
}

TEST_P(NbdChunkTest, GapsInTheData) {
  Send(NbdFakeServer::DataChunk(kDone, tag, 4096, Pattern(4095, 3)));
  ExpectDropped("gaps");
}

TEST_P(NbdChunkTest, LengthsThatCannotBe) {
  const std::string head = BigEndian(nbd::kChunkMagic, 4);
  const std::pair<std::string, const char*> cases[] = {
      {head + BigEndian(1, 2) + BigEndian(1, 2) + BigEndian(tag, 8) + BigEndian(UINT32_MAX, 4) +
           BigEndian(4096, 8),
       "not within its request"},
      {NbdFakeServer::Chunk(kDone, 1, tag, BigEndian(4096, 8)), "length cannot be"},
      {NbdFakeServer::Chunk(kDone, 2, tag, BigEndian(4096, 8)), "length cannot be"},
      {NbdFakeServer::HoleChunk(kDone, tag, 4096, 0), "not within its request"},
      {NbdFakeServer::Chunk(kDone, 0, tag, "x"), "length cannot be"},
      {NbdFakeServer::Chunk(0, 0, tag, ""), "not the last"},
      {NbdFakeServer::Chunk(kDone, 77, tag, ""), "unknown type"},
      {head + BigEndian(1, 2) + BigEndian(0x8001, 2) + BigEndian(tag, 8) + BigEndian(100000, 4),
       "length cannot be"},
      {NbdFakeServer::Chunk(kDone, 0x8001, tag, BigEndian(5, 4)), "length cannot be"},
      {NbdFakeServer::ErrorChunk(kDone, tag, 0, ""), "without a number"}};
  for (const auto& [bytes, text] : cases) {
    f.failures.clear();
    const uint32_t before = f.server.connections();
    // The tag is another one over each connection.
    std::string sent = bytes;
    const size_t at = sent.find(BigEndian(tag, 8));
    sent.replace(at, 8, BigEndian(f.server.pending[0].request.tag, 8));
    Send(sent);
    EXPECT_EQ(f.server.connections(), before + 1) << text;
    ASSERT_FALSE(f.failures.empty()) << text;
    EXPECT_THAT(f.failures[0].text, HasSubstr(text));
    f.loop.Advance(3 * kSecond);
  }
  EXPECT_EQ(read->completions, 0);
  f.server.Answer(0, 2);
  f.Run();
}

TEST_P(NbdChunkTest, AnErrorAfterDataFailsTheRead) {
  Send(NbdFakeServer::DataChunk(0, tag, 4096, Pattern(2048, 3)));
  Send(NbdFakeServer::ErrorChunk(0, tag, 28, "no room"));
  EXPECT_EQ(read->completions, 0);
  Send(NbdFakeServer::Chunk(kDone, nbd::ChunkType::kErrorOffset, tag,
                            BigEndian(5, 4) + BigEndian(3, 2) + "bad" + BigEndian(4096, 8)));
  EXPECT_EQ(read->result, -ENOSPC);
  EXPECT_EQ(read->bytes_stored, 2048u);
  EXPECT_EQ(f.server.connections(), 1u);
  f.server.pending.pop_front();
  f.server.Answer(0);
  f.Run();
}

// nbd-server tells the length of the text in the wrong byte order.
TEST_P(NbdChunkTest, ATextOfAWrongLengthIsAnErrorAllTheSame) {
  Send(NbdFakeServer::Chunk(kDone, 0x8001, tag,
                            BigEndian(5, 4) + BigEndian(12 << 8, 2) + "Read failed"));
  EXPECT_EQ(read->result, -EIO);
  EXPECT_EQ(f.server.connections(), 1u);
  f.server.pending.pop_front();
  f.server.Answer(0);
  f.Run();
}

TEST_P(NbdChunkTest, OtherRepliesMayBeChunksToo) {
  Send(NbdFakeServer::Chunk(kDone, nbd::ChunkType::kNone, write_tag, ""));
  EXPECT_EQ(write->result, 0);
  Send(NbdFakeServer::DataChunk(kDone, tag, 4096, f.server.disk.substr(4096, 4096)));
  EXPECT_EQ(read->Data(), f.server.disk.substr(4096, 4096));
  f.server.pending.clear();
}

// --- Requests ------------------------------------------------------------------------------------

class NbdRequestTest : public ::testing::Test {
 protected:
  NbdFakeServer& server() { return f.nbd_server(); }
  ChannelFixture f{FixtureOptions{.protocol = Speaks::kNbd}};
};

TEST_F(NbdRequestTest, WithoutFuaAWriteIsDurableByAFlush) {
  server().flags &= ~nbd::ExportFlag::kFua;
  f.server.hold = true;
  f.Open();
  std::vector<Io*> ios;
  for (uint64_t i = 0; i < 3; ++i) {
    ios.push_back(
        f.Write(i * 4096, Pattern(4096, static_cast<uint32_t>(i)), {}, CLOUDBLK_REQUEST_FUA));
  }
  f.Run();
  ASSERT_EQ(f.server.pending.size(), 3u);
  f.server.Answer(0, 3);
  f.Run();
  ASSERT_EQ(f.server.pending.size(), 3u);
  EXPECT_EQ(server().syncs, 3u);
  for (Io* io : ios) EXPECT_EQ(io->completions, 0);
  f.server.Answer(0, 1);
  f.server.Answer(0, 1, wire::StatusCode::kIoError);
  f.server.Answer(0, 1);
  f.Run();
  EXPECT_EQ(ios[0]->result, 0);
  EXPECT_EQ(ios[1]->result, -EIO);
  EXPECT_EQ(ios[2]->result, 0);
  // What the server failed to make durable may be lost, and nobody else was told.
  f.server.hold = false;
  Io* told = f.Flush();
  f.Run();
  EXPECT_EQ(told->completions, 1);
}

TEST_F(NbdRequestTest, WithoutFlushNoneIsSent) {
  ChannelFixture one(FixtureOptions{.protocol = Speaks::kNbd, .accept_no_flush = true});
  one.nbd_server().flags &= ~nbd::ExportFlag::kFlush;
  one.Open();
  Io* io = one.Flush();
  one.Run();
  EXPECT_EQ(io->result, 0);
  EXPECT_EQ(one.nbd_server().syncs, 0u);
}

TEST_F(NbdRequestTest, AFailedSyncIsToldByTheNextFlush) {
  f.Open();
  f.Write(0, Pattern(512, 1));
  f.Run();
  f.server.hold = true;
  Io* forced = f.Write(4096, Pattern(512, 2), {}, CLOUDBLK_REQUEST_FUA);
  f.Run();
  f.server.Answer(0, 1, wire::StatusCode::kIoError);
  f.server.hold = false;
  f.Run();
  EXPECT_EQ(forced->result, -EIO);
  EXPECT_EQ(f.server.connections(), 1u);
  Io* told = f.Flush();
  f.Run();
  Io* good = f.Flush();
  f.Run();
  EXPECT_EQ(told->result, -EIO);
  EXPECT_EQ(good->result, 0);
}

TEST_F(NbdRequestTest, ZerosTakeUpRoomUnlessTheyNeedNot) {
  f.Open();
  f.Ranges(CLOUDBLK_OP_WRITE_ZEROES, {{0, 4096, 0}, {8192, 4096, CLOUDBLK_RANGE_UNMAP}});
  f.Run();
  ASSERT_EQ(f.server.seen.size(), 2u);
  EXPECT_EQ(f.server.seen[0].ranges[0].flags, 0u);
  EXPECT_EQ(f.server.seen[1].ranges[0].flags, wire::RangeFlag::kUnmap);
}

TEST_F(NbdRequestTest, ManySmallAnswersComeInOneCall) {
  f.Open();
  f.server.hold = true;
  std::vector<Io*> ios;
  for (uint64_t i = 0; i < 12; ++i) ios.push_back(f.Read(i * 4096, 4096));
  f.channel.Kick();
  f.Run();
  CloudblkStats before{};
  f.channel.FillStats(&before);
  f.server.Answer(0, 12);
  f.Run();
  CloudblkStats after{};
  f.channel.FillStats(&after);
  EXPECT_LE(after.receive_calls - before.receive_calls, 2u);
  for (Io* io : ios) EXPECT_EQ(io->result, 0);
}

TEST_F(NbdRequestTest, ASlowServerIsWaitedForAndToldOfOnce) {
  f.Open();
  f.server.hold = true;
  Io* read = f.Read(0, 512);
  f.Run();
  const auto told = [] {
    return std::ranges::count_if(ChannelFixture::logged, [](const std::string& line) {
      return line.find("has not answered for 8 s") != std::string::npos;
    });
  };
  f.loop.Advance(7 * kSecond);
  EXPECT_EQ(told(), 0);
  f.loop.Advance(100 * kSecond);
  EXPECT_EQ(told(), 1);
  EXPECT_TRUE(f.ready());
  EXPECT_EQ(f.times_ready, 1);
  f.server.Answer(0);
  f.Run();
  EXPECT_EQ(read->completions, 1);
  EXPECT_EQ(read->result, 0);
}

TEST_F(NbdRequestTest, ItsReleaseIsAFlushAndAnEnd) {
  f.Open();
  f.Write(0, Pattern(512, 1));
  f.Run();
  f.channel.Release();
  f.Run();
  EXPECT_EQ(server().syncs, 1u);
  EXPECT_EQ(f.server.closes, 1u);
}

}  // namespace
}  // namespace cloudblk::testing
