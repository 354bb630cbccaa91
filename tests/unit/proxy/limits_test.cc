// SPDX-License-Identifier: GPL-2.0-or-later
//
// What clients may take in all: memory, connections, time, lines of the log.
#include "proxy/limits.h"

#include <gmock/gmock.h>
#include <spdlog/sinks/ostream_sink.h>

#include <cerrno>
#include <memory>
#include <sstream>
#include <string>
#include <utility>

#include "proxy/connection.h"
#include "proxy/log_limit.h"
#include "tests/support/cpp/manual_loop.h"
#include "tests/unit/proxy/manual_alarm_clock.h"
#include "tests/unit/proxy/test_server.h"

namespace cloudblk::proxy {
namespace {

using Code = wire::StatusCode;
using ::testing::HasSubstr;

constexpr uint32_t kPiece = 64 << 10;
constexpr uint32_t kObserve = 0;
constexpr uint32_t kReadOnly = wire::OpenFlag::kActive | wire::OpenFlag::kReadOnly;

class LimitsTest : public ::testing::Test {
 protected:
  void Start(const Limits::Settings& settings) {
    server_ = std::make_unique<TestServer>(
        std::vector<std::pair<std::string, std::string>>{
            {"disk", "file://" + (folder_ / "disk") + "?size=64M&create=on"},
            {"memory", "memory:?size=8M"}},
        1, settings);
  }
  std::unique_ptr<RawClient> Opened(const wire::Open& open, std::string_view volume = "disk") {
    auto client = server_->Connect();
    EXPECT_EQ(client->Open(open, volume), Code::kOk) << client->text;
    return client;
  }
  // What was sent before is dealt with once somebody else has been served, who came later.
  void WaitForTheLoop() { EXPECT_EQ(server_->Connect()->Open(OpenOf(99, 0)), Code::kOk); }
  uint64_t Used() { return server_->limits().settings().max_memory - server_->limits().left(); }

