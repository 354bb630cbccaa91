// SPDX-License-Identifier: GPL-2.0-or-later
//
// When a file is synced, and what becomes of it when that fails. The program's own fsync and
// fdatasync stand before the C library's.
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>

#include "tests/unit/proxy/support.h"

namespace {

std::atomic<int> syncs{0};
std::atomic<bool> sync_fails{false};

int Sync(long number, int fd) {
  ++syncs;
  if (sync_fails.exchange(false)) {
    errno = EIO;
    return -1;
  }
  return static_cast<int>(syscall(number, fd));
}

}  // namespace

extern "C" __attribute__((visibility("default"))) int fsync(int fd) { return Sync(SYS_fsync, fd); }
extern "C" __attribute__((visibility("default"))) int fdatasync(int fd) {
  return Sync(SYS_fdatasync, fd);
}

namespace cloudblk::proxy {
namespace {

class FileSyncTest : public testing::TestWithParam<const char*> {
 protected:
  ~FileSyncTest() override { sync_fails = false; }

  // Syncs during fn.
  template <typename F>
  int Syncs(F&& fn) {
    const int before = syncs;
    fn();
    return syncs - before;
  }
  int ForcedWrite() { return storage_.Write(0, Pattern(4096, 1), true); }
  int ForcedZeroes() { return storage_.Ranges(Operation::kWriteZeroes, {{0, 4096, 0}}, true); }

  TempFolder folder_;
  Storage storage_{"file://" + (folder_ / "disk.img") + "?size=8M&create=on" + GetParam()};
};

TEST_P(FileSyncTest, FlushesAndForcedWritesAreAnsweredWhenTheyAreDurable) {
  EXPECT_EQ(Syncs([&] { EXPECT_EQ(storage_.Write(0, Pattern(4096, 1)), 0); }), 0);
  EXPECT_EQ(Syncs([&] { EXPECT_EQ(storage_.Flush(), 0); }), 1);
  EXPECT_EQ(Syncs([&] { EXPECT_EQ(ForcedWrite(), 0); }), 1);
  EXPECT_EQ(Syncs([&] { EXPECT_EQ(ForcedZeroes(), 0); }), 1);
}

TEST_P(FileSyncTest, AFailedSyncIsToldAndChangesTheGeneration) {
  const std::function<int()> operations[] = {[&] { return storage_.Flush(); },
                                             [&] { return ForcedWrite(); },
                                             [&] { return ForcedZeroes(); }};
  for (const auto& operation : operations) {
    const uint64_t generation = storage_.backend().generation();
    sync_fails = true;
    EXPECT_EQ(operation(), -EIO);
    EXPECT_NE(storage_.backend().generation(), generation);
    EXPECT_EQ(operation(), 0);
  }
}

TEST_P(FileSyncTest, TheOwnerIsKeptDurably) {
  if (!storage_.backend().StoreOwner("x", true).ok()) GTEST_SKIP() << "no extended attributes here";
  EXPECT_EQ(Syncs([&] { EXPECT_TRUE(storage_.backend().StoreOwner("y", true).ok()); }), 1);
  sync_fails = true;
  EXPECT_FALSE(storage_.backend().StoreOwner("z", true).ok());
}

TEST_P(FileSyncTest, SoIsANewSize) {
  EXPECT_EQ(Syncs([&] { EXPECT_TRUE(storage_.backend().Resize(16 << 20).ok()); }), 1);
  sync_fails = true;
  EXPECT_FALSE(storage_.backend().Resize(32 << 20).ok());
}

TEST_P(FileSyncTest, AReleaseSyncsAll) {
  const uint64_t generation = storage_.backend().generation();
  EXPECT_EQ(Syncs([&] { EXPECT_TRUE(storage_.backend().SyncAll().ok()); }), 1);
  sync_fails = true;
  EXPECT_FALSE(storage_.backend().SyncAll().ok());
  EXPECT_NE(storage_.backend().generation(), generation);
}

INSTANTIATE_TEST_SUITE_P(File, FileSyncTest,
                         testing::Values("", "&direct=off", "&direct=off&aio=io_uring"));

}  // namespace
}  // namespace cloudblk::proxy
