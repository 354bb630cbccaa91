// SPDX-License-Identifier: GPL-2.0-or-later
#include "proxy/loop_thread.h"

#include <cassert>
#include <utility>

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

void LoopThread::PostAdopt(UniqueFd fd, ClientIdentity client) {
  // std::function wants to be copied, which a UniqueFd cannot be.
  Post([this, raw = fd.release(), client = std::move(client)] {
    host_.Adopt(AcceptedTransport(UniqueFd(raw)), client);
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