  uint64_t incarnation_ = 0;
  TempFolder folder_;
  std::unique_ptr<TestServer> server_;
};

TEST(ProgressTest, StallsWithoutEnoughOfIt) {
  Progress progress;
  EXPECT_FALSE(progress.Stalls(true, 1, 0, 0, 100));
  EXPECT_FALSE(progress.Stalls(true, 1, 100, 99, 100));
  EXPECT_TRUE(progress.Stalls(true, 1, Limits::kStallBytes - 1, 100, 100));
  EXPECT_FALSE(progress.Stalls(true, 1, Limits::kStallBytes, 100, 100));
  // Another one has begun.
  EXPECT_FALSE(progress.Stalls(true, 2, Limits::kStallBytes, 250, 100));
  EXPECT_FALSE(progress.Stalls(false, 2, Limits::kStallBytes, 400, 100));
  EXPECT_FALSE(progress.Stalls(true, 2, Limits::kStallBytes, 500, 100));
  EXPECT_TRUE(progress.Stalls(true, 2, Limits::kStallBytes, 600, 100));
}

TEST_F(LimitsTest, AFrameThatStopsInTheMiddleEndsItsConnection) {
  Start({.stall_ns = 100'000'000});
  const Bytes frame = RequestFrame({WriteOf(1, 0, kPiece)}, Bytes(kPiece));
  for (const size_t length : {size_t{7}, wire::kFrameHeaderSize + 5, frame.size() - 1}) {
    const auto client = Opened(OpenOf(1, wire::OpenFlag::kActive, ++incarnation_));
    ASSERT_TRUE(client->Send(std::span(frame).first(length)));
    EXPECT_TRUE(client->Ended()) << length;
    EXPECT_EQ(client->text, "");
  }
  // One that has nothing under way stays.
  const auto idle = Opened(OpenOf(1, wire::OpenFlag::kActive, ++incarnation_));
  const auto other = Opened(OpenOf(2, kObserve));
  other->Send(std::span(frame).first(7));
  EXPECT_TRUE(other->Ended());
  EXPECT_EQ(idle->Do(WriteOf(1, 0, kPiece), Bytes(kPiece)), Code::kOk);
}

TEST_F(LimitsTest, AnswersThatNobodyReadsEndTheConnection) {
  Start({.stall_ns = 100'000'000});
  const auto client = Opened(OpenOf(1));
  std::vector<wire::Request> reads;
  for (uint64_t i = 0; i < 256; ++i) reads.push_back(ReadOf(i, i * kPiece, kPiece));
  ASSERT_TRUE(client->Send(RequestFrame(reads)));
  server_->WaitUntilNobodyIsConnected();
}

TEST_F(LimitsTest, AHolderGoesOnHoweverLittleMemoryThereIs) {
  Start({.max_memory = 1});
  const auto client = Opened(OpenOf(1));
  Bytes data;
  std::vector<wire::Request> writes;
  std::vector<wire::Request> reads;
  for (uint64_t i = 0; i < 16; ++i) {
    data = data + Pattern(kPiece, static_cast<uint32_t>(i));
    writes.push_back(WriteOf(i, i * kPiece, kPiece));
    reads.push_back(ReadOf(100 + i, i * kPiece, kPiece));
  }
  // Several frames at once, of which only one has room.
  const Bytes all = RequestFrame(writes, data);
  ASSERT_TRUE(client->Send(all + RequestFrame(reads)));
  for (uint64_t i = 0; i < 16; ++i) {
    EXPECT_EQ(client->ReplyTo(i).reply.status, Code::kOk);
    const ReceivedReply reply = client->ReplyTo(100 + i);
    EXPECT_EQ(reply.reply.status, Code::kOk);
  }
  ASSERT_TRUE(client->Send(RequestFrame(reads)));
  for (uint64_t i = 0; i < 16; ++i) {
    EXPECT_EQ(client->ReplyTo(100 + i).data, Pattern(kPiece, static_cast<uint32_t>(i)));
  }
  for (wire::Request& write : writes) write.tag += 200;
  ASSERT_TRUE(client->Send(all + RequestFrame(writes, data)));
  for (uint64_t i = 0; i < 16; ++i) {
    EXPECT_EQ(client->ReplyTo(i).reply.status, Code::kOk);
    EXPECT_EQ(client->ReplyTo(200 + i).reply.status, Code::kOk);
  }
}

TEST_F(LimitsTest, ClientsThatReadNothingLeaveMemoryForOthers) {
  constexpr uint64_t kMost = 16 << 20;
  Start({.max_memory = kMost});
  std::vector<std::unique_ptr<RawClient>> clients;
  std::vector<wire::Request> reads;
  constexpr uint64_t kReads = 4 * kMost / 8 / kPiece;
  for (uint64_t i = 0; i < kReads; ++i) reads.push_back(ReadOf(i, i * kPiece, kPiece));
  for (uint8_t i = 1; i <= 8; ++i) {
    clients.push_back(Opened(OpenOf(i, kReadOnly)));
    ASSERT_TRUE(clients.back()->Send(RequestFrame(reads)));
    WaitForTheLoop();
  }
  EXPECT_GT(server_->limits().left(), uint64_t{1} << 20);
  EXPECT_GT(Used(), kMost / 2);
  // All that they asked for comes when they read.
  for (const auto& client : clients) {
    for (uint64_t i = 0; i < kReads; ++i) ASSERT_EQ(client->ReplyTo(i).data.size(), kPiece);
  }
}

TEST_F(LimitsTest, WhatMayNotBeWrittenTakesNoMemory) {
  Start({});
  const Bytes frame = RequestFrame({WriteOf(1, 0, 1 << 20)}, Bytes(1 << 20));
  std::vector<std::unique_ptr<RawClient>> clients;
  for (const uint32_t flags : {kObserve, kReadOnly}) {
    clients.push_back(Opened(OpenOf(static_cast<uint8_t>(1 + flags), flags)));
    ASSERT_TRUE(clients.back()->Send(std::span(frame).first(frame.size() - 1)));
    WaitForTheLoop();
    EXPECT_LT(Used(), uint64_t{512} << 10);
    ASSERT_TRUE(clients.back()->Send(std::span(frame).last(1)));
    EXPECT_EQ(clients.back()->ReplyTo(1).reply.status,
              flags == kObserve ? Code::kNotActive : Code::kReadOnly);
    EXPECT_EQ(clients.back()->Do(FlushOf(2)), flags == kObserve ? Code::kNotActive : Code::kOk);
  }
}

TEST_F(LimitsTest, OfRangesTheStorageGetsAFewAtATime) {
  Start({});
  const auto client = Opened(OpenOf(1), "gated");
  std::vector<wire::Request> discards;
  Bytes payload;
  for (uint64_t i = 0; i < 3 * kRangesAtStorage; ++i) {
    wire::Request discard;
    discard.tag = i;
    discard.operation = wire::Operation::kDiscard;
    discard.range_count = 1;
    discard.length = wire::kRangeSize;
    discards.push_back(discard);
    payload = payload + Encoded(wire::Range{0, 512, 0});
  }
  ASSERT_TRUE(client->Send(RequestFrame(discards, payload)));
  for (int i = 0; i < 3; ++i) {
    server_->gated->WaitUntilHeld(kRangesAtStorage);
    WaitForTheLoop();
    server_->gated->WaitUntilHeld(kRangesAtStorage);
    server_->gated->Let();
  }
  for (const wire::Request& discard : discards) {
    EXPECT_EQ(client->ReplyTo(discard.tag).reply.status, Code::kOk);
  }
}

TEST_F(LimitsTest, WhatAStorageHasLentIsCountedAndGivenBackOnceItWasSent) {
  Start({});
  const uint64_t before = Used();
  auto client = Opened(OpenOf(1), "gated");
  for (const bool receives : {true, false}) {
    ASSERT_TRUE(client->Send(RequestFrame({ReadOf(1, 0, 1 << 20), ReadOf(2, 0, 1 << 20)})));
    WaitForTheLoop();
    // More than a socket keeps.
    EXPECT_EQ(server_->gated->lent(), 2);
    EXPECT_GE(Used(), before + (2 << 20));
    if (receives) {
      EXPECT_EQ(client->ReplyTo(1).reply.status, Code::kOk);
      EXPECT_EQ(client->ReplyTo(2).reply.status, Code::kOk);
    } else {
      client.reset();
    }
    WaitForTheLoop();
    EXPECT_EQ(server_->gated->lent(), 0);
    EXPECT_LT(Used(), before + (2 << 20));
  }
}

TEST_F(LimitsTest, WhoDoesNotOpenAVolumeIsDroppedForANewerOne) {
  Start({.max_connections = 16});
  const auto opened = Opened(OpenOf(1));
  std::vector<std::unique_ptr<RawClient>> strangers;
  for (int i = 0; i < 5; ++i) strangers.push_back(server_->Connect());
  EXPECT_TRUE(strangers[0]->Ended());
  EXPECT_EQ(strangers[1]->Open(OpenOf(2, kObserve)), Code::kOk);
  EXPECT_EQ(opened->Do(FlushOf(1)), Code::kOk);
}

TEST_F(LimitsTest, AFullServerLetsInWhoHoldsAVolume) {
  Start({.max_connections = 2});
  auto holder = Opened(OpenOf(1));
  const auto observer = Opened(OpenOf(2, kObserve));
  for (const uint32_t flags : {kObserve, kReadOnly}) {
    const auto other = server_->Connect();
    EXPECT_EQ(other->Open(OpenOf(3, flags), "memory"), Code::kTooMany);
    EXPECT_THAT(other->text, HasSubstr("--max-connections"));
  }
  // What SPEC.md 6.5 has before it is said before it.
  const auto stale = server_->Connect();
  EXPECT_EQ(stale->Open(OpenOf(1)), Code::kStale);
  const auto again = Opened(OpenOf(1, wire::OpenFlag::kActive, 2));
  EXPECT_EQ(again->Do(FlushOf(1)), Code::kOk);
}

TEST_F(LimitsTest, AnOpenThatIsNotAnsweredIsToldThatTheServerStops) {
  Start({});
  server_->gated->KeepOwners(false);
  const auto client = server_->Connect();
  ASSERT_TRUE(client->Send(HelloFrame() + OpenFrame(OpenOf(1), "gated")));
  ASSERT_TRUE(client->ReceiveOf(wire::FrameType::kHelloReply));
  server_->GoAway();
  EXPECT_EQ(client->Opened(), Code::kShuttingDown);
  EXPECT_TRUE(client->Ended());
}

TEST_F(LimitsTest, AGenerationBelongsToAResume) {
  Start({});
  wire::Open open = OpenOf(1);
  open.generation = 7;
  wire::Open named = OpenOf(1);
  named.volume = server_->volume("disk").backend->uuid();
  for (const wire::Open& bad : {open, named}) {
    const auto client = server_->Connect();
    ASSERT_TRUE(client->Send(HelloFrame() + OpenFrame(bad)));
    EXPECT_TRUE(client->Ended());
    EXPECT_THAT(client->text, HasSubstr("without RESUME"));
  }
}

class BrokenTransport final : public Transport {
 public:
  explicit BrokenTransport(int error) : error_(error) {}
  int fd() const override { return -1; }
  int ConnectResult() override { return 0; }
  ssize_t Readv(const iovec*, int) override { return -error_; }
  ssize_t Writev(const iovec*, int) override { return -EPIPE; }
  bool PeerGone() const override { return true; }

