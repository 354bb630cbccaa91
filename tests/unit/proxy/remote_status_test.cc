// SPDX-License-Identifier: GPL-2.0-or-later
//
// BLOCK_STATUS of volumes of other servers: what they say arrives here, by any loop.
#include <gtest/gtest.h>

#include <cerrno>
#include <fstream>
#include <string>
#include <utility>
#include <vector>

#include "tests/unit/proxy/support.h"
#include "tests/unit/proxy/upstream.h"

namespace cloudblk::proxy {
namespace {

constexpr uint64_t kMiB = 1 << 20;
constexpr uint64_t kSize = 8 * kMiB;
constexpr uint64_t kData = 65536;

// (length, hole and zero)
using List = std::vector<std::pair<uint64_t, bool>>;

List ListOf(const Extent* extents, size_t count) {
  List list;
  for (size_t i = 0; i < count; ++i) {
    EXPECT_EQ(extents[i].hole, extents[i].zero);
    list.emplace_back(extents[i].length, extents[i].hole);
  }
  return list;
}

List Asked(Storage* storage, uint32_t most = 256) {
  int result = -1;
  const std::vector<Extent> extents = storage->BlockStatus(0, kSize, most, &result);
  EXPECT_EQ(result, 0);
  return ListOf(extents.data(), extents.size());
}

const List kSparse = {{kMiB, true}, {kData, false}, {kSize - kMiB - kData, true}};
const List kAllData = {{kSize, false}};

// A BLOCK_STATUS that was submitted.
class Waiting {
 public:
  explicit Waiting(Storage* storage) : storage_(storage) {
    op_.kind = Operation::kBlockStatus;
    op_.extent = kSize;
    op_.max_extents = 4;
    op_.buffer = storage->context().buffers().Get(4 * sizeof(Extent));
    storage->Start(&op_);
  }
  List Answer() {
    storage_->Wait();
    EXPECT_EQ(op_.result, 0);
    const List list = ListOf(reinterpret_cast<const Extent*>(op_.buffer.data), op_.extents);
    storage_->context().buffers().Put(&op_.buffer);
    return list;
  }

 private:
  Storage* const storage_;
  IoOp op_;
};

class RemoteStatusTest : public testing::Test {
 protected:
  // A file of which only a part was written.
  RemoteStatusTest() {
    std::ofstream file(path());
    const std::vector<uint8_t> data = Pattern(kData, 1);
    file.seekp(kMiB).write(reinterpret_cast<const char*>(data.data()), kData);
    file.seekp(kSize - 1).put('\0');
    file.close();
    EXPECT_EQ(truncate(path().c_str(), kSize - 4096), 0);
    EXPECT_EQ(truncate(path().c_str(), kSize), 0);
  }
  std::string path() const { return folder_ / "disk.img"; }
  std::string state() const { return folder_.path(); }

