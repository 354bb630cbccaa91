// SPDX-License-Identifier: GPL-2.0-or-later
//
// What a host does with a channel: parks it, moves it, gives its requests up, closes it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cerrno>

#include "tests/support/cpp/channel_fixture.h"

namespace cloudblk::testing {
namespace {

constexpr int64_t kSecond = 1'000'000'000;

// --- Submit -------------------------------------------------------------------------------------

// The first completion submits another read.
class ChannelSubmit : public ::testing::Test {
 protected:
  ChannelSubmit() {
    f.server.hold = true;
    f.Open();
    f.on_complete = [this] {
      f.on_complete = nullptr;
      second = f.Read(4096, 512);
    };
    first = f.Read(0, 512);
  }

  void ExpectSecond() {
    f.server.hold = false;
    f.Run();
    ASSERT_NE(second, nullptr);
    EXPECT_EQ(second->completions, 1);
    EXPECT_EQ(second->result, 0);
  }

  ChannelFixture f;
  Io* first = nullptr;
  Io* second = nullptr;
};

TEST_F(ChannelSubmit, FromInsideACompletionGoesOutWithTheTurn) {
  f.Run();
  f.server.Answer(0);
  const uint64_t defers = f.loop.defers();
  ExpectSecond();
  EXPECT_EQ(f.loop.defers(), defers);
}

TEST_F(ChannelSubmit, FromInsideACompletionOfARevoke) {
  f.channel.Revoke();
  EXPECT_EQ(first->result, -ECANCELED);
  ExpectSecond();
}

TEST(ChannelSubmitMore, WaitsForTheKickAndPutsNothingOff) {
  ChannelFixture f;
  f.Open();
  f.Run();
  const uint64_t defers = f.loop.defers();
  Io* write = f.Write(0, Pattern(512, 1), {}, CLOUDBLK_REQUEST_MORE | CLOUDBLK_REQUEST_FUA);
  f.Run();
  EXPECT_TRUE(f.server.seen.empty());
  f.channel.Kick();
  f.Run();
  EXPECT_EQ(write->completions, 1);
  EXPECT_EQ(f.server.disk.substr(0, 512), Pattern(512, 1));
  EXPECT_EQ(f.loop.defers(), defers);
}

// --- Park ---------------------------------------------------------------------------------------

TEST(ChannelPark, NothingHappensWhileDetached) {
  ChannelFixture f;
  f.server.hold = true;
  f.server.disk = Pattern(f.server.disk.size(), 1);
  f.Open();
  Io* io = f.Read(0, 8192);
  f.Run();
  f.channel.Detach();
  f.server.Answer(0);
  f.loop.Advance(3600 * kSecond);
  EXPECT_EQ(io->completions, 0);
  EXPECT_EQ(io->Data(), std::string(8192, '\xee'));
  EXPECT_EQ(f.channel.in_flight(), 1u);
  std::string memory(512, 'x');
  iovec iov{memory.data(), 512};
  EXPECT_EQ(f.TrySubmit({CLOUDBLK_OP_READ, 0, 0, &iov, 1, 0, nullptr, nullptr}), -EINVAL);
  f.Attach();
  f.Run();
  EXPECT_EQ(io->completions, 1);
  EXPECT_EQ(io->Data(), f.server.disk.substr(0, 8192));
  EXPECT_EQ(f.server.connections(), 1u);
}

TEST(ChannelPark, GoesOnOnAnotherLoop) {
  ChannelFixture f;
  f.habits.write_chunk = 1000;
  f.habits.read_chunk = 1000;
  f.habits.send_buffer = 3000;
  f.Open();
  Io* write = f.Write(0, Pattern(65536, 1));
  Io* read = f.Read(131072, 65536);
  f.channel.Kick();  // half a frame
  EXPECT_GT(f.server.link()->to_server.size(), 0u);
  f.channel.Detach();
  ManualLoop second;
  second.CopyReadiness(f.loop);
  second.AddStep([&] { return f.server.Step(); });
  f.Run();
  f.Attach(&second);
  second.Run();
  EXPECT_EQ(write->result, 0);
  EXPECT_EQ(read->completions, 1);
  EXPECT_EQ(f.server.disk.substr(0, 65536), Pattern(65536, 1));
  EXPECT_EQ(f.server.connections(), 1u);
  f.channel.Detach();
}

TEST(ChannelPark, AServerThatWentAwayMeanwhileIsReplaced) {
  ChannelFixture f;
  f.server.hold = true;
  f.Open();
  Io* io = f.Write(0, Pattern(512, 1));
  f.Run();
  f.channel.Detach();
  f.server.Cut();
  f.server.hold = false;
  f.Run();
  f.Attach();
  f.Run();
  EXPECT_EQ(io->result, 0);
  EXPECT_EQ(f.server.connections(), 2u);
}

TEST(ChannelPark, InAnyState) {
  // Before each turn of the handshake, and in backoff.
  for (const bool refuses : {false, true}) {
    ChannelFixture f;
    f.on_link = [&](size_t, MemoryLink* link) { link->refuses = refuses; };
    f.Attach();
    f.channel.Start();
    f.channel.Detach();
    f.loop.Advance(60 * kSecond);
    f.Attach();
    f.Run();
    f.on_link = nullptr;
    f.channel.Detach();
    f.Attach();
    f.loop.Advance(3 * kSecond);
    EXPECT_TRUE(f.ready());
  }
}

TEST(ChannelPark, WorkThatWasPutOffIsDroppedAndMadeUpFor) {
  ChannelFixture f;
  f.Open();
  Io* io = f.Read(0, 512);  // goes out at the end of the turn
  f.channel.Detach();
  f.Run();
  EXPECT_TRUE(f.server.seen.empty());
  f.Attach();
  f.Run();
  EXPECT_EQ(io->completions, 1);
}

TEST(ChannelPark, TheLoopThatItLeftDoesNothingForItAnyMore) {
  ChannelFixture f;
  f.Open();
  Io* io = f.Read(0, 512);  // a turn of the first loop is to send it
  f.channel.Detach();
  ManualLoop second;
  second.CopyReadiness(f.loop);
  second.AddStep([&] { return f.server.Step(); });
  f.Attach(&second);
  f.Run();
  EXPECT_TRUE(f.server.seen.empty());
  second.Run();
  EXPECT_EQ(io->completions, 1);
  f.channel.Detach();
}

TEST(ChannelPark, FromInsideACompletion) {
  ChannelFixture f;
  f.server.one_by_one = true;
  f.Open();
  f.on_complete = [&] {
    f.on_complete = nullptr;
    f.channel.Detach();
  };
  Io* first = f.Read(0, 512);
  f.channel.Kick();
  f.Run();
  EXPECT_EQ(first->completions, 1);
  f.Attach();
  f.Run();
  EXPECT_TRUE(f.ready());
}

// --- Revoke -------------------------------------------------------------------------------------

TEST(ChannelRevoke, CompletesEverythingInsideTheCallAndFences) {
  ChannelFixture f;
  f.server.hold = true;
  f.server.open.credit_requests = 3;
  f.Open();
  f.Read(0, 4096);
  f.Write(4096, Pattern(4096, 1));
  f.Flush();
  f.Read(8192, 4096);               // waits for credits
  f.Write(4096, Pattern(4096, 2));  // waits for the overlap
  f.Run();
  f.channel.Revoke();
  for (const auto& io : f.ios) {
    EXPECT_EQ(io->completions, 1);
    EXPECT_EQ(io->result, -ECANCELED);
  }
  EXPECT_EQ(f.channel.in_flight(), 0u);
  EXPECT_TRUE(f.server.link()->client_closed);
  // Later requests wait for the new incarnation.
  f.server.hold = false;
  const size_t before = f.server.seen.size();
  Io* later = f.Write(4096, Pattern(4096, 3));
  f.channel.Kick();
  EXPECT_EQ(f.server.seen.size(), before);
  f.Run();
  EXPECT_EQ(later->result, 0);
  EXPECT_EQ(f.server.opens.back().incarnation, 2u);
  EXPECT_EQ(f.server.disk.substr(4096, 4096), Pattern(4096, 3));
  EXPECT_FALSE(f.HasEvent(CLOUDBLK_EVENT_LOST));
}

TEST(ChannelRevoke, KeepsAConnectionThatOwesNothing) {
  ChannelFixture f;
  f.Open();
  Io* io = f.Read(0, 4096);  // not kicked
  f.channel.Revoke();
  EXPECT_EQ(io->result, -ECANCELED);
  f.Run();
  EXPECT_EQ(f.server.connections(), 1u);
  EXPECT_TRUE(f.server.seen.empty());
}

TEST(ChannelRevoke, ReportsWhatWasStored) {
  ChannelFixture f;
  f.server.hold = true;
  f.server.disk = Pattern(f.server.disk.size(), 1);
  f.Open();
  // More than is read ahead, so that the rest goes straight to its place.
  Io* io = f.Read(0, 131072);
  f.Run();  // beside a small request it would be cut
  Io* untouched = f.Read(262144, 4096);
  f.Run();
  const wire::Reply reply{f.server.pending[0].request.tag, wire::StatusCode::kOk, 131072, 0};
  const std::string frame = FakeServer::ReplyFrame({reply}, f.server.disk.substr(0, 131072), false);
  f.server.Send(std::string_view(frame).substr(0, 56 + 100'000));
  f.Run();
  f.channel.Revoke();
  EXPECT_EQ(io->bytes_stored, 100'000u);
  EXPECT_EQ(io->Data().substr(0, 100'000), f.server.disk.substr(0, 100'000));
  EXPECT_EQ(io->Data().substr(100'000), std::string(31072, '\xee'));
  EXPECT_EQ(untouched->bytes_stored, 0u);
  // Memory that was given back is not touched again: see the sanitizers.
  f.ios[0]->memory.clear();
  f.server.Send(std::string_view(frame).substr(56 + 100'000));
  f.Run();
}

TEST(ChannelRevoke, OfAHalfSentFrame) {
  ChannelFixture f;
  f.habits.send_buffer = 3000;
  f.Open();
  f.server.deaf = true;
  Io* io = f.Write(0, Pattern(65536, 1));
  f.Run();
  EXPECT_EQ(f.server.link()->to_server.size(), 3000u);
  f.channel.Revoke();  // the fixture frees the memory
  EXPECT_EQ(io->result, -ECANCELED);
  f.server.deaf = false;
  f.Run();
  EXPECT_TRUE(f.ready());
  EXPECT_TRUE(f.server.seen.empty());
}

TEST(ChannelRevoke, WhileDetached) {
  ChannelFixture f;
  f.server.hold = true;
  f.Open();
  Io* io = f.Write(0, Pattern(512, 1));
  f.Run();
  f.channel.Detach();
  f.channel.Revoke();
  EXPECT_EQ(io->result, -ECANCELED);
  EXPECT_TRUE(f.server.link()->client_closed);
  f.server.hold = false;
  f.Attach();
  Io* later = f.Write(0, Pattern(512, 2));
  f.Run();
  EXPECT_EQ(later->result, 0);
  EXPECT_EQ(f.server.opens.back().incarnation, 2u);
}

TEST(ChannelRevoke, FromInsideACompletion) {
  ChannelFixture f;
  f.server.hold = true;
  f.Open();
  Io* first = f.Read(0, 512);
  Io* second = f.Read(512, 512);
  f.Run();
  f.on_complete = [&] {
    f.on_complete = nullptr;
    f.channel.Revoke();
  };
  f.server.Answer(0);
  f.Run();
  EXPECT_EQ(first->result, 0);
  EXPECT_EQ(second->result, -ECANCELED);
  EXPECT_EQ(f.channel.in_flight(), 0u);
}

TEST(ChannelRevoke, WhileThereIsNoServer) {
  ChannelFixture f;
  f.Open();
  f.on_link = [](size_t, MemoryLink* link) { link->refuses = true; };
  f.server.Cut();
  f.Run();
  Io* io = f.Write(0, Pattern(512, 1));
  f.channel.Revoke();
  EXPECT_EQ(io->result, -ECANCELED);
}

TEST(ChannelRevoke, HoldsTheOtherChannelsBackUntilTheServerHasFencedIt) {
  TwoChannels both;
  auto& [loop, a, b] = both;
  a.server.hold = true;
  a.Write(0, Pattern(512, 1));
  loop.Run();
  a.server.deaf = true;
  a.channel.Revoke();
  Io* newer = b.Write(0, Pattern(512, 2));
  b.channel.Kick();
  loop.Advance(kSecond);
  EXPECT_TRUE(b.server.seen.empty());
  // Given up once more, before anything could be sent: the first one still counts.
  a.Write(4096, Pattern(512, 3));
  a.channel.Revoke();
  loop.Advance(kSecond);
  EXPECT_TRUE(b.server.seen.empty());
  a.server.deaf = false;
  loop.Advance(kSecond);
  EXPECT_EQ(newer->result, 0);
  EXPECT_EQ(b.server.opens.size(), 1u);
}

// An earlier connection may have sent what is given up without one.
TEST(ChannelRevoke, SoItDoesWhileThereIsNoConnection) {
  TwoChannels both;
  auto& [loop, a, b] = both;
  a.server.hold = true;
  a.Write(0, Pattern(512, 1));
  loop.Run();
  a.on_link = [](size_t, MemoryLink* link) { link->refuses = true; };
  a.server.Cut();
  loop.Run();
  ASSERT_EQ(a.channel.state(), Channel::State::kBackoff);
  a.channel.Revoke();
  Io* newer = b.Write(0, Pattern(512, 2));
  loop.Advance(kSecond);
  EXPECT_TRUE(b.server.seen.empty());
  a.on_link = nullptr;
  loop.Advance(3 * kSecond);
  EXPECT_EQ(newer->result, 0);
  EXPECT_EQ(b.server.seen.size(), 1u);
}

// The claim at a higher epoch will fence it, but only where there was a release.
TEST(ChannelRevoke, WhatIsGivenUpIsNotSettledByAReleaseThatMayNotHaveHappened) {
  ChannelFixture f;
  f.server.hold = true;
  f.Open();
  f.Write(0, Pattern(512, 1));
  f.Run();
  f.server.silent = true;
  f.channel.Revoke();
  EXPECT_FALSE(f.state.settled());
  f.state.BeginRelease();
  f.state.NoteReleased(false);
  f.channel.Abandon();
  EXPECT_FALSE(f.state.settled());
  f.state.NoteReleased(true);
  f.channel.Abandon();
  EXPECT_TRUE(f.state.settled());
}

TEST(ChannelRevoke, OfWhatHasFailedInPart) {
  ChannelFixture f;
  f.server.hello.max_frame_payload = 4096;
  f.server.hold = true;
  f.Open();
  Io* io = f.Write(0, Pattern(8192, 1));
  f.Run();
  f.server.Answer(0, 1, wire::StatusCode::kNoSpace);
  f.Run();
  ASSERT_EQ(io->completions, 0);
  f.channel.Revoke();
  EXPECT_EQ(io->completions, 1);
  EXPECT_EQ(io->result, -ECANCELED);
}

TEST(ChannelRevoke, HoldsNobodyBackIfTheServerHasNothing) {
  TwoChannels both;
  auto& [loop, a, b] = both;
  a.server.deaf = true;
  a.Write(0, Pattern(512, 1));  // not kicked
  a.channel.Revoke();
  Io* newer = b.Write(0, Pattern(512, 2));
  loop.Run();
  EXPECT_EQ(newer->result, 0);
}

TEST(ChannelRevoke, HoldsNobodyBackForASessionThatIsOver) {
  TwoChannels both;
  auto& [loop, a, b] = both;
  a.server.hold = true;
  a.Write(0, Pattern(512, 1));
  loop.Run();
  a.server.open.status = wire::StatusCode::kFenced;
  a.channel.Revoke();
  Io* newer = b.Write(0, Pattern(512, 2));
  loop.Advance(kSecond);
  EXPECT_EQ(newer->completions, 1);
}

// --- Close --------------------------------------------------------------------------------------

TEST(ChannelClose, TellsTheServer) {
  ChannelFixture f;
  f.Open();
  f.channel.Close(true);
  f.Run();
  EXPECT_EQ(f.times_closed, 1);
  EXPECT_EQ(f.channel.state(), Channel::State::kIdle);
  EXPECT_THAT(f.server.close_flags, ::testing::ElementsAre(wire::CloseFlag::kEndSession));
}

TEST(ChannelClose, ConnectsOnceMoreIfItHasTo) {
  ChannelFixture f;
  f.Open();
  f.server.Cut();
  f.channel.Close(true);
  f.loop.Advance(kSecond);
  EXPECT_EQ(f.times_closed, 1);
}

TEST(ChannelClose, AServerThatDiesAsItLetsUsInIsAsGood) {
  ChannelFixture f;
  f.Open();
  f.server.silent = true;
  f.server.Cut();
  f.Run();
  ASSERT_EQ(f.channel.state(), Channel::State::kHandshake);
  f.channel.Close(true);
  f.server.Send(
      FakeServer::Frame(wire::FrameType::kHelloReply, f.server.hello, wire::kHelloReplySize, ""));
  f.server.Send(
      FakeServer::Frame(wire::FrameType::kOpenReply, f.server.open, wire::kOpenReplySize, ""));
  f.server.Cut();
  f.Run();
  EXPECT_EQ(f.times_closed, 1);
  EXPECT_EQ(f.channel.state(), Channel::State::kIdle);
}

TEST(ChannelClose, AnswersThatStillComeDoNotHurt) {
  ChannelFixture f;
  f.Open();
  f.server.silent = true;
  f.channel.Close(false);
  f.Run();
  EXPECT_EQ(f.channel.state(), Channel::State::kClosing);
  f.server.SendEvent(wire::EventKind::kResized, 1 << 20, "");
  f.server.Send(FakeServer::Frame(wire::FrameType::kPing, wire::Ping{7}, wire::kPingSize, ""));
  f.Run();
  EXPECT_EQ(f.channel.state(), Channel::State::kClosing);
  f.channel.Abandon();
  EXPECT_EQ(f.channel.state(), Channel::State::kIdle);
}

}  // namespace
}  // namespace cloudblk::testing
