// SPDX-License-Identifier: GPL-2.0-or-later
//
// Servers that lie. Whatever they send: the connection is dropped, nothing is stored where it does
// not belong, and the request is served by the next connection.
#include <gtest/gtest.h>

#include <cerrno>
#include <random>

#include "tests/support/cpp/channel_fixture.h"

namespace cloudblk::testing {
namespace {

constexpr int64_t kSecond = 1'000'000'000;

std::string Pings(int count) {
  const std::string ping =
      FakeServer::Frame(wire::FrameType::kPing, wire::Ping{1}, wire::kPingSize, "");
  std::string pings;
  for (int i = 0; i < count; ++i) pings += ping;
  return pings;
}

class ChannelHostile : public ::testing::Test {
 protected:
  // A read and a write wait for their answers.
  ChannelHostile() {
    f.server.hold = true;
    f.server.disk = Pattern(f.server.disk.size(), 5);
    f.Open();
    EXPECT_TRUE(f.ready());
    read = f.Read(4096, 4096, {100, 1000});
    write = f.Write(65536, Pattern(4096, 9));
    f.Run();
    EXPECT_EQ(f.server.pending.size(), 2u);
    read_tag = f.server.pending[0].request.tag;
    write_tag = f.server.pending[1].request.tag;
  }

  // The connection is dropped, nothing was stored, and the next one serves.
  void ExpectDropped() {
    f.Run();
    EXPECT_EQ(f.server.connections(), 2u);
    EXPECT_EQ(read->completions, 0);
    EXPECT_EQ(write->completions, 0);
    EXPECT_EQ(read->Data(), std::string(4096, '\xee'));
    ASSERT_EQ(f.server.pending.size(), 2u);
    f.server.Answer(0, 2);
    f.Run();
    EXPECT_EQ(read->result, 0);
    EXPECT_EQ(read->Data(), f.server.disk.substr(4096, 4096));
    EXPECT_EQ(write->result, 0);
  }

  static std::string Raw(wire::FrameType type, uint32_t count, uint32_t header_length,
                         uint32_t payload_length) {
    std::string frame(wire::kFrameHeaderSize + header_length, '\0');
    wire::SealFrame({type, 0, count, header_length, payload_length, 0},
                    {reinterpret_cast<uint8_t*>(frame.data()), frame.size()});
    return frame;
  }

