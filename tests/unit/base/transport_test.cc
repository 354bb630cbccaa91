// SPDX-License-Identifier: GPL-2.0-or-later
//
// Addresses that are looked up again.
#include "base/transport.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <csignal>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "base/socket.h"

namespace cloudblk {
namespace {

constexpr int64_t kSecond = 1'000'000'000;

using Answer = Result<std::vector<SocketAddress>>;

std::vector<SocketAddress> Addresses(const std::vector<std::string>& texts) {
  std::vector<SocketAddress> all;
  for (const std::string& text : texts) all.push_back(Resolve(*ParseEndpoint(text))->front());
  return all;
}

// Gives an answer only when the test says so.
class NameService {
 public:
  SocketConnector::Lookup lookup() {
    return [shared = shared_]() -> Answer {
      std::unique_lock lock(shared->mutex);
      ++shared->asked;
      sigset_t blocked;
      pthread_sigmask(SIG_SETMASK, nullptr, &blocked);
      shared->signals_blocked = sigismember(&blocked, SIGTERM) == 1;
      shared->changed.notify_all();
      shared->changed.wait(lock, [&] { return shared->answer.has_value(); });
      const Answer answer = *shared->answer;
      shared->answer.reset();
      ++shared->answered;
      return answer;
    };
  }
  void WaitUntilAsked(int times) {
    std::unique_lock lock(shared_->mutex);
    shared_->changed.wait(lock, [&] { return shared_->asked >= times; });
  }
  void Reply(const Answer& answer) {
    const std::lock_guard lock(shared_->mutex);
    shared_->answer = answer;
    shared_->changed.notify_all();
  }
  int asked() const {
    const std::lock_guard lock(shared_->mutex);
    return shared_->asked;
  }
  int answered() const {
    const std::lock_guard lock(shared_->mutex);
    return shared_->answered;
  }
  bool signals_blocked() const {
    const std::lock_guard lock(shared_->mutex);
    return shared_->signals_blocked;
  }

