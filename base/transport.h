// SPDX-License-Identifier: GPL-2.0-or-later
//
// A byte stream between a client and a server, and what makes one.
#ifndef CLOUDBLK_BASE_TRANSPORT_H_
#define CLOUDBLK_BASE_TRANSPORT_H_

#include <sys/types.h>
#include <sys/uio.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/peer_identity.h"
#include "base/socket.h"
#include "base/status.h"

namespace cloudblk {

// A socket, or TLS over one: a read may have to write first and the other way round, and bytes may
// be readable of which the descriptor shows nothing.
class Transport {
 public:
  virtual ~Transport() = default;

  // The descriptor to watch.
  virtual int fd() const = 0;

  // 0 once connected, -EINPROGRESS while under way (wait for writability), else -errno.
  virtual int ConnectResult() = 0;

  // Non-blocking. Bytes moved, at least 1; -EAGAIN; another -errno when the connection is dead.
  // What Writev was offered and has not moved is to be offered again, and more with it if there is.
  // Readv: 0 when the peer closed. At least one element, none empty. -EFAULT: memory of the
  // elements cannot be touched, and the stream is where it was; Readv may have stored something all
  // the same.
  virtual ssize_t Readv(const iovec* iov, int count) = 0;
  virtual ssize_t Writev(const iovec* iov, int count) = 0;

  // After -EAGAIN: the call waits for the other kind of readiness than its name says.
  virtual bool read_wants_write() const { return false; }
  virtual bool write_wants_read() const { return false; }

  // Whether Readv fills more than its first element, and says EFAULT. If not, one element is given
  // to it, in memory that can be touched.
  virtual bool scatters() const { return true; }
  // Whether Readv has bytes that the descriptor's readability does not show.
  virtual bool has_pending() const { return false; }
  // Whether any of these three may ever be true; constant. Where they cannot, nobody need ask them
  // for each batch.
  virtual bool is_layered() const { return false; }

  // Whether the peer has ended its stream or is gone, though bytes of it may still be unread.
  virtual bool PeerGone() const = 0;

  // From the next byte on it is TLS, as a protocol has agreed that begins without (NBD). 0;
  // -ENOTSUP where there is none to begin.
  virtual int StartTls() { return -ENOTSUP; }
  // What has ended the connection, for people, where that is more than its errno says; else empty.
  virtual std::string trouble() const { return {}; }
  // Who is at the other end, once that is proved: with the first byte that Readv gives.
  virtual PeerIdentity peer() const { return {}; }
};

// Of what Readv or Writev has failed with, a positive errno, for people.
std::string DescribeError(const Transport& transport, int error);

// A plain connection that was accepted.
std::unique_ptr<Transport> AcceptedTransport(UniqueFd fd);

// Makes connections to one of several addresses. Any thread.
class Connector {
 public:
  virtual ~Connector() = default;
  // Addresses, at least 1. Refresh may change it; an index beyond it counts on from the first.
  virtual size_t count() const = 0;
  // The address, for people.
  virtual std::string Name(size_t index) const = 0;
  // The host as it was given, a name or an address; empty: it has none.
  virtual std::string Host(size_t) const { return {}; }
  // Starts to connect; Transport::ConnectResult says how it goes. An error: it cannot even start.
  virtual Result<std::unique_ptr<Transport>> Connect(size_t index) const = 0;
  // All addresses have failed: has them looked up anew, without waiting for that. `now_ns`: of a
  // monotonic clock.
  virtual void Refresh(int64_t now_ns) = 0;
};

// Plain sockets.
class SocketConnector final : public Connector {
 public:
  using Lookup = std::function<Result<std::vector<SocketAddress>>()>;

  // At least one address. `lookup`, if there is one, finds the addresses anew. It may block: it
  // runs in a thread of its own, which may outlive the connector. Addresses that were found before
  // are kept behind the new ones: the server may not have moved yet, or one of the names could not
  // be looked up.
  SocketConnector(std::vector<SocketAddress> addresses, const SocketSettings& settings,
                  Lookup lookup);

  size_t count() const override;
  std::string Name(size_t index) const override;
  std::string Host(size_t index) const override;
  Result<std::unique_ptr<Transport>> Connect(size_t index) const override;
  // At most once in two seconds, and not before the last lookup has ended.
  void Refresh(int64_t now_ns) override;

 private:
  struct Addresses;

  SocketAddress Get(size_t index) const;

  const std::shared_ptr<Addresses> addresses_;
  const SocketSettings settings_;
};

}  // namespace cloudblk

#endif  // CLOUDBLK_BASE_TRANSPORT_H_