  TempFolder folder_;
};

TEST_F(RemoteStatusTest, AnotherProxyIsAskedAlsoByWhoObserves) {
  ProxyUpstream upstream("file://" + path());
  Storage storage(upstream.uri(), state());
  EXPECT_EQ(Asked(&storage), kSparse);
  ASSERT_TRUE(storage.Acquire().ok());
  EXPECT_EQ(Asked(&storage), kSparse);
  EXPECT_EQ(Asked(&storage, 2), (List{kSparse[0], kSparse[1]}));
  ASSERT_EQ(storage.Write(0, Pattern(kData, 2)), 0);
  EXPECT_EQ(Asked(&storage, 1), (List{{kData, false}}));
  storage.Release();
  EXPECT_EQ(Asked(&storage, 1), (List{{kData, false}}));
}

// As everybody else.
TEST_F(RemoteStatusTest, WhoObservesWaitsForAServerThatIsAway) {
  ProxyUpstream upstream("file://" + path());
  Storage storage(upstream.uri(), state());
  upstream.Stop();
  Waiting waiting(&storage);
  upstream.Start();
  EXPECT_EQ(waiting.Answer(), kSparse);
}

TEST_F(RemoteStatusTest, AnNbdServerIsAskedByWhoIsActive) {
  NbdkitUpstream upstream({"file", path()});
  Storage storage(upstream.uri(), state());
  EXPECT_EQ(Asked(&storage), kAllData);
  ASSERT_TRUE(storage.Acquire().ok());
  EXPECT_EQ(Asked(&storage), kSparse);
  EXPECT_EQ(Asked(&storage, 2), (List{kSparse[0], kSparse[1]}));
}

TEST_F(RemoteStatusTest, OneThatCannotTellIsNotAsked) {
  NbdkitUpstream upstream({"--no-sr", "file", path()});
  Storage storage(upstream.uri(), state());
  ASSERT_TRUE(storage.Acquire().ok());
  EXPECT_EQ(Asked(&storage), kAllData);
}

TEST_F(RemoteStatusTest, OneThatCannotTellAnyMoreIsNotWaitedFor) {
  NbdkitUpstream upstream({"file", path()});
  Storage storage(upstream.uri() + "&quarantine=0", state());
  ASSERT_TRUE(storage.Acquire().ok());
  upstream.Stop();
  Waiting waiting(&storage);
  upstream.Use({"--no-sr", "file", path()});
  upstream.Start();
  EXPECT_EQ(waiting.Answer(), kAllData);
}

// Two loops, whose queues ask.
class TwoLoops {
 public:
  TwoLoops(const std::string& uri, const std::string& state_dir) {
    StartUp start_up{.state_dir = state_dir, .loops = 2};
    backend_ = std::move(OpenBackend("disk", uri, &start_up).value());
    for (Side& side : sides_) side.queue = std::move(backend_->Attach(side.context).value());
  }
  Backend& backend() { return *backend_; }

  List AskedBy(size_t i) {
    Side& side = sides_[i];
    IoOp op;
    op.kind = Operation::kBlockStatus;
    op.extent = kSize;
    op.max_extents = 4;
    op.buffer = side.context.buffers().Get(4 * sizeof(Extent));
    op.sink = &side;
    const int before = side.done;
    if (side.queue->Submit(&op)) side.OnIoDone(&op);
    side.queue->Kick();
    EXPECT_TRUE(sides_[0].loop.TurnUntil([&] {
      (*sides_[1].loop).RunOnce(0);
      return side.done == before + 1;
    }));
    EXPECT_EQ(op.result, 0);
    const List list = ListOf(reinterpret_cast<const Extent*>(op.buffer.data), op.extents);
    side.context.buffers().Put(&op.buffer);
    return list;
  }

 private:
  struct Side final : IoSink {
    void OnIoDone(IoOp*) override { ++done; }
    TestLoop loop;
    LoopContext context{loop.get()};
    int done = 0;
    std::unique_ptr<BackendQueue> queue;
  };
  std::unique_ptr<Backend> backend_;
  Side sides_[2];
};

TEST_F(RemoteStatusTest, AnyLoopAsksTheObserver) {
  ProxyUpstream upstream("file://" + path());
  TwoLoops loops(upstream.uri(), state());
  EXPECT_EQ(loops.AskedBy(0), kSparse);
  EXPECT_EQ(loops.AskedBy(1), kSparse);
  ASSERT_TRUE(loops.backend().AcquireExclusive(false).ok());
  EXPECT_EQ(loops.AskedBy(0), kSparse);
  EXPECT_EQ(loops.AskedBy(1), kSparse);
}

TEST_F(RemoteStatusTest, LoopsShareAConnection) {
  NbdkitUpstream upstream({"--filter=multi-conn", "file", path(), "multi-conn-mode=disable"});
  TwoLoops loops(upstream.uri(), state());
  EXPECT_EQ(loops.AskedBy(1), kAllData);
  ASSERT_TRUE(loops.backend().AcquireExclusive(false).ok());
  EXPECT_EQ(loops.AskedBy(0), kSparse);
  EXPECT_EQ(loops.AskedBy(1), kSparse);
}

}  // namespace
}  // namespace cloudblk::proxy
