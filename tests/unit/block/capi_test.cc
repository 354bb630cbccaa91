// SPDX-License-Identifier: GPL-2.0-or-later
//
// cloudblk.h as a host program uses it, over real sockets.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cerrno>
#include <cstring>

#include "base/epoll_loop.h"
#include "block/epoll_ops.h"
#include "block/include/cloudblk.h"
#include "tests/support/cpp/channel_fixture.h"
#include "tests/support/cpp/tcp_fake_server.h"

extern "C" int cloudblk_c99_smoke(char* error, size_t error_size);

namespace cloudblk::testing {
namespace {

using ::testing::HasSubstr;

CloudblkOptions Options(const std::string& uri) {
  CloudblkOptions options{};
  options.size = sizeof(options);
  options.abi_version = CLOUDBLK_ABI_VERSION;
  options.server = uri.c_str();
  options.channels = 1;
  return options;
}

class CapiTest : public ::testing::Test {
 protected:
  void Open() {
    const std::string uri = server.uri();
    const CloudblkOptions options = Options(uri);
    char error[256] = "";
    ASSERT_EQ(cloudblk_session_open(&options, &session, error, sizeof(error)), 0) << error;
    channel = cloudblk_session_channel(session, 0);
  }
  void Attach() {
    ASSERT_EQ(cloudblk_channel_attach(channel, EpollLoopOps(), loop.get(), Complete, this), 0);
  }
  void Submit(CloudblkOperation operation, uint64_t offset, std::string* memory) {
    const iovec iov{memory->data(), memory->size()};
    const CloudblkRequest request{operation, 0, offset, &iov, 1, 0, nullptr, memory};
    ASSERT_EQ(cloudblk_channel_submit(channel, &request), 0);
  }
  void RunUntilDone(uint32_t count) {
    while (done.size() < count) loop->RunOnce(-1);
  }
  static void Complete(void* opaque, const CloudblkCompletion* completions, uint32_t count) {
    auto& done = static_cast<CapiTest*>(opaque)->done;
    done.insert(done.end(), completions, completions + count);
  }
  void TearDown() override {
    if (session == nullptr) return;
    cloudblk_channel_revoke(channel);
    cloudblk_channel_detach(channel);
    cloudblk_session_close(session, 10'000);
  }

  TcpFakeServer server{1 << 20};
  std::unique_ptr<EpollLoop> loop = std::move(EpollLoop::Create().value());
  CloudblkSession* session = nullptr;
  CloudblkChannel* channel = nullptr;
  std::vector<CloudblkCompletion> done;
};

TEST_F(CapiTest, WritesAndReads) {
  Open();
  Attach();
  std::string out = Pattern(65536, 1);
  Submit(CLOUDBLK_OP_WRITE, 4096, &out);
  cloudblk_channel_kick(channel);
  RunUntilDone(1);
  std::string in(65536, '\0');
  Submit(CLOUDBLK_OP_READ, 4096, &in);
  EXPECT_EQ(cloudblk_channel_in_flight(channel), 1u);
  RunUntilDone(2);  // without a kick
  EXPECT_EQ(in, out);
  EXPECT_EQ(done[1].opaque, &in);
  EXPECT_EQ(done[1].result, 0);
  EXPECT_EQ(done[1].bytes_stored, 65536u);
  CloudblkStats stats{};
  stats.size = sizeof(stats);
  cloudblk_channel_stats(channel, &stats);
  EXPECT_EQ(stats.requests, 2u);
  EXPECT_EQ(stats.bytes_written, 65536u);
}

TEST_F(CapiTest, SurvivesTheLossOfItsServer) {
  Open();
  Attach();
  server.Do([](FakeServer* fake) { fake->hold = true; });
  std::string out = Pattern(65536, 1);
  Submit(CLOUDBLK_OP_WRITE, 0, &out);
  cloudblk_channel_kick(channel);
  server.Do([](FakeServer* fake) {
    fake->hold = false;
    fake->Cut();
  });
  RunUntilDone(1);
  EXPECT_EQ(done[0].result, 0);
  server.Do([&](FakeServer* fake) { EXPECT_EQ(fake->disk.substr(0, 65536), out); });
}

TEST_F(CapiTest, DetachedItWaitsAndGoesOnOnAnotherLoop) {
  Open();
  Attach();
  std::string in(4096, '\0');
  Submit(CLOUDBLK_OP_READ, 0, &in);  // a call is due on this loop
  cloudblk_channel_detach(channel);
  loop->RunOnce(0);
  EXPECT_TRUE(done.empty());
  loop = std::move(EpollLoop::Create().value());
  Attach();
  RunUntilDone(1);
  EXPECT_EQ(done[0].result, 0);
}

TEST_F(CapiTest, RevokesWhileDetached) {
  Open();
  Attach();
  server.Do([](FakeServer* fake) { fake->hold = true; });
  std::string in(4096, '\0');
  Submit(CLOUDBLK_OP_READ, 0, &in);
  cloudblk_channel_kick(channel);
  cloudblk_channel_detach(channel);
  cloudblk_channel_revoke(channel);
  ASSERT_EQ(done.size(), 1u);
  EXPECT_EQ(done[0].result, -ECANCELED);
}

TEST_F(CapiTest, TellsWhatTheVolumeIs) {
  server.Do([](FakeServer* fake) {
    fake->open.optimal_io_size = 65536;
    fake->open.discard_granularity = 4096;
    fake->open.volume_flags = wire::VolumeFlag::kWriteZeroes | wire::VolumeFlag::kRotational;
  });
  Open();
  CloudblkInfo info{};
  info.size = sizeof(info);
  cloudblk_session_info(session, &info);
  EXPECT_EQ(info.size, sizeof(info));
  EXPECT_EQ(info.size_bytes, 1u << 20);
  EXPECT_EQ(info.logical_block_size, 512u);
  EXPECT_EQ(info.physical_block_size, 4096u);
  EXPECT_EQ(info.optimal_io_size, 65536u);
  EXPECT_EQ(info.discard_granularity, 4096u);
  EXPECT_EQ(info.max_discard_bytes, 0u);
  EXPECT_EQ(info.max_write_zeroes_bytes, 1u << 30);
  EXPECT_FALSE(info.read_only);
  EXPECT_FALSE(info.write_cache);
  EXPECT_TRUE(info.rotational);
  EXPECT_EQ(info.volume_uuid[0], 7);
  EXPECT_EQ(info.epoch, 1u);
  EXPECT_EQ(info.generation, 1u);
  // An older host knows less of it.
  CloudblkInfo older{};
  older.size = offsetof(CloudblkInfo, physical_block_size);
  cloudblk_session_info(session, &older);
  EXPECT_EQ(older.size_bytes, 1u << 20);
  EXPECT_EQ(older.physical_block_size, 0u);
}

TEST_F(CapiTest, RefusesOptionsOfAnotherVersion) {
  const std::string uri = server.uri();
  char error[256];
  CloudblkSession* none = nullptr;
  CloudblkOptions options = Options(uri);
  options.abi_version = 99;
  EXPECT_EQ(cloudblk_session_open(&options, &none, error, sizeof(error)), -EINVAL);
  EXPECT_THAT(error, HasSubstr("another version"));
  options = Options(uri);
  options.channels = 0;
  EXPECT_EQ(cloudblk_session_open(&options, &none, error, sizeof(error)), -EINVAL);
  const std::string nothing = "cloudblk://";
  options = Options(nothing);
  EXPECT_EQ(cloudblk_session_open(&options, &none, error, sizeof(error)), -EINVAL);
  EXPECT_THAT(error, HasSubstr("names no volume"));
  EXPECT_EQ(none, nullptr);
}

TEST_F(CapiTest, ErrorsAreOneLineThatFits) {
  server.Do([](FakeServer* fake) {
    fake->open.status = wire::StatusCode::kNoSuchVolume;
    fake->refusal = "first\nsecond";
  });
  const std::string uri = server.uri();
  const CloudblkOptions options = Options(uri);
  CloudblkSession* none = nullptr;
  char error[256];
  EXPECT_EQ(cloudblk_session_open(&options, &none, error, sizeof(error)), -ENOENT);
  EXPECT_THAT(error, HasSubstr("first?second"));
  char small[8];
  EXPECT_EQ(cloudblk_session_open(&options, &none, small, sizeof(small)), -ENOENT);
  EXPECT_EQ(std::strlen(small), 7u);
}

TEST_F(CapiTest, RefusesLoopsOfAnotherVersion) {
  Open();
  CloudblkLoopOps ops = *EpollLoopOps();
  ops.abi_version = 99;
  EXPECT_EQ(cloudblk_channel_attach(channel, &ops, loop.get(), Complete, this), -EINVAL);
  EXPECT_EQ(cloudblk_channel_attach(channel, EpollLoopOps(), loop.get(), nullptr, this), -EINVAL);
}

// A loop that may not poll while megabytes arrive sleeps, and shares the server's processor then.
TEST_F(CapiTest, MayBePolledWithBulkDataInFlight) {
  static int watched;
  static int not_polled;
  watched = not_polled = 0;
  // Needed until TearDown detaches
  static CloudblkLoopOps ops;
  ops = *EpollLoopOps();
  ops.watch_fd = [](void* on, int fd, CloudblkHandler* read, CloudblkHandler* write,
                    CloudblkPoll* poll, CloudblkHandler* poll_ready, void* opaque) {
    if (read != nullptr) ++watched;
    if (read != nullptr && (poll == nullptr || poll_ready == nullptr)) ++not_polled;
    EpollLoopOps()->watch_fd(on, fd, read, write, poll, poll_ready, opaque);
  };
  Open();
  ASSERT_EQ(cloudblk_channel_attach(channel, &ops, loop.get(), Complete, this), 0);
  // Not a small one, which would bound what is in flight
  std::string first(65536, '\0');
  Submit(CLOUDBLK_OP_READ, 0, &first);
  RunUntilDone(1);
  server.Do([](FakeServer* fake) { fake->hold = true; });
  std::string bulk(1 << 20, '\0');
  Submit(CLOUDBLK_OP_READ, 0, &bulk);
  cloudblk_channel_kick(channel);
  EXPECT_EQ(cloudblk_channel_in_flight(channel), 1u);
  EXPECT_GT(watched, 0);
  EXPECT_EQ(not_polled, 0);
}

TEST(Capi, TheHeaderIsC99) {
  char error[256] = "";
  EXPECT_EQ(cloudblk_c99_smoke(error, sizeof(error)), -EINVAL);
  EXPECT_THAT(error, HasSubstr("needs TLS credentials"));
}

}  // namespace
}  // namespace cloudblk::testing
