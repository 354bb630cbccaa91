// SPDX-License-Identifier: GPL-2.0-or-later
//
// How sessions are opened and closed, and what is said when that fails.
#include "block/session.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cerrno>
#include <memory>
#include <string>
#include <vector>

#include "block/session_steps.h"
#include "tests/support/cpp/channel_fixture.h"
#include "tests/support/cpp/tcp_fake_server.h"

namespace cloudblk::testing {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr int64_t kSecond = 1'000'000'000;

class OpenStepTest : public ::testing::Test {
 protected:
  explicit OpenStepTest(size_t addresses = 2)
      : a(FixtureOptions{.addresses = addresses, .takeover = true, .channels = 2, .loop = &loop}),
        b(FixtureOptions{.channels = 2, .index = 1, .shared = &a.state, .loop = &loop}),
        opener(&a.state, {&a.channel, &b.channel}) {}
  ~OpenStepTest() override {
    if (a.channel.attached()) opener.Finish();
  }

  void Start() {
    opener.Start({&loop, nullptr, nullptr, nullptr});
    loop.Run();
  }
  void RunUntilDone() {
    for (int ms = 0; ms < 10'000 && !opener.done(); ++ms) loop.Advance(kSecond / 1000);
  }
  void ExpectFailed(int error) {
    ASSERT_TRUE(opener.done());
    EXPECT_EQ(opener.status().error(), error) << opener.status().message();
    opener.Finish();
    EXPECT_EQ(a.channel.state(), Channel::State::kIdle);
    EXPECT_EQ(b.channel.state(), Channel::State::kIdle);
    EXPECT_LT(loop.next_timer(), 0);
  }

  ManualLoop loop;
  ChannelFixture a;
  ChannelFixture b;
  OpenStep opener;
};

TEST_F(OpenStepTest, OpensTheFirstChannelAndThenTheOthers) {
  a.server.hold = true;
  Start();
  ASSERT_TRUE(opener.done());
  EXPECT_TRUE(opener.status().ok());
  EXPECT_TRUE(a.ready());
  EXPECT_TRUE(b.ready());
  EXPECT_EQ(a.server.opens[0].channel_count, 2u);
  EXPECT_EQ(a.server.opens[0].flags, wire::OpenFlag::kActive | wire::OpenFlag::kTakeover);
  EXPECT_EQ(b.server.opens[0].flags, uint32_t{wire::OpenFlag::kActive});
  EXPECT_EQ(b.server.opens[0].channel, 1u);
}

TEST_F(OpenStepTest, NoSuchVolume) {
  a.server.open.status = wire::StatusCode::kNoSuchVolume;
  a.server.refusal = "no volume 'disk' here; add --volume";
  Start();
  RunUntilDone();
  EXPECT_EQ(opener.status().message(),
            "server memory:1 refuses volume 'disk': no volume 'disk' here; add --volume");
  EXPECT_THAT(a.addresses_tried, ElementsAre(0, 1));
  ExpectFailed(ENOENT);
}

TEST_F(OpenStepTest, BusyWithAConnectedHolderFailsAtOnce) {
  a.server.open.status = wire::StatusCode::kBusy;
  a.server.refusal = "held by host-b, connected from 10.0.0.2";
  Start();
  loop.Advance(kSecond);
  EXPECT_THAT(opener.status().message(), HasSubstr("held by host-b"));
  ExpectFailed(EBUSY);
}

TEST_F(OpenStepTest, BusyWithALeaseThatRunsOutIsWaitedFor) {
  a.server.open.status = wire::StatusCode::kBusy;
  a.server.open.retry_ms = 5000;
  Start();
  loop.Advance(4 * kSecond);
  EXPECT_FALSE(opener.done());
  EXPECT_GT(a.server.opens.size(), 4u);
  a.server.open.status = wire::StatusCode::kOk;
  loop.Advance(kSecond);
  EXPECT_TRUE(opener.done());
  EXPECT_TRUE(opener.status().ok());
}

TEST_F(OpenStepTest, ALeaseIsWaitedForBesideAServerThatIsNotThere) {
  a.on_link = [](size_t address, MemoryLink* link) { link->refuses = address == 0; };
  a.server.open.status = wire::StatusCode::kBusy;
  a.server.open.retry_ms = 5000;
  a.server.refusal = "held by host-b, gone for 2 s";
  Start();
  loop.Advance(4 * kSecond);
  ASSERT_FALSE(opener.done());
  a.server.open.status = wire::StatusCode::kOk;
  loop.Advance(5 * kSecond);
  EXPECT_TRUE(opener.done());
  EXPECT_TRUE(opener.status().ok());
}

TEST_F(OpenStepTest, WhatTheServerThatIsThereSaidIsTold) {
  a.on_link = [](size_t address, MemoryLink* link) { link->refuses = address == 0; };
  a.server.open.status = wire::StatusCode::kBusy;
  a.server.open.retry_ms = 60'000;
  a.server.refusal = "held by host-b, gone for 2 s";
  Start();
  loop.Advance(15 * kSecond);
  EXPECT_FALSE(opener.done());
  opener.GiveUp(15 * kSecond);
  EXPECT_THAT(opener.status().message(), HasSubstr("held by host-b"));
  ExpectFailed(EBUSY);
}

TEST_F(OpenStepTest, TheTimeIsUp) {
  a.server.open.status = wire::StatusCode::kBusy;
  a.server.open.retry_ms = 60'000;
  a.server.refusal = "held by host-b, gone for 2 s";
  Start();
  loop.Advance(15 * kSecond);
  EXPECT_FALSE(opener.done());
  opener.GiveUp(15 * kSecond);
  EXPECT_THAT(opener.status().message(), HasSubstr("gave up after 15 s: "));
  EXPECT_THAT(opener.status().message(), HasSubstr("held by host-b"));
  ExpectFailed(EBUSY);
}

TEST_F(OpenStepTest, ASilentServer) {
  a.server.silent = true;
  Start();
  loop.Advance(15 * kSecond);
  EXPECT_THAT(a.addresses_tried, ElementsAre(0, 1));
  opener.GiveUp(15 * kSecond);
  EXPECT_THAT(opener.status().message(), HasSubstr("memory:1 does not answer"));
  ExpectFailed(ETIMEDOUT);
}

// Not for the whole time that opening may take: it may be a mistake.
TEST_F(OpenStepTest, NobodyListens) {
  a.on_link = [](size_t, MemoryLink* link) { link->refuses = true; };
  Start();
  loop.Advance(4 * kSecond);
  EXPECT_FALSE(opener.done());
  EXPECT_THAT(opener.WaitsFor(), HasSubstr("Connection refused; start"));
  loop.Advance(3 * kSecond);
  EXPECT_THAT(opener.status().message(), HasSubstr("Connection refused; start"));
  EXPECT_LT(a.addresses_tried.size(), 20u);
  ExpectFailed(ECONNREFUSED);
}

TEST_F(OpenStepTest, AServerThatRestartsIsWaitedFor) {
  a.server.open.status = wire::StatusCode::kShuttingDown;
  Start();
  loop.Advance(10 * kSecond);
  EXPECT_FALSE(opener.done());
  a.server.open.status = wire::StatusCode::kOk;
  a.on_link = [](size_t, MemoryLink* link) { link->refuses = true; };
  loop.Advance(3 * kSecond);
  EXPECT_FALSE(opener.done());
  a.on_link = nullptr;
  // At a pace of one second at most.
  loop.Advance(kSecond);
  EXPECT_TRUE(opener.done());
  EXPECT_TRUE(opener.status().ok());
}

TEST_F(OpenStepTest, WhateverTheServerSaysWillPassIsWaitedFor) {
  a.server.open.status = wire::StatusCode::kTooMany;
  a.server.open.retry_ms = 100;
  Start();
  loop.Advance(10 * kSecond);
  EXPECT_FALSE(opener.done());
  a.server.open.status = wire::StatusCode::kOk;
  loop.Advance(kSecond);
  EXPECT_TRUE(opener.done() && opener.status().ok());
}

TEST_F(OpenStepTest, ARefusalIsToldThoughAnotherServerIsNotThere) {
  a.on_link = [](size_t address, MemoryLink* link) { link->refuses = address == 1; };
  a.server.open.status = wire::StatusCode::kNoSuchVolume;
  a.server.refusal = "no volume 'disk' here; add --volume";
  Start();
  loop.Advance(8 * kSecond);
  EXPECT_THAT(opener.status().message(), HasSubstr("memory:0 refuses volume 'disk': no volume"));
  ExpectFailed(ENOENT);
}

TEST_F(OpenStepTest, OneOfTwoListens) {
  a.on_link = [](size_t address, MemoryLink* link) { link->refuses = address == 0; };
  Start();
  loop.Advance(kSecond);
  EXPECT_TRUE(opener.done());
  EXPECT_TRUE(opener.status().ok());
}

TEST_F(OpenStepTest, NotAServerOfOurs) {
  a.server.hello.version = 7;
  Start();
  loop.Advance(kSecond);
  EXPECT_THAT(opener.status().message(), HasSubstr("no cloudblk server at memory:1"));
  ExpectFailed(EPROTO);
}

TEST_F(OpenStepTest, ASecondChannelThatIsRefused) {
  b.server.open.status = wire::StatusCode::kTooMany;
  b.server.refusal = "at most 1 channel";
  Start();
  EXPECT_THAT(opener.status().message(), HasSubstr("at most 1 channel"));
  EXPECT_EQ(a.server.link()->client_closed, false);
  ExpectFailed(EUSERS);
  EXPECT_EQ(a.server.link()->client_closed, true);
}

// Both channels know two servers, and each server has its share of 15 s.
class TwoServersTest : public ::testing::Test {
 protected:
  TwoServersTest()
      : a(Options(0, nullptr)),
        b(Options(1, &a.state)),
        opener(&a.state, {&a.channel, &b.channel}) {}
  ~TwoServersTest() override {
    opener.Finish();
    for (ChannelFixture* f : {&a, &b}) f->channel.Abandon();
  }
  FixtureOptions Options(uint32_t index, SessionState* shared) {
    return {.addresses = 2,
            .channels = 2,
            .index = index,
            .open_answer_timeout_ns = 15 * kSecond / 2,
            .shared = shared,
            .loop = &loop};
  }
  void Start() {
    opener.Start({&loop, nullptr, nullptr, nullptr});
    loop.Run();
  }

