// SPDX-License-Identifier: GPL-2.0-or-later
#include "base/socket.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <cstddef>
#include <cstring>
#include <memory>

namespace cloudblk {
namespace {

constexpr int kBacklog = 128;
constexpr int kPortsTried = 20;

bool ParsePort(std::string_view text, uint16_t* port) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), *port);
  return error == std::errc() && end == text.data() + text.size();
}

Status FromErrno(const std::string& what, int error) {
  return Status(error, what + ": " + std::strerror(error));
}

Result<SocketAddress> UnixAddress(const std::string& path) {
  SocketAddress address;
  auto* un = reinterpret_cast<sockaddr_un*>(&address.storage);
  if (path.size() >= sizeof(un->sun_path)) {
    return Status(EINVAL, "socket path " + path + " is too long: at most " +
                              std::to_string(sizeof(un->sun_path) - 1) + " bytes are possible");
  }
  un->sun_family = AF_UNIX;
  std::copy(path.begin(), path.end(), un->sun_path);
  address.length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + path.size() + 1);
  return address;
}

// Removes a socket file that refuses connections: its listener was killed.
void RemoveStaleSocket(const SocketAddress& address, const std::string& path) {
  struct stat info;
  if (lstat(path.c_str(), &info) != 0 || !S_ISSOCK(info.st_mode)) return;
  const UniqueFd probe(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!probe) return;
  const auto* name = reinterpret_cast<const sockaddr*>(&address.storage);
  if (connect(probe.get(), name, address.length) != 0 && errno == ECONNREFUSED) {
    unlink(path.c_str());
  }
}

void SetOption(int fd, int level, int option, int value) {
  setsockopt(fd, level, option, &value, sizeof(value));
}

bool IsLoopback(const sockaddr_storage& own) {
  constexpr uint32_t kNet = 127;
  if (own.ss_family == AF_INET) {
    return ntohl(reinterpret_cast<const sockaddr_in*>(&own)->sin_addr.s_addr) >> 24 == kNet;
  }
  if (own.ss_family != AF_INET6) return false;
  const in6_addr& address = reinterpret_cast<const sockaddr_in6*>(&own)->sin6_addr;
  return IN6_IS_ADDR_LOOPBACK(&address) ||
         (IN6_IS_ADDR_V4MAPPED(&address) && address.s6_addr[12] == kNet);
}

// Whether both ends are on this host, by the address of ours.
bool IsLoopback(int fd) {
  sockaddr_storage own;
  socklen_t size = sizeof(own);
  return getsockname(fd, reinterpret_cast<sockaddr*>(&own), &size) == 0 && IsLoopback(own);
}

uint16_t PortOf(const sockaddr_storage& storage) {
  return ntohs(storage.ss_family == AF_INET6
                   ? reinterpret_cast<const sockaddr_in6*>(&storage)->sin6_port
                   : reinterpret_cast<const sockaddr_in*>(&storage)->sin_port);
}

void SetPort(sockaddr_storage* storage, uint16_t port) {
  if (storage->ss_family == AF_INET6) {
    reinterpret_cast<sockaddr_in6*>(storage)->sin6_port = htons(port);
  } else {
    reinterpret_cast<sockaddr_in*>(storage)->sin_port = htons(port);
  }
}

