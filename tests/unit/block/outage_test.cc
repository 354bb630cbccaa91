// SPDX-License-Identifier: GPL-2.0-or-later
//
// What people are told while a disk is without its server, and how often connections are made.
#include "block/outage.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "tests/support/cpp/channel_fixture.h"

namespace cloudblk::testing {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

constexpr int64_t kMs = 1'000'000;
constexpr int64_t kSecond = 1000 * kMs;

// --- Storms -------------------------------------------------------------------------------------

// Advances in small steps, in each of which the server does `each`.
template <typename Each>
void Through(ChannelFixture* f, int64_t duration, Each each) {
  for (const int64_t end = f->loop.NowNs() + duration; f->loop.NowNs() < end;) {
    each();
    f->Run();
    f->loop.Advance(kMs);
  }
}

TEST(Storm, AServerThatAnswersOneBatchAndCuts) {
  ChannelFixture f;
  f.Open();
  int done = 0;
  Through(&f, 10 * kSecond, [&] {
    if (!f.ready()) return;
    Io* io = f.Read(0, 4096);
    f.Run();
    done += io->completions;
    f.server.Cut();
  });
  EXPECT_LE(f.logged.size(), 20u);
  EXPECT_LE(f.server.connections(), 20u);
  // The load goes on, whenever there is a connection.
  EXPECT_GE(done, 8);
  f.loop.Advance(20 * kSecond);
  const Io* after = f.Read(0, 4096);
  f.Run();
  EXPECT_EQ(after->completions, 1);
  // What was kept back is told when it has proved true.
  EXPECT_THAT(f.logged.back(), HasSubstr("connected again to memory:0"));
}

TEST(Storm, AServerThatCutsAfterTheHandshake) {
  ChannelFixture f;
  f.Open();
  Through(&f, 10 * kSecond, [&] {
    if (f.ready()) f.server.Cut();
  });
  EXPECT_LE(f.logged.size(), 20u);
  EXPECT_LE(f.server.connections(), 20u);
}

TEST(Storm, ThatItIsBackIsNotAllThatIsTold) {
  ChannelFixture f;
  f.Open();
  Through(&f, 60 * kSecond, [&] {
    if (f.ready()) f.server.Cut();
  });
  // Long after the first lines the reason is told again, with each that says that it is back.
  const std::vector<std::string> last(f.logged.end() - 3, f.logged.end());
  for (const std::string& line : last) {
    EXPECT_THAT(line, HasSubstr("times in short order")) << line;
    EXPECT_THAT(line, HasSubstr("the server closed the connection")) << line;
  }
}

// Two seconds of peace in between, over and over.
TEST(Storm, OneThatGoesOnForADay) {
  ChannelFixture f;
  f.Open();
  for (int i = 0; i < 24 * 3600 / 3; ++i) {
    f.loop.Advance(3 * kSecond);
    f.server.Cut();
    f.Run();
  }
  EXPECT_LE(f.logged.size(), 600u);
  EXPECT_GE(f.logged.size(), 24u * 12u);
}

TEST(Storm, ABusyServerThatAsksToComeBackAtOnce) {
  ChannelFixture f;
  f.Open();
  f.server.open.status = wire::StatusCode::kBusy;
  f.server.open.retry_ms = 1;
  f.server.Cut();
  f.loop.Advance(10 * kSecond);
  EXPECT_LE(f.server.connections(), 50u);
  EXPECT_LE(f.logged.size(), 5u);
  f.server.open.status = wire::StatusCode::kOk;
  f.loop.Advance(kSecond);
  EXPECT_TRUE(f.ready());
}

// An upgrade of the proxy must not be felt.
TEST(Storm, AfterTwoSecondsInPeaceTheNextConnectionIsMadeAtOnce) {
  ChannelFixture f;
  f.Open();
  for (int i = 0; i < 10; ++i) {
    f.loop.Advance(2 * kSecond);
    f.server.Cut();
    f.Run();
    EXPECT_TRUE(f.ready()) << i;
  }
}

// --- Silence ------------------------------------------------------------------------------------

TEST(OutageLines, AServerThatRestartsIsTwoLines) {
  ChannelFixture f;
  f.Open();
  f.on_link = [](size_t, MemoryLink* link) { link->refuses = true; };
  f.server.Cut();
  f.loop.Advance(1500 * kMs);
  f.on_link = nullptr;
  f.loop.Advance(2 * kSecond);
  ASSERT_TRUE(f.ready());
  EXPECT_THAT(f.logged, ElementsAre(HasSubstr("disk: lost memory:0: "),
                                    HasSubstr("disk: connected again to memory:0")));
}

TEST(OutageLines, ThatItDoesNotComeBackIsToldWithTheReason) {
  const struct {
    wire::StatusCode status;
    const char* text;
  } kRefusals[] = {
      {wire::StatusCode::kBusy, "volume 'disk' is in use by 'host b', which is connected"},
      {wire::StatusCode::kNoSuchVolume, "there is no volume 'disk'"},
      {wire::StatusCode::kReadOnly, "volume 'disk' is read-only"},
  };
  for (const auto& refusal : kRefusals) {
    ChannelFixture f;
    f.Open();
    f.server.open.status = refusal.status;
    f.server.refusal = refusal.text;
    f.server.Cut();
    f.loop.Advance(5 * kSecond);
    ASSERT_EQ(f.logged.size(), 2u);
    EXPECT_THAT(f.logged[1], AllOf(HasSubstr("disk: not back after "), HasSubstr(refusal.text)));
    f.loop.Advance(20 * kSecond);
    EXPECT_EQ(f.logged.size(), 2u);
    // Again when it changes.
    f.server.refusal = "the owner record is damaged";
    f.loop.Advance(5 * kSecond);
    ASSERT_EQ(f.logged.size(), 3u);
    EXPECT_THAT(f.logged[2], HasSubstr("the owner record is damaged"));
    // And now and then.
    f.loop.Advance(40 * kSecond);
    ASSERT_EQ(f.logged.size(), 4u);
    EXPECT_THAT(f.logged[3], HasSubstr("still not back after "));
    f.loop.Advance(600 * kSecond);
    EXPECT_EQ(f.logged.size(), 6u);
    EXPECT_THAT(f.state.outage().Describe(f.loop.NowNs()),
                AllOf(HasSubstr("away for 67"), HasSubstr("the owner record is damaged")));
    f.server.open.status = wire::StatusCode::kOk;
    f.loop.Advance(5 * kSecond);
    EXPECT_THAT(f.logged.back(), HasSubstr("connected again to memory:0 after 67"));
    EXPECT_EQ(f.state.outage().Describe(f.loop.NowNs()), "connected");
  }
}

TEST(OutageLines, WhatIsNoServerOfOurs) {
  ChannelFixture f;
  f.Open();
  f.server.hello.version = 7;
  f.server.Cut();
  f.loop.Advance(5 * kSecond);
  ASSERT_EQ(f.logged.size(), 2u);
  EXPECT_THAT(f.logged[1], HasSubstr("no cloudblk server: "));
}

// A path or a damaged record, that an older server sends as it is.
TEST(OutageLines, ATextThatIsNotUtf8IsShownAllTheSame) {
  ChannelFixture f;
  f.Open();
  f.server.open.status = wire::StatusCode::kBusy;
  f.server.refusal = "in use by 'K\xf6ln'";
  f.server.Cut();
  f.loop.Advance(5 * kSecond);
  ASSERT_EQ(f.logged.size(), 2u);
  EXPECT_THAT(f.logged[1], AllOf(HasSubstr("in use by 'K?ln'"), Not(HasSubstr("no cloudblk"))));
}

TEST(OutageLines, ATimeThatRunsOutIsNoNews) {
  ChannelFixture f;
  f.Open();
  f.server.open.status = wire::StatusCode::kBusy;
  f.server.Cut();
  for (int i = 10; i > 0; --i) {
    f.server.open.retry_ms = 1000u * i;
    f.server.refusal = "not connected; its lease ends in " + std::to_string(i) + ".2 s";
    f.loop.Advance(kSecond);
  }
  EXPECT_EQ(f.logged.size(), 2u);
}

TEST(OutageLines, EachServerHasItsOwnReason) {
  ChannelFixture f(FixtureOptions{.addresses = 2});
  f.Open();
  f.on_link = [](size_t address, MemoryLink* link) { link->refuses = address == 0; };
  f.server.open.status = wire::StatusCode::kBusy;
  f.server.refusal = "in use by 'host b'";
  f.server.Cut();
  f.loop.Advance(20 * kSecond);
  ASSERT_EQ(f.logged.size(), 3u);
  const std::string& first =
      f.logged[1].find("memory:0") != std::string::npos ? f.logged[1] : f.logged[2];
  const std::string& second = &first == &f.logged[1] ? f.logged[2] : f.logged[1];
  EXPECT_THAT(first, HasSubstr("Connection refused"));
  EXPECT_THAT(second, AllOf(HasSubstr("memory:1"), HasSubstr("in use by 'host b'")));
}

// A host that is off, and a proxy that stands still.
TEST(OutageLines, AServerThatSaysNothingIsNamedWithinFiveSeconds) {
  for (const bool connects : {false, true}) {
    ChannelFixture f;
    f.Open();
    f.on_link = [connects](size_t, MemoryLink* link) { link->hangs = !connects; };
    f.server.silent = connects;
    f.server.Cut();
    f.loop.Advance(5 * kSecond);
    ASSERT_GE(f.logged.size(), 2u);
    EXPECT_THAT(f.logged[1], AllOf(HasSubstr("not back after 3 s"), HasSubstr("memory:0")));
  }
}

TEST(OutageLines, AllChannelsTellOnce) {
  TwoChannels f;
  f.a.logged.clear();
  for (ChannelFixture* one : {&f.a, &f.b}) {
    one->on_link = [](size_t, MemoryLink* link) { link->refuses = true; };
    one->server.Cut();
  }
  f.loop.Advance(10 * kSecond);
  EXPECT_EQ(f.a.logged.size(), 2u);
  for (ChannelFixture* one : {&f.a, &f.b}) one->on_link = nullptr;
  f.loop.Advance(10 * kSecond);
  EXPECT_EQ(f.a.logged.size(), 3u);
}

// A reset of the device gives its connection up: no news.
TEST(OutageLines, WhatWeEndedOurselvesIsNotTold) {
  ChannelFixture f;
  f.server.hold = true;
  f.Open();
  f.Write(0, Pattern(512, 1));
  f.Run();
  f.channel.Revoke();
  f.loop.Advance(kSecond);
  EXPECT_TRUE(f.ready());
  EXPECT_THAT(f.logged, IsEmpty());
}

TEST(OutageLines, APathThatLetsOnlySmallPacketsThroughIsHintedAt) {
  ChannelFixture f;
  f.server.hold = true;
  f.Open();
  f.on_link = [&](size_t, MemoryLink*) { f.server.silent = false; };
  f.Write(0, Pattern(65536, 1));
  Through(&f, 20 * kSecond, [&] { f.server.silent = f.ready(); });
  f.server.silent = false;
  ASSERT_GE(f.logged.size(), 3u);
  EXPECT_THAT(f.logged[0], AllOf(HasSubstr("no answer for 8 s"), Not(HasSubstr("MTU"))));
  EXPECT_THAT(f.logged[2], AllOf(HasSubstr("no answer for 8 s"), HasSubstr("MTU")));
}

// --- Times --------------------------------------------------------------------------------------

TEST(Patience, ASilentServerIsLeftForAnotherOneWithinTenSeconds) {
  ChannelFixture f(FixtureOptions{.addresses = 2});
  f.server.hold = true;
  f.Open();
  f.loop.Advance(60 * kSecond);
  f.Read(0, 512);
  f.Run();
  f.server.silent = true;
  f.on_link = [&](size_t, MemoryLink*) { f.server.silent = false; };
  f.loop.Advance(9 * kSecond);
  EXPECT_TRUE(f.ready());
  EXPECT_EQ(f.channel.link().address(), 1u);
  EXPECT_THAT(f.logged, ElementsAre(HasSubstr("lost memory:0: no answer for 8 s; going on to "
                                              "memory:1"),
                                    HasSubstr("connected again to memory:1")));
}

// A stop of this process is none of the server's silence.
TEST(Patience, WhatCameWhileTheLoopStoodStillCounts) {
  ChannelFixture f;
  f.server.hold = true;
  f.Open();
  Io* io = f.Read(0, 512);
  f.Run();
  f.server.silent = true;
  f.loop.Advance(5 * kSecond);
  f.server.silent = false;
  f.server.Answer(0);
  f.loop.Stand(60 * kSecond);
  f.Run();
  EXPECT_EQ(io->result, 0);
  EXPECT_EQ(io->completions, 1);
  EXPECT_EQ(f.server.connections(), 1u);
}

// It is there, but what an earlier connection left at its storage takes long.
TEST(Patience, AServerThatSaidHelloMayTakeItsTimeToOpen) {
  ChannelFixture f;
  f.Open();
  f.server.hold_opens = true;
  f.server.Cut();
  f.loop.Advance(29 * kSecond);
  EXPECT_EQ(f.server.connections(), 2u);
  EXPECT_THAT(f.logged.back(), HasSubstr("does not open the volume yet"));
  f.loop.Advance(2 * kSecond);
  EXPECT_EQ(f.server.connections(), 3u);
  f.server.hold_opens = false;
}

}  // namespace
}  // namespace cloudblk::testing
