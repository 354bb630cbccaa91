// SPDX-License-Identifier: GPL-2.0-or-later
//
// BLOCK_STATUS: what the backends say, and how an answer is made.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <random>
#include <string>
#include <vector>

#include "proxy/extent_writer.h"
#include "tests/unit/proxy/support.h"

namespace cloudblk {

bool operator==(const Extent& a, const Extent& b) {
  return a.length == b.length && a.hole == b.hole && a.zero == b.zero;
}
void PrintTo(const Extent& e, std::ostream* out) {
  *out << e.length << (e.hole ? " hole" : "") << (e.zero ? " zero" : "");
}

namespace proxy {
namespace {

using Extents = std::vector<Extent>;

constexpr uint64_t kMiB = 1 << 20;

Extent Data(uint64_t length) { return {length, false, false}; }
Extent Hole(uint64_t length) { return {length, true, true}; }

class ExtentWriterTest : public testing::Test {
 protected:
  ExtentWriter Begin(uint64_t offset, uint64_t length, uint32_t most = 8) {
    op_ = {};
    op_.offset = offset;
    op_.extent = length;
    op_.max_extents = most;
    op_.buffer.data = room_.data();
    return ExtentWriter(&op_, 4096);
  }
  Extents made() const {
    const auto* list = reinterpret_cast<const Extent*>(room_.data());
    return {list, list + op_.extents};
  }

  IoOp op_;
  alignas(Extent) std::array<uint8_t, 8 * sizeof(Extent)> room_{};
};

TEST_F(ExtentWriterTest, WhatIsAlikeIsOneExtent) {
  ExtentWriter writer = Begin(4096, 65536);
  EXPECT_TRUE(writer.AddData(8192));
  EXPECT_TRUE(writer.AddData(12288));
  EXPECT_TRUE(writer.Add(16384, true, true));
  EXPECT_TRUE(writer.Add(20480, true, true));
  EXPECT_TRUE(writer.Add(24576, false, true));
  EXPECT_FALSE(writer.AddData(1 << 30));
  EXPECT_EQ(made(), (Extents{Data(8192), Hole(8192), {4096, false, true}, Data(45056)}));
}

TEST_F(ExtentWriterTest, ABlockWithSomeDataIsData) {
  ExtentWriter writer = Begin(0, 65536);
  EXPECT_TRUE(writer.AddData(100));
  EXPECT_TRUE(writer.Add(200, true, true));
  EXPECT_TRUE(writer.AddData(300));
  EXPECT_TRUE(writer.Add(12288 + 512, true, true));
  EXPECT_TRUE(writer.AddData(12288 + 1024));
  EXPECT_FALSE(writer.Add(65536, true, true));
  EXPECT_EQ(made(), (Extents{Data(4096), Hole(8192), Data(4096), Hole(49152)}));
}

TEST_F(ExtentWriterTest, StopsWhereThereIsNoMoreRoom) {
  ExtentWriter writer = Begin(0, 65536, 2);
  EXPECT_TRUE(writer.AddData(4096));
  EXPECT_TRUE(writer.Add(8192, true, true));
  EXPECT_TRUE(writer.Add(12288, true, true));
  EXPECT_FALSE(writer.AddData(16384));
  EXPECT_EQ(made(), (Extents{Data(4096), Hole(8192)}));
}

// From one end to the other, as a client asks.
Extents Whole(Storage* storage, uint64_t size, uint32_t most = 256) {
  Extents all;
  for (uint64_t at = 0; at < size;) {
    const Extents some = storage->BlockStatus(at, size - at, most);
    EXPECT_FALSE(some.empty());
    EXPECT_LE(some.size(), most);
    if (some.empty()) return all;
    for (const Extent& extent : some) {
      at += extent.length;
      if (!all.empty() && all.back().hole == extent.hole) {
        all.back().length += extent.length;
      } else {
        all.push_back(extent);
      }
    }
    EXPECT_LE(at, size);
  }
  return all;
}

class BlockStatusTest : public testing::TestWithParam<bool> {
 protected:
  std::string path() const { return folder_ / "disk.img"; }
  std::string Uri(uint64_t size, const std::string& more = "") const {
    const std::string bytes = std::to_string(size);
    return GetParam() ? "file://" + path() + "?size=" + bytes + "&create=on" + more
                      : "memory:?size=" + bytes + more;
  }

