// SPDX-License-Identifier: GPL-2.0-or-later
#include "proxy/listener.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

namespace cloudblk::proxy {
namespace {

// After so long, and the second that the kernel takes to see it, a client that is gone is given up;
// then its lease begins. Another server that has the same storage can give the volume to nobody
// before.
constexpr uint32_t kDeadClientMs = 6'000;

// For connections to be dropped, so that there are descriptors again.
constexpr int64_t kPauseNs = 50'000'000;
// What comes in one turn: it has to be read, too, before the oldest are taken for idle.
constexpr int kAcceptsPerTurn = 64;

std::string DescribePeer(int fd, const SocketAddress& address) {
  if (address.storage.ss_family != AF_UNIX) return address.ToString();
  ucred credentials{};
  socklen_t size = sizeof(credentials);
  if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &credentials, &size) != 0) return "unix";
  return fmt::format("unix: process {}", credentials.pid);
}

}  // namespace

Result<std::unique_ptr<Listener>> Listener::Create(const Endpoint& endpoint, EventLoop* loop,
                                                   AcceptFn accept, FullFn full) {
  Endpoint bound;
  Result<std::vector<UniqueFd>> fds = Listen(endpoint, &bound);
  if (!fds.ok()) return fds.status();
  return std::unique_ptr<Listener>(
      new Listener(bound, std::move(*fds), loop, std::move(accept), std::move(full)));
}

Listener::Listener(const Endpoint& endpoint, std::vector<UniqueFd> fds, EventLoop* loop,
                   AcceptFn accept, FullFn full)
    : endpoint_(endpoint),
      loop_(loop),
      accept_(std::move(accept)),
      full_(std::move(full)),
      log_(loop),
      fds_(std::move(fds)),
      pause_(loop->NewTimer([this] { Start(); })) {
  if (endpoint_.kind == Endpoint::Kind::kUnix) stat(endpoint_.path.c_str(), &file_);
}

Listener::~Listener() { RemoveFile(); }

void Listener::Close() {
  Stop();
  RemoveFile();
  fds_.clear();
}

void Listener::RemoveFile() {
  // Somebody may have removed it, and a successor may have made its own.
  struct stat now{};
  if (endpoint_.kind == Endpoint::Kind::kUnix && stat(endpoint_.path.c_str(), &now) == 0 &&
      now.st_dev == file_.st_dev && now.st_ino == file_.st_ino) {
    unlink(endpoint_.path.c_str());
  }
}

void Listener::Start() {
  for (const UniqueFd& fd : fds_) loop_->Watch(fd.get(), true, false, this);
}

void Listener::Stop() {
  for (const UniqueFd& fd : fds_) loop_->Unwatch(fd.get());
  pause_->Disarm();
}

void Listener::OnReadable() {
  for (const UniqueFd& fd : fds_) {
    if (AcceptAll(fd.get())) continue;
    // The connection stays in the queue, and asking at once would spin.
    Stop();
    full_();
    pause_->Arm(loop_->NowNs() + kPauseNs);
    return;
  }
}

bool Listener::AcceptAll(int listener) {
  for (int accepted = 0; accepted < kAcceptsPerTurn;) {
    SocketAddress peer;
    Result<UniqueFd> fd = Accept(listener, &peer);
    if (fd.ok()) {
      ApplySettings(fd->get(), {.dead_peer_ms = kDeadClientMs});
      ClientIdentity client = IdentityOf(fd->get());
      client.address = DescribePeer(fd->get(), peer);
      accept_(std::move(*fd), std::move(client));
      ++accepted;
      continue;
    }
    const int error = fd.status().error();
    if (error == EINTR || error == ECONNABORTED) continue;
    if (error == EAGAIN) return true;
    // Out of descriptors, mostly.
    log_.Log(spdlog::level::err, "accept",
             fmt::format("{}: {}; raise the limit on open files (ulimit -n)", endpoint_.ToString(),
                         fd.status().message()));
    return false;
  }
  return true;
}

}  // namespace cloudblk::proxy
