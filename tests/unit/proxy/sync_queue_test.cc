// SPDX-License-Identifier: GPL-2.0-or-later
#include "proxy/backends/sync_queue.h"

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <condition_variable>
#include <filesystem>
#include <mutex>

#include "proxy/backends/file_store.h"
#include "tests/unit/proxy/support.h"

namespace cloudblk::proxy {
namespace {

// A backend that is nothing but a generation.
class Numbered final : public Backend {
 public:
  Numbered() { generation_ = 1; }
  Result<std::unique_ptr<BackendQueue>> Attach(LoopContext&) override {
    return Status(ENOTSUP, "takes no operations");
  }
  void Advance() { ++generation_; }
};

class SyncQueueTest : public testing::Test, private IoSink {
 protected:
  void Add(IoOp* op, uint64_t generation) {
    op->kind = Operation::kFlush;
    op->context = &context_;
    op->sink = this;
    op->generation = generation;
    op->result = 0;
    queue_.Add(op);
  }
  void WaitFor(int count) {
    EXPECT_TRUE(loop_.TurnUntil([&] { return done_ == count; }));
  }
  // The next syncs wait until they are let through one by one.
  void Hold() {
    std::lock_guard lock(mutex_);
    held_ = true;
  }
  void WaitUntilSyncing(int count) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return syncs_ == count; });
  }
  void LetThrough(int error) {
    std::lock_guard lock(mutex_);
    held_ = false;
    error_ = error;
    changed_.notify_all();
  }
  int syncs() {
    std::lock_guard lock(mutex_);
    return syncs_;
  }

  Numbered backend_;

 private:
  void OnIoDone(IoOp*) override { ++done_; }
  int Sync() {
    std::unique_lock lock(mutex_);
    ++syncs_;
    changed_.notify_all();
    changed_.wait(lock, [this] { return !held_; });
    return std::exchange(error_, 0);
  }

  TestLoop loop_;
  LoopContext context_{loop_.get()};
  int done_ = 0;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool held_ = false;
  int syncs_ = 0;
  int error_ = 0;
  SyncQueue queue_{&workers_, &backend_, [this] { return Sync(); },
                   [this](int) { backend_.Advance(); }};
  WorkerPool workers_{2};
};

TEST_F(SyncQueueTest, ThoseThatWaitShareOneSyncThatBeganAfterThem) {
  IoOp first;
  std::array<IoOp, 8> later;
  Hold();
  Add(&first, 1);
  WaitUntilSyncing(1);
  for (IoOp& op : later) Add(&op, 1);
  LetThrough(0);
  WaitFor(9);
  EXPECT_EQ(syncs(), 2);
}

TEST_F(SyncQueueTest, AFailureFailsWhoeverWasConnectedBeforeAndNobodyElse) {
  IoOp failed;
  IoOp queued;
  Hold();
  Add(&failed, 1);
  WaitUntilSyncing(1);
  Add(&queued, 1);
  LetThrough(-EIO);
  WaitFor(2);
  EXPECT_EQ(failed.result, -EIO);
  // Its sync went well, but what was lost before it is lost.
  EXPECT_EQ(queued.result, -EIO);
  EXPECT_EQ(backend_.generation(), 2u);
  IoOp later;
  Add(&later, 1);
  WaitFor(3);
  EXPECT_EQ(later.result, -EIO);
  IoOp reopened;
  Add(&reopened, 2);
  WaitFor(4);
  EXPECT_EQ(reopened.result, 0);
}

TEST(FileGeneration, AFailedSyncIsRememberedAcrossRestarts) {
  TempFolder folder;
  Storage storage("file://" + (folder / "disk.img") + "?size=1M&create=on");
  const int fd = open((folder / "disk.img").c_str(), O_RDWR | O_CLOEXEC);
  ASSERT_GE(fd, 0);
  const FileAttributes attributes(fd, {}, {});
  if (attributes.Set("test", "x") != 0) GTEST_SKIP() << "no extended attributes here";
  FileGeneration before(&attributes);
  const uint64_t first = before.value();
  EXPECT_EQ(FileGeneration(&attributes).value(), first);
  const uint64_t second = before.Advance();
  EXPECT_NE(second, first);
  EXPECT_EQ(FileGeneration(&attributes).value(), second);
  close(fd);
  // A proxy that was idle meanwhile learns of it when it becomes active.
  EXPECT_EQ(storage.backend().generation(), first);
  ASSERT_TRUE(storage.backend().AcquireExclusive(false).ok());
  EXPECT_EQ(storage.backend().generation(), second);
}

TEST(FileGeneration, WhatCannotBeReadMayBeAFailure) {
  TempFolder folder;
  const FileAttributes attributes(-1, folder / "state", "disk");
  FileGeneration file(&attributes);
  const uint64_t first = file.value();
  file.Load();
  EXPECT_EQ(file.value(), first);
  const std::string kept = folder / "state/disk.sync-failures";
  std::filesystem::create_directories(kept);
  file.Load();
  const uint64_t unknown = file.value();
  EXPECT_NE(unknown, first);
  EXPECT_NE(FileGeneration(&attributes).value(), first);
  // It is not taken back by an older count, which a failure that could not be kept left behind.
  std::filesystem::remove(kept);
  file.Load();
  EXPECT_EQ(file.value(), unknown);
}

}  // namespace
}  // namespace cloudblk::proxy
