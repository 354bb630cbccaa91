// SPDX-License-Identifier: GPL-2.0-or-later
//
// Who has the volume, with real clients, and when the storage's lock is given back.
#include <gtest/gtest.h>

#include <string>

#include "tests/sim/world.h"

namespace cloudblk::testing {
namespace {

constexpr size_t kSize = 64 << 10;

FixtureOptions Named(FixtureOptions options, uint8_t id) {
  options.session_id = id;
  return options;
}

class SimOwner : public ::testing::TestWithParam<uint32_t> {};

INSTANTIATE_TEST_SUITE_P(Seeds, SimOwner, ::testing::Range(1u, 31u));

TEST_P(SimOwner, ATakeoverComesAfterAllThatTheOtherHadAtTheStorage) {
  World world(GetParam(), kSize);
  ChannelFixture a(Named(world.Client(), 1));
  FixtureOptions taking = Named(world.Client(), 2);
  taking.takeover = true;
  ChannelFixture b(taking);
  a.Open();
  world.loop.Run();
  ASSERT_TRUE(a.ready());
  // Some of it is at the storage when the other comes.
  world.frozen = true;
  for (uint64_t i = 0; i < 16; ++i) a.Write(i * 4096, Pattern(4096, 1));
  a.channel.Kick();
  world.loop.Run();
  b.Attach();
  b.channel.Start();
  world.loop.Run();
  EXPECT_FALSE(b.ready()) << "what the other had at the storage is not done";
  world.frozen = false;
  world.loop.Run();
  ASSERT_TRUE(b.ready());
  EXPECT_TRUE(a.state.revoked());
  for (uint64_t i = 0; i < 16; ++i) b.Write(i * 4096, Pattern(4096, 2));
  world.loop.Advance(kSecond);
  for (uint64_t i = 0; i < 16; ++i) {
    EXPECT_TRUE(world.medium.data.substr(i * 4096, 4096) == Pattern(4096, 2)) << i;
  }
}

TEST_P(SimOwner, TheLockIsKeptWhileAnybodyMayWrite) {
  World world(GetParam(), kSize);
  FixtureOptions shared = Named(world.Client(), 1);
  shared.share_rw = true;
  ChannelFixture a(shared);
  shared = Named(world.Client(), 2);
  shared.share_rw = true;
  ChannelFixture b(shared);
  a.Open();
  b.Open();
  world.loop.Advance(kSecond);
  ASSERT_TRUE(a.ready() && b.ready());
  for (uint64_t i = 0; i < 8; ++i) b.Write(i * 4096, Pattern(4096, 3));
  b.channel.Kick();
  a.channel.Close(true);
  world.loop.Advance(kSecond);
  EXPECT_TRUE(world.medium.locked);
  for (const auto& io : b.ios) EXPECT_EQ(io->result, 0);
  b.channel.Close(true);
  world.loop.Advance(kSecond);
  EXPECT_FALSE(world.medium.locked);
}

TEST_P(SimOwner, AHolderThatIsAwayIsWaitedForByItsLease) {
  World world(GetParam(), kSize);
  ChannelFixture a(Named(world.Client(), 1));
  ChannelFixture b(Named(world.Client(), 2));
  a.Open();
  world.loop.Run();
  ASSERT_TRUE(a.ready());
  a.channel.Detach();
  a.channel.Abandon();
  b.Open();
  world.loop.Advance(8 * kSecond);
  EXPECT_FALSE(b.ready());
  world.loop.Advance(4 * kSecond);
  EXPECT_TRUE(b.ready());
}

}  // namespace
}  // namespace cloudblk::testing
