// SPDX-License-Identifier: GPL-2.0-or-later
#include "tests/support/cpp/tcp_fake_server.h"

#include <gtest/gtest.h>
#include <sys/socket.h>

#include <future>
#include <vector>

namespace cloudblk::testing {

class TcpFakeServer::Connection final : public FdHandler {
 public:
  Connection(EpollLoop* loop, FakeServer* server, UniqueFd fd)
      : loop_(loop), server_(server), fd_(std::move(fd)), link_(std::make_shared<MemoryLink>()) {
    server_->Accept(link_);
    loop_->Watch(fd_.get(), true, false, this);
  }
  ~Connection() { loop_->Unwatch(fd_.get()); }

  void OnReadable() override {
    std::vector<char> buffer(1 << 20);
    const ssize_t n = recv(fd_.get(), buffer.data(), buffer.size(), MSG_DONTWAIT);
    if (n <= 0) return loop_->Watch(fd_.get(), false, false, this);
    link_->to_server.append(buffer.data(), n);
    while (server_->Step()) {
    }
    OnWritable();
  }

  void OnWritable() override {
    std::string& bytes = link_->to_client;
    const ssize_t n = send(fd_.get(), bytes.data(), bytes.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n > 0) bytes.erase(0, n);
    if (bytes.empty() && link_->server_closed) {
      shutdown(fd_.get(), SHUT_RDWR);
      return loop_->Watch(fd_.get(), false, false, this);
    }
    loop_->Watch(fd_.get(), true, !bytes.empty(), this);
  }

 private:
  EpollLoop* const loop_;
  FakeServer* const server_;
  const UniqueFd fd_;
  const std::shared_ptr<MemoryLink> link_;
};

class TcpFakeServer::Listener final : public FdHandler {
 public:
  explicit Listener(TcpFakeServer* owner) : owner_(owner) {}
  void OnReadable() override {
    Result<UniqueFd> fd = Accept(owner_->listener_.get(), nullptr);
    if (!fd.ok()) return;
    owner_->connection_.reset();
    owner_->connection_ =
        std::make_unique<Connection>(owner_->loop_.get(), &owner_->server_, std::move(*fd));
  }
  void OnWritable() override {}

 private:
  TcpFakeServer* const owner_;
};

TcpFakeServer::TcpFakeServer(uint64_t size)
    : loop_(std::move(EpollLoop::Create().value())),
      listener_(std::move(Listen(*ParseEndpoint("tcp://127.0.0.1:0"), &bound_)->front())),
      server_(size),
      acceptor_(std::make_unique<Listener>(this)) {
  loop_->Watch(listener_.get(), true, false, acceptor_.get());
  thread_ = std::thread([this] { loop_->Run(); });
}

TcpFakeServer::~TcpFakeServer() {
  loop_->Stop();
  thread_.join();
  connection_.reset();
  loop_->Unwatch(listener_.get());
}

std::string TcpFakeServer::uri() const {
  return "cloudblk://127.0.0.1:" + std::to_string(bound_.port) + "/volume";
}

void TcpFakeServer::Do(const std::function<void(FakeServer*)>& fn) {
  std::promise<void> done;
  loop_->Post([&] {
    fn(&server_);
    if (connection_ != nullptr) connection_->OnWritable();
    done.set_value();
  });
  done.get_future().wait();
}

}  // namespace cloudblk::testing
