// SPDX-License-Identifier: GPL-2.0-or-later
#include "base/epoll_loop.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <thread>
#include <vector>

namespace cloudblk {
namespace {

struct Pipe {
  Pipe() {
    int fds[2];
    EXPECT_EQ(pipe(fds), 0);
    read.reset(fds[0]);
    write.reset(fds[1]);
  }
  void Fill() { EXPECT_EQ(::write(write.get(), "x", 1), 1); }
  UniqueFd read;
  UniqueFd write;
};

struct Handler : FdHandler {
  void OnReadable() override {
    ++readable;
    if (on_readable) on_readable();
  }
  void OnWritable() override { ++writable; }
  int readable = 0;
  int writable = 0;
  std::function<void()> on_readable;
};

class EpollLoopTest : public ::testing::Test {
 protected:
  std::unique_ptr<EpollLoop> loop = std::move(EpollLoop::Create().value());
};

TEST_F(EpollLoopTest, IsLevelTriggered) {
  Pipe pipe;
  Handler handler;
  loop->Watch(pipe.read.get(), true, false, &handler);
  loop->RunOnce(0);
  EXPECT_EQ(handler.readable, 0);
  pipe.Fill();
  loop->RunOnce(0);
  loop->RunOnce(0);
  EXPECT_EQ(handler.readable, 2);
  loop->Watch(pipe.read.get(), false, false, &handler);
  loop->RunOnce(0);
  EXPECT_EQ(handler.readable, 2);
  loop->Unwatch(pipe.read.get());
}

TEST_F(EpollLoopTest, HangUpIsReportedOnlyToThoseWhoAsk) {
  Pipe pipe;
  Handler handler;
  loop->Watch(pipe.read.get(), false, false, &handler);
  pipe.write.reset();
  loop->RunOnce(0);
  EXPECT_EQ(handler.readable, 0);
  loop->Watch(pipe.read.get(), true, false, &handler);
  loop->RunOnce(0);
  EXPECT_EQ(handler.readable, 1);
  loop->Unwatch(pipe.read.get());
}

TEST_F(EpollLoopTest, AHandlerMayUnwatchAnotherOfTheSameTurn) {
  Pipe a, b;
  Handler first, second;
  first.on_readable = [&] { loop->Unwatch(b.read.get()); };
  second.on_readable = [&] { loop->Unwatch(a.read.get()); };
  loop->Watch(a.read.get(), true, false, &first);
  loop->Watch(b.read.get(), true, false, &second);
  a.Fill();
  b.Fill();
  loop->RunOnce(0);
  EXPECT_EQ(first.readable + second.readable, 1);
}

TEST_F(EpollLoopTest, AnEventOfAClosedDescriptorDoesNotReachItsSuccessor) {
  Pipe a, b;
  Handler first, second, successor;
  // Whichever comes first closes the other and watches a new descriptor of the same number.
  const auto replace = [&](Pipe* other) {
    const int number = other->read.get();
    loop->Unwatch(number);
    other->read.reset();
    Pipe fresh;
    ASSERT_EQ(dup2(fresh.read.get(), number), number);
    other->read.reset(number);
    loop->Watch(number, true, false, &successor);
  };
  first.on_readable = [&] { replace(&b); };
  second.on_readable = [&] { replace(&a); };
  loop->Watch(a.read.get(), true, false, &first);
  loop->Watch(b.read.get(), true, false, &second);
  a.Fill();
  b.Fill();
  loop->RunOnce(0);
  EXPECT_EQ(first.readable + second.readable, 1);
  EXPECT_EQ(successor.readable, 0);
  loop->Unwatch(a.read.get());
  loop->Unwatch(b.read.get());
}

TEST_F(EpollLoopTest, TimersFireOnceInOrder) {
  std::vector<int> fired;
  const auto a = loop->NewTimer([&] { fired.push_back(1); });
  const auto b = loop->NewTimer([&] { fired.push_back(2); });
  const auto c = loop->NewTimer([&] { fired.push_back(3); });
  const int64_t now = loop->NowNs();
  a->Arm(now - 1);
  b->Arm(now - 2);
  c->Arm(now - 3);
  c->Disarm();
  b->Arm(now - 4);
  loop->RunOnce(-1);
  loop->RunOnce(0);
  EXPECT_EQ(fired, (std::vector<int>{2, 1}));
}

TEST_F(EpollLoopTest, ATimerMayDestroyItself) {
  std::unique_ptr<Timer> timer;
  bool fired = false;
  timer = loop->NewTimer([&] {
    timer.reset();
    fired = true;
  });
  timer->Arm(loop->NowNs());
  loop->RunOnce(-1);
  EXPECT_TRUE(fired);
}

TEST_F(EpollLoopTest, WaitsForTheNextTimer) {
  bool fired = false;
  const auto timer = loop->NewTimer([&] { fired = true; });
  const int64_t deadline = loop->NowNs() + 2'000'000;
  timer->Arm(deadline);
  loop->RunOnce(-1);
  EXPECT_TRUE(fired);
  EXPECT_GE(loop->NowNs(), deadline);
}

TEST_F(EpollLoopTest, DeferredWorkRunsAtTheEndOfTheTurn) {
  std::vector<int> order;
  loop->Defer([&] {
    order.push_back(1);
    loop->Defer([&] { order.push_back(2); });
  });
  EXPECT_TRUE(order.empty());
  loop->RunOnce(-1);
  EXPECT_EQ(order, std::vector<int>{1});
  loop->RunOnce(-1);
  EXPECT_EQ(order, (std::vector<int>{1, 2}));
}

TEST_F(EpollLoopTest, PostAndStopFromAnotherThread) {
  int ran = 0;
  std::thread other([&] {
    for (int i = 0; i < 1000; ++i) loop->Post([&] { ++ran; });
    loop->Stop();
  });
  loop->Run();
  other.join();
  EXPECT_EQ(ran, 1000);
}

}  // namespace
}  // namespace cloudblk
