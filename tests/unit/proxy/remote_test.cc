// SPDX-License-Identifier: GPL-2.0-or-later
//
// A volume of another server: what becomes of it when that server goes, comes back, or has lost
// something. What any backend does is in backend_test.cc.
#include <gmock/gmock.h>
#include <sys/socket.h>

#include <cstring>
#include <filesystem>
#include <fstream>

#include "base/clock.h"
#include "base/random.h"
#include "block/session.h"
#include "proxy/backends/plain_queue.h"
#include "tests/unit/proxy/test_server.h"
#include "tests/unit/proxy/upstream.h"

namespace cloudblk::proxy {
namespace {

using testing::HasSubstr;

constexpr uint64_t kSize = 8 << 20;

// Memory that can lose what was not flushed.
class LosingBackend final : public Backend {
 public:
  LosingBackend() : data_(kSize) {
    size_ = kSize;
    uuid_ = RandomUuid();
    generation_ = 1000;
  }
  Result<std::unique_ptr<BackendQueue>> Attach(LoopContext& context) override {
    return PlainQueue<LosingBackend>::New(this, context);
  }
  bool Submit(LoopContext& context, IoOp* op) {
    if (op->kind == Operation::kRead) {
      op->buffer = context.buffers().Get(op->length);
      memcpy(op->buffer.data, data_.data() + op->offset, op->length);
      op->data = op->buffer.data;
    }
    if (op->kind == Operation::kWrite) {
      memcpy(data_.data() + op->offset, op->buffer.data, op->length);
    }
    if (op->kind == Operation::kFlush) op->result = op->generation == generation() ? 0 : -EIO;
    return true;
  }
  Status Resize(uint64_t size) override {
    size_ = size;
    return Status::Ok();
  }
  void Lose() { ++generation_; }

