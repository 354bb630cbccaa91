// SPDX-License-Identifier: GPL-2.0-or-later
#include "proxy/loop_thread.h"

#include <spdlog/spdlog.h>

#include <cassert>
#include <utility>

#include "base/tls_transport.h"
#include "base/transport.h"

namespace cloudblk::proxy {

Result<std::unique_ptr<LoopThread>> LoopThread::Create(const ServerInfo& info) {
  Result<std::unique_ptr<EpollLoop>> loop = EpollLoop::Create();
  if (!loop.ok()) return loop.status();
  return std::unique_ptr<LoopThread>(new LoopThread(info, std::move(*loop)));
}

LoopThread::LoopThread(const ServerInfo& info, std::unique_ptr<EpollLoop> loop)
    : loop_(std::move(loop)), host_(loop_.get(), info) {}

LoopThread::~LoopThread() { assert(!thread_.joinable()); }

void LoopThread::Start() {
  thread_ = std::thread([this] { loop_->Run(); });
}

void LoopThread::Stop() {
  loop_->Stop();
  if (thread_.joinable()) thread_.join();
}

void LoopThread::PostAdopt(UniqueFd fd, ClientIdentity client,
                           std::shared_ptr<const TlsCredentials> credentials) {
  // std::function wants to be copied, which a UniqueFd cannot be.
  Post(
      [this, raw = fd.release(), client = std::move(client), credentials = std::move(credentials)] {
        std::unique_ptr<Transport> transport = AcceptedTransport(UniqueFd(raw));
        if (credentials != nullptr) {
          auto secured = MakeTlsTransport(std::move(transport), credentials, "");
          if (!secured.ok()) {
            spdlog::error("{}: {}", client.address, secured.status().message());
            return;
          }
          transport = std::move(*secured);
        }
        host_.Adopt(std::move(transport), client);
      });
}

void LoopThread::PostMakeRoom() {
  Post([this] { host_.MakeRoom(); });
}

void LoopThread::PostCheckRights() {
  Post([this] { host_.CheckRights(); });
}

void LoopThread::PostGoAway() {
  Post([this] { host_.GoAway(); });
}

}  // namespace cloudblk::proxy
