// SPDX-License-Identifier: GPL-2.0-or-later
//
// What passes over TLS, and how it ends.
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <algorithm>
#include <string>
#include <vector>

#include "base/tls_connector.h"
#include "tests/support/cpp/certificates.h"
#include "tests/support/cpp/tls_pair.h"

namespace cloudblk::testing {
namespace {

using Role = TlsSettings::Role;

std::string Data(size_t size) {
  std::string data(size, '\0');
  for (size_t i = 0; i < size; ++i) data[i] = static_cast<char>(i * 31 + i / 251);
  return data;
}

// Both kinds of credentials, good ones.
class Tls : public ::testing::TestWithParam<TlsSettings::Kind> {
 protected:
  Tls() {
    if (GetParam() == TlsSettings::Kind::kX509) {
      const Authority ca;
      ca.Issue(folder_, {.common_name = "disk.example.org"});
      ca.Issue(folder_, {.common_name = "host-7", .for_server = false});
    } else {
      WriteKey(folder_, "alice", 3);
    }
    Connect();
  }

  TlsSettings Settings(Role role) const {
    return GetParam() == TlsSettings::Kind::kX509 ? X509Of(folder_, role) : PskOf(folder_, role);
  }

  void Connect(bool waits = false) {
    auto [near, far] = SocketPair();
    raw_client_ = near.get();
    raw_server_ = far.get();
    client_ = {};
    server_ = {};
    client_.transport =
        Secured(std::move(near), MustLoad(Settings(Role::kClient)), "disk.example.org", waits);
    server_.transport = Secured(std::move(far), MustLoad(Settings(Role::kServer)), "", waits);
  }

