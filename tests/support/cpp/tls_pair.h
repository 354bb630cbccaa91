// SPDX-License-Identifier: GPL-2.0-or-later
#ifndef CLOUDBLK_TESTS_SUPPORT_CPP_TLS_PAIR_H_
#define CLOUDBLK_TESTS_SUPPORT_CPP_TLS_PAIR_H_

#include <sys/socket.h>

#include <cerrno>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include "base/tls_transport.h"

namespace cloudblk::testing {

// A connected pair of plain connections.
inline std::pair<UniqueFd, UniqueFd> SocketPair() {
  int fds[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds) != 0) std::abort();
  return {UniqueFd(fds[0]), UniqueFd(fds[1])};
}

// One side of a connection, with what it is to say and what it has heard.
struct Side {
  std::unique_ptr<Transport> transport{};
  std::string says{};
  std::string heard{};
  bool ended = false;  // the peer's stream, in order
  int error = 0;       // what broke it, a positive errno

  // Writes and reads as far as it goes. Whether anything has moved.
  bool Step() {
    bool moved = false;
    while (error == 0 && !says.empty()) {
      const iovec out{says.data(), says.size()};
      const ssize_t n = transport->Writev(&out, 1);
      if (n == -EAGAIN) break;
      if (n < 0) {
        error = static_cast<int>(-n);
        return true;
      }
      moved = true;
      says.erase(0, static_cast<size_t>(n));
    }
    while (error == 0 && !ended) {
      char buffer[5000];
      const iovec in{buffer, sizeof(buffer)};
      const ssize_t n = transport->Readv(&in, 1);
      if (n == -EAGAIN) break;
      moved = true;
      if (n < 0) error = static_cast<int>(-n);
      if (n == 0) ended = true;
      if (n > 0) heard.append(buffer, static_cast<size_t>(n));
    }
    return moved;
  }
};

// Both, until nothing moves any more. Reading first goes on behind a message that is all in the
// sockets' buffers: several rounds in which nothing moves end it.
inline void Talk(Side* client, Side* server) {
  for (int idle = 0; idle < 4; ++idle) {
    bool moved = client->transport != nullptr && client->Step();
    moved = (server->transport != nullptr && server->Step()) || moved;
    if (moved) idle = 0;
  }
}

inline std::unique_ptr<Transport> Secured(UniqueFd fd,
                                          std::shared_ptr<const TlsCredentials> credentials,
                                          const std::string& hostname = "", bool waits = false) {
  return std::move(
      MakeTlsTransport(AcceptedTransport(std::move(fd)), std::move(credentials), hostname, waits)
          .value());
}

}  // namespace cloudblk::testing

#endif  // CLOUDBLK_TESTS_SUPPORT_CPP_TLS_PAIR_H_
