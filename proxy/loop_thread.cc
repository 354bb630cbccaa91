// SPDX-License-Identifier: GPL-2.0-or-later
#include "proxy/loop_thread.h"

#include <algorithm>
#include <cassert>
#include <utility>

#include "proxy/connection.h"

namespace cloudblk::proxy {

Result<std::unique_ptr<LoopThread>> LoopThread::Create(const ServerInfo& info) {
  Result<std::unique_ptr<EpollLoop>> loop = EpollLoop::Create();
  if (!loop.ok()) return loop.status();
  return std::unique_ptr<LoopThread>(new LoopThread(info, std::move(*loop)));
}

LoopThread::LoopThread(const ServerInfo& info, std::unique_ptr<EpollLoop> loop)
    : info_(info), loop_(std::move(loop)), context_(std::make_unique<LoopContext>(loop_.get())) {}

LoopThread::~LoopThread() {
  assert(!thread_.joinable() && connections_.empty());
  removed_.clear();
  // Its timers and descriptors are the loop's.
  context_.reset();
}

void LoopThread::Start() {
  thread_ = std::thread([this] { loop_->Run(); });
}

void LoopThread::Stop() {
  loop_->Stop();
  if (thread_.joinable()) thread_.join();
}

void LoopThread::PostAdopt(UniqueFd fd, std::string address) {
  // std::function wants to be copied, which a UniqueFd cannot be.
  Post([this, raw = fd.release(), address = std::move(address)] { Adopt(UniqueFd(raw), address); });
}

void LoopThread::PostGoAway() {
  Post([this] {
    going_away_ = true;
    std::vector<Connection*> all;
    all.reserve(connections_.size());
    for (const auto& [id, connection] : connections_) all.push_back(connection.get());
    for (Connection* connection : all) connection->GoAway();
  });
}

void LoopThread::Adopt(UniqueFd fd, const std::string& address) {
  if (going_away_) return;
  const uint64_t id = next_id_++;
  auto connection = std::make_unique<Connection>(this, info_, id, std::move(fd), address);
  Connection* raw = connection.get();
  connections_.emplace(id, std::move(connection));
  connection_count_.fetch_add(1, std::memory_order_acq_rel);
  raw->Start();
}

Connection* LoopThread::Find(uint64_t id) {
  const auto it = connections_.find(id);
  return it == connections_.end() ? nullptr : it->second.get();
}

void LoopThread::Remove(Connection* connection) {
  auto node = connections_.extract(connection->id());
  assert(!node.empty());
  removed_.push_back(std::move(node.mapped()));
  WatchEndOfTurn();
}

void LoopThread::MarkDirty(Connection* connection) {
  dirty_.push_back(connection);
  WatchEndOfTurn();
}

void LoopThread::WatchEndOfTurn() {
  if (end_of_turn_due_) return;
  end_of_turn_due_ = true;
  loop_->Defer([this] { EndOfTurn(); });
}

void LoopThread::EndOfTurn() {
  end_of_turn_due_ = false;
  // The storage works while replies are being sent.
  context_->Kick();
  flushing_.swap(dirty_);
  for (Connection* connection : flushing_) connection->Flush();
  flushing_.clear();
  context_->WatchIdle();
  if (removed_.empty()) return;
  const size_t count = removed_.size();
  for (const auto& gone : removed_) std::erase(dirty_, gone.get());
  removed_.clear();
  connection_count_.fetch_sub(count, std::memory_order_acq_rel);
}

}  // namespace cloudblk::proxy