  TempFolder folder_;
};

TEST_P(BlockStatusTest, TellsWhatWasWrittenAndWhatWasDiscarded) {
  Storage storage(Uri(8 * kMiB));
  EXPECT_EQ(storage.BlockStatus(0, 8 * kMiB), Extents{Hole(8 * kMiB)});
  ASSERT_EQ(storage.Write(kMiB, Pattern(kMiB, 1)), 0);
  ASSERT_EQ(storage.Write(4 * kMiB, Pattern(65536, 2)), 0);
  EXPECT_EQ(storage.BlockStatus(0, 8 * kMiB),
            (Extents{Hole(kMiB), Data(kMiB), Hole(2 * kMiB), Data(65536), Hole(4 * kMiB - 65536)}));
  EXPECT_EQ(storage.BlockStatus(kMiB + 512, 1024), Extents{Data(1024)});
  EXPECT_EQ(storage.BlockStatus(0, 8 * kMiB, 2), (Extents{Hole(kMiB), Data(kMiB)}));
  ASSERT_EQ(storage.Ranges(Operation::kDiscard, {{kMiB, 512 << 10, false}}), 0);
  EXPECT_EQ(storage.BlockStatus(0, 2 * kMiB), (Extents{Hole(kMiB + (512 << 10)), Data(512 << 10)}));
}

// What is not ZERO may be anything, but what is must be zeros; and holes of some size are found.
TEST_P(BlockStatusTest, ZeroMeansZeros) {
  for (const uint32_t block : {512u, 4096u}) {
    constexpr uint64_t kSize = 16 * kMiB;
    const std::string more = "&logical-block-size=" + std::to_string(block);
    unlink(path().c_str());
    Storage storage(Uri(kSize, more));
    std::mt19937 random(block);
    for (int i = 0; i < 40; ++i) {
      const uint64_t at = random() % (kSize / block - 64) * block;
      ASSERT_EQ(storage.Write(at, Pattern((1 + random() % 32) * block, random())), 0);
      const uint64_t hole = random() % (kSize / block - 64) * block;
      ASSERT_EQ(storage.Ranges(Operation::kWriteZeroes, {{hole, 64 * block, true}}), 0);
    }
    std::vector<uint8_t> content;
    ASSERT_EQ(storage.Read(0, kSize / 4, &content), 0);
    uint64_t at = 0;
    uint64_t zeros = 0;
    for (const Extent& extent : Whole(&storage, kSize / 4, 3)) {
      EXPECT_EQ(extent.length % block, 0u);
      if (extent.zero) {
        const auto begin = content.begin() + static_cast<ptrdiff_t>(at);
        EXPECT_TRUE(std::all_of(begin, begin + static_cast<ptrdiff_t>(extent.length),
                                [](uint8_t byte) { return byte == 0; }))
            << at;
        zeros += extent.length;
      }
      at += extent.length;
    }
    EXPECT_EQ(at, kSize / 4);
    EXPECT_GT(zeros, kSize / 16);
  }
}

// However large the volume, one request does not look at all of it.
TEST_P(BlockStatusTest, LooksAtSoMuchAtATime) {
  constexpr uint64_t kSize = uint64_t{100} << 30;
  Storage storage(Uri(kSize));
  const Extents first = storage.BlockStatus(0, kSize);
  ASSERT_EQ(first.size(), 1u);
  EXPECT_LT(first[0].length, kSize);
  EXPECT_EQ(Whole(&storage, kSize), Extents{Hole(kSize)});
}

INSTANTIATE_TEST_SUITE_P(Backends, BlockStatusTest, testing::Bool(),
                         [](const auto& info) { return info.param ? "file" : "memory"; });

TEST(FileBlockStatus, NobodyLooksWhereNobodyWaits) {
  TempFolder folder;
  Storage storage("file://" + (folder / "disk.img") + "?size=8M&create=on");
  std::atomic<bool> abandoned{true};
  IoOp op;
  op.kind = Operation::kBlockStatus;
  op.extent = kMiB;
  op.max_extents = 1;
  op.abandoned = &abandoned;
  op.buffer = storage.context().buffers().Get(sizeof(Extent));
  EXPECT_EQ(storage.Run(&op), -ECANCELED);
  storage.context().buffers().Put(&op.buffer);
}

TEST(FileBlockStatus, AFileThatShrankIsAnError) {
  TempFolder folder;
  Storage storage("file://" + (folder / "disk.img") + "?size=8M&create=on");
  ASSERT_EQ(truncate((folder / "disk.img").c_str(), kMiB), 0);
  int result = 0;
  storage.BlockStatus(0, 8 * kMiB, 256, &result);
  EXPECT_EQ(result, -EIO);
}

TEST(AllData, IsTheAnswerOfWhoKnowsNoBetter) {
  IoOp op;
  op.offset = 4096;
  op.extent = uint64_t{1} << 40;
  op.max_extents = 1;
  Extent room;
  op.buffer.data = reinterpret_cast<uint8_t*>(&room);
  AnswerAllData(&op);
  EXPECT_EQ(op.extents, 1u);
  EXPECT_EQ(room, Data(uint64_t{1} << 40));
}

}  // namespace
}  // namespace proxy
}  // namespace cloudblk
