// SPDX-License-Identifier: GPL-2.0-or-later
#include "proxy/connection_host.h"

#include <fmt/format.h>

#include <algorithm>
#include <cassert>
#include <utility>

#include "proxy/connection.h"
#include "proxy/request_stream.h"

namespace cloudblk::proxy {

ConnectionHost::ConnectionHost(EventLoop* loop, const ServerInfo& info)
    : loop_(loop),
      info_(info),
      context_(loop, info.limits),
      log_limit_(loop),
      progress_timer_(loop->NewTimer([this] { OnProgressTimer(); })) {}

ConnectionHost::~ConnectionHost() { assert(connections_.empty()); }

Status ConnectionHost::Attach() {
  for (const auto& [name, slot] : *info_.volumes) {
    if (slot.get() == nullptr) continue;
    const Result<BackendQueue*> queue = QueueOf(slot.get());
    if (!queue.ok()) return queue.status();
  }
  return Status::Ok();
}

Result<BackendQueue*> ConnectionHost::QueueOf(Volume* volume) {
  const auto known = queues_.find(volume);
  if (known != queues_.end()) return known->second.get();
  Result<std::unique_ptr<BackendQueue>> made = volume->backend->Attach(context_);
  if (!made.ok()) {
    return Status(made.status().error(),
                  "volume '" + volume->name + "': " + made.status().message());
  }
  return queues_.emplace(volume, std::move(*made)).first->second.get();
}

void ConnectionHost::Adopt(std::unique_ptr<Transport> transport, const ClientIdentity& client) {
  if (going_away_) return;
  const uint64_t id = next_id_++;
  auto connection = std::make_unique<Connection>(this, info_, id, std::move(transport), client);
  Connection* raw = connection.get();
  connections_.emplace(id, std::move(connection));
  connection_count_.fetch_add(1, std::memory_order_acq_rel);
  if (strangers_.size() >= limits().max_strangers()) DropOldestStranger();
  strangers_.insert(id);
  raw->Start();
}

void ConnectionHost::CheckRights() {
  for (Connection* connection : All()) connection->CheckRights();
}

void ConnectionHost::MakeRoom() {
  for (size_t count = (strangers_.size() + 3) / 4; count != 0; --count) DropOldestStranger();
}

void ConnectionHost::DropOldestStranger() {
  connections_.at(*strangers_.begin())
      ->Drop(fmt::format("dropped for a newer one: {} connections have not opened a volume",
                         strangers_.size()));
}

uint8_t* ConnectionHost::DiscardTo() {
  if (discard_to_ == nullptr) {
    discard_to_ = std::make_unique_for_overwrite<uint8_t[]>(kMostFramePayload);
  }
  return discard_to_.get();
}

void ConnectionHost::WatchProgress() {
  if (progress_armed_) return;
  progress_armed_ = true;
  progress_timer_->Arm(loop_->NowNs() + limits().settings().stall_ns / 4);
}

void ConnectionHost::OnProgressTimer() {
  progress_armed_ = false;
  std::vector<uint64_t> ids;
  ids.reserve(connections_.size());
  for (const auto& [id, connection] : connections_) ids.push_back(id);
  for (const uint64_t id : ids) {
    const auto it = connections_.find(id);
    if (it != connections_.end() && it->second->CheckProgress()) WatchProgress();
  }
}

void ConnectionHost::GoAway() {
  going_away_ = true;
  for (Connection* connection : All()) connection->GoAway();
}

std::vector<Connection*> ConnectionHost::All() const {
  std::vector<Connection*> all;
  all.reserve(connections_.size());
  for (const auto& [id, connection] : connections_) all.push_back(connection.get());
  return all;
}

void ConnectionHost::Post(uint64_t id, std::function<void(Connection*)> fn) {
  loop_->Post([this, id, fn = std::move(fn)] {
    const auto it = connections_.find(id);
    if (it != connections_.end()) fn(it->second.get());
  });
}

void ConnectionHost::Defer(uint64_t id, std::function<void(Connection*)> fn) {
  loop_->Defer([this, id, fn = std::move(fn)] {
    const auto it = connections_.find(id);
    if (it != connections_.end()) fn(it->second.get());
  });
}

void ConnectionHost::Remove(Connection* connection) {
  auto node = connections_.extract(connection->id());
  assert(!node.empty());
  removed_.push_back(std::move(node.mapped()));
  WatchEndOfTurn();
}

void ConnectionHost::MarkDirty(Connection* connection) {
  dirty_.push_back(connection);
  WatchEndOfTurn();
}

void ConnectionHost::WatchEndOfTurn() {
  if (end_of_turn_due_) return;
  end_of_turn_due_ = true;
  loop_->Defer([this] { EndOfTurn(); });
}

void ConnectionHost::EndOfTurn() {
  end_of_turn_due_ = false;
  // The storage works while replies are being sent.
  for (BackendQueue* queue : submitted_) queue->Kick();
  submitted_.clear();
  flushing_.swap(dirty_);
  for (Connection* connection : flushing_) connection->Flush();
  flushing_.clear();
  context_.WatchIdle();
  if (removed_.empty()) return;
  const size_t count = removed_.size();
  for (const auto& gone : removed_) std::erase(dirty_, gone.get());
  removed_.clear();
  jobs_.Trim();
  connection_count_.fetch_sub(count, std::memory_order_acq_rel);
}

}  // namespace cloudblk::proxy
