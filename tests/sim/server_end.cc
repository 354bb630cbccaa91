// SPDX-License-Identifier: GPL-2.0-or-later
#include "tests/sim/server_end.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string>
#include <utility>

#include "proxy-protocol/wire.h"

namespace cloudblk::testing {
namespace {

class ServerEndTransport final : public Transport {
 public:
  ServerEndTransport(ManualLoop* loop, int fd, std::shared_ptr<MemoryLink> link, uint32_t* crc)
      : loop_(loop), fd_(fd), link_(std::move(link)), crc_(crc) {
    loop_->SetReadiness(fd_, [this] {
      Take();
      return Readiness{!input_.empty() || Ended(), Room() > 0 || Ended()};
    });
  }
  ~ServerEndTransport() override {
    EXPECT_FALSE(loop_->watches(fd_)) << "closed while watched";
    loop_->ForgetReadiness(fd_);
    link_->server_closed = true;
  }

  int fd() const override { return fd_; }
  int ConnectResult() override { return 0; }
  bool PeerGone() const override { return Ended(); }

  ssize_t Readv(const iovec* iov, int count) override {
    Take();
    const size_t most = std::min(input_.size(), link_->habits.write_chunk);
    if (most == 0) return Ended() ? 0 : -EAGAIN;
    size_t moved = 0;
    for (int i = 0; i < count && moved < most; ++i) {
      const size_t n = std::min(iov[i].iov_len, most - moved);
      std::memcpy(iov[i].iov_base, input_.data() + moved, n);
      Note(iov[i].iov_base, n);
      moved += n;
    }
    input_.erase(0, moved);
    return static_cast<ssize_t>(moved);
  }

  ssize_t Writev(const iovec* iov, int count) override {
    if (Ended()) return -EPIPE;
    if (Room() == 0) return -EAGAIN;
    size_t moved = 0;
    for (int i = 0; i < count && Room() > 0; ++i) {
      const size_t n = std::min(iov[i].iov_len, Room());
      link_->to_client.append(static_cast<const char*>(iov[i].iov_base), n);
      Note(iov[i].iov_base, n);
      moved += n;
    }
    return static_cast<ssize_t>(moved);
  }

 private:
  void Take() {
    if (!link_->server_closed) input_ += link_->TakeForServer();
  }
  void Note(const void* data, size_t length) {
    *crc_ = wire::Crc32c(*crc_, {static_cast<const uint8_t*>(data), length});
  }
  // Bytes that the client's side takes.
  size_t Room() const {
    const size_t most = link_->habits.receive_buffer;
    return most - std::min(most, link_->to_client.size());
  }
  // What was taken before is still to be read.
  bool Ended() const { return link_->client_closed || link_->server_closed; }

  ManualLoop* const loop_;
  const int fd_;
  const std::shared_ptr<MemoryLink> link_;
  uint32_t* const crc_;
  std::string input_;
};

}  // namespace

std::unique_ptr<Transport> ServerEnd(ManualLoop* loop, std::shared_ptr<MemoryLink> link,
                                     uint32_t* crc) {
  return std::make_unique<ServerEndTransport>(loop, loop->NewFd(), std::move(link), crc);
}

}  // namespace cloudblk::testing