  ChannelFixture f;
  Io* read;
  Io* write;
  uint64_t read_tag;
  uint64_t write_tag;
};

using wire::Reply;
using wire::ReplyFlag;
using wire::StatusCode;

TEST_F(ChannelHostile, UnknownTag) {
  f.server.SendReply({Reply{read_tag + 1, StatusCode::kOk, 0, 0}}, "");
  ExpectDropped();
}

TEST_F(ChannelHostile, TagOfASlotThatDoesNotExist) {
  f.server.SendReply({Reply{read_tag | 0xffffff, StatusCode::kOk, 0, 0}}, "");
  ExpectDropped();
}

TEST_F(ChannelHostile, TagOfAnotherGeneration) {
  f.server.SendReply({Reply{read_tag ^ 1ull << 40, StatusCode::kOk, 0, 0}}, "");
  ExpectDropped();
}

TEST_F(ChannelHostile, AGoodAnswerBesideABadOneIsNotStoredEither) {
  const std::string data(4096, 'z');
  f.server.SendReply({Reply{read_tag, StatusCode::kOk, 4096, 0}, Reply{0, StatusCode::kOk, 0, 0}},
                     data);
  ExpectDropped();
}

TEST_F(ChannelHostile, TagTwiceInAFrame) {
  const std::string data(8192, 'z');
  f.server.SendReply(
      {Reply{read_tag, StatusCode::kOk, 4096, 0}, Reply{read_tag, StatusCode::kOk, 4096, 0}}, data);
  ExpectDropped();
}

TEST_F(ChannelHostile, DataTooShort) {
  f.server.SendReply({Reply{read_tag, StatusCode::kOk, 4095, 0}}, std::string(4095, 'z'));
  ExpectDropped();
}

TEST_F(ChannelHostile, DataTooLong) {
  f.server.SendReply({Reply{read_tag, StatusCode::kOk, 8192, 0}}, std::string(8192, 'z'));
  ExpectDropped();
}

TEST_F(ChannelHostile, NoData) {
  f.server.SendReply({Reply{read_tag, StatusCode::kOk, 0, 0}}, "");
  ExpectDropped();
}

TEST_F(ChannelHostile, DataForAWrite) {
  f.server.SendReply({Reply{write_tag, StatusCode::kOk, 4096, 0}}, std::string(4096, 'z'));
  ExpectDropped();
}

TEST_F(ChannelHostile, AHoleForAWrite) {
  f.server.SendReply({Reply{write_tag, StatusCode::kOk, 0, ReplyFlag::kHole}}, "");
  ExpectDropped();
}

TEST_F(ChannelHostile, AbsurdSizes) {
  f.server.Send(Raw(wire::FrameType::kReply, 1, 24, UINT32_MAX));
  ExpectDropped();
}

TEST_F(ChannelHostile, AbsurdCount) {
  std::string frame(wire::kFrameHeaderSize, '\0');
  wire::SealFrame({wire::FrameType::kReply, 0, 0x10000001, 0, 0, 0},
                  {reinterpret_cast<uint8_t*>(frame.data()), frame.size()});
  f.server.Send(frame);
  ExpectDropped();
}

TEST_F(ChannelHostile, SumsThatDoNotAddUp) {
  std::string frame = FakeServer::ReplyFrame({Reply{read_tag, StatusCode::kOk, 4096, 0}},
                                             std::string(4096, 'z'), false);
  wire::SealFrame({wire::FrameType::kReply, 0, 1, 24, 4095, 0},
                  {reinterpret_cast<uint8_t*>(frame.data()), frame.size()});
  f.server.Send(frame);
  ExpectDropped();
}

TEST_F(ChannelHostile, Garbage) {
  f.server.Send(Pattern(100'000, 3));
  ExpectDropped();
}

TEST_F(ChannelHostile, AnotherProtocol) {
  f.server.Send("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
  ExpectDropped();
}

TEST_F(ChannelHostile, HandshakeAgain) {
  f.server.Send(
      FakeServer::Frame(wire::FrameType::kHelloReply, f.server.hello, wire::kHelloReplySize, ""));
  ExpectDropped();
}

TEST_F(ChannelHostile, FramesOfAClient) {
  f.server.Send(FakeServer::Frame(wire::FrameType::kClose, wire::Close{}, wire::kCloseSize, ""));
  ExpectDropped();
}

// What may follow its header is more than the receiver has room for.
TEST_F(ChannelHostile, ARequest) {
  f.server.Send(Raw(wire::FrameType::kRequest, 1, 32, 256 << 10) + std::string(256 << 10, 'A'));
  ExpectDropped();
}

TEST(ChannelHostileHandshake, ARequest) {
  ChannelFixture f;
  f.server.silent = true;
  f.Open();
  std::string frame(wire::kFrameHeaderSize + 32, '\0');
  wire::SealFrame({wire::FrameType::kRequest, 0, 1, 32, 4 << 20, 0},
                  {reinterpret_cast<uint8_t*>(frame.data()), frame.size()});
  f.server.Send(frame + std::string(1 << 20, 'A'));
  f.Run();
  ASSERT_FALSE(f.failures.empty());
  EXPECT_EQ(f.failures[0].error, EPROTO);
}

// They leave room for what the client has to say.
TEST(ChannelHostileHandshake, PingsWithoutEndBeforeAClose) {
  ChannelFixture f;
  f.Open();
  f.server.link()->habits.send_buffer = 0;
  f.server.deaf = true;
  f.server.Send(Pings(1638));
  f.Run();
  EXPECT_EQ(f.server.connections(), 2u) << "more than it answers";
  f.channel.Close(true);
  f.Run();
}

// Nor does what the client asks by itself take that room.
TEST(ChannelHostileHandshake, AnOutboxFullOfPingsBeforeAClose) {
  ChannelFixture f;
  f.habits.send_buffer = 4096;
  f.server.hold = true;
  f.Open();
  Io* read = f.Read(0, 512);
  f.Run();
  ASSERT_EQ(f.server.pending.size(), 1u);
  f.server.deaf = true;
  f.server.Send(Pings(1625));
  f.Run();
  for (int i = 0; i < 40; ++i) {
    // So long that it asks, and then a sign of life.
    f.loop.Advance(4 * kSecond);
    f.server.SendEvent(wire::EventKind::kGoingAway, 0, "");
    f.Run();
    ASSERT_EQ(f.server.connections(), 1u) << i;
  }
  f.server.Answer(0);
  f.Run();
  ASSERT_EQ(read->completions, 1);
  f.channel.Close(true);
  f.Run();
  f.server.deaf = false;
  f.Run();
  EXPECT_EQ(f.server.closes, 1u);
}

TEST(ChannelHostileOpen, CreditsWithoutBound) {
  ChannelFixture f(FixtureOptions{.size = 64 << 20});
  f.Open();
  f.server.open.credit_requests = UINT32_MAX;
  f.server.open.credit_bytes = UINT64_MAX;
  f.server.open.max_discard_length = 512;
  f.server.open.max_ranges = 1;
  f.server.Cut();
  f.Run();
  ASSERT_TRUE(f.ready());
  f.server.hold = true;
  f.Ranges(CLOUDBLK_OP_DISCARD, {{0, 64 << 20, 0}});
  f.Run();
  EXPECT_EQ(f.server.pending.size(), 4096u);
  f.channel.Revoke();
}

TEST(ChannelHostileOpen, CreditBytesWithoutBound) {
  constexpr uint64_t kSize = 64 << 20;
  ChannelFixture f(FixtureOptions{.size = kSize});
  f.server.open.credit_requests = UINT32_MAX;
  f.server.open.credit_bytes = UINT64_MAX;
  f.server.hold = true;
  f.Open();
  ASSERT_TRUE(f.ready());
  const auto memory = std::make_unique_for_overwrite<uint8_t[]>(kSize);  // never touched
  const iovec iov{memory.get(), kSize};
  for (int i = 0; i < 5; ++i) {
    Io* io = f.ios.emplace_back(std::make_unique<Io>()).get();
    ASSERT_EQ(f.channel.Submit({CLOUDBLK_OP_READ, 0, 0, &iov, 1, 0, nullptr, io}), 0);
  }
  f.Run();
  uint64_t bytes = 0;
  for (const FakeServer::Seen& seen : f.server.pending) bytes += seen.request.length;
  EXPECT_EQ(bytes, uint64_t{256} << 20);
  f.channel.Revoke();
}

TEST(ChannelHostileTexts, AreOneLineInTheLog) {
  static std::vector<std::string> log;
  log.clear();
  ChannelFixture f;
  f.channel.Attach({&f.loop, nullptr, nullptr, [](CloudblkLogLevel level, const char* line) {
                      if (level != CLOUDBLK_LOG_DEBUG) log.emplace_back(line);
                    }});
  f.channel.Start();
  f.Run();
  ASSERT_TRUE(f.ready());
  for (int i = 0; i < 100; ++i) f.server.SendEvent(wire::EventKind::kGoingAway, 0, "");
  f.Run();
  EXPECT_EQ(log.size(), 1u) << "once for a connection";
  f.server.Send(FakeServer::Frame(wire::FrameType::kError, wire::StatusMessage{},
                                  wire::kStatusMessageSize, "x\n\033[2Jqemu: y"));
  f.Run();
  ASSERT_GE(log.size(), 2u);
  EXPECT_NE(log[1].find("the server reports: x??[2Jqemu: y"), std::string::npos) << log[1];
  ASSERT_FALSE(f.events.empty());
  EXPECT_EQ(f.events[0].text, "the server reports: x??[2Jqemu: y");
}

TEST_F(ChannelHostile, ACloseReplyThatNobodyAskedFor) {
  f.server.Send(FakeServer::Frame(wire::FrameType::kCloseReply, wire::StatusMessage{},
                                  wire::kStatusMessageSize, ""));
  ExpectDropped();
}

TEST_F(ChannelHostile, AnErrorFrame) {
  f.server.Send(FakeServer::Frame(wire::FrameType::kError, wire::StatusMessage{},
                                  wire::kStatusMessageSize, "you are wrong"));
  ExpectDropped();
  EXPECT_EQ(f.events[0].text, "the server reports: you are wrong");
}

TEST_F(ChannelHostile, AnImpossibleSize) {
  f.server.SendEvent(wire::EventKind::kResized, 513, "");
  ExpectDropped();
}

TEST_F(ChannelHostile, ASizeWithAFlippedBit) {
  const uint64_t size = f.state.size();
  std::string event =
      FakeServer::Frame(wire::FrameType::kEvent, wire::Event{wire::EventKind::kResized, 2 * size},
                        wire::kEventSize, "");
  event[wire::kFrameHeaderSize + 8 + 3] ^= 0x10;  // a good size as well
  f.server.Send(event);
  ExpectDropped();
  EXPECT_EQ(f.state.size(), size);
}

TEST_F(ChannelHostile, MorePingsThanItReadsAnswersTo) {
  f.server.link()->habits.send_buffer = 1;
  f.server.deaf = true;
  f.server.Send(Pings(4000));
  f.Run();
  f.server.deaf = false;
  ExpectDropped();
}

TEST_F(ChannelHostile, StaleTag) {
  f.server.Answer(1);
  f.Run();
  EXPECT_EQ(write->completions, 1);
  f.server.SendReply({Reply{write_tag, StatusCode::kOk, 0, 0}}, "");
  f.Run();
  EXPECT_EQ(f.server.connections(), 2u);
  EXPECT_EQ(write->completions, 1);
  f.server.Answer(0);
  f.Run();
  EXPECT_EQ(read->result, 0);
}

TEST(ChannelHostileWrites, AnAnswerBeforeTheDataWasSent) {
  ChannelFixture f;
  f.Open();
  f.server.deaf = true;
  f.server.link()->habits.send_buffer = 1000;
  Io* io = f.Write(0, Pattern(65536, 1));
  f.Run();
  EXPECT_GT(f.server.link()->to_server.size(), 0u);
  // The tag stands in what was sent already.
  const uint64_t tag = Load64(reinterpret_cast<const uint8_t*>(f.server.link()->to_server.data()) +
                              wire::kFrameHeaderSize);
  f.server.SendReply({Reply{tag, StatusCode::kOk, 0, 0}}, "");
  f.server.deaf = false;
  f.Run();
  EXPECT_EQ(f.server.connections(), 2u);
  EXPECT_EQ(io->completions, 1);
  EXPECT_EQ(f.server.disk.substr(0, 65536), Pattern(65536, 1));
}

TEST(ChannelHostileOpen, AHoleThatWasNotNegotiated) {
  ChannelFixture f;
  f.server.hello.features = 0;
  f.server.hold = true;
  f.Open();
  Io* io = f.Read(0, 4096);
  f.Run();
  f.server.SendReply({Reply{f.server.pending[0].request.tag, StatusCode::kOk, 0, ReplyFlag::kHole}},
                     "");
  f.Run();
  EXPECT_EQ(io->completions, 0);
  EXPECT_EQ(f.server.connections(), 2u);
}

TEST(ChannelHostileOpen, RepliesBeforeTheSessionIsOpen) {
  ChannelFixture f;
  f.server.silent = true;
  f.Open();
  f.server.SendReply({Reply{0, StatusCode::kOk, 0, 0}}, "");
  f.Run();
  ASSERT_FALSE(f.failures.empty());
  EXPECT_EQ(f.failures[0].error, EPROTO);
}

TEST(ChannelHostileOpen, AnAnswerBeforeItWasAsked) {
  ChannelFixture f;
  f.habits.send_buffer = wire::kFrameHeaderSize + wire::kHelloSize;
  f.server.deaf = true;
  f.Open();
  f.server.Send(
      FakeServer::Frame(wire::FrameType::kHelloReply, f.server.hello, wire::kHelloReplySize, "") +
      FakeServer::Frame(wire::FrameType::kOpenReply, f.server.open, wire::kOpenReplySize, ""));
  f.Run();
  ASSERT_FALSE(f.failures.empty());
  EXPECT_EQ(f.failures[0].error, EPROTO) << f.failures[0].text;
  EXPECT_EQ(f.times_ready, 0);
}

TEST(ChannelHostileOpen, MoreThanWasAskedFor) {
  for (const bool payload : {false, true}) {
    ChannelFixture f;
    f.server.silent = true;
    f.Open();
    wire::HelloReply lie = f.server.hello;
    (payload ? lie.max_frame_payload : lie.max_frame_entries) =
        payload ? wire::kMaxFramePayload : wire::kMaxFrameEntries;
    f.server.Send(FakeServer::Frame(wire::FrameType::kHelloReply, lie, wire::kHelloReplySize, ""));
    f.Run();
    ASSERT_FALSE(f.failures.empty());
    EXPECT_EQ(f.failures[0].error, EPROTO) << f.failures[0].text;
  }
}

TEST(ChannelHostileOpen, ImpossibleHandshakes) {
  const std::function<void(FakeServer*)> lies[] = {
      [](FakeServer* s) { s->open.logical_block_size = 0; },
      [](FakeServer* s) { s->open.logical_block_size = 1 << 20; },
      [](FakeServer* s) { s->open.size = 1000; },
      [](FakeServer* s) { s->open.size = 1ull << 63; },
      [](FakeServer* s) { s->open.credit_requests = 0; },
      [](FakeServer* s) { s->open.credit_bytes = 0; },
      [](FakeServer* s) { s->open.max_ranges = 0; },
      [](FakeServer* s) { s->open.volume_flags = 1u << 31; },
      [](FakeServer* s) { s->open.status = static_cast<StatusCode>(777); },
      [](FakeServer* s) { s->hello.version = 9; },
      [](FakeServer* s) { s->hello.max_frame_payload = 16; },
      [](FakeServer* s) { s->hello.max_frame_entries = 0; },
  };
  for (const auto& lie : lies) {
    ChannelFixture f;
    lie(&f.server);
    f.Open();
    ASSERT_FALSE(f.failures.empty());
    EXPECT_EQ(f.failures[0].error, EPROTO) << f.failures[0].text;
  }
}

// What a good server says, with bits flipped. With PAYLOAD_CRC nothing of it may get through.
TEST(ChannelHostileBits, NoFlippedBitGetsThrough) {
  for (uint32_t seed = 0; seed < 400; ++seed) {
    std::mt19937 random(seed);
    ChannelFixture f(FixtureOptions{.size = 64 << 10, .payload_crc = true});
    f.server.hello.features |= wire::Feature::kPayloadCrc;
    f.server.disk = Pattern(f.server.disk.size(), seed);
    f.Open();
    f.server.hold = true;
    Io* a = f.Read(0, 8192, {1000});
    Io* b = f.Read(8192, 512);
    Io* c = f.Write(32768, Pattern(512, 1));
    f.Run();
    f.server.Answer(0, 3);
    std::string& bytes = f.server.link()->to_client;
    for (int i = 0; i < 3; ++i) {
      bytes[random() % bytes.size()] ^= static_cast<char>(1 << random() % 8);
    }
    f.server.hold = false;
    f.Run();
    // A length that says more than there is makes it wait; then the pings go unanswered.
    f.loop.Advance(60 * kSecond);
    for (const Io* io : {a, b, c}) {
      ASSERT_EQ(io->completions, 1) << seed;
      ASSERT_EQ(io->result, 0);
    }
    ASSERT_EQ(a->Data(), f.server.disk.substr(0, 8192)) << seed;
    ASSERT_EQ(b->Data(), f.server.disk.substr(8192, 512));
  }
}

// Frames whose sums are right and whose content is drawn at random from what is nearly right.
TEST(ChannelHostileBits, WellFormedNonsenseTouchesNothingElse) {
  for (uint32_t seed = 0; seed < 1000; ++seed) {
    std::mt19937 random(seed);
    const auto upto = [&](uint32_t n) { return static_cast<uint32_t>(random() % n); };
    ChannelFixture f(FixtureOptions{.size = 64 << 10});
    f.server.hello.max_frame_payload = 8192;
    f.server.hold = true;
    f.Open();
    f.Read(0, 4096, {1000});
    f.Read(8192, 512);
    f.Write(32768, Pattern(1024, 1));
    f.Flush();
    f.Run();
    for (int frames = 0; frames < 4 && f.server.connections() == 1; ++frames) {
      std::vector<Reply> replies;
      uint32_t payload = 0;
      for (uint32_t i = 0; i <= upto(4); ++i) {
        const auto& target = f.server.pending[upto(4)].request;
        Reply reply{target.tag, StatusCode::kOk, 0, 0};
        if (upto(2) != 0) reply.length = upto(8) != 0 ? target.length : upto(9000);
        if (upto(6) == 0) reply.tag ^= 1ull << upto(64);
        if (upto(6) == 0) reply.status = static_cast<StatusCode>(upto(21));
        if (upto(6) == 0) reply.flags = upto(3);
        payload += reply.length;
        replies.push_back(reply);
      }
      f.server.SendReply(replies, std::string(upto(10) != 0 ? payload : upto(9000), 'z'));
      f.Run();
    }
    f.server.hold = false;
    if (f.server.connections() == 1) {
      f.server.Cut();
    } else {
      f.server.Answer(0, f.server.pending.size());
    }
    f.Run();
    f.loop.Advance(60 * kSecond);
    for (const auto& io : f.ios) ASSERT_EQ(io->completions, 1) << seed;
  }
}

}  // namespace
}  // namespace cloudblk::testing
