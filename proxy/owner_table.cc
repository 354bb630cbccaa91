// SPDX-License-Identifier: GPL-2.0-or-later
//
// What a granted call changes, and what is known of who has the volume.
#include "proxy/owner_table.h"

#include <fmt/chrono.h>
#include <fmt/format.h>

#include <algorithm>
#include <cassert>
#include <ctime>
#include <utility>

#include "base/clock.h"

namespace cloudblk::proxy {
namespace {

constexpr size_t kMaxFenced = 4096;

std::string WallTime() {
  return fmt::format("{:%Y-%m-%d %H:%M:%S} UTC", fmt::gmtime(time(nullptr)));
}

// Epochs tell one session's lives apart, and say nothing without it.
std::string ShortName(const Uuid& session) { return ToString(session).substr(0, 8); }

}  // namespace

OwnershipAnswer OwnerTable::Commit(OwnershipCall* call, int64_t now) {
  switch (call->kind) {
    case OwnershipCall::Kind::kOpen:
      return CommitOpen(call, now);
    case OwnershipCall::Kind::kRelease:
      return CommitRelease(*call, now);
    case OwnershipCall::Kind::kClaim:
      return CommitClaim(call, now);
    case OwnershipCall::Kind::kEnd:
      return CommitEnd(call);
    case OwnershipCall::Kind::kExpire:
      return CommitExpire(now);
    case OwnershipCall::Kind::kHold:
    case OwnershipCall::Kind::kYield:
      return {};
  }
  return {wire::StatusCode::kInvalid, {}, 0, 0};
}

OwnershipAnswer OwnerTable::CommitOpen(OwnershipCall* call, int64_t now) {
  const wire::Open& open = call->request.open;
  if (OnlyObserves(*call)) {
    observers_[call->peer] = {.request = call->request};
    const Session* session = FindSession(open.session);
    return {wire::StatusCode::kOk, {}, session != nullptr ? session->epoch : open.epoch, 0};
  }
  const bool claims = FindToken(open.token) != nullptr;
  const bool repeats = Repeats(open);
  const bool nobody_known = sessions_.empty() && last_.empty();
  DropLosers(*call);
  Session& session = sessions_[ToString(open.session)];
  const bool new_epoch = session.epoch != open.epoch;
  const bool fresh = session.channels.empty() || new_epoch;
  if (claims || repeats) {
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
    session.client_name = call->request.client_name;
    session.since = WallTime();
  }
  session.token.reset();
  session.channel_count = open.channel_count;
  session.address = call->request.address;
  session.channels[open.channel] = {open.incarnation, nullptr};
  session.lost_ns = now;
  if (session.share_rw) {
    std::erase_if(last_, [&](const auto& former) { return former.session == session.uuid; });
    last_.push_back(FormerOf(session));
  } else {
    last_ = {FormerOf(session)};
    knows_last_ = true;
  }
  call->activate = open.session;
  // Else a record that says less would fence it when it comes back.
  call->harmless = IsPlainReader(session) && nobody_known;
  if (fresh) {
    const char* what = claims ? "claimed by" : "active for";
    Log(what, fmt::format("{} {} ({}), session {} epoch {}", what, session.client_name,
                          session.address, ShortName(session.uuid), session.epoch));
  }
  return {wire::StatusCode::kOk, {}, session.epoch, 0};
}

OwnershipAnswer OwnerTable::CommitRelease(const OwnershipCall& call, int64_t now) {
  Session* session = SessionOf(call.peer);
  session->token = released_token_ = call.message.token;
  released_ns_ = now;
  for (auto& [index, channel] : session->channels) {
    if (channel.peer != nullptr) channel.peer->active_.store(false, std::memory_order_release);
  }
  Log("released", fmt::format("released by {} ({})", session->client_name, session->address));
  return {wire::StatusCode::kOk, {}, session->epoch, 0};
}

OwnershipAnswer OwnerTable::CommitClaim(OwnershipCall* call, int64_t now) {
  Session* released = FindToken(call->message.token);
  const auto observer = observers_.find(call->peer);
  if (observer == observers_.end()) {
    // The one that released it takes it back.
    released->token.reset();
    released->epoch = call->message.epoch;
    released->spent = call->message.token;
    call->activate = released->uuid;
    return {wire::StatusCode::kOk, {}, released->epoch, 0};
  }
  call->by_observer = true;
  call->request = observer->second.request;
  call->released = observer->second.released;
  const OpenRequest& claimer = call->request;
  released->token.reset();
  DropLosers(*call);
  Session& session = sessions_[ToString(claimer.open.session)];
  session.uuid = claimer.open.session;
  session.epoch = call->message.epoch;
  session.token.reset();
  session.spent = call->message.token;
  session.claimer = claimer.open.claimer;
  session.channel_count = claimer.open.channel_count;
  session.share_rw = SharesRw(claimer.open);
  session.read_only = OnlyReads(claimer.open);
  session.client_name = claimer.client_name;
  session.address = claimer.address;
  session.since = WallTime();
  session.channels.clear();
  session.lost_ns = now;
  last_ = {FormerOf(session)};
  knows_last_ = true;
  call->activate = session.uuid;
  Log("claimed by", fmt::format("claimed by {} ({}), session {} epoch {}", session.client_name,
                                session.address, ShortName(session.uuid), session.epoch));
  return {wire::StatusCode::kOk, {}, session.epoch, 0};
}

OwnershipAnswer OwnerTable::CommitEnd(OwnershipCall* call) {
  Session* session = SessionOf(call->peer);
  if (session == nullptr) return {wire::StatusCode::kOk, {}, 0, 0};
  const uint64_t epoch = session->epoch;
  if (call->peer != nullptr) call->peer->active_.store(false, std::memory_order_release);
  for (auto& [index, channel] : session->channels) channel.peer = nullptr;
  call->harmless = IsPlainReader(*session);
  // A volume that was released stays reserved for who has the token.
  if (!session->token) {
    Log("closed", fmt::format("closed by {} ({})", session->client_name, session->address));
    last_ = {FormerOf(*session)};
    knows_last_ = true;
    sessions_.erase(ToString(session->uuid));
  }
  return {wire::StatusCode::kOk, {}, epoch, 0};
}

// All at once or none: while one of those that share a volume has it, the others may still come
// back.
OwnershipAnswer OwnerTable::CommitExpire(int64_t now) {
  const bool held = std::ranges::any_of(sessions_, [&](const auto& entry) {
    return !entry.second.token && !Expired(entry.second, now);
  });
  if (held) return {};
  std::vector<OwnerRecord::Former> ended;
  bool wrote = false;
  std::erase_if(sessions_, [&](const auto& entry) {
    const Session& session = entry.second;
    if (!Expired(session, now)) return false;
    Log("lease",
        fmt::format("the lease of {} ({}) has ended", session.client_name, session.address));
    ended.push_back(FormerOf(session));
    wrote = wrote || !IsPlainReader(session);
    return true;
  });
  if (!ended.empty()) {
    const bool many = ended.size() > kMaxReadersNamed && !wrote;
    last_ = many ? std::vector<OwnerRecord::Former>(1) : std::move(ended);
    knows_last_ = true;
  }
  return {};
}

void OwnerTable::DropLosers(const OwnershipCall& call) {
  for (const Uuid& uuid : call.losers) {
    const std::string key = ToString(uuid);
    sessions_.erase(key);
    if (fenced_.insert(key).second) fenced_order_.push_back(key);
    if (fenced_order_.size() > kMaxFenced) {
      fenced_.erase(fenced_order_.front());
      fenced_order_.pop_front();
    }
  }
}

void OwnerTable::Activate(Session* session, uint32_t channel, uint64_t incarnation, Peer* peer) {
  session->channels[channel] = {incarnation, peer};
  peer->active_.store(true, std::memory_order_release);
}

// All channels of the session that observes, not only the one that asked.
void OwnerTable::ActivateObservers(Session* session, const OwnershipCall& claim) {
  const Observer claimer{.request = claim.request, .released = claim.released};
  for (auto it = observers_.begin(); it != observers_.end();) {
    const wire::Open& open = it->second.request.open;
    if (!AreOfOneClient(it->second, claimer)) {
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

void OwnerTable::Finish(const OwnershipCall& call) {
  if (!call.activate) return;
  Session* session = FindSession(*call.activate);
  const wire::Open& open = call.request.open;
  if (call.kind == OwnershipCall::Kind::kOpen) {
    if (call.peer != nullptr) Activate(session, open.channel, open.incarnation, call.peer);
  } else if (call.by_observer) {
    ActivateObservers(session, call);
  } else {
    for (auto& [index, channel] : session->channels) {
      if (channel.peer != nullptr) Activate(session, index, channel.incarnation, channel.peer);
    }
  }
}

void OwnerTable::Gone(Peer* peer, int64_t now) {
  peer->active_.store(false, std::memory_order_release);
  observers_.erase(peer);
  Session* session = SessionOf(peer);
  if (session == nullptr) return;
  for (auto& [index, channel] : session->channels) {
    if (channel.peer == peer) channel.peer = nullptr;
  }
  if (session->connected()) return;
  session->lost_ns = now;
  if (session->token) return;
  Log("lost", fmt::format("lost the last connection of {} ({}); it may come back for {} s, unless "
                          "another client was given the volume",
                          session->client_name, session->address, lease_ns_ / kNsPerS));
}

void OwnerTable::Take(const OwnerRecord& record, int64_t now) {
  if (record == OwnerRecord{}) return;
  knows_last_ = true;
  last_ = record.last;
  for (const OwnerRecord::Holder& holder : record.holders) {
    Session session;
    Recall(holder, now, &session);
    session.address = "not seen since the proxy took the volume's lock";
    last_.push_back(FormerOf(session));
    if (holder.token && *holder.token != released_token_) {
      released_token_ = *holder.token;
      released_ns_ = now;
    }
    if (!holder.token) {
      Log("was held", fmt::format("was held by {}; only it may resume for {} s", holder.client_name,
                                  lease_ns_ / kNsPerS));
    }
    sessions_.insert_or_assign(ToString(holder.session), std::move(session));
  }
}

void OwnerTable::Recall(const OwnerRecord::Holder& holder, int64_t now, Session* session) {
  session->uuid = holder.session;
  session->epoch = holder.epoch;
  session->share_rw = holder.share_rw;
  session->read_only = holder.read_only;
  session->client_name = holder.client_name;
  session->token = holder.token;
  session->spent = holder.spent;
  session->claimer.reset();
  if (!holder.claimer.IsNil()) session->claimer = holder.claimer;
  session->lost_ns = now;
}

void OwnerTable::Forget() {
  for (const auto& [uuid, session] : sessions_) {
    for (const auto& [index, channel] : session.channels) {
      if (channel.peer == nullptr) continue;
      assert(!channel.peer->active());
      Observer& observer = observers_[channel.peer];
      observer.released = session.token;
      OpenRequest& request = observer.request;
      request.open.session = session.uuid;
      request.open.epoch = session.epoch;
      request.open.channel = index;
      request.open.channel_count = session.channel_count;
      request.open.incarnation = channel.incarnation;
      request.open.claimer = session.claimer.value_or(Uuid{});
      request.open.flags = (session.share_rw ? wire::OpenFlag::kShareRw : 0u) |
                           (session.read_only ? wire::OpenFlag::kReadOnly : 0u);
      request.client_name = session.client_name;
      request.address = session.address;
    }
  }
  sessions_.clear();
  fenced_.clear();
  fenced_order_.clear();
  last_.clear();
  knows_last_ = false;
}

OwnerRecord OwnerTable::Record() const {
  OwnerRecord record;
  const auto readers = std::ranges::count_if(
      sessions_, [](const auto& entry) { return IsPlainReader(entry.second); });
  const bool many_readers = static_cast<size_t>(readers) > kMaxReadersNamed;
  if (many_readers) {
    OwnerRecord::Holder& all = record.holders.emplace_back();
    all.read_only = true;
    all.client_name = "some who only read";
  }
  for (const auto& [uuid, session] : sessions_) {
    if (many_readers && IsPlainReader(session)) continue;
    record.holders.push_back({session.uuid, session.epoch, session.share_rw, session.read_only,
                              session.token, session.spent, session.claimer.value_or(Uuid{}),
                              KeptName(session.client_name)});
  }
  if (record.holders.empty()) record.last = last_;
  return record;
}

void OwnerTable::TakeBack(OwnershipCall* call, const OwnerRecord& stored, const Status& why,
                          int64_t now) {
  const std::string claimant = ToString(*call->activate);
  const bool held = std::ranges::any_of(stored.holders, [&](const OwnerRecord::Holder& holder) {
    return holder.session == *call->activate;
  });
  if (!held) sessions_.erase(claimant);
  for (const OwnerRecord::Holder& holder : stored.holders) {
    const std::string key = ToString(holder.session);
    if (key != claimant && sessions_.contains(key)) continue;
    fenced_.erase(key);
    std::erase(fenced_order_, key);
    Session& session = sessions_[key];
    Recall(holder, now, &session);
    session.address = "as the storage has it";
  }
  last_ = stored.last;
  for (const auto& [key, session] : sessions_) last_.push_back(FormerOf(session));
  call->activate.reset();
  call->answer = {wire::StatusCode::kBusy,
                  fmt::format("volume '{}' cannot be given to another client, as its storage goes "
                              "on naming the one before: {}",
                              volume_, why.message()),
                  0, 0};
}

bool OwnerTable::Session::connected() const {
  return std::ranges::any_of(channels, [](const auto& c) { return c.second.peer != nullptr; });
}

bool OwnerTable::IsConnected() const {
  return std::ranges::any_of(sessions_, [](const auto& s) { return s.second.connected(); });
}

bool OwnerTable::HasHolder() const {
  return std::ranges::any_of(sessions_, [](const auto& s) { return !s.second.token; });
}

bool OwnerTable::Expired(const Session& session, int64_t now) const {
  return !session.token && !session.connected() && now >= LeaseEnd(session);
}

std::optional<int64_t> OwnerTable::LeasesEnd() const {
  std::optional<int64_t> end;
  for (const auto& [uuid, session] : sessions_) {
    if (session.token) continue;
    if (session.connected()) return std::nullopt;
    end = std::max(end.value_or(0), LeaseEnd(session));
  }
  return end;
}

void OwnerTable::Log(const std::string& kind, const std::string& text) const {
  log_->Log(spdlog::level::info, kind, fmt::format("volume '{}': {}", volume_, text),
            LogLimit::kOfVolume);
}

OwnerRecord::Former OwnerTable::FormerOf(const Session& session) {
  // Who has not been seen by this process may have claimed it by an id that it does not know.
  if (!session.claimer) return {session.uuid, 0, {}, {}};
  return {session.uuid, session.epoch, *session.claimer, session.spent};
}

bool OwnerTable::IsPlainReader(const Session& session) {
  return session.read_only && !session.share_rw && !session.token && session.spent.IsNil() &&
         session.claimer.value_or(Uuid{}).IsNil();
}

bool OwnerTable::AreOfOneClient(const Observer& one, const Observer& other) {
  const wire::Open& a = one.request.open;
  const wire::Open& b = other.request.open;
  return a.session == b.session && a.epoch == b.epoch && a.claimer == b.claimer &&
         one.request.client_name == other.request.client_name && one.released == other.released;
}

bool OwnerTable::SharesRw(const wire::Open& open) {
  return (open.flags & wire::OpenFlag::kShareRw) != 0;
}

bool OwnerTable::OnlyReads(const wire::Open& open) const {
  return backend_->geometry().read_only || (open.flags & wire::OpenFlag::kReadOnly) != 0;
}

const OwnerTable::Session* OwnerTable::FindSession(const Uuid& uuid) const {
  const auto it = sessions_.find(ToString(uuid));
  return it == sessions_.end() ? nullptr : &it->second;
}

OwnerTable::Session* OwnerTable::FindSession(const Uuid& uuid) {
  return const_cast<Session*>(std::as_const(*this).FindSession(uuid));
}

const OwnerTable::Session* OwnerTable::FindToken(const Uuid& token) const {
  for (const auto& [uuid, session] : sessions_) {
    if (session.token == token) return &session;
  }
  return nullptr;
}

OwnerTable::Session* OwnerTable::FindToken(const Uuid& token) {
  return const_cast<Session*>(std::as_const(*this).FindToken(token));
}

const OwnerTable::Session* OwnerTable::SessionOf(const Peer* peer) const {
  if (peer == nullptr) return nullptr;
  for (const auto& [uuid, session] : sessions_) {
    for (const auto& [index, channel] : session.channels) {
      if (channel.peer == peer) return &session;
    }
  }
  return nullptr;
}

OwnerTable::Session* OwnerTable::SessionOf(const Peer* peer) {
  return const_cast<Session*>(std::as_const(*this).SessionOf(peer));
}

Uuid OwnerTable::SubjectOf(const OwnershipCall& call) const {
  if (call.kind == OwnershipCall::Kind::kOpen) return call.request.open.session;
  const auto observer = observers_.find(call.peer);
  if (observer != observers_.end()) return observer->second.request.open.session;
  const Session* session = SessionOf(call.peer);
  return session != nullptr ? session->uuid : Uuid{};
}

bool OwnerTable::Repeats(const wire::Open& open) const {
  if (open.token.IsNil()) return false;
  const Session* own = FindSession(open.session);
  if (own != nullptr) return own->epoch == open.epoch && own->spent == open.token;
  const auto former = std::ranges::find(last_, open.session, &OwnerRecord::Former::session);
  return former != last_.end() && former->epoch == open.epoch && former->spent == open.token;
}

}  // namespace cloudblk::proxy
