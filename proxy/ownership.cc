// SPDX-License-Identifier: GPL-2.0-or-later
#include "proxy/ownership.h"

#include <fmt/chrono.h>
#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <ctime>
#include <utility>

namespace cloudblk::proxy {
namespace {

constexpr size_t kMaxFenced = 4096;

std::string WallTime() {
  return fmt::format("{:%Y-%m-%d %H:%M:%S} UTC", fmt::gmtime(time(nullptr)));
}

}  // namespace

Ownership::Ownership(std::string volume, Backend* backend, int64_t lease_ns,
                     std::function<int64_t()> clock)
    : volume_(std::move(volume)),
      backend_(backend),
      lease_ns_(lease_ns),
      clock_(std::move(clock)) {}

bool Ownership::Session::connected() const {
  return std::ranges::any_of(channels, [](const auto& c) { return c.second.peer != nullptr; });
}

void Ownership::Restore() {
  std::lock_guard lock(mutex_);
  if (Lock().status == wire::Status::kOk) UnlockIfFree();
}

void Ownership::Open(Peer* peer, const OpenRequest& request) {
  Operation operation{};
  operation.kind = Operation::Kind::kOpen;
  operation.peer = peer;
  operation.request = request;
  Enqueue(std::move(operation));
}

void Ownership::Claim(Peer* peer, const wire::TokenMessage& message) {
  Operation operation{};
  operation.kind = Operation::Kind::kClaim;
  operation.peer = peer;
  operation.message = message;
  Enqueue(std::move(operation));
}

void Ownership::End(Peer* peer) {
  Operation operation{};
  operation.kind = Operation::Kind::kEnd;
  operation.peer = peer;
  Enqueue(std::move(operation));
}

void Ownership::Enqueue(Operation operation) {
  std::lock_guard lock(mutex_);
  queue_.push_back(std::move(operation));
  Advance();
}

OwnershipAnswer Ownership::Release(Peer* peer, const wire::TokenMessage& message) {
  std::lock_guard lock(mutex_);
  Session* session = SessionOf(peer);
  if (session == nullptr || session->token) {
    return {wire::Status::kNotActive, "the session is not active", 0, 0};
  }
  if (message.epoch != session->epoch) {
    return {wire::Status::kInvalid,
            fmt::format("RELEASE names epoch {}, but the session is at {}", message.epoch,
                        session->epoch),
            session->epoch, 0};
  }
  session->token = message.token;
  for (auto& [index, channel] : session->channels) {
    if (channel.peer != nullptr) channel.peer->active_.store(false, std::memory_order_release);
  }
  StoreRecord();
  spdlog::info("volume '{}': released by {} ({})", volume_, session->client_name, session->address);
  return {wire::Status::kOk, {}, session->epoch, 0};
}

OwnershipAnswer Ownership::Hold() {
  std::lock_guard lock(mutex_);
  OwnershipAnswer answer = Lock();
  if (answer.status == wire::Status::kOk) ++holds_;
  return answer;
}

void Ownership::Unhold() {
  std::lock_guard lock(mutex_);
  --holds_;
  UnlockIfFree();
}

void Ownership::Gone(Peer* peer) {
  std::lock_guard lock(mutex_);
  peer->active_.store(false, std::memory_order_release);
  observers_.erase(peer);
  for (auto& [uuid, session] : sessions_) {
    bool member = false;
    for (auto& [index, channel] : session.channels) {
      if (channel.peer != peer) continue;
      channel.peer = nullptr;
      member = true;
    }
    if (member && !session.connected()) {
      session.lost_ns = clock_();
      spdlog::info("volume '{}': lost the last connection of {} ({}); its lease ends in {} s",
                   volume_, session.client_name, session.address, lease_ns_ / 1'000'000'000);
    }
  }
  std::erase_if(queue_, [peer](const Operation& operation) { return operation.peer == peer; });
  for (Operation& operation : queue_) operation.waiting_for.erase(peer);
  Advance();
}

void Ownership::Advance() {
  while (!queue_.empty()) {
    Operation& operation = queue_.front();
    if (!operation.started) {
      const OwnershipAnswer answer = Judge(&operation);
      if (answer.status != wire::Status::kOk) {
        operation.peer->Answer(answer);
        queue_.pop_front();
        continue;
      }
      Start(&operation);
    }
    if (!operation.waiting_for.empty()) return;
    const OwnershipAnswer answer = Commit(&operation);
    operation.peer->Answer(answer);
    queue_.pop_front();
  }
  UnlockIfFree();
}

void Ownership::Start(Operation* operation) {
  operation->started = true;
  operation->waiting_for = operation->to_stop;
  for (Peer* peer : operation->to_stop) {
    peer->active_.store(false, std::memory_order_release);
    peer->Stop(operation->revoke.contains(peer) ? operation->revoked : std::string());
  }
}

OwnershipAnswer Ownership::Commit(Operation* operation) {
  switch (operation->kind) {
    case Operation::Kind::kOpen:
      return CommitOpen(*operation);
    case Operation::Kind::kClaim:
      return CommitClaim(*operation);
    case Operation::Kind::kEnd:
      return CommitEnd(*operation);
  }
  return {wire::Status::kInvalid, {}, 0, 0};
}

void Ownership::DropLosers(const Operation& operation) {
  for (const wire::Uuid& uuid : operation.losers) {
    const std::string key = ToString(uuid);
    sessions_.erase(key);
    if (fenced_.insert(key).second) fenced_order_.push_back(key);
    if (fenced_order_.size() > kMaxFenced) {
      fenced_.erase(fenced_order_.front());
      fenced_order_.pop_front();
    }
  }
}

void Ownership::Activate(Session* session, uint32_t channel, uint64_t incarnation, Peer* peer) {
  session->channels[channel] = {incarnation, peer};
  peer->active_.store(true, std::memory_order_release);
}

OwnershipAnswer Ownership::CommitOpen(const Operation& operation) {
  const wire::Open& open = operation.request.open;
  if ((open.flags & wire::OpenFlag::kActive) == 0) {
    observers_[operation.peer] = operation.request;
    const Session* session = FindSession(open.session);
    return {wire::Status::kOk, {}, session != nullptr ? session->epoch : open.epoch, 0};
  }
  const bool claims = FindToken(open.token) != nullptr;
  DropLosers(operation);
  Session& session = sessions_[ToString(open.session)];
  const bool fresh = session.channels.empty() || session.epoch != open.epoch;
  if (claims) {
    session.spent = open.token;
  } else if (session.epoch != open.epoch) {
    session.spent = {};
  }
  if (fresh) {
    session.uuid = open.session;
    session.epoch = open.epoch;
    session.channels.clear();
    session.share_rw = SharesRw(open);
    session.read_only = OnlyReads(open);
    session.client_name = operation.request.client_name;
    session.since = WallTime();
  }
  session.token.reset();
  session.channel_count = open.channel_count;
  session.address = operation.request.address;
  last_ = {open.session};
  // Kept before the client knows: whoever was told that it holds the volume is found after a crash.
  StoreRecord();
  Activate(&session, open.channel, open.incarnation, operation.peer);
  if (fresh) {
    spdlog::info("volume '{}': {} {} ({}), epoch {}", volume_, claims ? "claimed by" : "active for",
                 session.client_name, session.address, session.epoch);
  }
  return {wire::Status::kOk, {}, session.epoch, 0};
}

OwnershipAnswer Ownership::CommitClaim(const Operation& operation) {
  Session* released = FindToken(operation.message.token);
  if (released == nullptr) {
    return {wire::Status::kBadToken, "the token was spent meanwhile", 0, 0};
  }
  const auto observer = observers_.find(operation.peer);
  if (observer == observers_.end()) {
    // The one that released it takes it back.
    released->token.reset();
    released->epoch = operation.message.epoch;
    released->spent = {};
    StoreRecord();
    for (auto& [index, channel] : released->channels) {
      if (channel.peer != nullptr) Activate(released, index, channel.incarnation, channel.peer);
    }
    return {wire::Status::kOk, {}, released->epoch, 0};
  }
  const OpenRequest claimer = observer->second;
  released->token.reset();
  DropLosers(operation);
  Session& session = sessions_[ToString(claimer.open.session)];
  session.uuid = claimer.open.session;
  session.epoch = operation.message.epoch;
  session.token.reset();
  session.spent = {};
  session.channel_count = claimer.open.channel_count;
  session.share_rw = SharesRw(claimer.open);
  session.read_only = OnlyReads(claimer.open);
  session.client_name = claimer.client_name;
  session.address = claimer.address;
  session.since = WallTime();
  session.channels.clear();
  last_ = {session.uuid};
  StoreRecord();
  // All channels of the session that observes, not only the one that asked.
  for (auto it = observers_.begin(); it != observers_.end();) {
    const wire::Open& open = it->second.open;
    const bool same = open.session == session.uuid && open.epoch == claimer.open.epoch &&
                      it->second.client_name == claimer.client_name;
    if (!same) {
      ++it;
      continue;
    }
    const auto known = session.channels.find(open.channel);
    if (known == session.channels.end() || known->second.incarnation < open.incarnation ||
        it->first == operation.peer) {
      if (known != session.channels.end()) known->second.peer->active_ = false;
      Activate(&session, open.channel, open.incarnation, it->first);
    }
    it = observers_.erase(it);
  }
  spdlog::info("volume '{}': claimed by {} ({}), epoch {}", volume_, session.client_name,
               session.address, session.epoch);
  return {wire::Status::kOk, {}, session.epoch, 0};
}

OwnershipAnswer Ownership::CommitEnd(const Operation& operation) {
  Session* session = SessionOf(operation.peer);
  if (session == nullptr) return {wire::Status::kOk, {}, 0, 0};
  const uint64_t epoch = session->epoch;
  operation.peer->active_.store(false, std::memory_order_release);
  for (auto& [index, channel] : session->channels) channel.peer = nullptr;
  // What was released stays reserved for who has the token.
  if (!session->token) {
    spdlog::info("volume '{}': closed by {} ({})", volume_, session->client_name, session->address);
    last_ = {session->uuid};
    sessions_.erase(ToString(session->uuid));
    StoreRecord();
  }
  return {wire::Status::kOk, {}, epoch, 0};
}

bool Ownership::SharesRw(const wire::Open& open) {
  return (open.flags & wire::OpenFlag::kShareRw) != 0;
}

bool Ownership::OnlyReads(const wire::Open& open) const {
  return backend_->geometry().read_only || (open.flags & wire::OpenFlag::kReadOnly) != 0;
}

Ownership::Session* Ownership::FindSession(const wire::Uuid& uuid) {
  const auto it = sessions_.find(ToString(uuid));
  return it == sessions_.end() ? nullptr : &it->second;
}

Ownership::Session* Ownership::FindToken(const wire::Uuid& token) {
  for (auto& [uuid, session] : sessions_) {
    if (session.token == token) return &session;
  }
  return nullptr;
}

bool Ownership::Repeats(const wire::Open& open, const Session* own) {
  return own != nullptr && own->epoch == open.epoch && !open.token.IsNil() &&
         own->spent == open.token;
}

Ownership::Session* Ownership::SessionOf(const Peer* peer) {
  for (auto& [uuid, session] : sessions_) {
    for (const auto& [index, channel] : session.channels) {
      if (channel.peer == peer) return &session;
    }
  }
  return nullptr;
}

void Ownership::UnlockIfFree() {
  if (!locked_ || holds_ != 0 || !sessions_.empty()) return;
  backend_->ReleaseExclusive();
  locked_ = false;
}

cloudblk::Status Ownership::LoadRecord() {
  const Result<std::string> text = backend_->LoadOwner();
  if (!text.ok()) return text.status();
  stored_ = ParseOwnerRecord(text.value());
  if (stored_ == OwnerRecord{}) return cloudblk::Status::Ok();
  record_kept_ = true;
  last_ = stored_.last;
  for (const OwnerRecord::Holder& holder : stored_.holders) {
    Session session;
    session.uuid = holder.session;
    session.epoch = holder.epoch;
    session.share_rw = holder.share_rw;
    session.read_only = holder.read_only;
    session.client_name = holder.client_name;
    session.address = "not seen since the proxy started";
    session.token = holder.token;
    session.spent = holder.spent;
    session.lost_ns = clock_();
    last_.push_back(holder.session);
    spdlog::info("volume '{}': was held by {}; only it may resume for {} s", volume_,
                 holder.client_name, lease_ns_ / 1'000'000'000);
    sessions_.emplace(ToString(holder.session), std::move(session));
  }
  return cloudblk::Status::Ok();
}

void Ownership::StoreRecord() {
  OwnerRecord record;
  for (const auto& [uuid, session] : sessions_) {
    record.holders.push_back({session.uuid, session.epoch, session.share_rw, session.read_only,
                              session.token, session.spent, session.client_name});
  }
  if (record.holders.empty()) record.last = last_;
  if (record == stored_) return;
  const Status status = backend_->StoreOwner(Format(record));
  if (status.ok()) {
    stored_ = std::move(record);
    record_kept_ = true;
    return;
  }
  if (!record_warned_) {
    spdlog::warn("volume '{}': who owns it does not survive a restart of the proxy: {}", volume_,
                 status.message());
  }
  record_warned_ = true;
  // Better nobody's than that of somebody who has lost the volume since.
  if (!(stored_ == OwnerRecord{}) && backend_->StoreOwner({}).ok()) stored_ = {};
}

}  // namespace cloudblk::proxy
