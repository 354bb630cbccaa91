// SPDX-License-Identifier: GPL-2.0-or-later
//
// What the proxy's tests share.
#ifndef CLOUDBLK_TESTS_UNIT_PROXY_SUPPORT_H_
#define CLOUDBLK_TESTS_UNIT_PROXY_SUPPORT_H_

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "base/epoll_loop.h"
#include "proxy/backend.h"
#include "proxy/backends/backends.h"
#include "proxy/loop_context.h"

namespace cloudblk::proxy {

// A folder that goes away with the object.
class TempFolder {
 public:
  TempFolder() {
    std::string pattern = (std::filesystem::temp_directory_path() / "cloudblk-XXXXXX").string();
    path_ = mkdtemp(pattern.data());
  }
  ~TempFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  std::string operator/(const std::string& name) const { return (path_ / name).string(); }
  std::string path() const { return path_.string(); }

 private:
  std::filesystem::path path_;
};

// A loop that the test turns by hand.
class TestLoop {
 public:
  TestLoop() : loop_(std::move(EpollLoop::Create().value())) {}
  EpollLoop& operator*() { return *loop_; }
  EpollLoop* get() { return loop_.get(); }

  // Turns until `done`; false if that takes unreasonably long.
  bool TurnUntil(const std::function<bool()>& done) {
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(30);
    while (!done()) {
      if (std::chrono::steady_clock::now() > deadline) return false;
      loop_->RunOnce(100'000'000);
    }
    return true;
  }

 private:
  std::unique_ptr<EpollLoop> loop_;
};

// Carries out operations one after the other, or several at once, and waits for them.
class Storage : private IoSink {
 public:
  explicit Storage(const std::string& uri, const std::string& state_dir = {})
      : context_(loop_.get()) {
    StartUp start_up{.state_dir = state_dir};
    Result<std::unique_ptr<Backend>> opened = OpenBackend("disk", uri, &start_up);
    if (!opened.ok()) {
      ADD_FAILURE() << opened.status().message();
      return;
    }
    backend_ = std::move(*opened);
    Result<std::unique_ptr<BackendQueue>> attached = backend_->Attach(context_);
    if (attached.ok()) {
      queue_ = std::move(*attached);
    } else {
      ADD_FAILURE() << attached.status().message();
    }
  }

  ~Storage() {
    if (held_) Release();
  }

  // Without it a volume of another server takes no operations.
  Status Acquire(bool takeover = false) {
    Status acquired = backend_->AcquireExclusive(takeover);
    held_ = acquired.ok();
    return acquired;
  }
  void Release() {
    held_ = false;
    WhileTurning([this] { backend_->ReleaseExclusive(); });
  }
  Status Resize(uint64_t size) {
    Status resized;
    WhileTurning([&] { resized = backend_->Resize(size); });
    return resized;
  }
  Status SyncAll() {
    Status synced;
    WhileTurning([&] { synced = backend_->SyncAll(); });
    return synced;
  }
  bool TurnUntil(const std::function<bool()>& done) { return loop_.TurnUntil(done); }

  Backend& backend() { return *backend_; }
  LoopContext& context() { return context_; }
  bool ok() const { return backend_ != nullptr; }

  void Start(IoOp* op) {
    op->sink = this;
    op->generation = backend_->generation();
    ++under_way_;
    if (queue_->Submit(op)) OnIoDone(op);
  }
  void Wait() {
    queue_->Kick();
    EXPECT_TRUE(loop_.TurnUntil([this] { return under_way_ == 0; }));
  }
  int Run(IoOp* op) {
    Start(op);
    Wait();
    return op->result;
  }

  int Write(uint64_t offset, const std::vector<uint8_t>& data, bool fua = false) {
    IoOp op;
    op.kind = Operation::kWrite;
    op.offset = offset;
    op.length = static_cast<uint32_t>(data.size());
    op.fua = fua;
    op.buffer = context_.buffers().Get(op.length);
    std::copy(data.begin(), data.end(), op.buffer.data);
    const int result = Run(&op);
    context_.buffers().Put(&op.buffer);
    return result;
  }
  int Read(uint64_t offset, uint32_t length, std::vector<uint8_t>* data) {
    IoOp op;
    op.kind = Operation::kRead;
    op.offset = offset;
    op.length = length;
    const int result = Run(&op);
    if (result == 0) data->assign(op.data, op.data + length);
    context_.buffers().Put(&op.buffer);
    return result;
  }
  int Flush() {
    IoOp op;
    op.kind = Operation::kFlush;
    return Run(&op);
  }
  // `result`: of the operation.
  std::vector<Extent> BlockStatus(uint64_t offset, uint64_t length, uint32_t most = 256,
                                  int* result = nullptr) {
    IoOp op;
    op.kind = Operation::kBlockStatus;
    op.offset = offset;
    op.extent = length;
    op.max_extents = most;
    op.buffer = context_.buffers().Get(most * sizeof(Extent));
    const int error = Run(&op);
    if (result != nullptr) *result = error;
    const auto* list = reinterpret_cast<const Extent*>(op.buffer.data);
    const std::vector<Extent> extents(list, list + (error == 0 ? op.extents : 0));
    context_.buffers().Put(&op.buffer);
    return extents;
  }
  int Ranges(Operation kind, const std::vector<Range>& ranges, bool fua = false) {
    IoOp op;
    op.kind = kind;
    op.ranges = ranges;
    op.fua = fua;
    return Run(&op);
  }

 private:
  void OnIoDone(IoOp*) override { --under_way_; }

  // Does what blocks, and may wait for the loop.
  void WhileTurning(const std::function<void()>& fn) {
    std::atomic<bool> done{false};
    std::thread thread([&] {
      fn();
      done = true;
      (*loop_).Post([] {});
    });
    EXPECT_TRUE(loop_.TurnUntil([&] { return done.load(); }));
    thread.join();
  }

  TestLoop loop_;
  LoopContext context_;
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<BackendQueue> queue_;
  int under_way_ = 0;
  bool held_ = false;
};

// Bytes that differ from place to place and from seed to seed.
inline std::vector<uint8_t> Pattern(size_t length, uint32_t seed) {
  std::vector<uint8_t> data(length);
  uint32_t state = seed * 2654435761u + 1;
  for (uint8_t& byte : data) {
    state = state * 1664525 + 1013904223;
    byte = static_cast<uint8_t>(state >> 24);
  }
  return data;
}

}  // namespace cloudblk::proxy

#endif  // CLOUDBLK_TESTS_UNIT_PROXY_SUPPORT_H_
