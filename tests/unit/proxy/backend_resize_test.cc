// SPDX-License-Identifier: GPL-2.0-or-later
//
// Backend::Resize, of every backend.
#include <gmock/gmock.h>
#include <unistd.h>

#include "tests/unit/proxy/support.h"
#include "tests/unit/proxy/upstream.h"

namespace cloudblk::proxy {
namespace {

using testing::HasSubstr;

constexpr uint64_t kSize = 8 << 20;

class ResizeTest : public testing::TestWithParam<Kind> {
 protected:
  void SetUp() override {
    ASSERT_TRUE(storage_.ok());
    if (GetParam().remote()) {
      ASSERT_TRUE(storage_.Acquire().ok());
    }
  }
  std::string path() const { return folder_ / "disk.img"; }
  std::vector<uint8_t> Read(uint64_t offset, uint32_t length) {
    std::vector<uint8_t> data;
    EXPECT_EQ(storage_.Read(offset, length, &data), 0);
    return data;
  }

  TempFolder folder_;
  Provided provided_{GetParam(), path(), kSize};
  Storage storage_{provided_.uri(), folder_.path()};
};

class FileResizeTest : public ResizeTest {};

TEST_P(ResizeTest, GrowsByZerosThatCanBeWritten) {
  const std::vector<uint8_t> old = Pattern(65536, 1);
  ASSERT_EQ(storage_.Write(kSize - 65536, old), 0);
  const Status grown = storage_.Resize(4 * kSize);
  ASSERT_TRUE(grown.ok()) << grown.message();
  EXPECT_EQ(storage_.backend().size(), 4 * kSize);
  EXPECT_EQ(Read(kSize - 65536, 65536), old);
  EXPECT_EQ(Read(kSize, 65536), std::vector<uint8_t>(65536));
  const std::vector<uint8_t> fresh = Pattern(1 << 20, 2);
  ASSERT_EQ(storage_.Write(4 * kSize - (1 << 20), fresh), 0);
  EXPECT_EQ(Read(4 * kSize - (1 << 20), 1 << 20), fresh);
  EXPECT_EQ(storage_.Flush(), 0);
}

// The cut is in the middle of a page and of the blocks by which holes are known.
TEST_P(ResizeTest, WhatWasCutOffReadsAsZerosAfterwards) {
  const uint64_t cut = kSize / 2 + 512;
  const std::vector<uint8_t> old = Pattern(65536, 3);
  ASSERT_EQ(storage_.Write(kSize / 2, old), 0);
  ASSERT_EQ(storage_.Write(kSize - 4096, Pattern(4096, 4)), 0);
  ASSERT_TRUE(storage_.Resize(cut).ok());
  EXPECT_EQ(storage_.backend().size(), cut);
  ASSERT_TRUE(storage_.Resize(2 * kSize).ok());
  EXPECT_EQ(Read(kSize / 2, 512), std::vector<uint8_t>(old.begin(), old.begin() + 512));
  EXPECT_EQ(Read(cut, 65536), std::vector<uint8_t>(65536));
  EXPECT_EQ(Read(kSize - 4096, 4096), std::vector<uint8_t>(4096));
}

TEST_P(ResizeTest, TheSameSizeIsNoChange) {
  EXPECT_TRUE(storage_.Resize(kSize).ok());
  EXPECT_EQ(storage_.backend().size(), kSize);
}

TEST_P(FileResizeTest, TheFileHasTheSizeToo) {
  ASSERT_TRUE(storage_.Resize(2 * kSize).ok());
  EXPECT_EQ(std::filesystem::file_size(path()), 2 * kSize);
  ASSERT_TRUE(storage_.Resize(kSize / 2).ok());
  EXPECT_EQ(std::filesystem::file_size(path()), kSize / 2);
}

// The URI still names the size with which the file was made.
TEST_P(FileResizeTest, TheNewSizeSurvivesARestart) {
  ASSERT_TRUE(storage_.Resize(2 * kSize).ok());
  Storage again(provided_.uri());
  ASSERT_TRUE(again.ok());
  EXPECT_EQ(again.backend().size(), 2 * kSize);
  EXPECT_EQ(again.backend().uuid(), storage_.backend().uuid());
  ASSERT_EQ(truncate(path().c_str(), 3 * kSize), 0);
  StartUp start_up;
  EXPECT_FALSE(OpenBackend("disk", provided_.uri(), &start_up).ok());
}

TEST_P(FileResizeTest, AFileThatGrewIsTakenOver) {
  ASSERT_EQ(truncate(path().c_str(), 3 * kSize), 0);
  const Status refused = storage_.Resize(2 * kSize);
  EXPECT_THAT(refused.message(), HasSubstr("has grown to"));
  EXPECT_EQ(std::filesystem::file_size(path()), 3 * kSize);
  EXPECT_EQ(storage_.backend().size(), kSize);
  EXPECT_TRUE(storage_.Resize(3 * kSize).ok());
  EXPECT_EQ(storage_.Write(3 * kSize - 4096, Pattern(4096, 5)), 0);
}

TEST_P(FileResizeTest, AFileThatShrankIsNotFilledWithZeros) {
  ASSERT_EQ(truncate(path().c_str(), kSize / 2), 0);
  for (const uint64_t size : {kSize, 2 * kSize, kSize / 2 + 4096}) {
    const Status refused = storage_.Resize(size);
    EXPECT_THAT(refused.message(), HasSubstr("restore the file"));
  }
  EXPECT_EQ(std::filesystem::file_size(path()), kSize / 2);
  EXPECT_EQ(storage_.backend().size(), kSize);
  // What is left can be a volume, and that one can grow.
  EXPECT_TRUE(storage_.Resize(kSize / 2).ok());
  EXPECT_TRUE(storage_.Resize(kSize).ok());
  EXPECT_EQ(storage_.Write(kSize - 4096, Pattern(4096, 6)), 0);
}

using Where = Kind::Where;
const Kind kFiles[] = {{"Libaio", Where::kFile},
                       {"Uring", Where::kFile, "&aio=io_uring"},
                       {"Buffered", Where::kFile, "&direct=off"}};
INSTANTIATE_TEST_SUITE_P(Memory, ResizeTest, testing::Values(Kind{"Memory", Where::kMemory}),
                         NameOf);
INSTANTIATE_TEST_SUITE_P(Proxy, ResizeTest, testing::Values(Kind{"Proxy", Where::kProxy}), NameOf);
INSTANTIATE_TEST_SUITE_P(Ceph, ResizeTest, testing::ValuesIn(CephKinds()), NameOf);
INSTANTIATE_TEST_SUITE_P(File, ResizeTest, testing::ValuesIn(kFiles), NameOf);
INSTANTIATE_TEST_SUITE_P(File, FileResizeTest, testing::ValuesIn(kFiles), NameOf);

TEST(MemoryResize, HasALimitThatIsTold) {
  Storage storage("memory:?size=8M");
  const Status refused = storage.Resize(uint64_t{1} << 50);
  EXPECT_EQ(refused.error(), EOPNOTSUPP);
  EXPECT_THAT(refused.message(), HasSubstr("it can grow to"));
  EXPECT_EQ(storage.backend().size(), kSize);
}

TEST(MemoryResize, KnowsHolesAfterwards) {
  Storage storage("memory:?size=8M");
  ASSERT_EQ(storage.Write(0, Pattern(512, 7)), 0);
  ASSERT_TRUE(storage.Resize(64 << 20).ok());
  for (const auto& [offset, hole] : {std::pair{0u, false}, {32u << 20, true}}) {
    IoOp op;
    op.kind = Operation::kRead;
    op.offset = offset;
    op.length = 4096;
    op.hole_allowed = true;
    ASSERT_EQ(storage.Run(&op), 0);
    EXPECT_EQ(op.hole, hole) << offset;
  }
}

}  // namespace
}  // namespace cloudblk::proxy