 private:
  const int error_;
};

class NoSink final : public FrameSink {
 public:
  bool OnMessage(const wire::FrameHeader&, std::span<const uint8_t>,
                 std::span<const uint8_t>) override {
    return false;
  }
  Next OnBatch(const wire::FrameHeader&, std::span<const uint8_t>, std::vector<iovec>*) override {
    return Next::kStop;
  }
  Next OnPieces(size_t, bool) override { return Next::kStop; }
  void OnBadFrame(wire::DecodeError) override {}
};

TEST(FrameReaderTest, TellsAnEndFromAFailure) {
  for (const int error : {0, ECONNRESET}) {
    BufferPool pool;
    NoSink sink;
    FrameReader reader(&pool, &sink);
    BrokenTransport transport(error);
    EXPECT_EQ(reader.Read(&transport), FrameReader::Outcome::kEnd);
    EXPECT_EQ(reader.error(), error);
  }
}

class LogLimitTest : public ::testing::Test {
 protected:
  LogLimitTest() {
    spdlog::set_default_logger(std::make_shared<spdlog::logger>(
        "test", std::make_shared<spdlog::sinks::ostream_sink_mt>(out_)));
    spdlog::set_pattern("%v");
  }
  ~LogLimitTest() override { spdlog::set_default_logger(before_); }
  // What was logged since.
  std::string Take() { return std::exchange(out_, std::ostringstream()).str(); }

