// SPDX-License-Identifier: GPL-2.0-or-later
//
// Two channels of one session on two threads, as with two IOThreads: what they share is found by
// ThreadSanitizer, what they lose by the counts.
#include <gtest/gtest.h>

#include <cerrno>
#include <thread>

#include "base/epoll_loop.h"
#include "block/native_codec.h"
#include "block/session_steps.h"
#include "tests/support/cpp/channel_fixture.h"
#include "tests/support/cpp/tcp_fake_server.h"

namespace cloudblk::testing {
namespace {

constexpr int64_t kSecond = 1'000'000'000;
constexpr int kRounds = 200;

// One channel, its server and its thread.
class Lane {
 public:
  Lane(SessionState* state, uint32_t index)
      : connector_(*Resolve(*ParseEndpoint(Address())), SocketSettings{}, nullptr),
        channel(state, index, &connector_) {}

  void Run() {
    loop_ = std::move(EpollLoop::Create().value());
    channel.Attach({loop_.get(), Complete, this, nullptr});
    for (int round = 0; round < kRounds; ++round) {
      // Now and then the server dies with what it had in its cache.
      if (round % 40 == 39) {
        server_.Do([](FakeServer* fake) {
          ++fake->open.generation;
          fake->Cut();
        });
      }
      std::string data = Pattern(4096, static_cast<uint32_t>(round));
      const iovec iov{data.data(), data.size()};
      ASSERT_EQ(
          channel.Submit({CLOUDBLK_OP_WRITE, 0, round % 64 * 4096u, &iov, 1, 0, nullptr, &writes}),
          0);
      ASSERT_EQ(channel.Submit({CLOUDBLK_OP_FLUSH, 0, 0, nullptr, 0, 0, nullptr, &flushes}), 0);
      channel.Kick();
      while (channel.in_flight() > 0) loop_->RunOnce(-1);
    }
    channel.Detach();
  }

 private:
  std::string Address() {
    const std::string uri = server_.uri();
    const size_t start = uri.find("//") + 2;
    return "tcp://" + uri.substr(start, uri.rfind('/') - start);
  }
  static void Complete(void* opaque, const CloudblkCompletion* done, uint32_t count) {
    for (uint32_t i = 0; i < count; ++i) {
      Lane* self = static_cast<Lane*>(opaque);
      const bool flush = done[i].opaque == &self->flushes;
      ++*static_cast<int*>(done[i].opaque);
      EXPECT_TRUE(done[i].result == 0 || (flush && done[i].result == -EIO)) << done[i].result;
    }
  }

  TcpFakeServer server_{1 << 20};
  SocketConnector connector_;
  std::unique_ptr<EpollLoop> loop_;

 public:
  Channel channel;
  int writes = 0;
  int flushes = 0;
};

TEST(SessionThreads, ChannelsShareASessionWithoutALock) {
  SessionConfig config;
  config.new_codec = NativeCodec::New;
  config.uuid = RandomUuid();
  config.volume = "disk";
  config.channels = 2;
  SessionState state(config);
  Lane a(&state, 0);
  Lane b(&state, 1);
  {
    const std::unique_ptr<EpollLoop> loop = std::move(EpollLoop::Create().value());
    OpenStep opener(&state, {&a.channel, &b.channel});
    opener.Start({loop.get(), nullptr, nullptr, nullptr});
    while (!opener.done()) loop->RunOnce(kSecond);
    opener.Finish();
    ASSERT_TRUE(opener.status().ok()) << opener.status().message();
  }
  std::thread first([&] { a.Run(); });
  std::thread second([&] { b.Run(); });
  first.join();
  second.join();
  for (Lane* lane : {&a, &b}) {
    EXPECT_EQ(lane->writes, kRounds);
    EXPECT_EQ(lane->flushes, kRounds);
    lane->channel.Abandon();
  }
}

}  // namespace
}  // namespace cloudblk::testing
