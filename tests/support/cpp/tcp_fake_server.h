// SPDX-License-Identifier: GPL-2.0-or-later
//
// The fake server behind a real socket, on a thread of its own.
#ifndef CLOUDBLK_TESTS_SUPPORT_CPP_TCP_FAKE_SERVER_H_
#define CLOUDBLK_TESTS_SUPPORT_CPP_TCP_FAKE_SERVER_H_

#include <functional>
#include <memory>
#include <string>
#include <thread>

#include "base/epoll_loop.h"
#include "base/socket.h"
#include "tests/support/cpp/fake_server.h"

namespace cloudblk::testing {

// One connection at a time: a new one replaces the old.
class TcpFakeServer {
 public:
  explicit TcpFakeServer(uint64_t size);
  ~TcpFakeServer();

  // cloudblk://127.0.0.1:PORT/volume
  std::string uri() const;
  // Runs fn on the server's thread, and waits for it: the way to look at the server or change it.
  void Do(const std::function<void(FakeServer*)>& fn);

 private:
  class Connection;
  class Listener;

  std::unique_ptr<EpollLoop> loop_;
  Endpoint bound_;
  UniqueFd listener_;
  FakeServer server_;
  std::unique_ptr<Listener> acceptor_;
  std::unique_ptr<Connection> connection_;
  std::thread thread_;
};

}  // namespace cloudblk::testing

#endif  // CLOUDBLK_TESTS_SUPPORT_CPP_TCP_FAKE_SERVER_H_
