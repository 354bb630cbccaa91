// SPDX-License-Identifier: GPL-2.0-or-later
#include "base/transport.h"

#include <poll.h>
#include <pthread.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <iterator>
#include <mutex>
#include <system_error>
#include <thread>

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

  bool PeerGone() const override {
    pollfd gone{.fd = fd_.get(), .events = POLLRDHUP, .revents = 0};
    return poll(&gone, 1, 0) == 1;
  }

 private:
  const UniqueFd fd_;
};

constexpr int64_t kLookupPause = 2'000'000'000;

// Runs it in a thread that no signal of the program's is delivered to. False: there can be none.
bool StartThread(std::function<void()> run) {
  sigset_t all;
  sigset_t before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  bool started = true;
  try {
    std::thread(std::move(run)).detach();
  } catch (const std::system_error&) {
    started = false;
  }
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  return started;
}

}  // namespace

std::unique_ptr<Transport> AcceptedTransport(UniqueFd fd) {
  return std::make_unique<SocketTransport>(std::move(fd));
}

std::string DescribeError(const Transport& transport, int error) {
  std::string trouble = transport.trouble();
  return trouble.empty() ? std::strerror(error) : trouble;
}

struct SocketConnector::Addresses {
  const Lookup lookup;
  std::mutex mutex;
  std::vector<SocketAddress> all;
  std::vector<SocketAddress> found;  // by the last lookup that found others than the one before
  bool looking_up = false;
  int64_t next_lookup_ns = 0;

  // Precondition: `mutex` is held.
  void Take(std::vector<SocketAddress> now) {
    // Name servers give the same addresses in another order each time.
    if (std::ranges::is_permutation(now, found)) return;
    all = now;
    std::ranges::copy_if(found, std::back_inserter(all), [&](const SocketAddress& former) {
      return std::ranges::find(now, former) == now.end();
    });
    found = std::move(now);
  }
};

SocketConnector::SocketConnector(std::vector<SocketAddress> addresses,
                                 const SocketSettings& settings, Lookup lookup)
    : addresses_(new Addresses{.lookup = std::move(lookup),
                               .mutex = {},
                               .all = addresses,
                               .found = std::move(addresses)}),
      settings_(settings) {}

size_t SocketConnector::count() const {
  const std::lock_guard lock(addresses_->mutex);
  return addresses_->all.size();
}

SocketAddress SocketConnector::Get(size_t index) const {
  const std::lock_guard lock(addresses_->mutex);
  return addresses_->all[index % addresses_->all.size()];
}

std::string SocketConnector::Name(size_t index) const { return Get(index).ToString(); }

std::string SocketConnector::Host(size_t index) const { return Get(index).host; }

Result<std::unique_ptr<Transport>> SocketConnector::Connect(size_t index) const {
  Result<UniqueFd> fd = cloudblk::Connect(Get(index));
  if (!fd.ok()) return fd.status();
  ApplySettings(fd->get(), settings_);
  return std::unique_ptr<Transport>(std::make_unique<SocketTransport>(std::move(*fd)));
}

void SocketConnector::Refresh(int64_t now_ns) {
  if (!addresses_->lookup) return;
  {
    const std::lock_guard lock(addresses_->mutex);
    if (addresses_->looking_up || now_ns < addresses_->next_lookup_ns) return;
    addresses_->looking_up = true;
    addresses_->next_lookup_ns = now_ns + kLookupPause;
  }
  const bool started = StartThread([addresses = addresses_] {
    Result<std::vector<SocketAddress>> found = addresses->lookup();
    const std::lock_guard lock(addresses->mutex);
    // After a failure the addresses stay as they are.
    if (found.ok()) addresses->Take(std::move(*found));
    addresses->looking_up = false;
  });
  if (started) return;
  const std::lock_guard lock(addresses_->mutex);
  addresses_->looking_up = false;
}

}  // namespace cloudblk
