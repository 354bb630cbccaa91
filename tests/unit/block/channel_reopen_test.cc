// SPDX-License-Identifier: GPL-2.0-or-later
//
// A volume that was lost is opened anew, for a guest that starts anew.
#include <gtest/gtest.h>

#include <cerrno>

#include "base/clock.h"
#include "tests/support/cpp/channel_fixture.h"

namespace cloudblk::testing {
namespace {

constexpr int64_t kSecond = kNsPerS;

class ChannelReopen : public ::testing::Test {
 protected:
  // Somebody took the volume over.
  void Lose(ChannelFixture* from) {
    from->server.open.status = wire::StatusCode::kFenced;
    from->server.Cut();
    from->Run();
    EXPECT_TRUE(from->state.revoked());
  }
};

TEST_F(ChannelReopen, BeginsAnotherSession) {
  ChannelFixture f{{.takeover = true}};
  f.Open();
  f.Write(0, Pattern(512, 1));  // and no flush
  f.Run();
  const Uuid before = f.server.opens.back().session;
  Lose(&f);
  f.server.open.status = wire::StatusCode::kOk;
  ++f.server.open.generation;
  f.server.open.size = 8 << 20;
  f.state.Renew();
  f.channel.Reopen();
  Io* io = f.Write(0, Pattern(512, 2));
  Io* flush = f.Flush();
  f.loop.Advance(kSecond);
  EXPECT_EQ(io->result, 0);
  // What was lost, the guest that is gone would have to know.
  EXPECT_EQ(flush->result, 0);
  const wire::Open& open = f.server.opens.back();
  EXPECT_NE(open.session, before);
  EXPECT_EQ(open.flags & (wire::OpenFlag::kTakeover | wire::OpenFlag::kResume), 0u);
  EXPECT_EQ(f.state.size(), 8u << 20);
  EXPECT_FALSE(f.state.revoked());
}

TEST_F(ChannelReopen, StaysLostWhereItIsRefused) {
  for (const wire::StatusCode status :
       {wire::StatusCode::kBusy, wire::StatusCode::kNoSuchVolume, wire::StatusCode::kInvalid}) {
    ChannelFixture f;
    f.Open();
    Lose(&f);
    f.server.open.status = status;
    f.server.refusal = "somebody has it";
    f.state.Renew();
    f.channel.Reopen();
    Io* io = f.Read(0, 512);
    f.loop.Advance(kSecond);
    EXPECT_EQ(io->result, -EIO);
    EXPECT_TRUE(f.state.revoked());
    EXPECT_EQ(f.events.back().kind, CLOUDBLK_EVENT_REVOKED);
    EXPECT_EQ(f.events.back().text, "somebody has it");
    EXPECT_LT(f.loop.next_timer(), 0);
  }
}

TEST_F(ChannelReopen, WaitsForALeaseAndForAServer) {
  ChannelFixture f;
  f.Open();
  Lose(&f);
  f.server.open.status = wire::StatusCode::kBusy;
  f.server.open.retry_ms = 3000;
  f.state.Renew();
  f.channel.Reopen();
  Io* io = f.Read(0, 512);
  f.loop.Advance(3 * kSecond);
  f.on_link = [](size_t, MemoryLink* link) { link->refuses = true; };
  f.loop.Advance(10 * kSecond);
  EXPECT_EQ(io->completions, 0);
  f.on_link = nullptr;
  f.server.open.status = wire::StatusCode::kOk;
  f.loop.Advance(3 * kSecond);
  EXPECT_EQ(io->completions, 1);
  EXPECT_EQ(io->result, 0);
}

TEST_F(ChannelReopen, TheFirstChannelDecides) {
  TwoChannels both;
  auto& [loop, a, b] = both;
  Lose(&a);
  b.server.Cut();
  loop.Run();
  EXPECT_EQ(b.channel.state(), Channel::State::kEnded);
  a.server.open.status = wire::StatusCode::kOk;
  const size_t opens = b.server.opens.size();
  a.on_link = [](size_t, MemoryLink* link) { link->refuses = true; };
  a.state.Renew();
  a.channel.Reopen();
  b.channel.Reopen();
  loop.Advance(5 * kSecond);
  EXPECT_EQ(b.server.opens.size(), opens);
  a.on_link = nullptr;
  loop.Advance(5 * kSecond);
  EXPECT_TRUE(a.ready() && b.ready());
  EXPECT_EQ(b.server.opens.back().session, a.server.opens.back().session);
  // A later loss is one like any other.
  Lose(&a);
  b.server.Cut();
  loop.Run();
  EXPECT_EQ(b.channel.state(), Channel::State::kEnded);
}

}  // namespace
}  // namespace cloudblk::testing
