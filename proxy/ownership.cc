// SPDX-License-Identifier: GPL-2.0-or-later
#include "proxy/ownership.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <cerrno>
#include <utility>

namespace cloudblk::proxy {
namespace {

// When to come again for a volume whose storage another process has locked: until a lease ends
// there.
constexpr uint32_t kRetryLockMs = 1000;

}  // namespace

Ownership::Ownership(std::string volume, Backend* backend, int64_t lease_ns,
                     std::function<int64_t()> clock, AlarmClock* alarm, Executor* executor)
    : volume_(std::move(volume)),
      store_(volume_, backend),
      clock_(std::move(clock)),
      alarm_(alarm),
      executor_(executor),
      log_(alarm, clock_),
      table_(volume_, backend, lease_ns, &log_) {}

Ownership::~Ownership() { alarm_->Cancel(this); }

void Ownership::Restore() {
  const Result<OwnerRecord> record = store_.Acquire(false);
  if (!record.ok()) return;
  std::lock_guard lock(mutex_);
  stored_ = record.value();
  table_.Take(stored_, clock_());
  locked_ = true;
  if (MayUnlock()) {
    Unlock();
    store_.Release();
  }
  SetAlarm();
}

void Ownership::Open(Peer* peer, const OpenRequest& request) {
  Enqueue({.call = {.kind = OwnershipCall::Kind::kOpen, .peer = peer, .request = request}});
}

void Ownership::Release(Peer* peer, const wire::TokenMessage& message) {
  Enqueue({.call = {.kind = OwnershipCall::Kind::kRelease, .peer = peer, .message = message}});
}

void Ownership::Claim(Peer* peer, const wire::TokenMessage& message) {
  Enqueue({.call = {.kind = OwnershipCall::Kind::kClaim, .peer = peer, .message = message}});
}

void Ownership::End(Peer* peer) {
  Enqueue({.call = {.kind = OwnershipCall::Kind::kEnd, .peer = peer}});
}

void Ownership::Hold(HoldFn held) {
  Enqueue({.call = {.kind = OwnershipCall::Kind::kHold}, .held = std::move(held)});
}

void Ownership::Yield(std::function<void()> done) {
  Enqueue({.call = {.kind = OwnershipCall::Kind::kYield}, .done = std::move(done)});
}

void Ownership::OnAlarm() {
  {
    std::lock_guard lock(mutex_);
    alarm_ns_.reset();
  }
  Enqueue({.call = {.kind = OwnershipCall::Kind::kExpire}});
}

void Ownership::Enqueue(Operation operation) {
  std::lock_guard lock(mutex_);
  operations_.push_back(std::move(operation));
  Advance();
}

void Ownership::Unhold() {
  std::lock_guard lock(mutex_);
  --holds_;
  Advance();
}

void Ownership::Leave() {
  std::lock_guard lock(mutex_);
  leaving_ = true;
  Advance();
}

void Ownership::Gone(Peer* peer) {
  std::lock_guard lock(mutex_);
  table_.Gone(peer, clock_());
  // An operation that is committed is finished without its peer.
  for (Operation& operation : operations_) {
    operation.waiting_for.erase(peer);
    if (operation.is_storing && operation.call.peer == peer) operation.call.peer = nullptr;
  }
  std::erase_if(operations_,
                [peer](const Operation& operation) { return operation.call.peer == peer; });
  Advance();
}

void Ownership::Advance() {
  for (auto operation = operations_.begin(); operation != operations_.end();) {
    // What has changed may let an earlier one go on.
    operation = Step(operation) ? operations_.begin() : std::next(operation);
  }
  UnlockIfFree();
  SetAlarm();
}

bool Ownership::Step(Operations::iterator operation) {
  if (HasToWaitForAnother(operation)) return false;
  OwnershipCall& call = operation->call;
  if (OwnerTable::NeedsLock(call) && !locked_) return AcquireFor(&*operation);
  const OwnershipAnswer answer = table_.Judge(&call, clock_());
  if (answer.status != wire::StatusCode::kOk) {
    Refuse(operation, answer);
    return true;
  }
  if (!call.to_stop.empty()) {
    Stop(&*operation);
    return true;
  }
  Commit(operation);
  return true;
}

bool Ownership::HasToWaitForAnother(Operations::iterator operation) const {
  if (operation->is_storing || !operation->waiting_for.empty()) return true;
  if (OwnerTable::OnlyObserves(operation->call)) return false;
  if (storing_ || operation->wants_lock) return true;
  if (operation->call.kind == OwnershipCall::Kind::kYield) return acquiring_ || holds_ != 0;
  return std::any_of(
      operations_.begin(), Operations::const_iterator(operation),
      [&](const Operation& earlier) { return table_.IsBehind(operation->call, earlier.call); });
}

bool Ownership::AcquireFor(Operation* operation) {
  operation->wants_lock = true;
  if (acquiring_) return true;
  acquiring_ = true;
  const bool takeover = OwnerTable::TakesOver(operation->call);
  executor_->Run([this, takeover] { OnAcquired(store_.Acquire(takeover)); });
  return true;
}

void Ownership::OnAcquired(const Result<OwnerRecord>& record) {
  std::lock_guard lock(mutex_);
  acquiring_ = false;
  if (record.ok()) {
    locked_ = true;
    stored_ = record.value();
    table_.Take(stored_, clock_());
  }
  for (auto next = operations_.begin(); next != operations_.end();) {
    const auto operation = next++;
    if (!std::exchange(operation->wants_lock, false) || record.ok()) continue;
    const int error = record.status().error();
    const uint32_t retry_ms = error == EBUSY || error == EAGAIN ? kRetryLockMs : 0;
    Answer(*operation, {wire::StatusCode::kBusy, record.status().message(), 0, retry_ms});
    operations_.erase(operation);
  }
  Advance();
}

void Ownership::Refuse(Operations::iterator operation, const OwnershipAnswer& answer) {
  if (answer.status == wire::StatusCode::kBusy) {
    for (Peer* peer : table_.InTheWayOf(operation->call)) peer->Probe();
  }
  Answer(*operation, answer);
  operations_.erase(operation);
}

void Ownership::Answer(const Operation& operation, const OwnershipAnswer& answer) {
  if (operation.call.kind == OwnershipCall::Kind::kHold) {
    operation.held(answer);
  } else if (operation.call.peer != nullptr) {
    operation.call.peer->Answer(answer);
  }
}

void Ownership::Stop(Operation* operation) {
  const OwnershipCall& call = operation->call;
  operation->waiting_for = call.to_stop;
  for (Peer* peer : call.to_stop) {
    peer->active_.store(false, std::memory_order_release);
    const bool revoked = call.revoke.contains(peer);
    const char* otherwise = "replaced by a newer connection of its session";
    if (call.kind == OwnershipCall::Kind::kEnd) otherwise = "its session was closed";
    if (call.kind == OwnershipCall::Kind::kYield) otherwise = "the volume's lock is another's";
    peer->Stop(revoked ? call.revoked : otherwise, revoked);
  }
}

void Ownership::Commit(Operations::iterator operation) {
  OwnershipCall& call = operation->call;
  if (call.kind == OwnershipCall::Kind::kYield) {
    CommitYield(operation);
    return;
  }
  if (call.kind == OwnershipCall::Kind::kHold) ++holds_;
  call.answer = table_.Commit(&call, clock_());
  OwnerRecord record = table_.Record();
  if (!locked_ || record == stored_ || OwnerTable::OnlyObserves(call)) {
    Finish(operation);
    return;
  }
  operation->is_storing = storing_ = true;
  const bool wrong = Contradicts(stored_, record);
  using Durability = OwnerStore::Durability;
  const Durability durability = call.kind == OwnershipCall::Kind::kRelease ? Durability::kEverything
                                : call.harmless                            ? Durability::kProcess
                                                                           : Durability::kHost;
  executor_->Run([this, record = std::move(record), wrong, durability] {
    OnStored(record, wrong, store_.Keep(record, wrong, durability));
  });
}

// Who held the volume is on record, and comes back if nobody else was given it.
void Ownership::CommitYield(Operations::iterator operation) {
  const bool was_locked = std::exchange(locked_, false);
  if (was_locked) table_.Forget();
  executor_->Run([this, was_locked, done = std::move(operation->done)] {
    if (was_locked) store_.Release();
    done();
  });
  operations_.erase(operation);
}

void Ownership::OnStored(const OwnerRecord& record, bool wrong, const OwnerStore::Kept& kept) {
  std::unique_lock lock(mutex_);
  const auto operation = std::ranges::find_if(operations_, &Operation::is_storing);
  NoteKept(record, kept);
  if (!kept.status.ok() && !kept.removed && wrong && operation->call.activate) {
    table_.TakeBack(&operation->call, stored_, kept.status, clock_());
  }
  if (MayUnlock()) {
    // Before the answer: whoever is told that the volume is free may open it by another server.
    Unlock();
    lock.unlock();
    store_.Release();
    lock.lock();
  }
  storing_ = false;
  Finish(operation);
  Advance();
}

void Ownership::NoteKept(const OwnerRecord& record, const OwnerStore::Kept& kept) {
  if (kept.status.ok()) {
    stored_ = record;
  } else if (kept.removed) {
    stored_ = {};
  }
  if (kept.status.ok() || record_warned_) return;
  record_warned_ = true;
  spdlog::warn("volume '{}': who owns it does not survive a restart of the proxy: {}", volume_,
               kept.status.message());
}

void Ownership::Finish(Operations::iterator operation) {
  table_.Finish(operation->call);
  Answer(*operation, operation->call.answer);
  operations_.erase(operation);
}

bool Ownership::MayUnlock() const {
  if (!locked_ || acquiring_ || holds_ != 0) return false;
  const auto needs_it = [](const Operation& operation) {
    return OwnerTable::NeedsLock(operation.call);
  };
  if (std::ranges::any_of(operations_, needs_it)) return false;
  if (leaving_) return !table_.IsConnected();
  // Who released the volume claims it by what the storage keeps, or not at all.
  return !table_.HasHolder() && (table_.IsEmpty() || table_.Record() == stored_);
}

void Ownership::Unlock() {
  locked_ = false;
  // Others may have it from now on: what is true then is in the record.
  if (!leaving_ && table_.Record() == stored_) table_.Forget();
}

void Ownership::UnlockIfFree() {
  if (storing_ || !MayUnlock()) return;
  Unlock();
  executor_->Run([this] { store_.Release(); });
}

void Ownership::SetAlarm() {
  const auto is_expiry = [](const Operation& operation) {
    return operation.call.kind == OwnershipCall::Kind::kExpire;
  };
  if (!locked_ || std::ranges::any_of(operations_, is_expiry)) return;
  const std::optional<int64_t> end = table_.LeasesEnd();
  if (!end || end == alarm_ns_) return;
  alarm_ns_ = end;
  alarm_->Set(this, *end, [this] { OnAlarm(); });
}

}  // namespace cloudblk::proxy
