// SPDX-License-Identifier: GPL-2.0-or-later
//
// Stream sockets, TCP and unix, as the engine, the proxy and the tools use them: non-blocking,
// close-on-exec.
#ifndef CLOUDBLK_BASE_SOCKET_H_
#define CLOUDBLK_BASE_SOCKET_H_

#include <sys/socket.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace cloudblk {

// Owns a descriptor.
class UniqueFd {
 public:
  UniqueFd() = default;
  explicit UniqueFd(int fd) : fd_(fd) {}
  UniqueFd(UniqueFd&& other) noexcept : fd_(other.release()) {}
  UniqueFd& operator=(UniqueFd&& other) noexcept {
    reset(other.release());
    return *this;
  }
  ~UniqueFd() { reset(); }

  int get() const { return fd_; }
  explicit operator bool() const { return fd_ >= 0; }
  int release() { return std::exchange(fd_, -1); }
  void reset(int fd = -1);

 private:
  int fd_ = -1;
};

// Where to connect or listen.
struct Endpoint {
  enum class Kind { kTcp, kUnix };
  Kind kind = Kind::kTcp;
  std::string host;   // name or address, without brackets; empty: every address of this host
  uint16_t port = 0;  // 0: the kernel chooses (listen only)
  std::string path;   // kUnix
  bool tls = false;   // what is spoken there

  bool operator==(const Endpoint&) const = default;
  // As ParseEndpoint reads it.
  std::string ToString() const;
};

// `tcp://HOST:PORT`, `tcp://[V6]:PORT` or `unix:///PATH`; with TLS `tls://HOST:PORT`,
// `tls+unix:///PATH`. EINVAL.
Result<Endpoint> ParseEndpoint(std::string_view text);

// `HOST[:PORT]` or `[V6][:PORT]`, into a TCP endpoint. EINVAL.
Result<Endpoint> ParseHostPort(std::string_view text, uint16_t default_port);

// What a socket call takes, for one resolved address.
struct SocketAddress {
  sockaddr_storage storage{};
  socklen_t length = 0;
  std::string host{};  // that it was found for; does not count in comparisons

  bool operator==(const SocketAddress& other) const;
  // Whether only this host can connect to it, or from it.
  bool IsLocal() const;
  // `tcp://ADDRESS:PORT` or `unix:///PATH`; `unix:` for an unnamed one.
  std::string ToString() const;
};

// Whether its host is a name: then Resolve asks a name service, whose answer may change.
bool HasName(const Endpoint& endpoint);

// Every address of the endpoint in the resolver's order, at least one. Blocks on the name service.
Result<std::vector<SocketAddress>> Resolve(const Endpoint& endpoint);

// What a data connection is set to. Failures are ignored: a connection without them works.
struct SocketSettings {
  // Unsent bytes that the kernel may hold. What waits there can no longer be overtaken; but the
  // fewer they are, the more often a sender of bulk data is woken (with 512 KiB, reads of 128 KiB
  // lost a tenth of their throughput).
  uint32_t notsent_lowat = 1 << 20;
  // The kernel ends a connection whose peer acknowledges nothing for so long. Keepalives are sent
  // at a quarter of it. 0: as the kernel has it.
  uint32_t dead_peer_ms = 30'000;
};
void ApplySettings(int fd, const SocketSettings& settings);

// Listening sockets, one for every address that the endpoint has on this host, at least one, all at
// the same port. *bound, if not null, gets the endpoint with the port that the kernel chose.
// A unix socket file that nobody listens on any more is replaced.
Result<std::vector<UniqueFd>> Listen(const Endpoint& endpoint, Endpoint* bound);

// The next connection. errno EAGAIN when there is none. *peer may be null.
Result<UniqueFd> Accept(int listener, SocketAddress* peer);

// Starts to connect: watch for writability and ask ConnectError then.
Result<UniqueFd> Connect(const SocketAddress& address);

// 0 once connected, EINPROGRESS while under way, else what the connection failed with.
int ConnectError(int fd);

}  // namespace cloudblk

#endif  // CLOUDBLK_BASE_SOCKET_H_
