// SPDX-License-Identifier: GPL-2.0-or-later
//
// Loss of the connection: backoff, failover, replay, liveness, the end of a session.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cerrno>

#include "tests/support/cpp/channel_fixture.h"

namespace cloudblk::testing {
namespace {

using ::testing::HasSubstr;

constexpr int64_t kMs = 1'000'000;
constexpr int64_t kSecond = 1000 * kMs;

TEST(ChannelReconnect, ResumesAtOnceAndReplaysInOrder) {
  ChannelFixture f;
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
  const wire::Open& open = f.server.opens[1];
  EXPECT_EQ(open.incarnation, 2u);
  EXPECT_EQ(open.epoch, 1u);
  EXPECT_EQ(open.flags, wire::OpenFlag::kActive | wire::OpenFlag::kResume);
  EXPECT_EQ(open.volume, f.server.open.volume);
  EXPECT_EQ(open.generation, 1u);
  ASSERT_EQ(f.server.pending.size(), 4u);
  const uint64_t offsets[] = {0, 4096, 12288, 16384};
  for (int i = 0; i < 4; ++i) EXPECT_EQ(f.server.pending[i].request.offset, offsets[i]);
  f.server.Answer(0, 4);
  f.Run();
  for (const auto& io : f.ios) EXPECT_EQ(io->result, 0);
  ASSERT_EQ(f.events.size(), 2u);
  EXPECT_EQ(f.events[0].kind, CLOUDBLK_EVENT_LOST);
  EXPECT_THAT(f.events[0].text, HasSubstr("closed"));
  EXPECT_EQ(f.events[1].kind, CLOUDBLK_EVENT_RESTORED);
}

TEST(ChannelReconnect, WhatWasSentGoesBeforeWhatWaits) {
  ChannelFixture f;
  f.server.hold = true;
  f.server.open.credit_requests = 3;
  f.Open();
  for (int i = 0; i < 6; ++i) f.Read(i * 4096, 4096);
  f.Run();
  f.server.seen.clear();
  f.server.hold = false;
  f.server.Cut();
  f.Run();
  ASSERT_EQ(f.server.seen.size(), 6u);
  for (int i = 0; i < 6; ++i) EXPECT_EQ(f.server.seen[i].request.offset, i * 4096u);
}

TEST(ChannelReconnect, RequestsMayBeSubmittedWhileThereIsNoServer) {
  ChannelFixture f;
  f.Open();
  f.on_link = [](size_t, MemoryLink* link) { link->refuses = true; };
  f.server.Cut();
  f.Run();
  EXPECT_EQ(f.channel.state(), Channel::State::kBackoff);
  Io* io = f.Write(0, Pattern(4096, 1));
  f.channel.Kick();
  f.loop.Advance(3600 * kSecond);
  EXPECT_EQ(io->completions, 0);
  f.on_link = nullptr;
  f.loop.Advance(2 * kSecond);
  EXPECT_EQ(io->completions, 1);
  EXPECT_EQ(io->result, 0);
}

TEST(ChannelReconnect, BacksOffUpToTwoSeconds) {
  ChannelFixture f;
  f.Open();
  f.on_link = [](size_t, MemoryLink* link) { link->refuses = true; };
  f.addresses_tried.clear();
  f.server.Cut();
  std::vector<int64_t> delays;
  f.Run();
  for (int i = 0; i < 12; ++i) {
    const int64_t delay = f.loop.next_timer() - f.loop.NowNs();
    delays.push_back(delay);
    f.loop.Advance(delay);
  }
  for (size_t i = 0; i < delays.size(); ++i) {
    const int64_t whole = std::min<int64_t>(10 * kMs << i, 2 * kSecond);
    EXPECT_GE(delays[i], whole / 2) << i;
    EXPECT_LE(delays[i], whole) << i;
  }
  EXPECT_EQ(f.addresses_tried.size(), 13u);
}

TEST(ChannelReconnect, GoesRoundTheAddresses) {
  ChannelFixture f(FixtureOptions{.addresses = 3});
  f.Open();
  f.on_link = [](size_t address, MemoryLink* link) { link->refuses = address != 2; };
  f.addresses_tried.clear();
  f.server.Cut();
  f.loop.Advance(kSecond);
  EXPECT_TRUE(f.ready());
  EXPECT_THAT(f.addresses_tried, ::testing::ElementsAre(0, 1, 2));
  // And stays with the one that works.
  f.server.Cut();
  f.loop.Advance(kSecond);
  EXPECT_EQ(f.addresses_tried.back(), 2u);
}

TEST(ChannelReconnect, AsksWhereTheServersAreWhenAllOfThemHaveFailed) {
  ChannelFixture f(FixtureOptions{.addresses = 2});
  f.Open();
  f.on_link = [](size_t, MemoryLink* link) { link->refuses = true; };
  f.addresses_tried.clear();
  f.server.Cut();
  while (f.addresses_tried.size() < 2) {
    EXPECT_EQ(f.connector.refreshes, 0);
    f.loop.Advance(kMs);
  }
  f.Run();
  EXPECT_EQ(f.connector.refreshes, 1);
  while (f.addresses_tried.size() < 4) f.loop.Advance(kMs);
  f.Run();
  EXPECT_EQ(f.connector.refreshes, 2);
}

TEST(ChannelReconnect, DoesNotAskWhileOthersAreServed) {
  ManualLoop loop;
  ChannelFixture a(FixtureOptions{.channels = 2, .loop = &loop});
  ChannelFixture b(FixtureOptions{.channels = 2, .index = 1, .shared = &a.state, .loop = &loop});
  a.Open();
  b.Open();
  loop.Advance(3 * kSecond);
  a.on_link = [](size_t, MemoryLink* link) { link->refuses = true; };
  b.Read(0, 512);
  loop.Run();
  a.addresses_tried.clear();
  a.server.Cut();
  while (a.addresses_tried.size() < 3) loop.Advance(kMs);
  EXPECT_EQ(a.connector.refreshes, 0);
  // They hear nothing any more.
  loop.Advance(6 * kSecond);
  EXPECT_GT(a.connector.refreshes, 0);
}

TEST(ChannelReconnect, WhoWasNeverInDoesNotAskAgain) {
  ChannelFixture f;
  f.on_link = [](size_t, MemoryLink* link) { link->refuses = true; };
  f.Open();
  f.loop.Advance(kSecond);
  EXPECT_GT(f.addresses_tried.size(), 2u);
  EXPECT_EQ(f.connector.refreshes, 0);
}

TEST(ChannelReconnect, ConnectionsThatBreakAtOnceAreNotMadeInALoop) {
  ChannelFixture f;
  f.server.hold = true;
  f.Open();
  f.Read(0, 4096);
  f.Run();
  // Accepts, and falls over what is replayed to it.
  for (int i = 0; i < 100; ++i) {
    f.server.Cut();
    f.Run();
    f.loop.Advance(10 * kMs);
  }
  EXPECT_LT(f.server.connections(), 12u);
}

TEST(ChannelReconnect, PartlyReceivedReadsStartAnew) {
  ChannelFixture f;
  f.server.hold = true;
  f.server.disk = Pattern(f.server.disk.size(), 1);
  f.Open();
  Io* io = f.Read(0, 8192);
  f.Run();
  const wire::Reply reply{f.server.pending[0].request.tag, wire::StatusCode::kOk, 8192, 0};
  const std::string frame = FakeServer::ReplyFrame({reply}, f.server.disk.substr(0, 8192), false);
  f.server.Send(std::string_view(frame).substr(0, 5000));
  f.Run();
  f.server.Cut();
  f.Run();
  EXPECT_EQ(io->completions, 0);
  f.server.Answer(0);
  f.Run();
  EXPECT_EQ(io->Data(), f.server.disk.substr(0, 8192));
  EXPECT_EQ(io->bytes_stored, 8192u);
}

TEST(ChannelReconnect, SmallerLimitsOfTheNextServerHold) {
  ChannelFixture f;
  f.server.hold = true;
  f.Open();
  f.Write(0, Pattern(65536, 1));
  f.Ranges(CLOUDBLK_OP_DISCARD, {{131072, 65536, 0}, {262144, 65536, 0}});
  f.Run();
  f.server.hello.max_frame_payload = 8192;
  f.server.open.credit_requests = 2;
  f.server.open.credit_bytes = 8192;
  f.server.open.max_ranges = 1;
  f.server.open.max_discard_length = 4096;
  f.server.hold = false;
  f.server.Cut();
  f.Run();
  for (const auto& io : f.ios) EXPECT_EQ(io->result, 0);
  EXPECT_EQ(f.server.disk.substr(0, 65536), Pattern(65536, 1));
}

TEST(ChannelReconnect, AResizeIsTold) {
  ChannelFixture f;
  f.Open();
  f.server.SendEvent(wire::EventKind::kResized, 8 << 20, "");
  f.Run();
  EXPECT_EQ(f.state.size(), 8u << 20);
  ASSERT_EQ(f.events.size(), 1u);
  EXPECT_EQ(f.events[0].kind, CLOUDBLK_EVENT_RESIZED);
  EXPECT_EQ(f.events[0].value, 8u << 20);
  f.server.open.size = 16 << 20;
  f.server.Cut();
  f.Run();
  EXPECT_TRUE(f.ready());
  EXPECT_EQ(f.state.size(), 16u << 20);
  const auto last = std::ranges::find_if(f.events.rbegin(), f.events.rend(), [](const auto& event) {
    return event.kind == CLOUDBLK_EVENT_RESIZED;
  });
  EXPECT_EQ(last->value, 16u << 20);
}

TEST(ChannelReconnect, ARequestThatTheVolumeNoLongerHoldsFails) {
  ChannelFixture f;
  f.server.hold = true;
  f.Open();
  Io* within = f.Write(0, Pattern(512, 1));
  Io* beyond = f.Write(2 << 20, Pattern(512, 1));
  f.Run();
  f.server.SendEvent(wire::EventKind::kResized, 1 << 20, "");
  f.server.Answer(1, 1, wire::StatusCode::kOutOfRange);
  f.server.Answer(0);
  f.Run();
  EXPECT_EQ(within->result, 0);
  EXPECT_EQ(beyond->result, -ERANGE);
  const CloudblkRange range{1 << 20, 512, 0};
  EXPECT_EQ(f.TrySubmit({CLOUDBLK_OP_DISCARD, 0, 0, nullptr, 0, 1, &range, nullptr}), -EINVAL);
}

// --- The end of a session -----------------------------------------------------------------------

class ChannelEnd : public ::testing::TestWithParam<wire::StatusCode> {};

TEST_P(ChannelEnd, AFinalRefusalFailsEverythingFromThenOn) {
  ChannelFixture f;
  f.server.hold = true;
  f.Open();
  Io* sent = f.Write(0, Pattern(512, 1));
  Io* waiting = f.Write(0, Pattern(512, 2));
  f.Run();
  f.server.open.status = GetParam();
  f.server.refusal = "taken by somebody";
  f.server.Cut();
  f.Run();
  EXPECT_EQ(sent->result, -EIO);
  EXPECT_EQ(waiting->result, -EIO);
  EXPECT_EQ(f.channel.state(), Channel::State::kEnded);
  EXPECT_TRUE(f.state.revoked());
  EXPECT_EQ(f.events.back().kind, CLOUDBLK_EVENT_REVOKED);
  EXPECT_EQ(f.events.back().text, "taken by somebody");
  EXPECT_EQ(f.TrySubmit({CLOUDBLK_OP_FLUSH, 0, 0, nullptr, 0, 0, nullptr, nullptr}), -EIO);
  EXPECT_LT(f.loop.next_timer(), 0);
}

INSTANTIATE_TEST_SUITE_P(Statuses, ChannelEnd,
                         ::testing::Values(wire::StatusCode::kFenced, wire::StatusCode::kStale));

TEST(ChannelEnd, TheServersEventEndsIt) {
  ChannelFixture f;
  f.server.hold = true;
  f.Open();
  Io* io = f.Read(0, 512);
  f.Run();
  f.server.SendEvent(wire::EventKind::kRevoked, 0, "host b took it");
  f.Run();
  EXPECT_EQ(io->result, -EIO);
  EXPECT_EQ(f.events.back().kind, CLOUDBLK_EVENT_REVOKED);
  EXPECT_EQ(f.server.connections(), 1u);
}

// Whoever finds out, the server or the client: names that were swapped may be swapped back.
TEST(ChannelEnd, AnotherVolumeOfTheSameNameIsWaitedOut) {
  const std::vector<std::function<void(wire::OpenReply*)>> changes = {
      [](wire::OpenReply* open) { open->volume.bytes[3] = 99; },
      [](wire::OpenReply* open) { open->logical_block_size = open->physical_block_size = 4096; },
      [](wire::OpenReply* open) { open->status = wire::StatusCode::kVolumeChanged; },
  };
  for (const auto& change : changes) {
    ChannelFixture f;
    f.server.hold = true;
    f.Open();
    Io* io = f.Write(0, Pattern(512, 1));
    f.Run();
    const wire::OpenReply before = f.server.open;
    const size_t seen = f.server.seen.size();
    change(&f.server.open);
    f.server.Cut();
    f.loop.Advance(60 * kSecond);
    EXPECT_EQ(io->completions, 0);
    EXPECT_EQ(f.server.seen.size(), seen);
    EXPECT_FALSE(f.state.revoked());
    f.server.open = before;
    f.server.hold = false;
    f.loop.Advance(3 * kSecond);
    EXPECT_EQ(io->completions, 1);
    EXPECT_EQ(io->result, 0);
  }
}

TEST(ChannelEnd, OtherRefusalsMayPass) {
  for (const wire::StatusCode status :
       {wire::StatusCode::kNoSuchVolume, wire::StatusCode::kShuttingDown,
        wire::StatusCode::kTooMany, wire::StatusCode::kBusy, wire::StatusCode::kInvalid}) {
    ChannelFixture f;
    f.Open();
    f.server.open.status = status;
    f.server.Cut();
    f.loop.Advance(kSecond);
    EXPECT_EQ(f.channel.state(), Channel::State::kBackoff) << wire::Name(status);
    f.server.open.status = wire::StatusCode::kOk;
    f.loop.Advance(3 * kSecond);
    EXPECT_TRUE(f.ready());
  }
}

// --- Silence ------------------------------------------------------------------------------------

TEST(ChannelLiveness, IdleMeansNoTimerAndNoPing) {
  ChannelFixture f;
  f.Open();
  EXPECT_LT(f.loop.next_timer(), 0);
  f.Read(0, 512);
  f.Run();
  // One wake-up may be left from the request; then there is rest.
  f.loop.Advance(3600 * kSecond);
  EXPECT_LT(f.loop.next_timer(), 0);
  EXPECT_EQ(f.server.pings, 0u);
  EXPECT_EQ(f.server.connections(), 1u);
}

TEST(ChannelLiveness, ASlowServerThatAnswersPingsIsAlive) {
  ChannelFixture f;
  f.server.hold = true;
  f.Open();
  Io* io = f.Read(0, 512);
  f.Run();
  f.loop.Advance(10 * 60 * kSecond);
  EXPECT_GT(f.server.pings, 10u);
  EXPECT_EQ(f.server.connections(), 1u);
  f.server.Answer(0);
  f.Run();
  EXPECT_EQ(io->result, 0);
}

TEST(ChannelLiveness, ASilentServerIsDead) {
  ChannelFixture f;
  f.server.hold = true;
  f.Open();
  Io* io = f.Read(0, 512);
  f.Run();
  f.server.silent = true;
  f.loop.Advance(7 * kSecond);
  EXPECT_EQ(f.server.pings, 1u);
  EXPECT_TRUE(f.ready());
  f.server.silent = false;
  f.server.hold = false;
  f.loop.Advance(2 * kSecond);
  EXPECT_EQ(f.server.connections(), 2u);
  EXPECT_EQ(io->result, 0);
  EXPECT_THAT(f.events[0].text, HasSubstr("no answer for 8 s"));
}

TEST(ChannelLiveness, TheNextServerIsTriedAfterASilentOne) {
  ChannelFixture f(FixtureOptions{.addresses = 2});
  f.server.hold = true;
  f.Open();
  f.Read(0, 512);
  f.Run();
  f.server.silent = true;
  f.loop.Advance(7 * kSecond);
  f.server.silent = false;
  f.loop.Advance(2 * kSecond);
  EXPECT_TRUE(f.ready());
  EXPECT_EQ(f.addresses_tried, (std::vector<size_t>{0, 1}));
  EXPECT_EQ(f.connector.refreshes, 0);
}

// Two channels of a session that know two servers.
struct TwoChannels {
  TwoChannels() {
    a.Open();
    b.Open();
  }
  // `busy`: the second channel reads all the time.
  void Advance(int64_t seconds, bool busy) {
    for (int64_t i = 0; i < seconds; ++i) {
      if (busy) b.Read(0, 512);
      loop.Advance(kSecond);
    }
  }