 private:
  std::vector<uint8_t> data_;
};

// Serves it, and can cut the connections.
class LosingUpstream {
 public:
  LosingUpstream() {
    auto backend = std::make_unique<LosingBackend>();
    backend_ = backend.get();
    const VolumeTools tools{MonotonicNs, &alarm_, [] { return std::make_unique<WorkerPool>(1); }};
    volumes_.emplace("disk", std::make_unique<Volume>("disk", std::move(backend), 10'000, tools));
    spdlog::default_logger();
    loop_ = std::move(LoopThread::Create({&volumes_, RandomUuid(), &limits_, &access_}).value());
    Endpoint endpoint;
    endpoint.kind = Endpoint::Kind::kUnix;
    endpoint.path = folder_ / "socket";
    listener_ = std::move(Listener::Create(
                              endpoint, &loop_->loop(),
                              [this](UniqueFd fd, const ClientIdentity& client) {
                                {
                                  std::lock_guard lock(mutex_);
                                  cut_.emplace_back(dup(fd.get()));
                                }
                                loop_->PostAdopt(std::move(fd), client, nullptr);
                              },
                              [] {})
                              .value());
    listener_->Start();
    loop_->Start();
  }
  ~LosingUpstream() {
    loop_->Post([this] { listener_->Close(); });
    Cut();
    loop_->PostGoAway();
    while (loop_->connections() != 0) std::this_thread::yield();
    loop_->Stop();
    listener_.reset();
  }

  LosingBackend& backend() { return *backend_; }
  Volume& volume() { return *volumes_.at("disk").get(); }
  void Cut() {
    std::lock_guard lock(mutex_);
    for (const UniqueFd& fd : cut_) shutdown(fd.get(), SHUT_RDWR);
    cut_.clear();
  }
  std::string uri() const { return "cloudblk+unix:///disk?socket=" + (folder_ / "socket"); }

 private:
  TempFolder folder_;
  Limits limits_;
  Access access_;
  ThreadAlarmClock alarm_;
  VolumeMap volumes_;
  LosingBackend* backend_ = nullptr;
  std::mutex mutex_;
  std::vector<UniqueFd> cut_;
  std::unique_ptr<LoopThread> loop_;
  std::unique_ptr<Listener> listener_;
};

class LossTest : public testing::Test {
 protected:
  void SetUp() override { ASSERT_TRUE(storage_.Acquire().ok()); }
  // A FLUSH of a connection that was opened at that generation.
  int FlushOf(uint64_t generation) {
    IoOp op;
    op.kind = Operation::kFlush;
    storage_.Start(&op);
    return op.generation == generation ? (storage_.Wait(), op.result) : -ESTALE;
  }

  TempFolder folder_;
  LosingUpstream upstream_;
  Storage storage_{upstream_.uri(), folder_.path()};
};

TEST_F(LossTest, TheServersGenerationIsOurs) {
  EXPECT_EQ(storage_.backend().generation(), upstream_.backend().generation());
  EXPECT_EQ(storage_.backend().uuid(), upstream_.backend().uuid());
}

TEST_F(LossTest, UnflushedWritesThatAreLostChangeIt) {
  const uint64_t before = storage_.backend().generation();
  ASSERT_EQ(storage_.Flush(), 0);
  ASSERT_EQ(storage_.Write(0, Pattern(4096, 1)), 0);
  upstream_.backend().Lose();
  upstream_.Cut();
  EXPECT_EQ(FlushOf(before), -EIO);
  EXPECT_EQ(storage_.backend().generation(), upstream_.backend().generation());
  // Who has come since is told by that, and by nothing else.
  EXPECT_EQ(storage_.Flush(), 0);
}

// Also of those that a session before this one did.
TEST_F(LossTest, SoDoThoseOfAnEarlierSession) {
  const uint64_t before = storage_.backend().generation();
  ASSERT_EQ(storage_.Flush(), 0);
  ASSERT_EQ(storage_.Write(0, Pattern(4096, 1)), 0);
  storage_.Release();
  upstream_.backend().Lose();
  upstream_.Cut();
  ASSERT_TRUE(storage_.Acquire().ok());
  EXPECT_NE(storage_.backend().generation(), before);
}

TEST_F(LossTest, WhereAllWasFlushedItStays) {
  const uint64_t before = storage_.backend().generation();
  ASSERT_EQ(storage_.Write(0, Pattern(4096, 1)), 0);
  ASSERT_EQ(storage_.Flush(), 0);
  upstream_.backend().Lose();
  upstream_.Cut();
  ASSERT_EQ(storage_.Write(4096, Pattern(4096, 2)), 0);
  EXPECT_EQ(FlushOf(before), 0);
  EXPECT_EQ(storage_.backend().generation(), before);
}

// Of a proxy, that is: the server has not lost anything meanwhile.
TEST_F(LossTest, AndSurvivesARestart) {
  const uint64_t before = storage_.backend().generation();
  ASSERT_EQ(storage_.Flush(), 0);
  upstream_.backend().Lose();
  upstream_.Cut();
  ASSERT_EQ(storage_.Flush(), 0);
  const std::string kept = folder_ / (ToString(storage_.backend().uuid()) + ".generation");
  ASSERT_TRUE(storage_.TurnUntil([&kept] { return std::filesystem::exists(kept); }));
  {
    Storage again(upstream_.uri(), folder_.path());
    EXPECT_EQ(again.backend().generation(), before);
  }
  upstream_.backend().Lose();
  Storage again(upstream_.uri(), folder_.path());
  EXPECT_NE(again.backend().generation(), before);
}

TEST_F(LossTest, AFlushThatFailsChangesIt) {
  const uint64_t before = storage_.backend().generation();
  ASSERT_EQ(storage_.Write(0, Pattern(4096, 1)), 0);
  upstream_.backend().Lose();
  EXPECT_EQ(storage_.Flush(), -EIO);
  EXPECT_NE(storage_.backend().generation(), before);
  // The sessions get to know the server's.
  ASSERT_TRUE(storage_.TurnUntil([this] { return storage_.Flush() == 0; }));
}

TEST(RemoteTest, RequestsWaitForTheServer) {
  TempFolder folder;
  ProxyUpstream upstream("file://" + (folder / "disk.img") + "?size=8M&create=on");
  Storage storage(upstream.uri(), folder.path());
  ASSERT_TRUE(storage.Acquire().ok());
  ASSERT_EQ(storage.Write(0, Pattern(4096, 1)), 0);
  upstream.Stop();
  IoOp op;
  op.kind = Operation::kRead;
  op.length = 4096;
  bool restarted = false;
  std::thread later;
  storage.Start(&op);
  ASSERT_TRUE(storage.TurnUntil([&] {
    if (!std::exchange(restarted, true)) later = std::thread([&] { upstream.Start(); });
    return op.data != nullptr;
  }));
  later.join();
  storage.Wait();
  EXPECT_EQ(op.result, 0);
  EXPECT_EQ(std::vector<uint8_t>(op.data, op.data + 4096), Pattern(4096, 1));
  storage.context().buffers().Put(&op.buffer);
}

TEST(RemoteTest, SaysWhyItsServerIsAway) {
  TempFolder folder;
  ProxyUpstream upstream("file://" + (folder / "disk.img") + "?size=8M&create=on");
  Storage storage(upstream.uri(), folder.path());
  std::string trouble = "unknown";
  const auto find = [&] {
    storage.backend().FindTrouble([&](const std::string& found) { trouble = found; });
    return trouble;
  };
  EXPECT_EQ(find(), "");
  upstream.Stop();
  ASSERT_TRUE(storage.TurnUntil([&] { return !find().empty(); }));
  EXPECT_THAT(trouble, HasSubstr("its server is away for"));
  upstream.Start();
  ASSERT_TRUE(storage.TurnUntil([&] { return find().empty(); }));
}

TEST(RemoteTest, OneProxyAtATime) {
  TempFolder folder;
  ProxyUpstream upstream("memory:?size=8M");
  Storage first(upstream.uri(), folder.path());
  Storage second(upstream.uri(), folder.path());
  ASSERT_TRUE(first.Acquire().ok());
  const Status refused = second.Acquire();
  EXPECT_EQ(refused.error(), EBUSY);
  EXPECT_THAT(refused.message(), HasSubstr("cloudblk-proxy on "));
  first.Release();
  EXPECT_TRUE(second.Acquire().ok());
}

// Who had it at the first proxy is refused there from then on, and told so by the record.
TEST(RemoteTest, ATakeoverGoesThrough) {
  TempFolder folder;
  TempFolder other_folder;
  ProxyUpstream upstream("memory:?size=8M");
  Storage first(upstream.uri(), folder.path());
  Storage second(upstream.uri(), other_folder.path());
  std::atomic<bool> let_go{false};
  first.backend().WatchLock([&](const std::function<void()>&) { let_go = true; });
  ASSERT_TRUE(first.Acquire().ok());
  ASSERT_EQ(first.Write(0, Pattern(4096, 1)), 0);
  ASSERT_TRUE(second.Acquire(true).ok());
  ASSERT_TRUE(first.TurnUntil([&] { return let_go.load(); }));
  EXPECT_EQ(first.Write(0, Pattern(4096, 2)), -EIO);
  EXPECT_EQ(second.Write(4096, Pattern(4096, 3)), 0);
  first.Release();
  EXPECT_THAT(first.backend().LoadOwner().value(), HasSubstr("last "));
  EXPECT_EQ(first.Acquire().error(), EBUSY);
}

TEST(RemoteTest, AnotherSizeIsNoticed) {
  TempFolder folder;
  ProxyUpstream upstream("memory:?size=8M");
  Storage storage(upstream.uri(), folder.path());
  std::atomic<int> told{0};
  storage.backend().WatchSize([&] { ++told; });
  ASSERT_TRUE(storage.Acquire().ok());
  SessionConfig config;
  config.uuid = RandomUuid();
  config.observe = true;
  auto session = std::move(Session::Open(upstream.uri(), config, 10 * kNsPerS).value());
  ASSERT_TRUE(session->Resize(16 << 20, false, 10 * kNsPerS).ok());
  ASSERT_TRUE(storage.TurnUntil([&] {
    storage.backend().LookAtSize();
    return storage.backend().size() == 16 << 20;
  }));
  EXPECT_GE(told, 1);
  EXPECT_EQ(storage.Write(12 << 20, Pattern(4096, 1)), 0);
}

TEST(RemoteTest, WhoHoldsItIsKept) {
  TempFolder folder;
  ProxyUpstream upstream("memory:?size=8M");
  {
    Storage storage(upstream.uri(), folder.path());
    EXPECT_EQ(storage.backend().LoadOwner().value(), "");
    EXPECT_TRUE(storage.backend().StoreOwner("holder somebody", true).ok());
  }
  Storage again(upstream.uri(), folder.path());
  EXPECT_EQ(again.backend().LoadOwner().value(), "holder somebody");
}

TEST(RemoteTest, ASyncOfAllReachesTheServer) {
  TempFolder folder;
  LosingUpstream upstream;
  Storage storage(upstream.uri(), folder.path());
  ASSERT_TRUE(storage.Acquire().ok());
  EXPECT_TRUE(storage.SyncAll().ok());
  upstream.backend().Lose();
  EXPECT_FALSE(storage.SyncAll().ok());
}

TEST(RemoteTest, AReadOnlyVolumeHasManyProxies) {
  TempFolder folder;
  ProxyUpstream upstream("memory:?size=8M");
  Storage first(upstream.uri() + "&read-only=on", folder.path());
  Storage second(upstream.uri() + "&read-only=on", folder.path());
  EXPECT_TRUE(first.backend().geometry().read_only);
  EXPECT_FALSE(first.backend().geometry().discard);
  ASSERT_TRUE(first.Acquire().ok());
  ASSERT_TRUE(second.Acquire().ok());
  std::vector<uint8_t> read;
  EXPECT_EQ(first.Read(0, 4096, &read), 0);
  EXPECT_EQ(second.Read(0, 4096, &read), 0);
}

// --- Servers that do not fence -------------------------------------------------------------------

TEST(RemoteNbd, OneProxyOfAHostAtATime) {
  TempFolder folder;
  NbdkitUpstream upstream({"memory", "size=8M"});
  Storage first(upstream.uri(), folder.path());
  Storage second(upstream.uri(), folder.path());
  ASSERT_TRUE(first.Acquire().ok());
  EXPECT_EQ(second.Acquire().error(), EBUSY);
  first.Release();
  EXPECT_TRUE(second.Acquire().ok());
}

// What its predecessor has sent when it crashed may land until then.
TEST(RemoteNbd, AfterACrashTheQuarantineIsWaitedFor) {
  TempFolder folder;
  NbdkitUpstream upstream({"memory", "size=8M"});
  std::string name;
  {
    Storage storage(upstream.uri(), folder.path());
    name = ToString(storage.backend().uuid()) + ".in-use";
    ASSERT_TRUE(storage.Acquire().ok());
    EXPECT_TRUE(std::filesystem::exists(folder / name));
    storage.Release();
    EXPECT_FALSE(std::filesystem::exists(folder / name));
  }
  std::ofstream(folder / name) << "1";
  Storage waits(upstream.uri(), folder.path());
  const Status refused = waits.Acquire();
  EXPECT_EQ(refused.error(), EBUSY);
  EXPECT_THAT(refused.message(), HasSubstr("may still land"));
  Storage trusts(upstream.uri() + "&quarantine=0", folder.path());
  EXPECT_TRUE(trusts.Acquire().ok());
}

TEST(RemoteNbd, AServerThatIsKilledIsWaitedFor) {
  TempFolder folder;
  std::ofstream(folder / "disk.img") << std::string(kSize, 'x');
  NbdkitUpstream upstream({"file", folder / "disk.img"});
  Storage storage(upstream.uri() + "&quarantine=0", folder.path());
  ASSERT_TRUE(storage.Acquire().ok());
  const uint64_t before = storage.backend().generation();
  ASSERT_EQ(storage.Write(0, Pattern(4096, 1)), 0);
  upstream.Stop();
  upstream.Start();
  std::vector<uint8_t> read;
  ASSERT_EQ(storage.Read(0, 4096, &read), 0);
  EXPECT_EQ(read, Pattern(4096, 1));
  EXPECT_EQ(storage.Flush(), 0);
  EXPECT_EQ(storage.backend().generation(), before);
}

TEST(RemoteNbd, OneThatLosesWhatWasNotFlushedChangesTheGeneration) {
  TempFolder folder;
  std::ofstream(folder / "disk.img") << std::string(kSize, 'x');
  NbdkitUpstream upstream({"file", folder / "disk.img"});
  Storage storage(upstream.uri() + "&quarantine=0&unflushed=lost", folder.path());
  ASSERT_TRUE(storage.Acquire().ok());
  ASSERT_EQ(storage.Flush(), 0);
  const uint64_t before = storage.backend().generation();
  ASSERT_EQ(storage.Write(0, Pattern(4096, 1)), 0);
  upstream.Stop();
  upstream.Start();
  EXPECT_EQ(storage.Flush(), -EIO);
  EXPECT_NE(storage.backend().generation(), before);
  EXPECT_EQ(storage.Flush(), 0);
}

// One connection carries what comes by two loops.
TEST(RemoteNbd, LoopsShareAConnection) {
  TempFolder folder;
  NbdkitUpstream upstream({"--filter=multi-conn", "memory", "size=8M", "multi-conn-mode=disable"});
  StartUp start_up{.state_dir = folder.path(), .loops = 2};
  auto backend = std::move(OpenBackend("disk", upstream.uri(), &start_up).value());
  struct Counter final : IoSink {
    void OnIoDone(IoOp* op) override {
      EXPECT_EQ(op->result, 0);
      ++done;
    }
    int done = 0;
  };
  TestLoop first_loop;
  TestLoop second_loop;
  LoopContext first(first_loop.get());
  LoopContext second(second_loop.get());
  auto one = std::move(backend->Attach(first).value());
  auto other = std::move(backend->Attach(second).value());
  ASSERT_TRUE(backend->AcquireExclusive(false).ok());
  Counter counter;
  const auto turn_until = [&](int count) {
    ASSERT_TRUE(first_loop.TurnUntil([&] {
      (*second_loop).RunOnce(0);
      return counter.done == count;
    }));
  };
  IoOp write;
  write.kind = Operation::kWrite;
  write.length = 4096;
  write.sink = &counter;
  write.buffer = second.buffers().Get(4096);
  const std::vector<uint8_t> data = Pattern(4096, 1);
  std::copy(data.begin(), data.end(), write.buffer.data);
  ASSERT_FALSE(other->Submit(&write));
  other->Kick();
  turn_until(1);
  second.buffers().Put(&write.buffer);
  for (const auto& [queue, context] :
       {std::pair{one.get(), &first}, std::pair{other.get(), &second}}) {
    IoOp read;
    read.kind = Operation::kRead;
    read.length = 4096;
    read.sink = &counter;
    ASSERT_FALSE(queue->Submit(&read));
    queue->Kick();
    turn_until(counter.done + 1);
    EXPECT_TRUE(std::equal(data.begin(), data.end(), read.data));
    context->buffers().Put(&read.buffer);
  }
}

// --- Opening -------------------------------------------------------------------------------------

std::string OpenError(const std::string& uri) {
  TempFolder folder;
  StartUp start_up{.state_dir = folder.path()};
  const Result<std::unique_ptr<Backend>> opened = OpenBackend("d0", uri, &start_up);
  return opened.ok() ? "opened" : opened.status().message();
}

TEST(OpenRemote, SaysWhatIsWrong) {
  EXPECT_THAT(OpenError("cloudblk://host"), HasSubstr("volume 'd0': server URI"));
  EXPECT_THAT(OpenError("cloudblk://127.0.0.1/d?colour=red"), HasSubstr("unknown option"));
  EXPECT_THAT(OpenError("cloudblks://127.0.0.1/d"), HasSubstr("?tls-dir="));
  EXPECT_THAT(OpenError("nbd://127.0.0.1/d?quarantine=x"), HasSubstr("wrong value"));
  EXPECT_THAT(OpenError("nbd://127.0.0.1/d?payload-crc=on"), HasSubstr("nothing for payload-crc"));
  EXPECT_THAT(OpenError("nbd://127.0.0.1/d?read-only=yes"), HasSubstr("neither read-only=on"));
}

TEST(OpenRemote, SaysWhatTheServerDoesNotHave) {
  ProxyUpstream upstream("memory:?size=8M");
  std::string uri = upstream.uri();
  EXPECT_EQ(OpenError(uri), "opened");
  EXPECT_THAT(OpenError(uri.replace(uri.find("disk"), 4, "other")),
              HasSubstr("there is no volume 'other'"));
}

}  // namespace
}  // namespace cloudblk::proxy
