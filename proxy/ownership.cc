// SPDX-License-Identifier: GPL-2.0-or-later
#include "proxy/ownership.h"

#include <fmt/chrono.h>
#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <ctime>
#include <utility>

#include "base/clock.h"

namespace cloudblk::proxy {
namespace {

constexpr size_t kMaxFenced = 4096;

std::string WallTime() {
  return fmt::format("{:%Y-%m-%d %H:%M:%S} UTC", fmt::gmtime(time(nullptr)));
}

}  // namespace

Ownership::Ownership(std::string volume, Backend* backend, int64_t lease_ns,
                     std::function<int64_t()> clock, Executor* executor)
    : volume_(std::move(volume)),
      backend_(backend),
      store_(volume_, backend),
      lease_ns_(lease_ns),
      clock_(std::move(clock)),
      executor_(executor) {}

bool Ownership::Session::connected() const {
  return std::ranges::any_of(channels, [](const auto& c) { return c.second.peer != nullptr; });
}

void Ownership::Restore() {
  Result<OwnerRecord> record = store_.Acquire();
  if (!record.ok()) return;
  std::lock_guard lock(mutex_);
  TakeRecord(std::move(*record));
  locked_ = !NobodyNeedsLock();
  if (!locked_) store_.Release();
}

void Ownership::Open(Peer* peer, const OpenRequest& request) {
  Enqueue({.kind = Operation::Kind::kOpen, .peer = peer, .request = request});
}

void Ownership::Release(Peer* peer, const wire::TokenMessage& message) {
  Enqueue({.kind = Operation::Kind::kRelease, .peer = peer, .message = message});
}

void Ownership::Claim(Peer* peer, const wire::TokenMessage& message) {
  Enqueue({.kind = Operation::Kind::kClaim, .peer = peer, .message = message});
}

void Ownership::End(Peer* peer) { Enqueue({.kind = Operation::Kind::kEnd, .peer = peer}); }

void Ownership::Hold(HoldFn held) {
  Enqueue({.kind = Operation::Kind::kHold, .held = std::move(held)});
}

void Ownership::Enqueue(Operation operation) {
  std::lock_guard lock(mutex_);
  queue_.push_back(std::move(operation));
  Advance();
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
                   volume_, session.client_name, session.address, lease_ns_ / kNsPerS);
    }
  }
  // An operation that is committed is finished without its peer.
  if (storing_ && queue_.front().peer == peer) queue_.front().peer = nullptr;
  std::erase_if(queue_, [peer](const Operation& operation) { return operation.peer == peer; });
  for (Operation& operation : queue_) operation.waiting_for.erase(peer);
  Advance();
}

void Ownership::Advance() {
  while (!storing_ && !acquiring_ && !queue_.empty()) {
    if (!queue_.front().started && !JudgeFirst()) continue;
    Operation& operation = queue_.front();
    if (!operation.waiting_for.empty()) return;
    operation.answer = Commit(&operation);
    if (OwnerRecord record = Record(); locked_ && record != stored_) {
      storing_ = true;
      const bool wrong = Contradicts(stored_, record);
      const bool sync = operation.kind == Operation::Kind::kRelease;
      executor_->Run([this, record = std::move(record), wrong, sync] {
        OnStored(record, wrong, store_.Keep(record, wrong, sync));
      });
      return;
    }
    Finish(&operation);
  }
  UnlockIfFree();
}

bool Ownership::JudgeFirst() {
  Operation& operation = queue_.front();
  Judgement judgement = Judge(&operation);
  if (!judgement && !denied_) {
    StartAcquiring();
    return false;
  }
  if (!judgement) judgement = std::exchange(denied_, std::nullopt);
  denied_.reset();
  if (judgement->status != wire::StatusCode::kOk) {
    Answer(operation, *judgement);
    queue_.pop_front();
    return false;
  }
  Start(&operation);
  return true;
}