 private:
  struct Shared {
    std::mutex mutex;
    std::condition_variable changed;
    std::optional<Answer> answer;
    int asked = 0;
    int answered = 0;
    bool signals_blocked = false;
  };
  const std::shared_ptr<Shared> shared_ = std::make_shared<Shared>();
};

// Until a lookup that was answered has had its effect.
void WaitFor(const std::function<bool()>& condition) {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(30);
  while (!condition()) {
    ASSERT_LT(std::chrono::steady_clock::now(), deadline);
    std::this_thread::yield();
  }
}

TEST(SocketConnector, TakesTheAddressesThatALaterLookupFinds) {
  NameService names;
  SocketConnector connector(Addresses({"tcp://127.0.0.1:1", "tcp://127.0.0.2:1"}), {},
                            names.lookup());
  connector.Refresh(0);
  names.WaitUntilAsked(1);
  EXPECT_EQ(connector.Name(1), "tcp://127.0.0.2:1") << "meanwhile it goes on with what it has";
  names.Reply(Addresses({"tcp://127.0.0.3:1"}));
  WaitFor([&] { return connector.count() == 3; });
  EXPECT_EQ(connector.Name(0), "tcp://127.0.0.3:1");
  EXPECT_EQ(connector.Name(1), "tcp://127.0.0.1:1") << "it may not have moved yet";
  EXPECT_EQ(connector.Name(2), "tcp://127.0.0.2:1");
  EXPECT_EQ(connector.Name(3), "tcp://127.0.0.3:1") << "an index from a longer list";
  EXPECT_TRUE(names.signals_blocked()) << "they are the program's, not that thread's";
}

TEST(SocketConnector, KeepsWhatItHadUntilTheServersMoveAgain) {
  NameService names;
  SocketConnector connector(Addresses({"tcp://127.0.0.1:1", "tcp://127.0.0.2:1"}), {},
                            names.lookup());
  auto lookup = [&, now = int64_t{0}](const std::vector<std::string>& answer) mutable {
    const int asked = names.asked();
    WaitFor([&] {
      connector.Refresh(now += 2 * kSecond);
      return names.asked() > asked;
    });
    names.Reply(Addresses(answer));
  };
  lookup({"tcp://127.0.0.2:1", "tcp://127.0.0.1:1"});
  lookup({"tcp://127.0.0.1:1"});
  WaitFor([&] { return connector.Name(0) == "tcp://127.0.0.1:1"; });
  lookup({"tcp://127.0.0.1:1"});
  lookup({"tcp://127.0.0.3:1"});
  WaitFor([&] { return connector.Name(0) == "tcp://127.0.0.3:1"; });
  EXPECT_EQ(connector.count(), 2u);
  EXPECT_EQ(connector.Name(1), "tcp://127.0.0.1:1");
}

TEST(SocketConnector, KeepsItsAddressesWhenALookupFails) {
  NameService names;
  SocketConnector connector(Addresses({"tcp://127.0.0.1:1"}), {}, names.lookup());
  connector.Refresh(0);
  names.WaitUntilAsked(1);
  names.Reply(Status(EHOSTUNREACH, "no answer"));
  // The next one shows that the first has ended.
  int64_t now = 2 * kSecond;
  WaitFor([&] {
    connector.Refresh(now += 2 * kSecond);
    return names.asked() == 2;
  });
  EXPECT_EQ(connector.Name(0), "tcp://127.0.0.1:1");
  names.Reply(Addresses({"tcp://127.0.0.2:1"}));
  WaitFor([&] { return connector.Name(0) == "tcp://127.0.0.2:1"; });
}

TEST(SocketConnector, LooksUpOnceInTwoSeconds) {
  NameService names;
  SocketConnector connector(Addresses({"tcp://127.0.0.1:1"}), {}, names.lookup());
  connector.Refresh(kSecond);
  names.WaitUntilAsked(1);
  connector.Refresh(9 * kSecond);  // the first has no answer yet
  names.Reply(Addresses({"tcp://127.0.0.2:1"}));
  WaitFor([&] { return connector.Name(0) == "tcp://127.0.0.2:1"; });
  connector.Refresh(3 * kSecond - 1);
  connector.Refresh(3 * kSecond);
  names.Reply(Addresses({"tcp://127.0.0.3:1"}));
  WaitFor([&] { return connector.Name(0) == "tcp://127.0.0.3:1"; });
  EXPECT_EQ(names.asked(), 2);
}

TEST(SocketConnector, DoesNotWaitForALookupWhenItGoes) {
  NameService names;
  {
    SocketConnector connector(Addresses({"tcp://127.0.0.1:1"}), {}, names.lookup());
    connector.Refresh(0);
    names.WaitUntilAsked(1);
  }
  EXPECT_EQ(names.answered(), 0) << "the connector went before";
  names.Reply(Addresses({"tcp://127.0.0.2:1"}));
  WaitFor([&] { return names.answered() == 1; });
}

TEST(SocketConnector, WithoutALookupNothingIsDone) {
  SocketConnector connector(Addresses({"tcp://127.0.0.1:1"}), {}, nullptr);
  connector.Refresh(0);
  EXPECT_EQ(connector.Name(0), "tcp://127.0.0.1:1");
}

TEST(Endpoint, KnowsWhetherItHasAName) {
  EXPECT_TRUE(HasName(*ParseEndpoint("tcp://storage.example:1")));
  EXPECT_TRUE(HasName(*ParseEndpoint("tcp://localhost:1")));
  for (const char* text : {"tcp://127.0.0.1:1", "tcp://[::1]:1", "tcp://:1", "unix:///run/a"}) {
    EXPECT_FALSE(HasName(*ParseEndpoint(text))) << text;
  }
}

}  // namespace
}  // namespace cloudblk