  ManualLoop loop;
  ChannelFixture a{FixtureOptions{.addresses = 2, .channels = 2, .loop = &loop}};
  ChannelFixture b{
      FixtureOptions{.addresses = 2, .channels = 2, .index = 1, .shared = &a.state, .loop = &loop}};
};

// Where the first channel goes when its server falls silent for it.
std::vector<size_t> TriedAfterSilence(bool other_busy) {
  TwoChannels f;
  f.Advance(3, other_busy);
  f.a.server.silent = true;
  f.a.Read(0, 512);
  f.Advance(7, other_busy);
  f.a.server.silent = false;
  f.Advance(2, other_busy);
  EXPECT_TRUE(f.a.ready());
  return f.a.addresses_tried;
}

TEST(ChannelLiveness, WhileOthersHearFromItsServerASilentConnectionComesBackToIt) {
  EXPECT_EQ(TriedAfterSilence(true), (std::vector<size_t>{0, 0}));
}

TEST(ChannelLiveness, OthersThatAreIdleDoNotHearFromIt) {
  EXPECT_EQ(TriedAfterSilence(false), (std::vector<size_t>{0, 1}));
}

// A small handshake passes, what is larger does not.
TEST(ChannelLiveness, ThatIsSilentOnceMoreItGoesElsewhere) {
  TwoChannels f;
  f.a.server.hold = true;
  f.a.on_link = [&](size_t, MemoryLink*) { f.a.server.silent = false; };
  f.Advance(3, true);
  f.a.Read(0, 512);
  for (int i = 0; i < 180; ++i) {
    if (f.a.ready()) f.a.server.silent = true;
    if (i % 10 == 0) f.b.Read(0, 512);
    f.loop.Advance(kSecond / 10);
  }
  EXPECT_EQ(f.a.addresses_tried, (std::vector<size_t>{0, 0, 1}));
  f.a.server.hold = false;
  f.a.server.Cut();
  f.Advance(5, false);
}

TEST(ChannelLiveness, AResizeThatTakesLongIsNoReasonToGoElsewhere) {
  ChannelFixture f(FixtureOptions{.addresses = 2});
  f.Open();
  f.server.silent = true;
  f.channel.Resize(8 << 20, false);
  f.Run();
  f.channel.ForgetResize();
  f.server.silent = false;
  f.loop.Advance(kSecond);
  EXPECT_TRUE(f.ready());
  EXPECT_EQ(f.addresses_tried, (std::vector<size_t>{0, 0}));
}

TEST(ChannelLiveness, AServerThatDoesNotReadIsDeadToo) {
  ChannelFixture f;
  f.habits.send_buffer = 1000;
  f.Open();
  f.server.deaf = true;
  Io* io = f.Write(0, Pattern(65536, 1));
  f.Run();
  f.loop.Advance(7 * kSecond);
  f.server.deaf = false;
  f.on_link = [](size_t, MemoryLink*) {};
  f.server.link()->habits.cut_to_server = f.server.link()->server_took;
  f.loop.Advance(5 * kSecond);
  EXPECT_EQ(io->result, 0);
  EXPECT_EQ(f.server.connections(), 2u);
}

TEST(ChannelLiveness, HandshakesHaveTheirTime) {
  ChannelFixture f(FixtureOptions{.addresses = 2});
  f.server.silent = true;
  f.Open();
  f.loop.Advance(7 * kSecond);
  EXPECT_EQ(f.server.connections(), 1u);
  f.server.silent = false;
  f.loop.Advance(2 * kSecond);
  EXPECT_TRUE(f.ready());
  EXPECT_EQ(f.addresses_tried, (std::vector<size_t>{0, 1}));
  EXPECT_EQ(f.failures[0].error, ETIMEDOUT);
}

TEST(ChannelLiveness, SoDoConnectionAttempts) {
  ChannelFixture f(FixtureOptions{.addresses = 2});
  f.on_link = [](size_t address, MemoryLink* link) { link->hangs = address == 0; };
  f.Open();
  EXPECT_EQ(f.channel.state(), Channel::State::kConnecting);
  f.loop.Advance(6 * kSecond);
  EXPECT_TRUE(f.ready());
  EXPECT_EQ(f.failures[0].error, ETIMEDOUT);
}

}  // namespace
}  // namespace cloudblk::testing
