// SPDX-License-Identifier: GPL-2.0-or-later
//
// What is lost is told: hosts die with writes that were not flushed, and flushes fail.
#include <gtest/gtest.h>

#include <cerrno>
#include <map>
#include <string>

#include "tests/sim/world.h"

namespace cloudblk::testing {
namespace {

constexpr size_t kSize = 64 << 10;
constexpr size_t kSector = 512;

class SimGeneration : public ::testing::TestWithParam<uint32_t> {};

// One request at a time, so that there is no doubt about what a flush covers.
TEST_P(SimGeneration, AFlushThatSucceedsHasLostNothing) {
  World world(GetParam(), kSize);
  ChannelFixture f(world.Client());
  f.Open();
  world.loop.Run();
  ASSERT_TRUE(f.ready());
  // What was written and neither flushed nor told to be lost.
  std::map<uint64_t, std::string> unflushed;
  bool dirty = false;    // something was written since the last flush that succeeded
  bool pending = false;  // that may be lost, and no flush has said so
  int told = 0;
  const auto run = [&](Io* io) {
    world.loop.Advance(60 * kSecond);
    EXPECT_EQ(io->completions, 1);
    return io->result;
  };
  const auto flush = [&](bool storage_fails) {
    const int result = run(f.Flush());
    if (pending) {
      EXPECT_EQ(result, -EIO) << "writes were lost, and the flush says that they were not";
      ++told;
      unflushed.clear();
      pending = false;
    } else if (storage_fails) {
      EXPECT_EQ(result, -EIO);
      // The storage may have lost them with it, and the next flush says so once more.
      pending = dirty;
    } else {
      EXPECT_EQ(result, 0);
      for (const auto& [offset, data] : unflushed) {
        EXPECT_TRUE(world.medium.durable.substr(offset, kSector) == data) << offset;
      }
      unflushed.clear();
      dirty = false;
    }
  };
  const auto write = [&](uint64_t offset, const std::string& data, bool forced) {
    EXPECT_EQ(run(f.Write(offset, data, {}, forced ? CLOUDBLK_REQUEST_FUA : 0u)), 0);
    if (forced) {
      EXPECT_TRUE(world.medium.durable.substr(offset, kSector) == data);
      unflushed.erase(offset);
    } else {
      unflushed[offset] = data;
      dirty = true;
    }
  };
  for (uint32_t i = 0; i < 200 && !HasFailure(); ++i) {
    switch (world.Draw(8)) {
      case 0:
        world.medium.flushes_to_fail = 1;
        flush(true);
        world.medium.flushes_to_fail = 0;
        break;
      case 1:
        world.Crash();
        world.loop.Advance(world.Draw(3000) * 1'000'000);
        world.Boot();
        pending = pending || dirty;
        break;
      case 2:
        world.Kill();
        world.Boot();
        break;
      case 3:
      case 4:
        flush(false);
        break;
      default:
        write(world.Draw(kSize / kSector) * kSector, Pattern(kSector, i), world.Draw(4) == 0);
    }
  }
  EXPECT_GT(told, 0);
}

INSTANTIATE_TEST_SUITE_P(Seeds, SimGeneration, ::testing::Range(1u, 41u));

// A server that dies with everything written keeps what it has.
TEST(SimGenerationKill, ADeadProcessLosesNothing) {
  World world(3, kSize);
  ChannelFixture f(world.Client());
  f.Open();
  world.loop.Run();
  f.Write(0, Pattern(512, 1));
  world.loop.Advance(kSecond);
  world.Kill();
  world.Boot();
  Io* flush = f.Flush();
  world.loop.Advance(60 * kSecond);
  EXPECT_EQ(flush->result, 0);
  EXPECT_EQ(world.medium.durable.substr(0, 512), Pattern(512, 1));
}

}  // namespace
}  // namespace cloudblk::testing
