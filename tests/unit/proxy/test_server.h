// SPDX-License-Identifier: GPL-2.0-or-later
//
// The proxy without its listeners: loops on threads of their own, connections over socket pairs.
#ifndef CLOUDBLK_TESTS_UNIT_PROXY_TEST_SERVER_H_
#define CLOUDBLK_TESTS_UNIT_PROXY_TEST_SERVER_H_

#include <fcntl.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "base/worker_pool.h"
#include "proxy/backends/plain_queue.h"
#include "proxy/loop_thread.h"
#include "tests/unit/proxy/raw_client.h"
#include "tests/unit/proxy/support.h"

namespace cloudblk::proxy {

// A volume of zeros, which it lends to who reads, that carries out writes when the test says so.
class GatedBackend final : public Backend {
 public:
  GatedBackend() {
    size_ = 1 << 20;
    uuid_.bytes.fill(3);
    generation_ = 1;
  }
  Result<std::unique_ptr<BackendQueue>> Attach(LoopContext& context) override {
    return PlainQueue<GatedBackend>::New(this, context);
  }
  bool Submit(LoopContext& context, IoOp* op) {
    if (op->kind == Operation::kRead) {
      op->hole = op->hole_allowed;
      op->buffer = context.buffers().Count(op->length);
      op->data = zeros_->data();
      op->lent = zeros_;
      return true;
    }
    op->context = &context;
    std::lock_guard lock(mutex_);
    held_.insert(op);
    changed_.notify_all();
    return false;
  }
  // To how many reads its data is lent.
  long lent() const { return zeros_.use_count() - 1; }
  Status Resize(uint64_t size) override {
    std::lock_guard lock(mutex_);
    held_at_resize = held_.size();
    size_ = size;
    return Status::Ok();
  }
  Status StoreOwner(const std::string&, bool) override {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return keeps_owners_; });
    return Status::Ok();
  }
  // Whether StoreOwner returns at once, or waits until this is called with true.
  void KeepOwners(bool keep) {
    std::lock_guard lock(mutex_);
    keeps_owners_ = keep;
    changed_.notify_all();
  }
  void FindTrouble(const TroubleFn& done) override {
    std::unique_lock lock(mutex_);
    if (!is_troubled_) {
      lock.unlock();
      done({});
      return;
    }
    asking_ = done;
    changed_.notify_all();
  }
  // From now on who asks how the storage is waits for TellTrouble.
  void BecomeTroubled() {
    std::lock_guard lock(mutex_);
    is_troubled_ = true;
  }
  void WaitUntilAsked() {
    std::unique_lock lock(mutex_);
    EXPECT_TRUE(changed_.wait_for(lock, std::chrono::seconds(30), [this] { return !!asking_; }));
  }
  void TellTrouble(const std::string& trouble) {
    std::unique_lock lock(mutex_);
    const TroubleFn done = std::exchange(asking_, {});
    lock.unlock();
    done(trouble);
  }
  void WaitUntilHeld(size_t count) {
    std::unique_lock lock(mutex_);
    const auto there = [&] { return held_.size() == count; };
    EXPECT_TRUE(changed_.wait_for(lock, std::chrono::seconds(30), there)) << held_.size();
  }
  // Whether nobody waits for what is held.
  bool GivenUp() {
    std::lock_guard lock(mutex_);
    return std::ranges::all_of(held_, [](const IoOp* op) { return op->given_up(); });
  }
  // It lost writes, as after a failed flush.
  void NewGeneration() { ++generation_; }
  // Whether all that is held came by connections that were opened at this generation.
  bool HeldAreOf(uint64_t generation) {
    std::lock_guard lock(mutex_);
    return std::ranges::all_of(held_, [&](const IoOp* op) { return op->generation == generation; });
  }
  void Let(int result = 0) {
    std::lock_guard lock(mutex_);
    for (IoOp* op : std::exchange(held_, {})) {
      op->context->loop().Post([op, result] {
        op->result = result;
        op->sink->OnIoDone(op);
      });
    }
  }
  size_t held_at_resize = 0;  // operations under way when it was resized

 private:
  const std::shared_ptr<const std::vector<uint8_t>> zeros_ =
      std::make_shared<std::vector<uint8_t>>(1 << 20);
  std::mutex mutex_;
  std::condition_variable changed_;
  std::set<IoOp*> held_;
  bool keeps_owners_ = true;
  bool is_troubled_ = false;
  TroubleFn asking_;
};

class TestServer {
 public:
  // `volumes`: name and backend URI. There is also a volume "gated".
  explicit TestServer(const std::vector<std::pair<std::string, std::string>>& volumes,
                      size_t threads = 2, Limits::Settings limits = {})
      : limits_(limits) {
    StartUp start_up;
    for (const auto& [name, uri] : volumes)
      Add(name, std::move(OpenBackend(name, uri, &start_up).value()));
    auto gate = std::make_unique<GatedBackend>();
    gated = gate.get();
    Add("gated", std::move(gate));
    for (size_t i = 0; i < threads; ++i) {
      loops_.push_back(
          std::move(LoopThread::Create({&volumes_, RandomUuid(), &limits_, &access_}).value()));
      EXPECT_TRUE(loops_[i]->host().Attach().ok());
    }
    // The log is made on its first use, by a library that ThreadSanitizer does not look into: so
    // before there are threads.
    spdlog::default_logger();
    for (const auto& loop : loops_) loop->Start();
  }
  ~TestServer() {
    gated->KeepOwners(true);
    gated->Let();
    GoAway();
    WaitUntilNobodyIsConnected();
    for (const auto& loop : loops_) loop->Stop();
  }

  // A connection, on the next loop.
  std::unique_ptr<RawClient> Connect(const ClientIdentity& client = {.address = "test"}) {
    int fds[2];
    EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    EXPECT_EQ(fcntl(fds[0], F_SETFL, O_NONBLOCK), 0);
    loops_[next_++ % loops_.size()]->PostAdopt(UniqueFd(fds[0]), client, nullptr);
    return std::make_unique<RawClient>(fds[1]);
  }
  void SetAccess(std::vector<AccessRule> rules) {
    access_.Replace(std::make_shared<AccessRules>(std::move(rules)));
    for (const auto& loop : loops_) loop->PostCheckRights();
  }
  void GoAway() {
    for (const auto& loop : loops_) loop->PostGoAway();
  }
  size_t connections() const {
    size_t count = 0;
    for (const auto& loop : loops_) count += loop->connections();
    return count;
  }
  void WaitUntilNobodyIsConnected() {
    while (connections() != 0) std::this_thread::yield();
  }
  Limits& limits() { return limits_; }
  Volume& volume(const std::string& name) { return *volumes_.at(name).get(); }

  GatedBackend* gated = nullptr;

 private:
  void Add(const std::string& name, std::unique_ptr<Backend> backend) {
    const VolumeTools tools{MonotonicNs, &alarm_, [] { return std::make_unique<WorkerPool>(1); }};
    volumes_.emplace(name, std::make_unique<Volume>(name, std::move(backend), 10'000, tools));
  }

  Limits limits_;
  Access access_;
  ThreadAlarmClock alarm_;
  VolumeMap volumes_;
  std::vector<std::unique_ptr<LoopThread>> loops_;
  size_t next_ = 0;
};

}  // namespace cloudblk::proxy

#endif  // CLOUDBLK_TESTS_UNIT_PROXY_TEST_SERVER_H_
