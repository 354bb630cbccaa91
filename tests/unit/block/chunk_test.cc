// SPDX-License-Identifier: GPL-2.0-or-later
//
// Answers in parts: what only protocols have whose replies come in chunks.
#include <gtest/gtest.h>

#include <algorithm>
#include <cerrno>
#include <random>
#include <vector>

#include "block/coverage.h"
#include "tests/support/cpp/channel_fixture.h"
#include "tests/support/cpp/chunk_server.h"

namespace cloudblk::testing {
namespace {

constexpr int64_t kSecond = 1'000'000'000;

class ChunkTest : public ::testing::Test {
 protected:
  ChunkTest() {
    f.server.hold = true;
    f.server.disk = Pattern(f.server.disk.size(), 1);
    f.Open();
    read = f.Read(4096, 4096, {100, 1000});
    write = f.Write(65536, Pattern(512, 2));
    f.Run();
    EXPECT_EQ(f.server.pending.size(), 2u);
    tag = f.server.pending[0].request.tag;
    write_tag = f.server.pending[1].request.tag;
  }
  void Send(chunk::Kind kind, uint64_t value, size_t length = 0) {
    f.server.Send(ChunkServer::Chunk(kind, tag, value, std::string(length, 'z')));
  }
  // The connection is dropped, and the next one serves.
  void ExpectDropped() {
    f.Run();
    EXPECT_EQ(f.server.connections(), 2u);
    EXPECT_EQ(read->completions, 0);
    ASSERT_EQ(f.server.pending.size(), 2u);
    f.server.Answer(0, 2);
    f.Run();
    EXPECT_EQ(read->result, 0);
    EXPECT_EQ(read->Data(), f.server.disk.substr(4096, 4096));
    EXPECT_EQ(write->result, 0);
  }

  ChannelFixture f{FixtureOptions{.protocol = Speaks::kChunked}};
  Io* read;
  Io* write;
  uint64_t tag;
  uint64_t write_tag;
};

TEST_F(ChunkTest, AnErrorAfterDataFailsTheRead) {
  static_cast<ChunkServer&>(f.server).AnswerHalf(0, EIO);
  f.Run();
  EXPECT_EQ(read->completions, 1);
  EXPECT_EQ(read->result, -EIO);
  EXPECT_EQ(read->bytes_stored, 2048u);
  EXPECT_EQ(f.server.connections(), 1u);
  f.server.Answer(0);
  f.Run();
  EXPECT_EQ(write->result, 0);
}

TEST_F(ChunkTest, TheFirstErrorCounts) {
  Send(chunk::kErrorChunk, ENOSPC);
  Send(chunk::kErrorChunk, EIO);
  Send(chunk::kDone, 0);
  f.Run();
  EXPECT_EQ(read->result, -ENOSPC);
  f.server.pending.pop_front();
  f.server.Answer(0);
  f.Run();
}

TEST_F(ChunkTest, DataBeyondTheRequestIsNotStored) {
  Send(chunk::kDataChunk, 4000, 97);
  ExpectDropped();
}

TEST_F(ChunkTest, DataAtAnAbsurdOffsetIsNotStored) {
  Send(chunk::kDataChunk, UINT64_MAX - 10, 100);
  ExpectDropped();
}

TEST_F(ChunkTest, DataTwiceIsNotStored) {
  Send(chunk::kDataChunk, 1000, 100);
  Send(chunk::kDataChunk, 1099, 10);
  ExpectDropped();
}

TEST_F(ChunkTest, AHoleOverDataIsNotStored) {
  Send(chunk::kDataChunk, 1000, 100);
  Send(chunk::kHoleChunk, 0, 1001);
  ExpectDropped();
}

TEST_F(ChunkTest, DataForAWriteIsNotStored) {
  tag = write_tag;
  Send(chunk::kDataChunk, 0, 100);
  ExpectDropped();
}

TEST_F(ChunkTest, MissingDataIsNoAnswer) {
  Send(chunk::kDataChunk, 0, 4095);
  Send(chunk::kDone, 0);
  ExpectDropped();
}

TEST_F(ChunkTest, NothingComesAfterTheEnd) {
  Send(chunk::kErrorChunk, EIO);
  Send(chunk::kDone, 0);
  Send(chunk::kDataChunk, 0, 512);
  f.Run();
  EXPECT_EQ(read->result, -EIO);
  EXPECT_EQ(f.server.connections(), 2u);
  f.server.Answer(0);
  f.Run();
}

TEST_F(ChunkTest, WithoutPingALongRequestIsNoSilence) {
  f.loop.Advance(600 * kSecond);
  EXPECT_EQ(f.server.connections(), 1u);
  f.server.Answer(0, 2);
  f.Run();
  EXPECT_EQ(read->result, 0);
}

TEST(CoverageTest, TakesPartsInAnyOrder) {
  Coverage coverage;
  coverage.Reset(100);
  for (const auto& [begin, length] : {std::pair<uint64_t, uint64_t>{90, 10},
                                      {30, 10},
                                      {50, 10},
                                      {40, 10},
                                      {0, 30},
                                      {70, 20},
                                      {60, 10}}) {
    EXPECT_FALSE(coverage.complete());
    EXPECT_TRUE(coverage.Add(begin, length)) << begin;
    EXPECT_FALSE(coverage.Add(begin, length)) << begin;
    EXPECT_FALSE(coverage.Add(begin + length - 1, 1)) << begin;
  }
  EXPECT_TRUE(coverage.complete());
}

TEST(CoverageTest, AgreesWithABitForEachByte) {
  for (uint32_t seed = 1; seed < 200; ++seed) {
    std::mt19937 random(seed);
    constexpr uint64_t kLength = 40;
    Coverage coverage;
    coverage.Reset(kLength);
    std::vector<bool> there(kLength, false);
    for (int i = 0; i < 60; ++i) {
      const uint64_t begin = random() % (kLength + 2);
      const uint64_t length = random() % 8;
      bool good = length > 0 && begin + length <= kLength;
      for (uint64_t at = begin; good && at < begin + length; ++at) good = !there[at];
      ASSERT_EQ(coverage.Add(begin, length), good) << seed << ' ' << begin << ' ' << length;
      for (uint64_t at = begin; good && at < begin + length; ++at) there[at] = true;
      ASSERT_EQ(coverage.complete(), std::ranges::find(there, false) == there.end());
    }
  }
}

TEST(CoverageTest, TooManyGapsAreRefused) {
  Coverage coverage;
  coverage.Reset(1 << 20);
  uint64_t taken = 0;
  while (coverage.Add(2 * taken + 1, 1)) ++taken;
  EXPECT_EQ(taken, 1024u);
  EXPECT_TRUE(coverage.Add(0, 1));
}

TEST(CoverageTest, AnOverflowIsNoPart) {
  Coverage coverage;
  coverage.Reset(100);
  EXPECT_FALSE(coverage.Add(UINT64_MAX, 2));
  EXPECT_FALSE(coverage.Add(50, UINT64_MAX));
  EXPECT_FALSE(coverage.Add(0, 0));
}

}  // namespace
}  // namespace cloudblk::testing