  std::ostringstream out_;

 private:
  const std::shared_ptr<spdlog::logger> before_ = spdlog::default_logger();
};

TEST_F(LogLimitTest, SaysHowManyMoreThereWere) {
  cloudblk::testing::ManualLoop loop;
  LogLimit log(&loop);
  for (int i = 1; i <= 12; ++i) log.Log(spdlog::level::info, "one", fmt::format("one {}", i));
  log.Log(spdlog::level::info, "two", "two");
  EXPECT_EQ(Take(), "one 1\none 2\none 3\none 4\none 5\ntwo\n");
  loop.Advance(LogLimit::kQuietNs);
  EXPECT_EQ(Take(), "one 12 (and 6 more like it)\n");
  // It goes on: one line for each ten seconds.
  for (int i = 0; i < 3; ++i) log.Log(spdlog::level::info, "one", fmt::format("more {}", i));
  loop.Advance(LogLimit::kQuietNs);
  EXPECT_EQ(Take(), "more 2 (and 2 more like it)\n");
  // It has stopped: what comes later is told as it is.
  loop.Advance(LogLimit::kQuietNs);
  log.Log(spdlog::level::info, "one", "again");
  EXPECT_EQ(Take(), "again\n");
}

TEST_F(LogLimitTest, GoesByAnAlarmClockAsWell) {
  ManualAlarmClock alarm;
  int64_t now = 7;
  {
    LogLimit log(&alarm, [&now] { return now; });
    for (int i = 1; i <= 4; ++i) log.Log(spdlog::level::info, "one", fmt::format("{}", i), 2);
    EXPECT_EQ(Take(), "1\n2\n");
    alarm.Ring(now += LogLimit::kQuietNs - 1);
    EXPECT_EQ(Take(), "");
    alarm.Ring(++now);
    EXPECT_EQ(Take(), "4 (and 1 more like it)\n");
    log.Log(spdlog::level::info, "one", "last", 2);
    EXPECT_EQ(Take(), "");
  }
  EXPECT_EQ(Take(), "last\n");
  alarm.Ring(now + LogLimit::kQuietNs);
}

}  // namespace
}  // namespace cloudblk::proxy
