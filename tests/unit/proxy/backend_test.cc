// SPDX-License-Identifier: GPL-2.0-or-later
//
// The contract of Backend, held by every backend and every way of doing I/O.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <span>

#include "base/socket.h"
#include "proxy/backends/file_attributes.h"
#include "proxy/backends/file_store.h"
#include "tests/unit/proxy/support.h"
#include "tests/unit/proxy/upstream.h"

namespace cloudblk::proxy {
namespace {

constexpr uint64_t kSize = 8 << 20;

std::string FileUri(const Kind& kind, const std::string& path, uint64_t size) {
  return "file://" + path + "?size=" + std::to_string(size) + "&create=on" + kind.options;
}

uint64_t BytesOnDisk(const std::string& path) {
  struct stat info{};
  stat(path.c_str(), &info);
  return static_cast<uint64_t>(info.st_blocks) * 512;
}

class BackendTest : public testing::TestWithParam<Kind> {
 protected:
  void SetUp() override {
    ASSERT_TRUE(storage_.ok());
    if (!GetParam().remote()) return;
    const Status acquired = storage_.Acquire();
    ASSERT_TRUE(acquired.ok()) << acquired.message();
  }
  std::string path() const { return folder_ / "disk.img"; }
  // A READ of as many bytes, or a WRITE of these, that is one of several under way.
  void Begin(IoOp* op, Operation kind, uint64_t offset, std::span<const uint8_t> data) {
    op->kind = kind;
    op->offset = offset;
    op->length = static_cast<uint32_t>(data.size());
    if (kind == Operation::kWrite) {
      op->buffer = storage_.context().buffers().Get(op->length);
      std::ranges::copy(data, op->buffer.data);
    }
    storage_.Start(op);
  }

