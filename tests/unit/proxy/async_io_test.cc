// SPDX-License-Identifier: GPL-2.0-or-later
#include "proxy/async_io.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <libaio.h>
#include <liburing.h>
#include <unistd.h>

#include <array>
#include <utility>
#include <vector>

#include "block/socket.h"
#include "tests/unit/proxy/support.h"

namespace {

// How many operations each system call handed over.
std::vector<unsigned> batches;

}  // namespace

// In the libraries' place: they note the batch and go on there.
extern "C" int io_submit(io_context_t context, long count, iocb** controls) {
  static const auto next = reinterpret_cast<decltype(&io_submit)>(dlsym(RTLD_NEXT, "io_submit"));
  batches.push_back(static_cast<unsigned>(count));
  return next(context, count, controls);
}

extern "C" int io_uring_submit(io_uring* ring) {
  static const auto next =
      reinterpret_cast<decltype(&io_uring_submit)>(dlsym(RTLD_NEXT, "io_uring_submit"));
  batches.push_back(io_uring_sq_ready(ring));
  return next(ring);
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
    const bool uring = std::string(GetParam()) == "Uring";
    auto made = uring ? NewUring(loop_.get()) : NewLibaio(loop_.get());
    if (made.ok()) io_ = std::move(*made);
  }
  void SetUp() override {
    // An administrator may switch io_uring off; AIO every kernel has that the proxy runs on.
    if (io_ == nullptr && std::string(GetParam()) == "Uring") {
      GTEST_SKIP() << "this host has no io_uring (kernel.io_uring_disabled)";
    }
    ASSERT_NE(io_, nullptr);
  }

  void Queue(size_t block) {
    Transfer transfer;
    transfer.fd = fd_.get();
    transfer.data = data_[block].data();
    transfer.length = kBlock;
    transfer.offset = block * kBlock;
    transfer.sink = this;
    transfer.op = &ops_[block];
    io_->Queue(transfer);
  }

  void QueueAll() {
    for (size_t i = 0; i < kBlocks; ++i) Queue(i);
    io_->Kick();
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

 private:
  void OnTransferred(IoOp* op, int64_t result) override {
    EXPECT_EQ(int64_t{kBlock}, result);
    if (again_ > 0) {
      --again_;
      Queue(op - &ops_[0]);
    }
    // As a connection does, to send what is ready.
    if (ended_++ == sent_)
      (*loop_).Defer([this] { sends_.push_back(ended_ - std::exchange(sent_, ended_)); });
  }
};

TEST_P(AsyncIoTest, TransfersAllThatIsQueued) {
  QueueAll();
  EXPECT_TRUE(loop_.TurnUntil([&] { return ended_ == kBlocks; }));
  for (size_t i = 0; i < kBlocks; ++i) EXPECT_EQ(i, data_[i].back());
}

TEST_P(AsyncIoTest, SeesWhatEndsWhileItLooksAtAPart) {
  again_ = AsyncIo::kFirstPart;
  QueueAll();
  EXPECT_TRUE(loop_.TurnUntil([&] { return ended_ == kBlocks + AsyncIo::kFirstPart; }));
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
