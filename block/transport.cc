// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/transport.h"

#include <sys/socket.h>

#include <cerrno>

namespace cloudblk {
namespace {

class SocketTransport final : public Transport {
 public:
  explicit SocketTransport(UniqueFd fd) : fd_(std::move(fd)) {}

  int fd() const override { return fd_.get(); }
  int ConnectResult() override { return -ConnectError(fd_.get()); }

  ssize_t Readv(const iovec* iov, int count) override {
    msghdr message{};
    message.msg_iov = const_cast<iovec*>(iov);
    message.msg_iovlen = count;
    ssize_t n;
    do {
      n = recvmsg(fd_.get(), &message, MSG_DONTWAIT);
    } while (n < 0 && errno == EINTR);
    return n < 0 ? -errno : n;
  }

  ssize_t Writev(const iovec* iov, int count) override {
    msghdr message{};
    message.msg_iov = const_cast<iovec*>(iov);
    message.msg_iovlen = count;
    ssize_t n;
    do {
      n = sendmsg(fd_.get(), &message, MSG_DONTWAIT | MSG_NOSIGNAL);
    } while (n < 0 && errno == EINTR);
    return n < 0 ? -errno : n;
  }

 private:
  const UniqueFd fd_;
};

}  // namespace

Result<std::unique_ptr<Transport>> SocketConnector::Connect(size_t index) const {
  Result<UniqueFd> fd = cloudblk::Connect(addresses_[index]);
  if (!fd.ok()) return fd.status();
  ApplySettings(fd->get(), settings_);
  return std::unique_ptr<Transport>(std::make_unique<SocketTransport>(std::move(*fd)));
}

}  // namespace cloudblk
