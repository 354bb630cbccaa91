// SPDX-License-Identifier: GPL-2.0-or-later
#include "proxy/async_io.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <libaio.h>
#include <liburing.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <deque>
#include <limits>
#include <map>
#include <utility>
#include <vector>

#include "base/socket.h"
#include "tests/unit/proxy/support.h"

namespace {

// How many operations each system call handed over.
std::vector<unsigned> batches;
// What the next calls come to, in order: at most so many are taken, or -errno. Then all are.
std::deque<int> outcomes;

int NextOutcome() {
  if (outcomes.empty()) return std::numeric_limits<int>::max();
  const int outcome = outcomes.front();
  outcomes.pop_front();
  return outcome;
}

}  // namespace

// In the libraries' place: they note the batch and go on there, unless the kernel is to refuse.
extern "C" int io_submit(io_context_t context, long count, iocb** controls) {
  static const auto next = reinterpret_cast<decltype(&io_submit)>(dlsym(RTLD_NEXT, "io_submit"));
  batches.push_back(static_cast<unsigned>(count));
  const int outcome = NextOutcome();
  return outcome < 0 ? outcome : next(context, std::min<long>(count, outcome), controls);
}

extern "C" int io_uring_submit(io_uring* ring) {
  static const auto next =
      reinterpret_cast<decltype(&io_uring_submit)>(dlsym(RTLD_NEXT, "io_uring_submit"));
  batches.push_back(io_uring_sq_ready(ring));
  const int outcome = NextOutcome();
  return outcome < 0 ? outcome : next(ring);
}

namespace cloudblk::proxy {
namespace {

constexpr size_t kBlock = 4096;
constexpr size_t kBlocks = AsyncIo::kFirstPart + 3 * AsyncIo::kNextPart;

class AsyncIoTest : public testing::TestWithParam<const char*>, private AsyncIoSink {
 protected:
  // Buffered and in the cache, so that reads have ended when they were handed over.
  AsyncIoTest() : fd_(open((folder_ / "file").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600)) {
    for (size_t i = 0; i < kBlocks; ++i) {
      const std::vector<uint8_t> block(kBlock, static_cast<uint8_t>(i));
      EXPECT_EQ(ssize_t{kBlock}, pwrite(fd_.get(), block.data(), kBlock, i * kBlock));
    }
    outcomes.clear();
    auto made = uring() ? NewUring(loop_.get()) : NewLibaio(loop_.get());
    if (made.ok()) io_ = std::move(*made);
  }
  void SetUp() override {
    // An administrator may switch io_uring off; AIO every kernel has that the proxy runs on.
    if (io_ == nullptr && uring()) {
      GTEST_SKIP() << "this host has no io_uring (kernel.io_uring_disabled)";
    }
    ASSERT_NE(io_, nullptr);
  }

  bool uring() const { return std::string(GetParam()) == "Uring"; }

  void Queue(size_t block, int fd) {
    Transfer transfer;
    transfer.fd = fd;
    transfer.data = data_[block].data();
    transfer.length = kBlock;
    transfer.offset = block * kBlock;
    transfer.sink = this;
    transfer.op = &ops_[block];
    io_->Queue(transfer);
  }

  void QueueAll() {
    for (size_t i = 0; i < kBlocks; ++i) Queue(i, fd_.get());
    io_->Kick();
  }

  // Each of them, once.
  void ExpectAllRead() {
    EXPECT_TRUE(loop_.TurnUntil([&] { return ended_ == kBlocks; }));
    for (size_t i = 0; i < kBlocks; ++i) EXPECT_EQ(i, data_[i].back());
    EXPECT_TRUE(failed_.empty());
    EXPECT_TRUE(outcomes.empty());
  }

  TempFolder folder_;
  UniqueFd fd_;
  TestLoop loop_;
  std::unique_ptr<AsyncIo> io_;
  std::array<std::array<uint8_t, kBlock>, kBlocks> data_{};
  std::array<IoOp, kBlocks> ops_;
  size_t again_ = 0;
  size_t ended_ = 0;
  size_t sent_ = 0;
  std::vector<size_t> sends_;
  std::map<size_t, int64_t> failed_;  // with what, by block

