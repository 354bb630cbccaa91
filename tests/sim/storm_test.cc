// SPDX-License-Identifier: GPL-2.0-or-later
//
// Hundreds of overlapping requests, while connections break and servers die.
#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "tests/sim/world.h"

namespace cloudblk::testing {
namespace {

constexpr size_t kSize = 64 << 10;

class SimStorm : public ::testing::TestWithParam<uint32_t> {};

// What happened in a run, to be compared with another run of the same seed.
struct Story {
  std::string content;
  std::vector<int> results;
  uint64_t reconnects = 0;
  std::vector<uint64_t> submitted;
  uint32_t crc = 0;
  int64_t end_ns = 0;

  bool operator==(const Story&) const = default;
};

Story Live(uint32_t seed) {
  World world(seed, kSize);
  FixtureOptions options = world.Client();
  options.payload_crc = seed % 2 == 0;
  world.on_link = [&](MemoryLink* link) {
    if (world.Draw(3) == 0) link->habits.read_chunk = 1 + world.Draw(3000);
    if (world.Draw(3) == 0) link->habits.write_chunk = 1 + world.Draw(3000);
    if (world.Draw(4) != 0) {
      (world.Draw(2) != 0 ? link->habits.cut_to_client : link->habits.cut_to_server) =
          300 + world.Draw(30000);
    }
  };
  ChannelFixture f(options);
  f.Open();
  world.loop.Advance(60 * kSecond);
  EXPECT_TRUE(f.ready());
  std::string expected = world.medium.data;
  for (uint32_t i = 0; i < 300; ++i) {
    const uint64_t offset = world.Draw(120) * 512;
    const uint64_t length = std::min<uint64_t>((1 + world.Draw(16)) * 512, kSize - offset);
    switch (world.Draw(6)) {
      case 0:
      case 1:
      case 2:
        f.Write(offset, Pattern(length, i), {1 + world.Draw(500)},
                world.Draw(8) == 0 ? CLOUDBLK_REQUEST_FUA : 0u);
        expected.replace(offset, length, Pattern(length, i));
        break;
      case 3:
        f.Ranges(CLOUDBLK_OP_WRITE_ZEROES, {{offset, length, 0}});
        expected.replace(offset, length, std::string(length, '\0'));
        break;
      case 4:
        f.Flush();
        break;
      default:
        f.Read(offset, length, {1 + world.Draw(500)});
    }
    if (world.Draw(10) == 0) f.channel.Kick();
    if (world.Draw(20) == 0) world.loop.Advance(world.Draw(100) * 1'000'000);
    if (world.Draw(60) == 0) {
      world.Kill();
      world.loop.Advance(world.Draw(3000) * 1'000'000);
      world.Boot();
    }
    if (world.Draw(40) == 0) {
      // With all requests answered, everything that was written is there.
      world.loop.Advance(600 * kSecond);
      Io* all = f.Read(0, kSize);
      world.loop.Advance(600 * kSecond);
      EXPECT_EQ(all->completions, 1);
      EXPECT_TRUE(all->Data() == expected) << "after request " << i;
      EXPECT_TRUE(world.medium.data == expected);
    }
  }
  world.loop.Advance(600 * kSecond);
  Story story;
  for (const auto& io : f.ios) {
    EXPECT_EQ(io->completions, 1);
    EXPECT_EQ(io->result, 0);
    story.results.push_back(io->result);
  }
  EXPECT_TRUE(world.medium.data == expected);
  CloudblkStats stats{};
  f.channel.FillStats(&stats);
  story.content = world.medium.data;
  story.reconnects = stats.reconnects;
  story.submitted = world.medium.submitted;
  story.crc = world.crc;
  story.end_ns = world.loop.NowNs();
  return story;
}

TEST_P(SimStorm, EveryWriteLandsOnceAndInOrder) { Live(GetParam()); }

INSTANTIATE_TEST_SUITE_P(Seeds, SimStorm, ::testing::Range(1u, 61u));

TEST(SimStormSeed, DoesTheSameAgain) {
  const Story first = Live(4242);
  EXPECT_GT(first.reconnects, 3u);
  EXPECT_TRUE(first == Live(4242));
  EXPECT_FALSE(first == Live(4243));
}

// SPEC.md 8.14.
TEST(SimReplay, WhatWasNotAnsweredComesAgainInTheOrderOfItsSending) {
  World world(1, kSize);
  ChannelFixture f(world.Client());
  f.Open();
  world.loop.Run();
  ASSERT_TRUE(f.ready());
  world.frozen = true;
  for (uint64_t i = 0; i < 16; ++i)
    f.Write(i * 7 % 16 * 4096, Pattern(512, static_cast<uint32_t>(i)));
  f.channel.Kick();
  world.loop.Run();
  const std::vector<uint64_t> before = world.medium.submitted;
  ASSERT_EQ(before.size(), 16u);
  world.medium.submitted.clear();
  world.last_link->server_closed = true;
  world.frozen = false;
  world.loop.Advance(kSecond);
  EXPECT_EQ(world.medium.submitted, before);
}

}  // namespace
}  // namespace cloudblk::testing
