// SPDX-License-Identifier: GPL-2.0-or-later
#include "base/socket.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdlib>
#include <string>

namespace cloudblk {
namespace {

using ::testing::HasSubstr;

TEST(Endpoint, ReadsWhatItWrites) {
  for (const char* text : {"tcp://127.0.0.1:9810", "tcp://[::1]:1", "tcp://host.example:65535",
                           "tcp://:0", "unix:///run/a b"}) {
    Result<Endpoint> endpoint = ParseEndpoint(text);
    ASSERT_TRUE(endpoint.ok()) << text << ": " << endpoint.status().message();
    EXPECT_EQ(endpoint->ToString(), text);
  }
}

TEST(Endpoint, RefusesWhatItCannotRead) {
  for (const char* text :
       {"", "host:1", "tcp://host", "tcp://host:", "tcp://host:65536", "tcp://host:-1",
        "tcp://[::1]", "tcp://[::1", "tcp://::1:5", "tcp://[::1]x:1", "unix://relative", "unix:/x",
        "tcp://host:1x", "tcp://[[]:1", "tcp://a]:1", "tcp://a[b:1"}) {
    const Result<Endpoint> endpoint = ParseEndpoint(text);
    ASSERT_FALSE(endpoint.ok()) << text;
    EXPECT_EQ(endpoint.status().error(), EINVAL);
    EXPECT_THAT(endpoint.status().message(), HasSubstr("write ")) << text;
  }
}

void ExpectConnected(const Endpoint& bound, int listener) {
  Result<std::vector<SocketAddress>> addresses = Resolve(bound);
  ASSERT_TRUE(addresses.ok()) << addresses.status().message();
  Result<UniqueFd> client = Connect(addresses->front());
  ASSERT_TRUE(client.ok()) << client.status().message();
  pollfd ready{.fd = client->get(), .events = POLLOUT, .revents = 0};
  ASSERT_EQ(poll(&ready, 1, 10'000), 1);
  EXPECT_EQ(ConnectError(client->get()), 0);
  ApplySettings(client->get(), {});
  SocketAddress peer;
  Result<UniqueFd> server = Accept(listener, &peer);
  ASSERT_TRUE(server.ok()) << server.status().message();
  ASSERT_EQ(write(server->get(), "y", 1), 1);
  char byte = 0;
  EXPECT_EQ(read(client->get(), &byte, 1), 1);
  EXPECT_EQ(byte, 'y');
  EXPECT_EQ(Accept(listener, nullptr).status().error(), EAGAIN);
}

TEST(Socket, ListensOnAPortOfTheKernelsChoice) {
  Endpoint bound;
  Result<std::vector<UniqueFd>> listener = Listen(*ParseEndpoint("tcp://127.0.0.1:0"), &bound);
  ASSERT_TRUE(listener.ok()) << listener.status().message();
  EXPECT_NE(bound.port, 0);
  ExpectConnected(bound, listener->front().get());
  const Result<std::vector<UniqueFd>> second = Listen(bound, nullptr);
  ASSERT_FALSE(second.ok());
  EXPECT_EQ(second.status().error(), EADDRINUSE);
}

TEST(Socket, ListensAtEveryAddressOfItsName) {
  Endpoint bound;
  Result<std::vector<UniqueFd>> listeners = Listen(*ParseEndpoint("tcp://:0"), &bound);
  ASSERT_TRUE(listeners.ok()) << listeners.status().message();
  Result<std::vector<SocketAddress>> all = Resolve(bound);
  ASSERT_EQ(all->size(), 2u) << "IPv4 and IPv6";
  std::vector<std::string> names;
  for (const UniqueFd& fd : *listeners) {
    SocketAddress own;
    own.length = sizeof(own.storage);
    getsockname(fd.get(), reinterpret_cast<sockaddr*>(&own.storage), &own.length);
    names.push_back(own.ToString());
  }
  const std::string port = std::to_string(bound.port);
  if (listeners->size() == 1) {
    EXPECT_THAT(names, testing::ElementsAre("tcp://0.0.0.0:" + port));
    GTEST_SKIP() << "no IPv6 here";
  }
  EXPECT_THAT(names, testing::UnorderedElementsAre("tcp://0.0.0.0:" + port, "tcp://[::]:" + port));
  EXPECT_EQ(Listen(bound, nullptr).status().error(), EADDRINUSE);
}

TEST(Socket, AloneTheAddressForAllServesIpv4Too) {
  Endpoint bound;
  Result<std::vector<UniqueFd>> listener = Listen(*ParseEndpoint("tcp://[::]:0"), &bound);
  if (!listener.ok()) GTEST_SKIP() << "no IPv6 here: " << listener.status().message();
  bound.host = "127.0.0.1";
  ExpectConnected(bound, listener->front().get());
}

TEST(Socket, AnAddressOfAnotherHostIsNamed) {
  const Result<std::vector<UniqueFd>> listener =
      Listen(*ParseEndpoint("tcp://192.0.2.1:0"), nullptr);
  ASSERT_FALSE(listener.ok());
  EXPECT_EQ(listener.status().error(), EADDRNOTAVAIL);
  EXPECT_THAT(listener.status().message(), HasSubstr("cannot listen on tcp://192.0.2.1:0"));
}

std::string CongestionControl(int fd) {
  std::array<char, 16> name{};
  socklen_t size = name.size() - 1;
  EXPECT_EQ(getsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, name.data(), &size), 0);
  return name.data();
}

struct Way {
  const char* listen;
  const char* connect;
};

class Loopback : public testing::TestWithParam<Way> {};

TEST_P(Loopback, NothingPacesAConnectionWithinTheHost) {
  Endpoint wanted;
  wanted.host = GetParam().listen;
  Endpoint bound;
  Result<std::vector<UniqueFd>> listener = Listen(wanted, &bound);
  if (!listener.ok() && wanted.host.find(':') != std::string::npos) {
    GTEST_SKIP() << "no IPv6 here: " << listener.status().message();
  }
  ASSERT_TRUE(listener.ok()) << listener.status().message();
  bound.host = GetParam().connect;
  Result<UniqueFd> client = Connect(Resolve(bound)->front());
  ASSERT_TRUE(client.ok()) << client.status().message();
  pollfd ready{.fd = listener->front().get(), .events = POLLIN, .revents = 0};
  ASSERT_EQ(poll(&ready, 1, 10'000), 1);
  Result<UniqueFd> server = Accept(listener->front().get(), nullptr);
  ASSERT_TRUE(server.ok()) << server.status().message();
  for (const int fd : {client->get(), server->get()}) {
    ApplySettings(fd, {});
    EXPECT_EQ(CongestionControl(fd), "reno");
  }
}

INSTANTIATE_TEST_SUITE_P(Socket, Loopback,
                         testing::Values(Way{"127.0.0.1", "127.0.0.1"}, Way{"::1", "::1"},
                                         Way{"::", "127.0.0.1"}));

TEST(Socket, ElsewhereTheHostsCongestionControlStays) {
  const UniqueFd fd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const std::string usual = CongestionControl(fd.get());
  ASSERT_FALSE(usual.empty());
  ApplySettings(fd.get(), {});
  EXPECT_EQ(CongestionControl(fd.get()), usual);
}

int TcpOption(int fd, int option) {
  int value = -1;
  socklen_t size = sizeof(value);
  EXPECT_EQ(getsockopt(fd, IPPROTO_TCP, option, &value, &size), 0);
  return value;
}

// A segment is sent at once, what a slow peer has not taken stays with its sender, and the kernel
// finds a dead peer without anything of ours waking up.
TEST(Socket, SetsWhatItWasAskedFor) {
  const UniqueFd fd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  SocketSettings settings;
  settings.notsent_lowat = 77'777;
  settings.dead_peer_ms = 20'000;
  ApplySettings(fd.get(), settings);
  EXPECT_EQ(TcpOption(fd.get(), TCP_NODELAY), 1);
  EXPECT_EQ(TcpOption(fd.get(), TCP_NOTSENT_LOWAT), 77'777);
  int alive = 0;
  socklen_t size = sizeof(alive);
  EXPECT_EQ(getsockopt(fd.get(), SOL_SOCKET, SO_KEEPALIVE, &alive, &size), 0);
  EXPECT_EQ(alive, 1);
  const int probes = TcpOption(fd.get(), TCP_KEEPCNT);
  EXPECT_EQ(TcpOption(fd.get(), TCP_KEEPIDLE) + probes * TcpOption(fd.get(), TCP_KEEPINTVL), 20);
  EXPECT_EQ(TcpOption(fd.get(), TCP_USER_TIMEOUT), 20'000);
}

TEST(Socket, ReplacesAStaleUnixSocketButNotALiveOne) {
  char folder[] = "/tmp/cloudblk-socket-XXXXXX";
  ASSERT_NE(mkdtemp(folder), nullptr);
  const std::string path = std::string(folder) + "/s";
  const Endpoint endpoint = *ParseEndpoint("unix://" + path);
  {
    Result<std::vector<UniqueFd>> listener = Listen(endpoint, nullptr);
    ASSERT_TRUE(listener.ok()) << listener.status().message();
    EXPECT_EQ(Listen(endpoint, nullptr).status().error(), EADDRINUSE);
  }
  Endpoint bound;
  Result<std::vector<UniqueFd>> listener = Listen(endpoint, &bound);
  ASSERT_TRUE(listener.ok()) << listener.status().message();
  EXPECT_EQ(bound, endpoint);
  ExpectConnected(bound, listener->front().get());
  unlink(path.c_str());
  rmdir(folder);
}

TEST(Socket, LeavesAFileThatIsNoSocketWhereItIs) {
  char folder[] = "/tmp/cloudblk-socket-XXXXXX";
  ASSERT_NE(mkdtemp(folder), nullptr);
  const std::string path = std::string(folder) + "/s";
  const UniqueFd file(open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL, 0600));
  ASSERT_TRUE(file);
  const Result<std::vector<UniqueFd>> listener = Listen(*ParseEndpoint("unix://" + path), nullptr);
  ASSERT_FALSE(listener.ok());
  EXPECT_THAT(listener.status().message(), HasSubstr("no socket"));
  EXPECT_EQ(unlink(path.c_str()), 0);
  rmdir(folder);
}

TEST(Socket, AUnixPathThatIsTooLongIsNamed) {
  const Result<std::vector<UniqueFd>> listener =
      Listen(*ParseEndpoint("unix:///" + std::string(200, 'x')), nullptr);
  ASSERT_FALSE(listener.ok());
  EXPECT_THAT(listener.status().message(), HasSubstr("too long"));
}

TEST(Socket, ARefusedConnectionSaysSo) {
  Endpoint bound;
  {
    Result<std::vector<UniqueFd>> listener = Listen(*ParseEndpoint("tcp://127.0.0.1:0"), &bound);
    ASSERT_TRUE(listener.ok());
  }
  Result<UniqueFd> client = Connect(Resolve(bound)->front());
  if (!client.ok()) {
    EXPECT_EQ(client.status().error(), ECONNREFUSED);
    return;
  }
  pollfd ready{.fd = client->get(), .events = POLLOUT, .revents = 0};
  ASSERT_EQ(poll(&ready, 1, 10'000), 1);
  EXPECT_EQ(ConnectError(client->get()), ECONNREFUSED);
}

}  // namespace
}  // namespace cloudblk