// `only`: it is the endpoint's only address.
Result<UniqueFd> ListenAt(const Endpoint& endpoint, const SocketAddress& address, bool only) {
  const std::string what = "cannot listen on " + (only ? endpoint.ToString() : address.ToString());
  const int family = address.storage.ss_family;
  UniqueFd fd(socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd) return FromErrno(what, errno);
  if (family == AF_UNIX) {
    RemoveStaleSocket(address, endpoint.path);
  } else {
    // A restarted server must not wait for its predecessor's connections to time out.
    SetOption(fd.get(), SOL_SOCKET, SO_REUSEADDR, 1);
  }
  // Else a socket at :: takes 0.0.0.0 as well, and a second one cannot be bound there.
  if (family == AF_INET6 && !only) SetOption(fd.get(), IPPROTO_IPV6, IPV6_V6ONLY, 1);
  const auto* name = reinterpret_cast<const sockaddr*>(&address.storage);
  if (bind(fd.get(), name, address.length) == 0 && listen(fd.get(), kBacklog) == 0) return fd;
  const int error = errno;
  Status status = FromErrno(what, error);
  if (error != EADDRINUSE) return status;
  struct stat info{};
  if (family == AF_UNIX && lstat(endpoint.path.c_str(), &info) == 0 && !S_ISSOCK(info.st_mode)) {
    return Status(error, what + ": there is a file that is no socket; choose another path");
  }
  return Status(error, status.message() + "; choose another, or stop the server that uses it");
}

// *port: which to bind, 0: any; gets the one that was bound.
Result<std::vector<UniqueFd>> ListenAtAll(const Endpoint& endpoint,
                                          const std::vector<SocketAddress>& addresses,
                                          uint16_t* port) {
  std::vector<UniqueFd> fds;
  Status missing;
  for (SocketAddress address : addresses) {
    if (endpoint.kind == Endpoint::Kind::kTcp) SetPort(&address.storage, *port);
    Result<UniqueFd> fd = ListenAt(endpoint, address, addresses.size() == 1);
    if (!fd.ok()) {
      // A name may have addresses that this host has not, or of a kind that it does not know.
      const int error = fd.status().error();
      if (error != EADDRNOTAVAIL && error != EAFNOSUPPORT) return fd.status();
      missing = fd.status();
      continue;
    }
    address.length = sizeof(address.storage);
    auto* name = reinterpret_cast<sockaddr*>(&address.storage);
    if (endpoint.kind == Endpoint::Kind::kTcp &&
        getsockname(fd->get(), name, &address.length) == 0) {
      *port = PortOf(address.storage);
    }
    fds.push_back(std::move(*fd));
  }
  if (fds.empty()) return missing;
  return fds;
}

}  // namespace

void UniqueFd::reset(int fd) {
  if (fd_ >= 0) close(fd_);
  fd_ = fd;
}

std::string Endpoint::ToString() const {
  if (kind == Kind::kUnix) return (tls ? "tls+unix://" : "unix://") + path;
  const bool v6 = host.find(':') != std::string::npos;
  return (tls ? "tls://" : "tcp://") + (v6 ? "[" + host + "]" : host) + ":" + std::to_string(port);
}

Result<Endpoint> ParseHostPort(std::string_view text, uint16_t default_port) {
  const auto bad = [&](const char* why) {
    return Status(EINVAL, "address '" + std::string(text) + "' " + why +
                              "; write HOST:PORT, or [ADDRESS]:PORT for IPv6");
  };
  Endpoint endpoint;
  endpoint.port = default_port;
  std::string_view port;
  if (text.starts_with('[')) {
    const size_t close = text.find(']');
    if (close == std::string_view::npos) return bad("lacks a closing bracket");
    endpoint.host = text.substr(1, close - 1);
    port = text.substr(close + 1);
    if (!port.empty() && port[0] != ':') return bad("has text behind the bracket");
  } else {
    const size_t colon = text.find(':');
    if (colon != text.rfind(':')) return bad("has several colons");
    endpoint.host = text.substr(0, colon);
    port = colon == std::string_view::npos ? std::string_view() : text.substr(colon);
  }
  if (endpoint.host.find_first_of("[]") != std::string::npos) return bad("has a bracket too many");
  if (!port.empty() && !ParsePort(port.substr(1), &endpoint.port)) {
    return bad("has no port number from 0 to 65535");
  }
  return endpoint;
}