  TempFolder folder_;
  Provided provided_{GetParam(), path(), kSize};
  Storage storage_{provided_.uri(), folder_.path()};
};

class FileTest : public BackendTest {};
class CephTest : public BackendTest {};

TEST_P(BackendTest, TellsItsGeometry) {
  const Geometry& geometry = storage_.backend().geometry();
  EXPECT_EQ(storage_.backend().size(), kSize);
  EXPECT_GE(geometry.logical_block_size, 512u);
  EXPECT_GE(geometry.physical_block_size, geometry.logical_block_size);
  EXPECT_FALSE(storage_.backend().uuid().IsNil());
  EXPECT_NE(storage_.backend().generation(), 0u);
}

TEST_P(BackendTest, StartsWithZeros) {
  std::vector<uint8_t> data;
  ASSERT_EQ(storage_.Read(kSize - 65536, 65536, &data), 0);
  EXPECT_EQ(data, std::vector<uint8_t>(65536));
}

TEST_P(BackendTest, ReadsBackWhatWasWritten) {
  uint32_t seed = 0;
  for (const uint32_t length : {512u, 4096u, 4608u, 65536u, 1u << 20, 4u << 20}) {
    for (const uint64_t offset : {uint64_t{0}, uint64_t{512}, uint64_t{12288 + 1536}}) {
      const std::vector<uint8_t> written = Pattern(length, ++seed);
      ASSERT_EQ(storage_.Write(offset, written), 0);
      std::vector<uint8_t> read;
      ASSERT_EQ(storage_.Read(offset, length, &read), 0);
      ASSERT_EQ(read, written) << length << " at " << offset;
    }
  }
}

TEST_P(BackendTest, WritesNothingBesideTheRange) {
  const std::vector<uint8_t> around = Pattern(16384, 1);
  const std::vector<uint8_t> inside = Pattern(512, 2);
  ASSERT_EQ(storage_.Write(0, around), 0);
  ASSERT_EQ(storage_.Write(4096 + 512, inside), 0);
  std::vector<uint8_t> expected = around;
  std::copy(inside.begin(), inside.end(), expected.begin() + 4096 + 512);
  std::vector<uint8_t> read;
  ASSERT_EQ(storage_.Read(0, 16384, &read), 0);
  EXPECT_EQ(read, expected);
}

TEST_P(BackendTest, TakesTheLastBlock) {
  const std::vector<uint8_t> written = Pattern(512, 3);
  ASSERT_EQ(storage_.Write(kSize - 512, written), 0);
  std::vector<uint8_t> read;
  ASSERT_EQ(storage_.Read(kSize - 512, 512, &read), 0);
  EXPECT_EQ(read, written);
}

// More than one batch, and more than the kernel is given at a time.
TEST_P(BackendTest, CarriesOutManyAtOnce) {
  constexpr size_t kCount = 1500;
  std::vector<IoOp> ops(kCount);
  for (size_t i = 0; i < kCount; ++i) {
    Begin(&ops[i], Operation::kWrite, i * 4096, Pattern(4096, static_cast<uint32_t>(i)));
  }
  storage_.Wait();
  for (IoOp& op : ops) {
    EXPECT_EQ(op.result, 0);
    storage_.context().buffers().Put(&op.buffer);
  }
  for (const size_t i : {size_t{0}, size_t{255}, size_t{1024}, kCount - 1}) {
    std::vector<uint8_t> read;
    ASSERT_EQ(storage_.Read(i * 4096, 4096, &read), 0);
    EXPECT_EQ(read, Pattern(4096, static_cast<uint32_t>(i)));
  }
}

// Each goes where it belongs, whatever came right before it.
TEST_P(BackendTest, CarriesOutAtOnceWhatHasGapsAndGoesBackwards) {
  constexpr uint32_t kLength = 4096;
  std::vector<uint64_t> blocks = {3, 5, 6, 4, 0, 9, 1};
  for (const Operation kind : {Operation::kWrite, Operation::kRead}) {
    std::vector<IoOp> ops(blocks.size());
    for (size_t i = 0; i < blocks.size(); ++i) {
      const std::vector<uint8_t> data(kLength, static_cast<uint8_t>('a' + blocks[i]));
      Begin(&ops[i], kind, blocks[i] * kLength, data);
    }
    storage_.Wait();
    for (size_t i = 0; i < blocks.size(); ++i) {
      ASSERT_EQ(ops[i].result, 0) << blocks[i];
      if (kind == Operation::kRead) {
        EXPECT_EQ(std::string(reinterpret_cast<const char*>(ops[i].data), kLength),
                  std::string(kLength, static_cast<char>('a' + blocks[i])));
      }
      storage_.context().buffers().Put(&ops[i].buffer);
    }
    // In the same order one mistake would make up for the other.
    std::ranges::reverse(blocks);
  }
  std::vector<uint8_t> untouched;
  ASSERT_EQ(storage_.Read(2 * kLength, kLength, &untouched), 0);
  EXPECT_EQ(untouched, std::vector<uint8_t>(kLength));
}

// What is one for the storage is still several for who asked.
TEST_P(BackendTest, CarriesOutNeighboursAtOnce) {
  constexpr uint32_t kLength = 48 << 10;
  constexpr size_t kCount = 50;
  const std::vector<uint8_t> whole = Pattern(kLength * kCount, 9);
  for (const Operation kind : {Operation::kWrite, Operation::kRead}) {
    std::vector<IoOp> ops(kCount);
    for (size_t i = 0; i < kCount; ++i) {
      ops[i].fua = kind == Operation::kWrite && i % 10 == 3;
      Begin(&ops[i], kind, 4096 + i * kLength, {&whole[i * kLength], kLength});
    }
    storage_.Wait();
    for (size_t i = 0; i < kCount; ++i) {
      ASSERT_EQ(ops[i].result, 0) << i;
      if (kind == Operation::kRead) {
        ASSERT_EQ(memcmp(ops[i].data, &whole[i * kLength], kLength), 0) << i;
      }
      storage_.context().buffers().Put(&ops[i].buffer);
    }
  }
}

TEST_P(BackendTest, WriteZeroesLeavesZerosInEveryRangeAndNothingElse) {
  for (const bool unmap : {false, true}) {
    const std::vector<uint8_t> written = Pattern(65536, 4);
    ASSERT_EQ(storage_.Write(0, written), 0);
    ASSERT_EQ(storage_.Ranges(Operation::kWriteZeroes,
                              {{512, 1024, unmap}, {8192, 16384, unmap}, {40960, 0, unmap}}),
              0);
    std::vector<uint8_t> expected = written;
    std::fill_n(expected.begin() + 512, 1024, uint8_t{0});
    std::fill_n(expected.begin() + 8192, 16384, uint8_t{0});
    std::vector<uint8_t> read;
    ASSERT_EQ(storage_.Read(0, 65536, &read), 0);
    EXPECT_EQ(read, expected) << unmap;
  }
}

TEST_P(BackendTest, DiscardTouchesNothingBesideItsRanges) {
  const std::vector<uint8_t> written = Pattern(65536, 5);
  ASSERT_EQ(storage_.Write(0, written), 0);
  ASSERT_EQ(storage_.Ranges(Operation::kDiscard, {{4096, 8192, 0}, {32768, 4096, 0}}), 0);
  std::vector<uint8_t> read;
  ASSERT_EQ(storage_.Read(0, 65536, &read), 0);
  for (const auto& [begin, end] : {std::pair{0, 4096}, {12288, 32768}, {36864, 65536}}) {
    EXPECT_TRUE(std::equal(read.begin() + begin, read.begin() + end, written.begin() + begin));
  }
}

// That it is durable is of file_sync_test.cc.
TEST_P(BackendTest, CarriesOutWhatIsForcedToTheStorage) {
  EXPECT_EQ(storage_.Flush(), 0);
  std::vector<uint8_t> read;
  EXPECT_EQ(storage_.Write(0, Pattern(4096, 6), true), 0);
  ASSERT_EQ(storage_.Read(0, 4096, &read), 0);
  EXPECT_EQ(read, Pattern(4096, 6));
  EXPECT_EQ(storage_.Ranges(Operation::kWriteZeroes, {{0, 4096, 0}}, true), 0);
  ASSERT_EQ(storage_.Read(0, 4096, &read), 0);
  EXPECT_EQ(read, std::vector<uint8_t>(4096));
}

TEST_P(BackendTest, AnswersHolesOnlyWhereNothingWasWritten) {
  ASSERT_EQ(storage_.Write(1 << 20, Pattern(512, 7)), 0);
  for (const uint64_t offset : {uint64_t{1 << 20}, uint64_t{(1 << 20) - 4096}}) {
    IoOp op;
    op.kind = Operation::kRead;
    op.offset = offset;
    op.length = 8192;
    op.hole_allowed = true;
    ASSERT_EQ(storage_.Run(&op), 0);
    EXPECT_FALSE(op.hole);
    storage_.context().buffers().Put(&op.buffer);
  }
}

TEST(MemoryBackend, AnswersHoles) {
  Storage storage("memory:?size=8M");
  IoOp op;
  op.kind = Operation::kRead;
  op.length = 1 << 20;
  op.hole_allowed = true;
  ASSERT_EQ(storage.Run(&op), 0);
  EXPECT_TRUE(op.hole);
}

TEST_P(BackendTest, KeepsReadDataStableWhenAsked) {
  const std::vector<uint8_t> before = Pattern(4096, 8);
  ASSERT_EQ(storage_.Write(0, before), 0);
  IoOp op;
  op.kind = Operation::kRead;
  op.length = 4096;
  op.stable_data = true;
  ASSERT_EQ(storage_.Run(&op), 0);
  ASSERT_EQ(storage_.Write(0, Pattern(4096, 9)), 0);
  EXPECT_TRUE(std::equal(before.begin(), before.end(), op.data));
  storage_.context().buffers().Put(&op.buffer);
}

TEST_P(FileTest, DiscardGivesSpaceBack) {
  ASSERT_EQ(storage_.Write(0, Pattern(4 << 20, 10)), 0);
  ASSERT_EQ(storage_.Flush(), 0);
  const uint64_t before = BytesOnDisk(path());
  ASSERT_GE(before, uint64_t{4 << 20});
  ASSERT_EQ(storage_.Ranges(Operation::kDiscard, {{0, 3 << 20, 0}}), 0);
  EXPECT_LE(BytesOnDisk(path()), before - (3 << 20) + 65536);
}

TEST_P(FileTest, WriteZeroesWithUnmapGivesSpaceBack) {
  ASSERT_EQ(storage_.Write(0, Pattern(4 << 20, 10)), 0);
  ASSERT_EQ(storage_.Flush(), 0);
  const uint64_t before = BytesOnDisk(path());
  ASSERT_EQ(storage_.Ranges(Operation::kWriteZeroes, {{0, 3 << 20, true}}), 0);
  EXPECT_LE(BytesOnDisk(path()), before - (3 << 20) + 65536);
}

TEST_P(FileTest, RangesThatNobodyWaitsForAreLeftAlone) {
  ASSERT_EQ(storage_.Write(0, Pattern(1 << 20, 16)), 0);
  const std::atomic<bool> abandoned = true;
  const std::vector<Range> ranges = {{0, 1 << 20, 0}};
  for (const auto kind : {Operation::kDiscard, Operation::kWriteZeroes}) {
    IoOp op;
    op.kind = kind;
    op.ranges = ranges;
    op.abandoned = &abandoned;
    EXPECT_EQ(storage_.Run(&op), -ECANCELED);
  }
  std::vector<uint8_t> read;
  ASSERT_EQ(storage_.Read(0, 1 << 20, &read), 0);
  EXPECT_EQ(read, Pattern(1 << 20, 16));
}

TEST_P(FileTest, ReadsBehindTheEndOfAShrunkFileFail) {
  ASSERT_EQ(storage_.Write(0, Pattern(kSize / 2, 11)), 0);
  ASSERT_EQ(truncate(path().c_str(), 1 << 20), 0);
  std::vector<uint8_t> read;
  EXPECT_EQ(storage_.Read(2 << 20, 4096, &read), -EIO);
  EXPECT_EQ(storage_.Read((1 << 20) - 4096, 8192, &read), -EIO);
  EXPECT_EQ(storage_.Read(0, 4096, &read), 0);
  // A write there would turn what is lost into zeros.
  EXPECT_EQ(storage_.Write(4 << 20, Pattern(4096, 12)), -EIO);
  EXPECT_EQ(storage_.Read(3 << 20, 4096, &read), -EIO);
  EXPECT_EQ(storage_.backend().size(), kSize);
}

TEST_P(FileTest, SoDoRangesBehindIt) {
  ASSERT_EQ(truncate(path().c_str(), 1 << 20), 0);
  const std::vector<Range> ranges = {{(1 << 20) - 4096, 8192, 0}, {0, 4096, 0}};
  EXPECT_EQ(storage_.Ranges(Operation::kDiscard, ranges), -EIO);
  EXPECT_EQ(storage_.Ranges(Operation::kWriteZeroes, ranges), -EIO);
}

// The size is not looked at for each request.
TEST_P(FileTest, ReadsFailAlsoRightAfterTheShrink) {
  for (int i = 0; i < 10; ++i) {
    const std::string file = folder_ / ("shrinks" + std::to_string(i));
    Storage storage(FileUri(GetParam(), file, kSize));
    std::vector<uint8_t> read;
    ASSERT_EQ(storage.Read(2 << 20, 4096, &read), 0);
    ASSERT_EQ(truncate(file.c_str(), 1 << 20), 0);
    EXPECT_EQ(storage.Read(2 << 20, 4096, &read), -EIO);
    EXPECT_EQ(storage.Read(3 << 20, 4096, &read), -EIO);
  }
}

TEST_P(FileTest, AShrinkInTheMiddleOfABlockFailsToo) {
  ASSERT_EQ(truncate(path().c_str(), (1 << 20) + 100), 0);
  std::vector<uint8_t> read;
  EXPECT_EQ(storage_.Read(1 << 20, 512, &read), -EIO);
  EXPECT_EQ(storage_.Read((1 << 20) - 512, 1024, &read), -EIO);
}

TEST_P(FileTest, AFullFileSystemIsTold) {
  if (geteuid() != 0) GTEST_SKIP() << "mounting a small file system needs root";
  const std::string mount_point = folder_ / "small";
  std::filesystem::create_directory(mount_point);
  if (mount("none", mount_point.c_str(), "tmpfs", 0, "size=2m") != 0) {
    GTEST_SKIP() << "no tmpfs can be mounted here: " << strerror(errno);
  }
  {
    Storage small(FileUri(GetParam(), mount_point + "/disk.img", kSize));
    ASSERT_TRUE(small.ok());
    EXPECT_EQ(small.Write(0, Pattern(1 << 20, 13)), 0);
    EXPECT_EQ(small.Write(2 << 20, Pattern(4 << 20, 14)), -ENOSPC);
    // What was there before is still there, and room that is made can be used.
    std::vector<uint8_t> read;
    EXPECT_EQ(small.Read(0, 1 << 20, &read), 0);
    EXPECT_EQ(read, Pattern(1 << 20, 13));
    EXPECT_EQ(small.Ranges(Operation::kDiscard, {{2 << 20, 4 << 20, 0}}), 0);
    EXPECT_EQ(small.Write(3 << 20, Pattern(65536, 15)), 0);
    EXPECT_EQ(small.Ranges(Operation::kWriteZeroes, {{0, 65536, 0}}), 0);
    EXPECT_EQ(small.Read(0, 65536, &read), 0);
    EXPECT_EQ(read, std::vector<uint8_t>(65536));
  }
  EXPECT_EQ(umount(mount_point.c_str()), 0);
}

using Where = Kind::Where;
const Kind kFiles[] = {{"Libaio", Where::kFile},
                       {"Uring", Where::kFile, "&aio=io_uring"},
                       {"Buffered", Where::kFile, "&direct=off"},
                       {"BufferedUring", Where::kFile, "&direct=off&aio=io_uring"}};
const Kind kRemotes[] = {{"Proxy", Where::kProxy},
                         {"ProxyWithSums", Where::kProxy, "&payload-crc=on"},
                         {"Nbdkit", Where::kNbdkit}};
INSTANTIATE_TEST_SUITE_P(Memory, BackendTest, testing::Values(Kind{"Memory", Where::kMemory}),
                         NameOf);
INSTANTIATE_TEST_SUITE_P(File, BackendTest, testing::ValuesIn(kFiles), NameOf);
INSTANTIATE_TEST_SUITE_P(Remote, BackendTest, testing::ValuesIn(kRemotes), NameOf);
// What is beyond the image's end fails, and its neighbours do not.
TEST_P(CephTest, OneOfSeveralNeighboursFailsAlone) {
  const std::vector<uint8_t> written = Pattern(8192, 1);
  ASSERT_EQ(storage_.Write(kSize - 8192, written), 0);
  IoOp ops[3];
  for (size_t i = 0; i < 3; ++i) {
    ops[i].kind = Operation::kRead;
    ops[i].offset = kSize - 8192 + i * 4096;
    ops[i].length = 4096;
    storage_.Start(&ops[i]);
  }
  storage_.Wait();
  for (size_t i = 0; i < 2; ++i) {
    EXPECT_EQ(ops[i].result, 0) << i;
    EXPECT_EQ(memcmp(ops[i].data, &written[i * 4096], 4096), 0) << i;
  }
  EXPECT_NE(ops[2].result, 0);
  for (IoOp& op : ops) storage_.context().buffers().Put(&op.buffer);
}

INSTANTIATE_TEST_SUITE_P(Ceph, BackendTest, testing::ValuesIn(CephKinds()), NameOf);
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(CephTest);
INSTANTIATE_TEST_SUITE_P(Ceph, CephTest, testing::ValuesIn(CephKinds()), NameOf);
INSTANTIATE_TEST_SUITE_P(File, FileTest, testing::ValuesIn(kFiles), NameOf);

// --- Opening -------------------------------------------------------------------------------------

std::string OpenError(const std::string& uri) {
  StartUp start_up;
  const Result<std::unique_ptr<Backend>> opened = OpenBackend("disk", uri, &start_up);
  return opened.ok() ? "opened" : opened.status().message();
}

TEST(OpenBackend, SaysWhatIsWrongWithAUri) {
  EXPECT_THAT(OpenError("disk.img"), testing::HasSubstr("no scheme"));
  EXPECT_THAT(OpenError("ftp://x/y"), testing::HasSubstr("unknown scheme 'ftp'"));
  EXPECT_THAT(OpenError("memory:"), testing::HasSubstr("size= is missing"));
  EXPECT_THAT(OpenError("memory:?size=big"), testing::HasSubstr("size=big is not a size"));
  EXPECT_THAT(OpenError("memory:?size=1000"), testing::HasSubstr("multiple of 512"));
  EXPECT_THAT(OpenError("memory:?size=1M&colour=red"), testing::HasSubstr("option 'colour'"));
  EXPECT_THAT(OpenError("file://disk.img"), testing::HasSubstr("not absolute"));
  EXPECT_THAT(OpenError("file:///x?aio=posix"), testing::HasSubstr("libaio or io_uring"));
  EXPECT_THAT(OpenError("file:///x?create=on"), testing::HasSubstr("create=on needs size="));
  EXPECT_THAT(OpenError("file:///x?direct=maybe"), testing::HasSubstr("neither direct=on"));
}

TEST(OpenBackend, AMissingFileIsMadeOnlyOnRequest) {
  TempFolder folder;
  const std::string path = folder / "disk.img";
  EXPECT_THAT(OpenError("file://" + path), testing::HasSubstr("does not exist"));
  EXPECT_THAT(OpenError("file://" + path + "?size=1M"), testing::HasSubstr("create=on"));
  EXPECT_FALSE(std::filesystem::exists(path));
  EXPECT_EQ(OpenError("file://" + path + "?size=1M&create=on"), "opened");
  EXPECT_EQ(std::filesystem::file_size(path), 1u << 20);
  EXPECT_LT(BytesOnDisk(path), 65536u);
}

TEST(OpenBackend, TheSizeOfAnExistingFileIsNotChanged) {
  TempFolder folder;
  const std::string uri = "file://" + (folder / "disk.img");
  ASSERT_EQ(OpenError(uri + "?size=1M&create=on"), "opened");
  EXPECT_THAT(OpenError(uri + "?size=2M&create=on"), testing::HasSubstr("has 1048576 bytes"));
  EXPECT_EQ(std::filesystem::file_size(folder / "disk.img"), 1u << 20);
  EXPECT_EQ(OpenError(uri), "opened");
}

TEST(OpenBackend, AFileOfOddSizeOrAFolderIsRefused) {
  TempFolder folder;
  std::ofstream(folder / "odd.img") << "hello";
  EXPECT_THAT(OpenError("file://" + (folder / "odd.img")), testing::HasSubstr("not a multiple"));
  EXPECT_THAT(OpenError("file://" + folder.path()), testing::HasSubstr("directory"));
}

TEST(OpenBackend, AReadOnlyFileOffersNothingThatWrites) {
  TempFolder folder;
  const std::string uri = "file://" + (folder / "disk.img");
  ASSERT_EQ(OpenError(uri + "?size=1M&create=on"), "opened");
  Storage storage(uri + "?read-only=on");
  EXPECT_TRUE(storage.backend().geometry().read_only);
  EXPECT_FALSE(storage.backend().geometry().discard);
  std::vector<uint8_t> read;
  EXPECT_EQ(storage.Read(0, 512, &read), 0);
}

TEST(OpenBackend, BlocksCanBeLarger) {
  TempFolder folder;
  Storage storage("file://" + (folder / "disk.img") + "?size=1M&create=on&logical-block-size=4096");
  EXPECT_EQ(storage.backend().geometry().logical_block_size, 4096u);
}

TEST(FileIdentity, IsStableForAFileAndNewForAReplacedOne) {
  TempFolder folder;
  const std::string path = folder / "disk.img";
  const std::string uri = "file://" + path + "?size=1M&create=on";
  const auto identity = [&] {
    Storage storage(uri);
    return std::pair(storage.backend().uuid(), storage.backend().generation());
  };
  const auto first = identity();
  EXPECT_EQ(identity(), first);
  std::filesystem::rename(path, folder / "old.img");
  EXPECT_NE(identity().first, first.first);
  EXPECT_EQ(identity().second, first.second);
}

TEST(FileIdentity, MemoryIsNewEachTime) {
  Storage first("memory:?size=1M");
  Storage second("memory:?size=1M");
  EXPECT_NE(first.backend().uuid(), second.backend().uuid());
  EXPECT_NE(first.backend().generation(), second.backend().generation());
}

TEST(FileLock, OneHolderAtATime) {
  TempFolder folder;
  const std::string uri = "file://" + (folder / "disk.img") + "?size=1M&create=on";
  Storage first(uri);
  Storage second(uri);
  ASSERT_TRUE(first.backend().AcquireExclusive(false).ok());
  const Status refused = second.backend().AcquireExclusive(false);
  EXPECT_EQ(refused.error(), EBUSY);
  EXPECT_THAT(refused.message(), testing::HasSubstr("another process"));
  first.backend().ReleaseExclusive();
  EXPECT_TRUE(second.backend().AcquireExclusive(false).ok());
}

// With a hundred volumes that another proxy serves, a start takes no longer than with one.
TEST(FileLock, AllThatIsOpenedWaitsTogetherForThePredecessor) {
  TempFolder folder;
  const std::string uri = "file://" + (folder / "disk.img") + "?size=1M&create=on";
  Storage first(uri);
  ASSERT_TRUE(first.backend().AcquireExclusive(false).ok());
  StartUp start_up{.state_dir = folder.path(), .patience = std::chrono::milliseconds(60)};
  EXPECT_TRUE(OpenBackend("disk", uri, &start_up).ok());
  EXPECT_LE(start_up.patience, std::chrono::milliseconds(0));
  first.backend().ReleaseExclusive();
  start_up.patience = std::chrono::milliseconds(60);
  EXPECT_TRUE(OpenBackend("disk", uri, &start_up).ok());
  EXPECT_EQ(start_up.patience, std::chrono::milliseconds(60));
}

TEST(FileLock, ReadersShare) {
  TempFolder folder;
  const std::string uri = "file://" + (folder / "disk.img");
  Storage writer(uri + "?size=1M&create=on");
  Storage first(uri + "?read-only=on");
  Storage second(uri + "?read-only=on");
  ASSERT_TRUE(first.backend().AcquireExclusive(false).ok());
  EXPECT_TRUE(second.backend().AcquireExclusive(false).ok());
  EXPECT_EQ(writer.backend().AcquireExclusive(false).error(), EBUSY);
}

// Of a block device, which this one stands for.
TEST(FileAttributes, AreKeptInAFolder) {
  TempFolder folder;
  const std::string state = folder / "state";
  const auto anew = [&](const char* key) { return FileAttributes(-1, state, key); };
  EXPECT_EQ(anew("%2Fdev%2Fd1").Get("owner").value(), "");
  EXPECT_EQ(anew("%2Fdev%2Fd1").Set("owner", ""), 0);
  EXPECT_EQ(anew("%2Fdev%2Fd1").Set("owner", "a longer text"), 0);
  EXPECT_EQ(anew("%2Fdev%2Fd1").Set("owner", "a text"), 0);
  EXPECT_EQ(anew("%2Fdev%2Fd1").Get("owner").value(), "a text");
  EXPECT_EQ(anew("%2Fdev%2Fd1").Get("sync-failures").value(), "");
  EXPECT_EQ(anew("%2Fdev%2Fd2").Get("owner").value(), "");
  EXPECT_EQ(anew("%2Fdev%2Fd1").Set("owner", ""), 0);
  EXPECT_EQ(anew("%2Fdev%2Fd1").Get("owner").value(), "");
  EXPECT_EQ(FileAttributes(-1, folder / "no/such", "d1").Set("owner", "a text"), ENOENT);
}

TEST(FileOwner, ARecordThatCannotBeReadIsNotTakenForNone) {
  TempFolder folder;
  const int fd = open(folder.path().c_str(), O_PATH | O_CLOEXEC);
  ASSERT_GE(fd, 0);
  EXPECT_FALSE(FileAttributes(fd, {}, {}).Get("owner").ok());
  close(fd);
}

TEST(FileOwner, TheRecordIsKeptWithTheFile) {
  TempFolder folder;
  const std::string uri = "file://" + (folder / "disk.img") + "?size=1M&create=on";
  {
    Storage storage(uri);
    const Status stored = storage.backend().StoreOwner("holder somebody", true);
    if (!stored.ok()) GTEST_SKIP() << stored.message();
  }
  Storage again(uri);
  EXPECT_EQ(again.backend().LoadOwner().value(), "holder somebody");
  EXPECT_TRUE(again.backend().StoreOwner("", true).ok());
  EXPECT_EQ(again.backend().LoadOwner().value(), "");
}

TEST(FileOwner, ACopyIsNobodys) {
  TempFolder folder;
  const std::string path = folder / "disk.img";
  Storage storage("file://" + path + "?size=1M&create=on");
  const Status stored = storage.backend().StoreOwner("holder somebody", true);
  if (!stored.ok()) GTEST_SKIP() << stored.message();
  const std::string copy = folder / "copy.img";
  ASSERT_EQ(system(("cp -a " + path + " " + copy).c_str()), 0);
  Storage copied("file://" + copy);
  EXPECT_EQ(copied.backend().LoadOwner().value(), "");
  EXPECT_TRUE(copied.backend().StoreOwner("holder of the copy", true).ok());
  EXPECT_EQ(copied.backend().LoadOwner().value(), "holder of the copy");
  EXPECT_EQ(storage.backend().LoadOwner().value(), "holder somebody");
  ASSERT_EQ(rename(path.c_str(), (folder / "renamed.img").c_str()), 0);
  EXPECT_EQ(Storage("file://" + (folder / "renamed.img")).backend().LoadOwner().value(),
            "holder somebody");
  // A release that knows nothing of copies.
  ASSERT_EQ(setxattr(copy.c_str(), "user.cloudblk.owner", "holder x", 8, 0), 0);
  EXPECT_EQ(copied.backend().LoadOwner().value(), "holder x");
}

// Nobody stores that: it is what a crash has left of a text.
TEST(FileAttributesTest, AnEmptyTextIsAnError) {
  const TempFolder folder;
  const std::string path = folder / "key.owner";
  const UniqueFd fd(open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  const FileAttributes in_folder(-1, folder.path(), "key");
  EXPECT_EQ(in_folder.Get("owner").status().error(), EINVAL);
  EXPECT_EQ(in_folder.Get("other").value(), "");
  const FileAttributes extended(fd.get(), {}, {});
  EXPECT_EQ(extended.Get("owner").value(), "");
  if (fsetxattr(fd.get(), "user.cloudblk.owner", "", 0, 0) != 0) {
    GTEST_SKIP() << "this file system has no extended attributes";
  }
  EXPECT_EQ(extended.Get("owner").status().error(), EINVAL);
}

}  // namespace
}  // namespace cloudblk::proxy
