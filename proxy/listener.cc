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

constexpr int64_t kPauseNs = 200'000'000;

std::string DescribePeer(int fd, const SocketAddress& address) {
  if (address.storage.ss_family != AF_UNIX) return address.ToString();
  ucred credentials{};
  socklen_t size = sizeof(credentials);
  if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &credentials, &size) != 0) return "unix";
  return fmt::format("unix: process {}", credentials.pid);
}

}  // namespace

Result<std::unique_ptr<Listener>> Listener::Create(const Endpoint& endpoint, EventLoop* loop,
                                                   AcceptFn accept) {
  Endpoint bound;
  Result<UniqueFd> fd = Listen(endpoint, &bound);
  if (!fd.ok()) return fd.status();
  return std::unique_ptr<Listener>(new Listener(bound, std::move(*fd), loop, std::move(accept)));
}

Listener::Listener(const Endpoint& endpoint, UniqueFd fd, EventLoop* loop, AcceptFn accept)
    : endpoint_(endpoint),
      loop_(loop),
      accept_(std::move(accept)),
      fd_(std::move(fd)),
      pause_(loop->NewTimer([this] { Start(); })) {
  if (endpoint_.kind == Endpoint::Kind::kUnix) stat(endpoint_.path.c_str(), &file_);
}

Listener::~Listener() {
  // Somebody may have removed it, and a successor may have made its own.
  struct stat now {};
  if (endpoint_.kind == Endpoint::Kind::kUnix && stat(endpoint_.path.c_str(), &now) == 0 &&
      now.st_dev == file_.st_dev && now.st_ino == file_.st_ino) {
    unlink(endpoint_.path.c_str());
  }
}

void Listener::Start() { loop_->Watch(fd_.get(), true, false, this); }

void Listener::Stop() {
  loop_->Unwatch(fd_.get());
  pause_->Disarm();
}

void Listener::OnReadable() {
  for (;;) {
    SocketAddress peer;
    Result<UniqueFd> fd = Accept(fd_.get(), &peer);
    if (fd.ok()) {
      ApplySettings(fd->get(), SocketSettings());
      std::string address = DescribePeer(fd->get(), peer);
      accept_(std::move(*fd), std::move(address));
      continue;
    }
    const int error = fd.status().error();
    if (error == EINTR || error == ECONNABORTED) continue;
    if (error == EAGAIN) return;
    // Out of descriptors, mostly: the connection stays in the queue, and asking at once would spin.
    spdlog::error("{}: {}; raise the limit on open files (ulimit -n)", endpoint_.ToString(),
                  fd.status().message());
    loop_->Unwatch(fd_.get());
    pause_->Arm(loop_->NowNs() + kPauseNs);
    return;
  }
}

}  // namespace cloudblk::proxy