 private:
  void OnTransferred(IoOp* op, int64_t result) override {
    const size_t block = op - &ops_[0];
    if (result != int64_t{kBlock}) failed_.emplace(block, result);
    if (again_ > 0) {
      --again_;
      Queue(block, fd_.get());
    }
    // As a connection does, to send what is ready.
    if (ended_++ == sent_)
      (*loop_).Defer([this] { sends_.push_back(ended_ - std::exchange(sent_, ended_)); });
  }
};

TEST_P(AsyncIoTest, TransfersAllThatIsQueued) {
  QueueAll();
  ExpectAllRead();
}

TEST_P(AsyncIoTest, HandsOverAgainWhatTheKernelHadNoRoomFor) {
  outcomes = {1000, -EAGAIN, 1000, -EAGAIN, -EAGAIN};
  QueueAll();
  ExpectAllRead();
}

TEST_P(AsyncIoTest, HandsOverAgainAfterASignal) {
  outcomes = {-EINTR, 1000, -EINTR, -EINTR};
  QueueAll();
  ExpectAllRead();
}

TEST_P(AsyncIoTest, HandsOverTheRestOfABatchOfWhichTheKernelTookAPart) {
  if (uring()) outcomes = {-EBUSY, 1000, -EBUSY};  // completions that wait: none is taken
  if (!uring()) outcomes = {1, 1, 3, 1};
  QueueAll();
  ExpectAllRead();
}

TEST_P(AsyncIoTest, OneThatTheKernelRefusesFailsAlone) {
  for (size_t i = 0; i < kBlocks; ++i) Queue(i, i == 0 || i == 5 ? -1 : fd_.get());
  io_->Kick();
  EXPECT_TRUE(loop_.TurnUntil([&] { return ended_ == kBlocks; }));
  EXPECT_EQ((std::map<size_t, int64_t>{{0, -EBADF}, {5, -EBADF}}), failed_);
}

TEST_P(AsyncIoTest, SeesWhatEndsWhileItLooksAtAPart) {
  again_ = AsyncIo::kFirstPart;
  QueueAll();
  EXPECT_TRUE(loop_.TurnUntil([&] { return ended_ == kBlocks + AsyncIo::kFirstPart; }));
  EXPECT_TRUE(failed_.empty());
}

// They wait to be looked at; the storage has nothing to do.
TEST_P(AsyncIoTest, WhatHasEndedIsNotUnderWay) {
  again_ = AsyncIo::kFirstPart;
  QueueAll();
  batches.clear();
  EXPECT_TRUE(loop_.TurnUntil([&] { return !batches.empty(); }));
  EXPECT_EQ(AsyncIo::NextBatch(0), batches.front());
  EXPECT_TRUE(loop_.TurnUntil([&] { return ended_ == kBlocks + AsyncIo::kFirstPart; }));
}

TEST_P(AsyncIoTest, WhatIsReadyIsSentBeforeMoreIsReaped) {
  QueueAll();
  EXPECT_TRUE(loop_.TurnUntil([&] { return sent_ == kBlocks; }));
  const std::vector<size_t> parts = {AsyncIo::kFirstPart, AsyncIo::kNextPart, AsyncIo::kNextPart,
                                     AsyncIo::kNextPart};
  EXPECT_EQ(parts, sends_);
  EXPECT_TRUE(failed_.empty());
}

INSTANTIATE_TEST_SUITE_P(Kinds, AsyncIoTest, testing::Values("Libaio", "Uring"),
                         [](const auto& kind) { return std::string(kind.param); });

TEST(AsyncIoBatchTest, AnIdleStorageGetsItsFirstOperationsByThemselves) {
  unsigned under_way = 0;
  std::vector<unsigned> sizes;
  while (under_way < 32) {
    sizes.push_back(AsyncIo::NextBatch(under_way));
    under_way += sizes.back();
  }
  EXPECT_EQ((std::vector<unsigned>{2, 2, 4, 8, 16}), sizes);
}

}  // namespace
}  // namespace cloudblk::proxy