  TlsFolder folder_;
  int raw_client_ = -1;
  int raw_server_ = -1;
  Side client_;
  Side server_;
};

INSTANTIATE_TEST_SUITE_P(Kinds, Tls,
                         ::testing::Values(TlsSettings::Kind::kX509, TlsSettings::Kind::kPsk),
                         [](const auto& info) {
                           return info.param == TlsSettings::Kind::kX509 ? "x509" : "psk";
                         });

TEST_P(Tls, CarriesBytesBothWays) {
  const std::string up = Data(1 << 20);
  const std::string down = Data(3 << 20);
  client_.says = up;
  server_.says = down;
  Talk(&client_, &server_);
  EXPECT_EQ(client_.error, 0) << client_.transport->trouble();
  EXPECT_EQ(server_.error, 0) << server_.transport->trouble();
  EXPECT_TRUE(server_.heard == up);
  EXPECT_TRUE(client_.heard == down);
}

TEST_P(Tls, HidesWhatItCarries) {
  client_.says = "hello";
  Talk(&client_, &server_);
  ASSERT_EQ(server_.heard, "hello");
  const std::string secret = "a secret that nobody is to see";
  const iovec out{const_cast<char*>(secret.data()), secret.size()};
  ASSERT_EQ(client_.transport->Writev(&out, 1), static_cast<ssize_t>(secret.size()));
  char wire[1000];
  const ssize_t n = recv(raw_server_, wire, sizeof(wire), MSG_PEEK);
  ASSERT_GT(n, static_cast<ssize_t>(secret.size()));
  EXPECT_EQ(wire[0], 23) << "a record of application data";
  EXPECT_EQ(std::string(wire, static_cast<size_t>(n)).find(secret), std::string::npos);
}

TEST_P(Tls, SaysWhoTheClientIs) {
  client_.says = "hello";
  Talk(&client_, &server_);
  const PeerIdentity who = server_.transport->peer();
  if (GetParam() == TlsSettings::Kind::kPsk) {
    EXPECT_EQ(who.psk, "alice");
    EXPECT_TRUE(who.names.empty());
  } else {
    EXPECT_FALSE(who.psk.has_value());
    EXPECT_NE(std::ranges::find(who.names, "CN=host-7"), who.names.end());
    EXPECT_NE(std::ranges::find(who.names, "host-7"), who.names.end());
  }
}

TEST_P(Tls, GathersAndScatters) {
  std::string a = "first ", b = "second ", c(40'000, 'c');
  const std::vector<iovec> out = {{a.data(), a.size()}, {b.data(), b.size()}, {c.data(), c.size()}};
  client_.says = "x";
  Talk(&client_, &server_);
  ASSERT_EQ(client_.transport->Writev(out.data(), 3),
            static_cast<ssize_t>(a.size() + b.size() + c.size()));
  std::string d(9, '\0'), e(30'000, '\0'), f(20'000, '\0');
  const std::vector<iovec> in = {{d.data(), d.size()}, {e.data(), e.size()}, {f.data(), f.size()}};
  ASSERT_EQ(server_.transport->Readv(in.data(), 3),
            static_cast<ssize_t>(a.size() + b.size() + c.size()));
  EXPECT_EQ((d + e + f).substr(0, 40'013), a + b + c);
}

// What the descriptor does not show any more.
TEST_P(Tls, TellsOfBytesThatItHolds) {
  client_.says = "x";
  Talk(&client_, &server_);
  EXPECT_FALSE(server_.transport->has_pending());
  std::string data = Data(50'000);
  const iovec out{data.data(), data.size()};
  ASSERT_EQ(client_.transport->Writev(&out, 1), 50'000);
  std::string got;
  char byte;
  const iovec one{&byte, 1};
  ASSERT_EQ(server_.transport->Readv(&one, 1), 1);
  got.push_back(byte);
  while (server_.transport->has_pending()) {
    char some[777];
    const iovec in{some, sizeof(some)};
    const ssize_t n = server_.transport->Readv(&in, 1);
    ASSERT_GT(n, 0);
    got.append(some, static_cast<size_t>(n));
  }
  EXPECT_TRUE(got == data);
  EXPECT_EQ(server_.transport->Readv(&one, 1), -EAGAIN);
}

TEST_P(Tls, TellsAnOrderlyEndFromACut) {
  client_.says = "x";
  Talk(&client_, &server_);
  client_.transport.reset();
  Talk(&client_, &server_);
  EXPECT_TRUE(server_.ended);
  EXPECT_EQ(server_.error, 0);

  Connect();
  client_.says = "x";
  Talk(&client_, &server_);
  shutdown(raw_client_, SHUT_RDWR);
  Talk(&client_, &server_);
  EXPECT_FALSE(server_.ended);
  EXPECT_EQ(server_.error, ECONNRESET);
  EXPECT_NE(server_.transport->trouble().find("without the end"), std::string::npos);
}

TEST_P(Tls, RefusesWhatWasChangedOnTheWay) {
  client_.says = "x";
  Talk(&client_, &server_);
  std::string data = "a write of some data";
  const iovec out{data.data(), data.size()};
  ASSERT_GT(client_.transport->Writev(&out, 1), 0);
  char wire[1000];
  const ssize_t n = recv(raw_server_, wire, sizeof(wire), 0);
  ASSERT_GT(n, 0);
  wire[n - 1] ^= 1;
  ASSERT_EQ(send(raw_client_, wire, static_cast<size_t>(n), 0), n);
  Talk(&client_, &server_);
  EXPECT_EQ(server_.error, ECONNABORTED) << server_.transport->trouble();
  EXPECT_EQ(server_.heard, "x");
}

// Of a guest, whose memory may not be there.
TEST_P(Tls, AClientSaysEfaultAndStaysWhereItWas) {
  client_.says = "x";
  Talk(&client_, &server_);
  void* hole = mmap(nullptr, 8192, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(hole, MAP_FAILED);
  std::string good = "good";
  const std::vector<iovec> bad = {{good.data(), good.size()}, {hole, 8192}};
  EXPECT_EQ(client_.transport->Writev(bad.data(), 2), -EFAULT);
  munmap(hole, 8192);
  client_.says = "y";
  Talk(&client_, &server_);
  EXPECT_EQ(server_.heard, "xy");
}

TEST_P(Tls, BeginsWhenItIsTold) {
  Connect(true);
  client_.says = "clear";
  Talk(&client_, &server_);
  EXPECT_EQ(server_.heard, "clear");
  EXPECT_FALSE(client_.transport->write_wants_read());
  ASSERT_EQ(client_.transport->StartTls(), 0);
  ASSERT_EQ(server_.transport->StartTls(), 0);
  client_.says = " and hidden";
  server_.says = "back";
  Talk(&client_, &server_);
  EXPECT_EQ(server_.heard, "clear and hidden");
  EXPECT_EQ(client_.heard, "back");
}

// Bytes of either side come one at a time, and the connection ends after every number of them.
TEST_P(Tls, EndsWellAtEveryByte) {
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
  constexpr size_t kStride = 53;
#else
  constexpr size_t kStride = 7;
#endif
  for (size_t most = 0;; most += kStride) {
    auto [client, middle_near] = SocketPair();
    auto [middle_far, server] = SocketPair();
    client_ = {.says = "request"};
    server_ = {.says = "answer"};
    client_.transport =
        Secured(std::move(client), MustLoad(Settings(Role::kClient)), "disk.example.org");
    server_.transport = Secured(std::move(server), MustLoad(Settings(Role::kServer)));
    size_t passed = 0;
    const auto pass = [&](int from, int to) {
      char bytes[97];
      const ssize_t n = recv(from, bytes, std::min(sizeof(bytes), most - passed), 0);
      if (n <= 0) return false;
      passed += static_cast<size_t>(n);
      return send(to, bytes, static_cast<size_t>(n), MSG_NOSIGNAL) == n;
    };
    for (bool moved = true; moved;) {
      moved = client_.Step();
      moved = server_.Step() || moved;
      moved = (passed < most && pass(middle_near.get(), middle_far.get())) || moved;
      moved = (passed < most && pass(middle_far.get(), middle_near.get())) || moved;
    }
    const bool all = passed < most;
    middle_near.reset();
    middle_far.reset();
    Talk(&client_, &server_);
    ASSERT_TRUE(client_.heard.empty() || client_.heard == "answer") << most;
    ASSERT_TRUE(server_.heard.empty() || server_.heard == "request") << most;
    ASSERT_EQ(client_.error, ECONNRESET) << most << client_.transport->trouble();
    ASSERT_EQ(server_.error, ECONNRESET) << most << server_.transport->trouble();
    if (!all) continue;
    EXPECT_EQ(client_.heard, "answer");
    EXPECT_EQ(server_.heard, "request");
    break;
  }
}

TEST(TlsPeers, NeverSayThatMoreHasMovedThanIsOffered) {
  const TlsFolder folder;
  WriteKey(folder, "alice", 1);
  auto [near, far] = SocketPair();
  const int small = 4096;
  setsockopt(near.get(), SOL_SOCKET, SO_SNDBUF, &small, sizeof(small));
  Side client{.transport = Secured(std::move(near), MustLoad(PskOf(folder, Role::kClient))),
              .says = "x"};
  Side server{.transport = Secured(std::move(far), MustLoad(PskOf(folder, Role::kServer)))};
  Talk(&client, &server);
  std::string data = Data(100'000);
  const iovec all{data.data(), data.size()};
  ASSERT_EQ(client.transport->Writev(&all, 1), -EAGAIN) << "the socket takes a part of it";
  // Of what it was given, the first bytes alone are offered again.
  size_t moved = 0;
  while (moved < 10'000) {
    const iovec part{data.data() + moved, 100};
    const ssize_t n = client.transport->Writev(&part, 1);
    ASSERT_LE(n, 100);
    if (n > 0) moved += static_cast<size_t>(n);
    server.Step();
  }
  client.says = data.substr(moved);
  Talk(&client, &server);
  EXPECT_TRUE(server.heard == "x" + data);
}

TEST(TlsPeers, CountWhatThePeerCanHaveRead) {
  const TlsFolder folder;
  WriteKey(folder, "alice", 1);
  for (const bool from_client : {true, false}) {
    auto [near, far] = SocketPair();
    const int small = 4096;
    setsockopt(near.get(), SOL_SOCKET, SO_SNDBUF, &small, sizeof(small));
    const auto role = [&](bool client) {
      return MustLoad(PskOf(folder, client ? Role::kClient : Role::kServer));
    };
    Side speaks{.transport = Secured(std::move(near), role(from_client)), .says = "x"};
    Side hears{.transport = Secured(std::move(far), role(!from_client)), .says = "y"};
    Talk(&speaks, &hears);
    std::string data = Data(500'000);
    size_t moved = 0;
    while (moved < data.size()) {
      const iovec rest{data.data() + moved, data.size() - moved};
      const ssize_t n = speaks.transport->Writev(&rest, 1);
      if (n > 0) moved += static_cast<size_t>(n);
      hears.Step();
      ASSERT_EQ(hears.heard.size(), 1 + moved) << "it may have been answered";
    }
    // What was not counted as moved does not move at the end.
    speaks.says = data;
    ASSERT_FALSE(speaks.Step() && speaks.says.empty());
    const size_t counted = 1 + moved + data.size() - speaks.says.size();
    speaks.transport.reset();
    hears.Step();
    EXPECT_EQ(hears.heard.size(), counted);
  }
}

// Gives the near end of a socket pair and keeps the far one.
class PairConnector final : public Connector {
 public:
  explicit PairConnector(UniqueFd* far) : far_(far) {}
  size_t count() const override { return 1; }
  std::string Name(size_t) const override { return "pair"; }
  Result<std::unique_ptr<Transport>> Connect(size_t) const override {
    auto [near, far] = SocketPair();
    *far_ = std::move(far);
    return AcceptedTransport(std::move(near));
  }
  void Refresh(int64_t) override {}

 private:
  UniqueFd* const far_;
};

TEST(TlsPeers, TakeWhatTheirFilesAreWhenTheyConnect) {
  const TlsFolder ours;
  const TlsFolder theirs;
  WriteKey(ours, "alice", 1);
  WriteKey(theirs, "alice", 2);
  UniqueFd far;
  TlsConnector connector(std::make_unique<PairConnector>(&far),
                         MustLoad(PskOf(ours, Role::kClient)), "", false);
  const auto try_it = [&] {
    Side client{.transport = std::move(connector.Connect(0).value()), .says = "x"};
    Side server{.transport = Secured(std::move(far), MustLoad(PskOf(theirs, Role::kServer)))};
    Talk(&client, &server);
    return server.heard == "x";
  };
  EXPECT_FALSE(try_it());
  WriteKey(ours, "alice", 2);
  EXPECT_TRUE(try_it());
  ours.Write("keys.psk", "half a li");
  EXPECT_TRUE(try_it()) << "what cannot be loaded does not replace what could";
}

TEST(TlsPeers, WhoseSocketsAreFullGoOnWhenTheyAreEmptied) {
  const TlsFolder folder;
  WriteKey(folder, "alice", 1);
  auto [near, far] = SocketPair();
  const int small = 4096;
  setsockopt(near.get(), SOL_SOCKET, SO_SNDBUF, &small, sizeof(small));
  setsockopt(far.get(), SOL_SOCKET, SO_SNDBUF, &small, sizeof(small));
  Side client{.transport = Secured(std::move(near), MustLoad(PskOf(folder, Role::kClient)))};
  Side server{.transport = Secured(std::move(far), MustLoad(PskOf(folder, Role::kServer)))};
  const std::string up = Data(700'001);
  const std::string down = Data(900'001);
  client.says = up;
  server.says = down;
  Talk(&client, &server);
  EXPECT_TRUE(server.heard == up);
  EXPECT_TRUE(client.heard == down);
}

}  // namespace
}  // namespace cloudblk::testing