void Ownership::Answer(const Operation& operation, const OwnershipAnswer& answer) {
  if (operation.kind == Operation::Kind::kHold) {
    operation.held(answer);
  } else if (operation.peer != nullptr) {
    operation.peer->Answer(answer);
  }
}

void Ownership::StartAcquiring() {
  acquiring_ = true;
  executor_->Run([this] { OnAcquired(store_.Acquire()); });
}

void Ownership::OnAcquired(const Result<OwnerRecord>& record) {
  std::lock_guard lock(mutex_);
  acquiring_ = false;
  if (record.ok()) {
    locked_ = true;
    TakeRecord(record.value());
  } else if (!queue_.empty()) {
    denied_ = {wire::StatusCode::kBusy, record.status().message(), 0, 0};
  }
  Advance();
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
      return CommitOpen(operation);
    case Operation::Kind::kRelease:
      return CommitRelease(*operation);
    case Operation::Kind::kClaim:
      return CommitClaim(operation);
    case Operation::Kind::kEnd:
      return CommitEnd(*operation);
    case Operation::Kind::kHold:
      ++holds_;
      return {};
  }
  return {wire::StatusCode::kInvalid, {}, 0, 0};
}

void Ownership::DropLosers(const Operation& operation) {
  for (const Uuid& uuid : operation.losers) {
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

// All channels of the session that observes, not only the one that asked.
void Ownership::ActivateObservers(Session* session, const Operation& claim) {
  for (auto it = observers_.begin(); it != observers_.end();) {
    const wire::Open& open = it->second.open;
    const bool same = open.session == session->uuid && open.epoch == claim.request.open.epoch &&
                      open.claimer == claim.request.open.claimer &&
                      it->second.client_name == claim.request.client_name;
    if (!same) {
      ++it;
      continue;
    }
    const auto known = session->channels.find(open.channel);
    if (known == session->channels.end() || known->second.incarnation < open.incarnation ||
        it->first == claim.peer) {
      if (known != session->channels.end()) known->second.peer->active_ = false;
      Activate(session, open.channel, open.incarnation, it->first);
    }
    it = observers_.erase(it);
  }
}

void Ownership::Finish(Operation* operation) {
  if (operation->activate) {
    Session* session = FindSession(*operation->activate);
    const wire::Open& open = operation->request.open;
    if (operation->kind == Operation::Kind::kOpen) {
      if (operation->peer != nullptr) {
        Activate(session, open.channel, open.incarnation, operation->peer);
      }
    } else if (operation->by_observer) {
      ActivateObservers(session, *operation);
    } else {
      for (auto& [index, channel] : session->channels) {
        if (channel.peer != nullptr) Activate(session, index, channel.incarnation, channel.peer);
      }
    }
  }
  Answer(*operation, operation->answer);
  queue_.pop_front();
}

OwnershipAnswer Ownership::CommitOpen(Operation* operation) {
  const wire::Open& open = operation->request.open;
  if ((open.flags & wire::OpenFlag::kActive) == 0) {
    observers_[operation->peer] = operation->request;
    const Session* session = FindSession(open.session);
    return {wire::StatusCode::kOk, {}, session != nullptr ? session->epoch : open.epoch, 0};
  }
  const bool claims = FindToken(open.token) != nullptr;
  DropLosers(*operation);
  Session& session = sessions_[ToString(open.session)];
  const bool new_epoch = session.epoch != open.epoch;
  const bool fresh = session.channels.empty() || new_epoch;
  if (claims) {
    session.spent = open.token;
  } else if (new_epoch) {
    session.spent = {};
  }
  if (new_epoch || !session.claimer) session.claimer = open.claimer;
  if (fresh) {
    session.uuid = open.session;
    session.epoch = open.epoch;
    session.channels.clear();
    session.share_rw = SharesRw(open);
    session.read_only = OnlyReads(open);
    session.client_name = operation->request.client_name;
    session.since = WallTime();
  }
  session.token.reset();
  session.channel_count = open.channel_count;
  session.address = operation->request.address;
  session.channels[open.channel] = {open.incarnation, nullptr};
  session.lost_ns = clock_();
  last_ = {open.session};
  operation->activate = open.session;
  if (fresh) {
    spdlog::info("volume '{}': {} {} ({}), epoch {}", volume_, claims ? "claimed by" : "active for",
                 session.client_name, session.address, session.epoch);
  }
  return {wire::StatusCode::kOk, {}, session.epoch, 0};
}

OwnershipAnswer Ownership::CommitRelease(const Operation& operation) {
  Session* session = SessionOf(operation.peer);
  session->token = operation.message.token;
  for (auto& [index, channel] : session->channels) {
    if (channel.peer != nullptr) channel.peer->active_.store(false, std::memory_order_release);
  }
  spdlog::info("volume '{}': released by {} ({})", volume_, session->client_name, session->address);
  return {wire::StatusCode::kOk, {}, session->epoch, 0};
}

OwnershipAnswer Ownership::CommitClaim(Operation* operation) {
  Session* released = FindToken(operation->message.token);
  if (released == nullptr) {
    return {wire::StatusCode::kBadToken, "the token was spent meanwhile", 0, 0};
  }
  const auto observer = observers_.find(operation->peer);
  if (observer == observers_.end()) {
    // The one that released it takes it back.
    released->token.reset();
    released->epoch = operation->message.epoch;
    released->spent = operation->message.token;
    operation->activate = released->uuid;
    return {wire::StatusCode::kOk, {}, released->epoch, 0};
  }
  operation->by_observer = true;
  operation->request = observer->second;
  const OpenRequest& claimer = operation->request;
  released->token.reset();
  DropLosers(*operation);
  Session& session = sessions_[ToString(claimer.open.session)];
  session.uuid = claimer.open.session;
  session.epoch = operation->message.epoch;
  session.token.reset();
  session.spent = operation->message.token;
  session.claimer = claimer.open.claimer;
  session.channel_count = claimer.open.channel_count;
  session.share_rw = SharesRw(claimer.open);
  session.read_only = OnlyReads(claimer.open);
  session.client_name = claimer.client_name;
  session.address = claimer.address;
  session.since = WallTime();
  session.channels.clear();
  session.lost_ns = clock_();
  last_ = {session.uuid};
  operation->activate = session.uuid;
  spdlog::info("volume '{}': claimed by {} ({}), epoch {}", volume_, session.client_name,
               session.address, session.epoch);
  return {wire::StatusCode::kOk, {}, session.epoch, 0};
}

OwnershipAnswer Ownership::CommitEnd(const Operation& operation) {
  Session* session = SessionOf(operation.peer);
  if (session == nullptr) return {wire::StatusCode::kOk, {}, 0, 0};
  const uint64_t epoch = session->epoch;
  operation.peer->active_.store(false, std::memory_order_release);
  for (auto& [index, channel] : session->channels) channel.peer = nullptr;
  // A volume that was released stays reserved for who has the token.
  if (!session->token) {
    spdlog::info("volume '{}': closed by {} ({})", volume_, session->client_name, session->address);
    last_ = {session->uuid};
    sessions_.erase(ToString(session->uuid));
  }
  return {wire::StatusCode::kOk, {}, epoch, 0};
}

bool Ownership::SharesRw(const wire::Open& open) {
  return (open.flags & wire::OpenFlag::kShareRw) != 0;
}

bool Ownership::OnlyReads(const wire::Open& open) const {
  return backend_->geometry().read_only || (open.flags & wire::OpenFlag::kReadOnly) != 0;
}

Ownership::Session* Ownership::FindSession(const Uuid& uuid) {
  const auto it = sessions_.find(ToString(uuid));
  return it == sessions_.end() ? nullptr : &it->second;
}

Ownership::Session* Ownership::FindToken(const Uuid& token) {
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
  if (!locked_ || storing_ || acquiring_ || !NobodyNeedsLock()) return;
  locked_ = false;
  executor_->Run([this] { store_.Release(); });
}

void Ownership::TakeRecord(OwnerRecord record) {
  stored_ = std::move(record);
  if (stored_ == OwnerRecord{}) return;
  record_kept_ = true;
  last_ = stored_.last;
  for (const OwnerRecord::Holder& holder : stored_.holders) {
    Session session;
    Recall(holder, &session);
    session.address = "not seen since the proxy started";
    last_.push_back(holder.session);
    spdlog::info("volume '{}': was held by {}; only it may resume for {} s", volume_,
                 holder.client_name, lease_ns_ / kNsPerS);
    sessions_.emplace(ToString(holder.session), std::move(session));
  }
}

void Ownership::Recall(const OwnerRecord::Holder& holder, Session* session) const {
  session->uuid = holder.session;
  session->epoch = holder.epoch;
  session->share_rw = holder.share_rw;
  session->read_only = holder.read_only;
  session->client_name = holder.client_name;
  session->token = holder.token;
  session->spent = holder.spent;
  session->claimer.reset();
  if (!holder.claimer.IsNil()) session->claimer = holder.claimer;
  session->lost_ns = clock_();
}

OwnerRecord Ownership::Record() const {
  OwnerRecord record;
  for (const auto& [uuid, session] : sessions_) {
    record.holders.push_back({session.uuid, session.epoch, session.share_rw, session.read_only,
                              session.token, session.spent, session.claimer.value_or(Uuid{}),
                              KeptName(session.client_name)});
  }
  if (record.holders.empty()) record.last = last_;
  return record;
}

void Ownership::OnStored(const OwnerRecord& record, bool wrong, const OwnerStore::Kept& kept) {
  std::unique_lock lock(mutex_);
  Operation& operation = queue_.front();
  if (kept.status.ok()) {
    stored_ = record;
    record_kept_ = true;
  } else if (kept.removed) {
    stored_ = {};
  } else if (wrong && operation.activate) {
    TakeBack(&operation, kept.status);
  }
  if (!kept.status.ok() && !record_warned_) {
    spdlog::warn("volume '{}': who owns it does not survive a restart of the proxy: {}", volume_,
                 kept.status.message());
    record_warned_ = true;
  }
  if (NobodyNeedsLock() && queue_.size() == 1) {
    // Before the answer: whoever is told that the volume is free may open it by another server.
    locked_ = false;
    lock.unlock();
    store_.Release();
    lock.lock();
  }
  storing_ = false;
  Finish(&queue_.front());
  Advance();
}

// After a restart the volume would belong to whomever the storage names, or who has the token that
// it names (SPEC.md 7.5).
void Ownership::TakeBack(Operation* operation, const Status& why) {
  const std::string claimant = ToString(*operation->activate);
  const bool held = std::ranges::any_of(stored_.holders, [&](const OwnerRecord::Holder& holder) {
    return holder.session == *operation->activate;
  });
  if (!held) sessions_.erase(claimant);
  for (const OwnerRecord::Holder& holder : stored_.holders) {
    const std::string key = ToString(holder.session);
    if (key != claimant && sessions_.contains(key)) continue;
    fenced_.erase(key);
    std::erase(fenced_order_, key);
    Session& session = sessions_[key];
    Recall(holder, &session);
    session.address = "as the storage has it";
  }
  last_ = stored_.last;
  for (const auto& [key, session] : sessions_) last_.push_back(session.uuid);
  operation->activate.reset();
  operation->answer = {wire::StatusCode::kBusy,
                       fmt::format("volume '{}' cannot be given to another client, as its storage "
                                   "goes on naming the one before: {}",
                                   volume_, why.message()),
                       0, 0};
}

}  // namespace cloudblk::proxy