  ManualLoop loop;
  ChannelFixture a;
  ChannelFixture b;
  OpenStep opener;
};

TEST_F(TwoServersTest, AHostThatIsOffHasItsShareAndNoMore) {
  // It takes the connection, but late, and says nothing.
  std::vector<MemoryLink*> slow;
  a.on_link = [&](size_t address, MemoryLink* link) {
    link->hangs = address == 0;
    if (link->hangs) slow.push_back(link);
  };
  Start();
  loop.Advance(4 * kSecond);
  slow.at(0)->hangs = false;
  loop.Advance(3 * kSecond);
  EXPECT_THAT(a.addresses_tried, ElementsAre(0));
  EXPECT_EQ(a.channel.state(), Channel::State::kHandshake);
  loop.Advance(kSecond);
  EXPECT_THAT(a.addresses_tried, ElementsAre(0, 1));
  EXPECT_TRUE(opener.done());
  EXPECT_TRUE(opener.status().ok());
}

// It was busy for 10 s, of which 5 went to the silent one; that one is not asked again meanwhile.
TEST_F(TwoServersTest, ALeaseIsWaitedForBesideASilentServer) {
  a.on_link = [](size_t address, MemoryLink* link) { link->hangs = address == 0; };
  a.server.open.status = wire::StatusCode::kBusy;
  a.server.open.epoch = 7;  // the holder's
  a.server.open.retry_ms = 5000;
  Start();
  loop.Advance(10 * kSecond);
  EXPECT_FALSE(opener.done());
  a.server.open.status = wire::StatusCode::kOk;
  loop.Advance(kSecond);
  EXPECT_TRUE(opener.done());
  EXPECT_TRUE(opener.status().ok());
  EXPECT_EQ(std::ranges::count(a.addresses_tried, size_t{0}), 1);
}

// Only the other one can find out whether the holder is there, or put it aside.
TEST_F(TwoServersTest, AServerThatDoesNotKnowTheHolderIsNotStayedWith) {
  a.server.judge_open = [this](const wire::Open&) {
    return a.addresses_tried.back() == 0 ? wire::StatusCode::kBusy : wire::StatusCode::kOk;
  };
  a.server.open.retry_ms = 1000;
  a.server.open.epoch = 0;
  Start();
  loop.Advance(kSecond);
  EXPECT_THAT(a.addresses_tried, ElementsAre(0, 1));
}

// Nobody tells when the other one has given the storage up, if the way to it is cut.
TEST_F(TwoServersTest, AStorageThatIsLockedIsAskedForOftenBesideASilentServer) {
  a.on_link = [](size_t address, MemoryLink* link) { link->hangs = address == 0; };
  a.server.open.status = wire::StatusCode::kBusy;
  a.server.open.retry_ms = 1000;
  a.server.open.epoch = 0;
  Start();
  loop.Advance(10 * kSecond);
  const auto before = std::ranges::count(a.addresses_tried, size_t{1});
  loop.Advance(10 * kSecond);
  EXPECT_GE(std::ranges::count(a.addresses_tried, size_t{1}), before + 3);
  // The other one has its turn each time.
  EXPECT_GE(std::ranges::count(a.addresses_tried, size_t{0}), before + 3);
}

TEST_F(TwoServersTest, TheServerThatIsSilentNowIsTold) {
  a.on_link = [](size_t address, MemoryLink* link) { link->refuses = address == 0; };
  b.server.silent = true;
  Start();
  loop.Advance(kSecond);
  ASSERT_TRUE(a.ready());
  opener.GiveUp(kSecond);
  EXPECT_EQ(opener.status().message(), "gave up after 1 s: server memory:1 does not answer");
}

TEST_F(TwoServersTest, TheServerThatIsThereAndSilentIsTold) {
  a.on_link = [](size_t address, MemoryLink* link) { link->refuses = address == 0; };
  a.server.silent = true;
  Start();
  loop.Advance(kSecond);
  ASSERT_FALSE(opener.done());
  opener.GiveUp(kSecond);
  EXPECT_EQ(opener.status().message(), "gave up after 1 s: server memory:1 does not answer");
}

TEST_F(TwoServersTest, AVolumeThatIsLostMeanwhileIsNotWaitedFor) {
  b.server.silent = true;
  Start();
  ASSERT_TRUE(a.ready());
  a.server.SendEvent(wire::EventKind::kRevoked, 0, "host b took it");
  loop.Run();
  EXPECT_TRUE(opener.done());
  EXPECT_EQ(opener.status().message(),
            "volume 'disk' was lost while it was being opened: host b took it");
  EXPECT_EQ(opener.status().error(), ESTALE);
}

TEST_F(TwoServersTest, ARefusalFromBeforeTheVolumeWasOpenIsNotTold) {
  a.server.open.status = wire::StatusCode::kBusy;
  a.server.open.retry_ms = 5000;
  a.server.refusal = "held by host-b";
  b.server.silent = true;
  Start();
  loop.Advance(kSecond);
  a.server.open.status = wire::StatusCode::kOk;
  loop.Advance(kSecond);
  ASSERT_TRUE(a.ready());
  opener.GiveUp(2 * kSecond);
  EXPECT_EQ(opener.status().message(), "gave up after 2 s: server memory:0 does not answer");
  EXPECT_EQ(opener.status().error(), ETIMEDOUT);
}

TEST(Session, EveryAddressGetsItsChanceThoughSeveralChannelsFail) {
  ManualLoop loop;
  FixtureOptions options{.addresses = 2, .channels = 3, .loop = &loop};
  ChannelFixture a(options);
  options.shared = &a.state;
  options.index = 1;
  ChannelFixture b(options);
  options.index = 2;
  ChannelFixture c(options);
  // The first server dies as soon as it has opened the volume for channel 0.
  int links = 0;
  a.on_link = [&](size_t address, MemoryLink* link) {
    link->refuses = address == 0 && links++ > 0;
  };
  for (ChannelFixture* f : {&b, &c}) {
    f->on_link = [&](size_t address, MemoryLink* link) {
      link->refuses = address == 0;
      if (a.ready() && address == 0) a.server.Cut();
    };
  }
  OpenStep opener(&a.state, {&a.channel, &b.channel, &c.channel});
  opener.Start({&loop, nullptr, nullptr, nullptr});
  loop.Advance(5 * kSecond);
  EXPECT_TRUE(opener.done());
  EXPECT_TRUE(opener.status().ok()) << opener.status().message();
  opener.Finish();
  for (ChannelFixture* f : {&a, &b, &c}) f->channel.Abandon();
}

// As a unix socket does it: connect() itself fails.
class FailingAtOnce final : public Connector {
 public:
  size_t count() const override { return 1; }
  std::string Name(size_t) const override { return "socket"; }
  Result<std::unique_ptr<Transport>> Connect(size_t) const override {
    return Status(ECONNREFUSED, "refused at once");
  }
  void Refresh(int64_t) override {}
};

TEST(Session, AFailureOfTheSecondChannelAtOnceIsNotLost) {
  ManualLoop loop;
  ChannelFixture a(FixtureOptions{.channels = 2, .loop = &loop});
  FailingAtOnce failing;
  Channel second(&a.state, 1, &failing);
  OpenStep opener(&a.state, {&a.channel, &second});
  opener.Start({&loop, nullptr, nullptr, nullptr});
  loop.Advance(7 * kSecond);
  EXPECT_TRUE(opener.done());
  EXPECT_EQ(opener.status().error(), ECONNREFUSED);
  opener.Finish();
}

TEST(Session, OpensAndClosesOverTcp) {
  TcpFakeServer server(1 << 20);
  SessionConfig config;
  config.uuid = RandomUuid();
  Result<std::unique_ptr<Session>> session = Session::Open(server.uri(), config, 10 * kSecond);
  ASSERT_TRUE(session.ok()) << session.status().message();
  EXPECT_EQ((*session)->state().size(), 1u << 20);
  (*session)->Close(10 * kSecond);
  server.Do([](FakeServer* fake) { EXPECT_EQ(fake->closes, 1u); });
}

TEST(Session, CloseDoesNotWaitLongerThanItMay) {
  TcpFakeServer server(1 << 20);
  SessionConfig config;
  config.uuid = RandomUuid();
  Result<std::unique_ptr<Session>> session = Session::Open(server.uri(), config, 10 * kSecond);
  ASSERT_TRUE(session.ok()) << session.status().message();
  server.Do([](FakeServer* fake) { fake->silent = true; });
  (*session)->Close(20'000'000);
}

TEST(Session, ATimeoutOfItsOwn) {
  TcpFakeServer server(1 << 20);
  server.Do([](FakeServer* fake) { fake->silent = true; });
  SessionConfig config;
  config.uuid = RandomUuid();
  const Result<std::unique_ptr<Session>> session = Session::Open(server.uri(), config, 50'000'000);
  ASSERT_FALSE(session.ok());
  EXPECT_EQ(session.status().error(), ETIMEDOUT);
}

TEST(Session, WhatIsWaitedForIsToldAfterASecond) {
  static std::vector<std::string> lines;
  TcpFakeServer server(1 << 20);
  server.Do([](FakeServer* fake) {
    fake->open.status = wire::StatusCode::kBusy;
    fake->open.retry_ms = 8000;
    fake->refusal = "held by host-b\x1b, its lease ends in 8 s";
  });
  SessionConfig config;
  config.uuid = RandomUuid();
  config.log = [](CloudblkLogLevel, const char* line) { lines.emplace_back(line); };
  const Result<std::unique_ptr<Session>> session =
      Session::Open(server.uri(), config, 5 * kSecond / 2);
  ASSERT_FALSE(session.ok());
  EXPECT_THAT(lines, ElementsAre(::testing::AllOf(HasSubstr("waiting (2500 ms at most): "),
                                                  HasSubstr("held by host-b?, its lease"))));
}

TEST(Session, ASilentServerLeavesTheNextOneItsTime) {
  TcpFakeServer silent(1 << 20);
  silent.Do([](FakeServer* fake) { fake->silent = true; });
  TcpFakeServer server(1 << 20);
  std::string uri = server.uri();
  const std::string first = silent.uri();
  const size_t host = uri.find("//") + 2;
  uri.insert(host, first.substr(host, first.rfind('/') - host) + ",");
  SessionConfig config;
  config.uuid = RandomUuid();
  Result<std::unique_ptr<Session>> session = Session::Open(uri, config, kSecond);
  ASSERT_TRUE(session.ok()) << session.status().message();
  (*session)->Close(10 * kSecond);
}

// --- Resize ------------------------------------------------------------------------------------

class SessionResizeTest : public ::testing::Test {
 protected:
  SessionResizeTest() {
    SessionConfig config;
    config.uuid = RandomUuid();
    config.observe = true;
    session_ = std::move(Session::Open(server_.uri(), config, 10 * kSecond).value());
  }
  ~SessionResizeTest() override { session_->Close(10 * kSecond); }

