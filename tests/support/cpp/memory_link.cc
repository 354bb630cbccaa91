// SPDX-License-Identifier: GPL-2.0-or-later
#include "tests/support/cpp/memory_link.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace cloudblk::testing {
namespace {

class MemoryTransport final : public Transport {
 public:
  MemoryTransport(ManualLoop* loop, int fd, std::shared_ptr<MemoryLink> link)
      : loop_(loop), fd_(fd), link_(std::move(link)) {
    loop_->SetReadiness(fd_, [link = link_.get()] {
      const bool ended = link->server_closed || link->ToClientEnded();
      return Readiness{
          !link->to_client.empty() || ended,
          !link->hangs && (link->to_server.size() < link->habits.send_buffer || ended)};
    });
  }
  ~MemoryTransport() override {
    link_->client_closed = true;
    EXPECT_FALSE(loop_->watches(fd_)) << "closed while watched";
    loop_->ForgetReadiness(fd_);
  }

  int fd() const override { return fd_; }
  int ConnectResult() override { return link_->refuses ? -ECONNREFUSED : 0; }
  bool scatters() const override { return link_->habits.scatters; }
  bool has_pending() const override { return !record_.empty(); }
  bool read_wants_write() const override { return read_wants_write_; }
  bool write_wants_read() const override { return write_wants_read_; }
  bool PeerGone() const override { return link_->server_closed; }

  ssize_t Readv(const iovec* iov, int count) override {
    for (int i = 0; i < count; ++i) EXPECT_GT(iov[i].iov_len, 0u);
    EXPECT_TRUE(link_->habits.scatters || count == 1);
    if (link_->habits.wants_other && !read_wants_write_ && ++reads_ % 2 == 0) {
      read_wants_write_ = true;
      return -EAGAIN;
    }
    read_wants_write_ = false;
    FillRecord();
    std::string& from = link_->habits.record_size != 0 ? record_ : link_->to_client;
    const size_t most = std::min(Readable(from), link_->habits.read_chunk);
    if (most == 0) return link_->server_closed || link_->ToClientEnded() ? 0 : -EAGAIN;
    size_t moved = 0;
    for (int i = 0; i < count && moved < most; ++i) {
      const size_t n = std::min(iov[i].iov_len, most - moved);
      const size_t touchable = Touchable(iov[i], n);
      std::memcpy(iov[i].iov_base, from.data() + moved, touchable);
      // As the kernel, which does not count what it has stored last.
      if (touchable < n && moved == 0) return -EFAULT;
      if (touchable < n) break;
      moved += n;
    }
    from.erase(0, moved);
    if (&from != &record_) NoteTaken(moved);
    return static_cast<ssize_t>(moved);
  }

  ssize_t Writev(const iovec* iov, int count) override {
    if (link_->habits.wants_other && !write_wants_read_ && ++writes_ % 8 == 0 &&
        !link_->to_client.empty()) {
      write_wants_read_ = true;
      return -EAGAIN;
    }
    write_wants_read_ = false;
    if (link_->server_closed) return -EPIPE;
    size_t room = std::min(
        link_->habits.write_chunk,
        link_->habits.send_buffer - std::min(link_->habits.send_buffer, link_->to_server.size()));
    if (room == 0) return -EAGAIN;
    size_t moved = 0;
    for (int i = 0; i < count && room > 0; ++i) {
      const size_t n = std::min(iov[i].iov_len, room);
      if (Touchable(iov[i], n) < n && moved == 0) return -EFAULT;
      if (Touchable(iov[i], n) < n) break;
      link_->to_server.append(static_cast<const char*>(iov[i].iov_base), n);
      moved += n;
      room -= n;
    }
    link_->to_server_total += moved;
    return static_cast<ssize_t>(moved);
  }

 private:
  // How many of the first `bytes` come before what cannot be touched.
  size_t Touchable(const iovec& element, size_t bytes) const {
    const auto begin = reinterpret_cast<uintptr_t>(element.iov_base);
    const auto bad = reinterpret_cast<uintptr_t>(link_->habits.untouchable.iov_base);
    if (begin + bytes <= bad || begin >= bad + link_->habits.untouchable.iov_len) return bytes;
    return begin < bad ? bad - begin : 0;
  }

  // How much of `from` comes before the cut.
  size_t Readable(const std::string& from) const {
    if (&from == &record_) return from.size();
    return std::min<uint64_t>(from.size(), link_->habits.cut_to_client - link_->to_client_total);
  }

  void NoteTaken(size_t bytes) {
    link_->to_client_total += bytes;
    if (link_->ToClientEnded()) link_->server_closed = true;
  }

  // With records, a whole one is taken off the link at a time.
  void FillRecord() {
    if (link_->habits.record_size == 0 || !record_.empty()) return;
    const size_t n = std::min(Readable(link_->to_client), link_->habits.record_size);
    record_ = link_->to_client.substr(0, n);
    link_->to_client.erase(0, n);
    NoteTaken(n);
  }

  ManualLoop* const loop_;
  const int fd_;
  const std::shared_ptr<MemoryLink> link_;
  std::string record_;
  bool read_wants_write_ = false;
  bool write_wants_read_ = false;
  int reads_ = 0;
  int writes_ = 0;
};

}  // namespace

std::string MemoryLink::TakeForServer() {
  const size_t n = std::min<uint64_t>(to_server.size(), habits.cut_to_server - server_took);
  std::string bytes = to_server.substr(0, n);
  to_server.erase(0, n);
  server_took += n;
  if (server_took >= habits.cut_to_server) server_closed = true;
  return bytes;
}

Result<std::unique_ptr<Transport>> MemoryConnector::Connect(size_t index) const {
  auto link = std::make_shared<MemoryLink>();
  accept_(index, link);
  std::unique_ptr<Transport> made =
      std::make_unique<MemoryTransport>(loop_, loop_->NewFd(), std::move(link));
  return wrap ? wrap(std::move(made)) : std::move(made);
}

}  // namespace cloudblk::testing