Result<Endpoint> ParseEndpoint(std::string_view text) {
  struct Form {
    std::string_view scheme;
    Endpoint::Kind kind;
    bool tls;
  };
  constexpr std::array<Form, 4> kForms = {{{"tcp://", Endpoint::Kind::kTcp, false},
                                           {"tls://", Endpoint::Kind::kTcp, true},
                                           {"unix://", Endpoint::Kind::kUnix, false},
                                           {"tls+unix://", Endpoint::Kind::kUnix, true}}};
  for (const Form& form : kForms) {
    if (!text.starts_with(form.scheme)) continue;
    const std::string_view rest = text.substr(form.scheme.size());
    Endpoint endpoint;
    if (form.kind == Endpoint::Kind::kUnix) {
      if (!rest.starts_with('/')) break;
      endpoint.kind = form.kind;
      endpoint.path = rest;
    } else {
      const size_t bracket = rest.rfind(']');
      if (rest.find(':', bracket == std::string_view::npos ? 0 : bracket) ==
          std::string_view::npos) {
        return Status(EINVAL, "address '" + std::string(text) + "' lacks a port; write " +
                                  std::string(form.scheme) + "HOST:PORT");
      }
      Result<Endpoint> parsed = ParseHostPort(rest, 0);
      if (!parsed.ok()) return parsed;
      endpoint = *parsed;
    }
    endpoint.tls = form.tls;
    return endpoint;
  }
  return Status(EINVAL,
                "address '" + std::string(text) +
                    "' is not understood; write tcp://HOST:PORT or unix:///PATH, or with TLS "
                    "tls://HOST:PORT or tls+unix:///PATH");
}

bool SocketAddress::operator==(const SocketAddress& other) const {
  return length == other.length && std::memcmp(&storage, &other.storage, length) == 0;
}

bool SocketAddress::IsLocal() const { return storage.ss_family == AF_UNIX || IsLoopback(storage); }

std::string SocketAddress::ToString() const {
  if (storage.ss_family == AF_UNIX) {
    const auto* un = reinterpret_cast<const sockaddr_un*>(&storage);
    const size_t most =
        length > offsetof(sockaddr_un, sun_path) ? length - offsetof(sockaddr_un, sun_path) : 0;
    const std::string path(un->sun_path, strnlen(un->sun_path, most));
    return path.empty() ? "unix:" : "unix://" + path;
  }
  char host[INET6_ADDRSTRLEN] = "";
  Endpoint endpoint;
  if (storage.ss_family == AF_INET6) {
    inet_ntop(AF_INET6, &reinterpret_cast<const sockaddr_in6*>(&storage)->sin6_addr, host,
              sizeof(host));
  } else {
    inet_ntop(AF_INET, &reinterpret_cast<const sockaddr_in*>(&storage)->sin_addr, host,
              sizeof(host));
  }
  endpoint.host = host;
  endpoint.port = PortOf(storage);
  return endpoint.ToString();
}

bool HasName(const Endpoint& endpoint) {
  in6_addr address;
  return endpoint.kind == Endpoint::Kind::kTcp && !endpoint.host.empty() &&
         inet_pton(AF_INET, endpoint.host.c_str(), &address) != 1 &&
         inet_pton(AF_INET6, endpoint.host.c_str(), &address) != 1;
}

Result<std::vector<SocketAddress>> Resolve(const Endpoint& endpoint) {
  std::vector<SocketAddress> addresses;
  if (endpoint.kind == Endpoint::Kind::kUnix) {
    Result<SocketAddress> address = UnixAddress(endpoint.path);
    if (!address.ok()) return address.status();
    addresses.push_back(*address);
    return addresses;
  }
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_NUMERICSERV | (endpoint.host.empty() ? AI_PASSIVE : 0);
  addrinfo* found = nullptr;
  const int error = getaddrinfo(endpoint.host.empty() ? nullptr : endpoint.host.c_str(),
                                std::to_string(endpoint.port).c_str(), &hints, &found);
  const std::unique_ptr<addrinfo, decltype(&freeaddrinfo)> guard(found, freeaddrinfo);
  if (error != 0) {
    return Status(error == EAI_SYSTEM ? errno : EHOSTUNREACH,
                  "cannot resolve host '" + endpoint.host + "': " + gai_strerror(error) +
                      "; check the name or give an address");
  }
  for (const addrinfo* info = found; info != nullptr; info = info->ai_next) {
    SocketAddress address;
    std::memcpy(&address.storage, info->ai_addr, info->ai_addrlen);
    address.length = info->ai_addrlen;
    address.host = endpoint.host;
    // Twice in /etc/hosts, say.
    if (std::ranges::find(addresses, address) == addresses.end()) addresses.push_back(address);
  }
  return addresses;
}

