// SPDX-License-Identifier: GPL-2.0-or-later
//
// A byte stream to a server, and what makes one.
#ifndef CLOUDBLK_BLOCK_TRANSPORT_H_
#define CLOUDBLK_BLOCK_TRANSPORT_H_

#include <sys/types.h>
#include <sys/uio.h>

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "block/socket.h"
#include "block/status.h"

namespace cloudblk {

// Made for TLS as well as for sockets: a read may have to write first and the other way round, and
// bytes may be readable of which the descriptor shows nothing.
class Transport {
 public:
  virtual ~Transport() = default;

  // The descriptor to watch.
  virtual int fd() const = 0;

  // 0 once connected, -EINPROGRESS while under way (wait for writability), else -errno.
  virtual int ConnectResult() = 0;

  // Non-blocking. Bytes moved, at least 1; -EAGAIN; another -errno when the connection is dead.
  // Readv: 0 when the peer closed. At least one element, none empty.
  virtual ssize_t Readv(const iovec* iov, int count) = 0;
  virtual ssize_t Writev(const iovec* iov, int count) = 0;

  // After -EAGAIN: the call waits for the other kind of readiness than its name says.
  virtual bool read_wants_write() const { return false; }
  virtual bool write_wants_read() const { return false; }

  // Whether Readv fills more than its first element. If not, one element is given to it.
  virtual bool scatters() const { return true; }
  // Whether Readv has bytes that the descriptor's readability does not show.
  virtual bool has_pending() const { return false; }
};

// Makes connections to one of several addresses. Any thread.
class Connector {
 public:
  virtual ~Connector() = default;
  virtual size_t count() const = 0;
  // For people.
  virtual std::string Name(size_t index) const = 0;
  virtual Result<std::unique_ptr<Transport>> Connect(size_t index) const = 0;
};

// Plain sockets.
class SocketConnector final : public Connector {
 public:
  SocketConnector(std::vector<SocketAddress> addresses, const SocketSettings& settings)
      : addresses_(std::move(addresses)), settings_(settings) {}

  size_t count() const override { return addresses_.size(); }
  std::string Name(size_t index) const override { return addresses_[index].ToString(); }
  Result<std::unique_ptr<Transport>> Connect(size_t index) const override;

 private:
  const std::vector<SocketAddress> addresses_;
  const SocketSettings settings_;
};

}  // namespace cloudblk

#endif  // CLOUDBLK_BLOCK_TRANSPORT_H_