  TcpFakeServer server_{1 << 20};
  std::unique_ptr<Session> session_;
};

TEST_F(SessionResizeTest, AsksForItAndKnowsTheNewSize) {
  const Status resized = session_->Resize(2 << 20, true, 10 * kSecond);
  EXPECT_TRUE(resized.ok()) << resized.message();
  EXPECT_EQ(session_->state().size(), 2u << 20);
  server_.Do([](FakeServer* fake) {
    ASSERT_EQ(fake->resizes.size(), 1u);
    EXPECT_EQ(fake->resizes[0].size, 2u << 20);
    EXPECT_EQ(fake->resizes[0].flags, wire::ResizeFlag::kForce);
  });
  EXPECT_TRUE(session_->Resize(3 << 20, false, 10 * kSecond).ok());
}

TEST_F(SessionResizeTest, ARefusalSaysWhy) {
  server_.Do([](FakeServer* fake) {
    fake->resize_status = wire::StatusCode::kInvalid;
    fake->refusal = "add --force to do that";
  });
  const Status resized = session_->Resize(512, false, 10 * kSecond);
  EXPECT_EQ(resized.error(), EINVAL);
  EXPECT_THAT(resized.message(), HasSubstr("add --force to do that"));
  EXPECT_EQ(session_->state().size(), 1u << 20);
}

TEST_F(SessionResizeTest, WithoutAnAnswerTheOutcomeIsNotKnown) {
  server_.Do([](FakeServer* fake) { fake->silent = true; });
  const Status resized = session_->Resize(2 << 20, false, 50'000'000);
  EXPECT_EQ(resized.error(), ETIMEDOUT);
  EXPECT_THAT(resized.message(), HasSubstr("not known"));
  server_.Do([](FakeServer* fake) { fake->silent = false; });
}

TEST_F(SessionResizeTest, AfterATimeoutItMayBeTriedAgain) {
  server_.Do([](FakeServer* fake) { fake->silent = true; });
  EXPECT_EQ(session_->Resize(2 << 20, false, 50'000'000).error(), ETIMEDOUT);
  server_.Do([](FakeServer* fake) { fake->silent = false; });
  const Status resized = session_->Resize(3 << 20, false, 10 * kSecond);
  EXPECT_TRUE(resized.ok()) << resized.message();
  EXPECT_EQ(session_->state().size(), 3u << 20);
}

TEST_F(SessionResizeTest, ALostServerIsNotWaitedFor) {
  server_.Do([](FakeServer* fake) { fake->cut_by_resize = true; });
  const Status resized = session_->Resize(2 << 20, false, 60 * kSecond);
  EXPECT_EQ(resized.error(), ETIMEDOUT);
  EXPECT_THAT(resized.message(), HasSubstr("not known"));
}

TEST(Session, AnAnswerToAResizeThatNobodyAskedForIsAViolation) {
  ChannelFixture f;
  f.Open();
  f.server.Send(FakeServer::Frame(wire::FrameType::kResizeReply, wire::StatusMessage{},
                                  wire::kStatusMessageSize, ""));
  f.Run();
  ASSERT_EQ(f.failures.size(), 1u);
  EXPECT_EQ(f.failures[0].error, EPROTO);
}

}  // namespace
}  // namespace cloudblk::testing