void ApplySettings(int fd, const SocketSettings& settings) {
  // On a unix socket these are refused, and not needed: its peer cannot vanish silently.
  SetOption(fd, IPPROTO_TCP, TCP_NODELAY, 1);
  SetOption(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, static_cast<int>(settings.notsent_lowat));
  if (IsLoopback(fd)) {
    // There is no network whose congestion could be controlled, and a congestion control that paces
    // (BBR, which some hosts have as their default) costs timers and a quarter of the throughput.
    // All kernels have reno.
    constexpr std::string_view kReno = "reno";
    setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, kReno.data(), kReno.size());
  }
  if (settings.dead_peer_ms == 0) return;
  constexpr int kProbes = 3;
  const int interval_s =
      std::max(1, static_cast<int>(settings.dead_peer_ms / 1000 / (kProbes + 1)));
  SetOption(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
  SetOption(fd, IPPROTO_TCP, TCP_KEEPIDLE, interval_s);
  SetOption(fd, IPPROTO_TCP, TCP_KEEPINTVL, interval_s);
  SetOption(fd, IPPROTO_TCP, TCP_KEEPCNT, kProbes);
  SetOption(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, static_cast<int>(settings.dead_peer_ms));
}

Result<std::vector<UniqueFd>> Listen(const Endpoint& endpoint, Endpoint* bound) {
  Result<std::vector<SocketAddress>> addresses = Resolve(endpoint);
  if (!addresses.ok()) return addresses.status();
  // With several addresses the port that the kernel chose for one may be taken at another.
  for (int attempts = 1;; ++attempts) {
    uint16_t port = endpoint.port;
    Result<std::vector<UniqueFd>> fds = ListenAtAll(endpoint, *addresses, &port);
    if (!fds.ok() && fds.status().error() == EADDRINUSE && endpoint.port == 0 && port != 0 &&
        attempts < kPortsTried) {
      continue;
    }
    if (fds.ok() && bound != nullptr) {
      *bound = endpoint;
      bound->port = port;
    }
    return fds;
  }
}

Result<UniqueFd> Accept(int listener, SocketAddress* peer) {
  SocketAddress address;
  address.length = sizeof(address.storage);
  UniqueFd fd(accept4(listener, reinterpret_cast<sockaddr*>(&address.storage), &address.length,
                      SOCK_CLOEXEC | SOCK_NONBLOCK));
  if (!fd) return FromErrno("cannot accept a connection", errno);
  if (peer != nullptr) *peer = address;
  return fd;
}

Result<UniqueFd> Connect(const SocketAddress& address) {
  const std::string what = "cannot connect to " + address.ToString();
  UniqueFd fd(socket(address.storage.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd) return FromErrno(what, errno);
  const auto* name = reinterpret_cast<const sockaddr*>(&address.storage);
  if (connect(fd.get(), name, address.length) != 0 && errno != EINPROGRESS) {
    return FromErrno(what, errno);
  }
  return fd;
}

int ConnectError(int fd) {
  int error = 0;
  socklen_t size = sizeof(error);
  if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size) != 0) return errno;
  if (error != 0) return error;
  sockaddr_storage peer;
  size = sizeof(peer);
  if (getpeername(fd, reinterpret_cast<sockaddr*>(&peer), &size) == 0) return 0;
  return errno == ENOTCONN ? EINPROGRESS : errno;
}

}  // namespace cloudblk
