// SPDX-License-Identifier: GPL-2.0-or-later
//
// The rules by which an OPEN, a CLAIM or the end of a session is granted (SPEC.md 6.5, 7, 11).
#include <fmt/format.h>

#include <algorithm>

#include "base/clock.h"
#include "proxy/owner_table.h"

namespace cloudblk::proxy {
namespace {

OwnershipAnswer Ok() { return {}; }

OwnershipAnswer Refuse(wire::StatusCode status, std::string text, uint64_t epoch = 0) {
  return {status, std::move(text), epoch, 0};
}

std::string NotReserved(const std::string& volume) {
  return fmt::format(
      "volume '{}' is not reserved for this token (any more): the state that it belongs to was "
      "resumed already, its source went on, or the server could not keep it over a restart; if the "
      "machine runs nowhere else, start it from its disk",
      volume);
}

// How long a client that said something is taken to be there.
constexpr int64_t kAliveNs = 2 * kNsPerS;
// When whoever is refused is to come again: it has to be found out whether the holder is there; it
// seems not to be.
constexpr uint32_t kRetryUnknownMs = 250;
constexpr uint32_t kRetrySilentMs = 1000;
// So many leases long a machine is taken to be on its way to another host, after its volume was
// released or found to be.
constexpr int64_t kMovingLeases = 6;

std::string NameOf(const std::string& client_name) {
  return client_name.empty() ? "a client without a name" : "'" + client_name + "'";
}

}  // namespace

bool OwnerTable::NeedsLock(const OwnershipCall& call) {
  switch (call.kind) {
    case OwnershipCall::Kind::kOpen:
      return !OnlyObserves(call);
    case OwnershipCall::Kind::kClaim:
    case OwnershipCall::Kind::kHold:
      return true;
    case OwnershipCall::Kind::kRelease:
    case OwnershipCall::Kind::kEnd:
    case OwnershipCall::Kind::kExpire:
    case OwnershipCall::Kind::kYield:
      // Without the lock there is nobody to whom they could apply.
      return false;
  }
  return false;
}

bool OwnerTable::TakesOver(const OwnershipCall& call) {
  return call.kind == OwnershipCall::Kind::kOpen &&
         (call.request.open.flags & wire::OpenFlag::kTakeover) != 0;
}

bool OwnerTable::OnlyObserves(const OwnershipCall& call) {
  return call.kind == OwnershipCall::Kind::kOpen &&
         (call.request.open.flags & wire::OpenFlag::kActive) == 0;
}

bool OwnerTable::IsBehind(const OwnershipCall& later, const OwnershipCall& earlier) const {
  // Whoever would be active by it would have to be stopped too.
  if (earlier.kind == OwnershipCall::Kind::kYield) return true;
  if (later.kind == OwnershipCall::Kind::kYield) return false;
  if (later.kind == OwnershipCall::Kind::kHold || earlier.kind == OwnershipCall::Kind::kHold) {
    return false;
  }
  if (later.kind == OwnershipCall::Kind::kExpire) return true;
  // One that is being put aside would come back, and have to be put aside again.
  const Uuid subject = SubjectOf(later);
  return subject == SubjectOf(earlier) ||
         std::ranges::find(earlier.losers, subject) != earlier.losers.end();
}

OwnershipAnswer OwnerTable::Judge(OwnershipCall* call, int64_t now) const {
  call->to_stop.clear();
  call->revoke.clear();
  call->losers.clear();
  switch (call->kind) {
    case OwnershipCall::Kind::kOpen:
      return JudgeOpen(call, now);
    case OwnershipCall::Kind::kRelease:
      return JudgeRelease(*call);
    case OwnershipCall::Kind::kClaim:
      return JudgeClaim(call, now);
    case OwnershipCall::Kind::kEnd:
      return JudgeEnd(call);
    case OwnershipCall::Kind::kYield:
      for (const auto& [uuid, session] : sessions_) {
        if (!session.token) StopAll(call, session, {});
      }
      return Ok();
    case OwnershipCall::Kind::kHold:
    case OwnershipCall::Kind::kExpire:
      return Ok();
  }
  return Refuse(wire::StatusCode::kInvalid, "unknown call");
}

OwnershipAnswer OwnerTable::JudgeOpen(OwnershipCall* call, int64_t now) const {
  const wire::Open& open = call->request.open;
  const bool takeover = (open.flags & wire::OpenFlag::kTakeover) != 0;
  if ((open.flags & wire::OpenFlag::kResume) != 0 && open.volume != backend_->uuid()) {
    return Refuse(
        wire::StatusCode::kVolumeChanged,
        fmt::format("volume '{}' is another disk now than the one that was opened", volume_));
  }
  const bool observes = OnlyObserves(*call);
  const Session* own = FindSession(open.session);
  OwnershipAnswer answer = observes ? Ok() : JudgeOwnSession(open, own);
  if (answer.status != wire::StatusCode::kOk) return answer;
  if (open.channel_count > kMaxChannels) {
    return Refuse(wire::StatusCode::kTooMany,
                  fmt::format("{} channels are asked for; at most {} are possible",
                              open.channel_count, kMaxChannels));
  }
  if (!call->request.no_room.empty() && (observes || own == nullptr)) {
    return Refuse(wire::StatusCode::kTooMany, call->request.no_room);
  }
  if (observes) return Ok();

  const bool has_token = !open.token.IsNil() && !Repeats(open);
  const Session* released = has_token ? FindToken(open.token) : nullptr;
  if (has_token && released == nullptr) {
    return Refuse(wire::StatusCode::kBadToken, NotReserved(volume_));
  }
  if (own != nullptr && own->token && !has_token && !takeover) return Busy(*own, now);
  answer = JudgeOthers(call, call->request, open.flags, now);
  const bool repeats = own != nullptr && own->epoch == open.epoch && !own->token;
  if (answer.status == wire::StatusCode::kOk && !repeats &&
      (open.flags & wire::OpenFlag::kEndReservation) != 0) {
    answer = JudgeReservation(now);
  }
  if (answer.status != wire::StatusCode::kOk) return answer;
  if (released != nullptr && open.epoch <= released->epoch) {
    return Refuse(wire::StatusCode::kInvalid,
                  fmt::format("a claim needs an epoch above {}", released->epoch), released->epoch);
  }
  if (own == nullptr) return Ok();
  if (own->epoch < open.epoch) {
    StopAll(call, *own, own->token ? call->revoked : std::string());
  } else if (const auto channel = own->channels.find(open.channel);
             channel != own->channels.end() && channel->second.peer != nullptr) {
    call->to_stop.insert(channel->second.peer);
  }
  return Ok();
}

OwnershipAnswer OwnerTable::JudgeOwnSession(const wire::Open& open, const Session* own) const {
  if (own == nullptr) return JudgeFormer(open);
  if (own->epoch > open.epoch) {
    std::string text = fmt::format("the session is at epoch {} already", own->epoch);
    if (!open.token.IsNil()) text += ": the machine goes on as " + Resumer(*own) + "; end this one";
    return Refuse(wire::StatusCode::kStale, std::move(text), own->epoch);
  }
  const bool same_epoch = own->epoch == open.epoch;
  if (same_epoch && own->claimer && *own->claimer != open.claimer) {
    return ClaimedByAnother("as " + Resumer(*own), own->epoch);
  }
  if (same_epoch) {
    const auto channel = own->channels.find(open.channel);
    if (channel != own->channels.end() && channel->second.incarnation >= open.incarnation) {
      return Refuse(wire::StatusCode::kStale,
                    fmt::format("channel {} is at incarnation {} already", open.channel,
                                channel->second.incarnation),
                    own->epoch);
    }
  }
  if (same_epoch && own->channel_count != 0 && own->channel_count != open.channel_count) {
    return Refuse(wire::StatusCode::kInvalid, fmt::format("the session has {} channels, not {}",
                                                          own->channel_count, open.channel_count));
  }
  if (same_epoch && !own->channels.empty() &&
      (own->share_rw != SharesRw(open) || own->read_only != OnlyReads(open))) {
    return Refuse(wire::StatusCode::kInvalid,
                  "READ_ONLY and SHARE_RW have to be the same for all channels of a session");
  }
  return Ok();
}

// A session that nothing is known of but, maybe, that it was here.
OwnershipAnswer OwnerTable::JudgeFormer(const wire::Open& open) const {
  const bool resumes = (open.flags & wire::OpenFlag::kResume) != 0;
  const auto former = std::ranges::find(last_, open.session, &OwnerRecord::Former::session);
  const auto many = std::ranges::find(last_, Uuid{}, &OwnerRecord::Former::session);
  // One of those that the record does not name (Record).
  const bool may_be_one_of_many =
      OnlyReads(open) && (many != last_.end() || FindSession(Uuid{}) != nullptr);
  // On a volume whose last holders are known, and are others, it has lost it.
  const bool lost =
      resumes && knows_last_ && !last_.empty() && former == last_.end() && !may_be_one_of_many;
  if (lost || fenced_.contains(ToString(open.session))) {
    return Refuse(wire::StatusCode::kFenced,
                  fmt::format("another client was given volume '{}' meanwhile", volume_));
  }
  // A token says what it is good for by itself.
  if (former == last_.end() || former->epoch == 0 || (!open.token.IsNil() && !Repeats(open))) {
    return Ok();
  }
  if (open.epoch < former->epoch) {
    return Refuse(wire::StatusCode::kStale,
                  fmt::format("the session was at epoch {} already", former->epoch), former->epoch);
  }
  if (resumes && open.epoch == former->epoch && former->claimer != open.claimer) {
    return ClaimedByAnother("already, by a client that has ended", former->epoch);
  }
  return Ok();
}

OwnershipAnswer OwnerTable::ClaimedByAnother(const std::string& by, uint64_t epoch) const {
  return Refuse(wire::StatusCode::kFenced,
                fmt::format("the state that this client resumes was resumed {}, who was given "
                            "volume '{}' and may have changed it; that is possible once only: if "
                            "the machine does not run there, start it from its disk",
                            by, volume_),
                epoch);
}

// The other sessions of the volume: those it can be shared with stay, those that may be put aside
// become losers, any other is in the way.
OwnershipAnswer OwnerTable::JudgeOthers(OwnershipCall* call, const OpenRequest& request,
                                        uint32_t flags, int64_t now) const {
  const wire::Open& open = request.open;
  const bool takeover = (flags & wire::OpenFlag::kTakeover) != 0;
  const bool ends_reservation = takeover || (flags & wire::OpenFlag::kEndReservation) != 0;
  const bool share_rw = SharesRw(open);
  const bool read_only = OnlyReads(open);
  const Uuid& token = call->kind == OwnershipCall::Kind::kClaim ? call->message.token : open.token;
  call->revoked = fmt::format("volume '{}' was given to {} ({})", volume_,
                              NameOf(request.client_name), request.address);
  for (const auto& [uuid, session] : sessions_) {
    if (session.uuid == open.session) continue;
    if (session.token) {
      // For a token that is not this one the answer is BAD_TOKEN, not BUSY.
      if (token.IsNil() && !ends_reservation) return Busy(session, now);
      if (session.token != token && !ends_reservation) continue;
    } else if (!Expired(session, now)) {
      const bool shared = (share_rw && session.share_rw) || (read_only && session.read_only);
      if (shared) continue;
      if (!takeover) return Busy(session, now);
    }
    call->losers.push_back(session.uuid);
  }
  for (const Uuid& loser : call->losers) {
    StopAll(call, *FindSession(loser), call->revoked);
  }
  StopReleased(call);
  return Ok();
}

// END_RESERVATION: there has to be one, and nobody who is about to go on with it. In the middle of
// a migration neither side need be connected.
OwnershipAnswer OwnerTable::JudgeReservation(int64_t now) const {
  bool reserved = false;
  for (const auto& [uuid, session] : sessions_) {
    if (!session.token) continue;
    reserved = true;
    const bool awaited =
        std::ranges::any_of(observers_, [&session = session](const auto& observer) {
          return observer.second.request.open.session == session.uuid;
        });
    const int64_t moving_ns = kMovingLeases * lease_ns_;
    const bool just_now = session.token == released_token_ && now - released_ns_ < moving_ns;
    if (session.connected() || awaited || just_now) {
      return Refuse(
          wire::StatusCode::kBusy,
          fmt::format("volume '{}' may be on its way: {} ({}), which released it, or who goes on "
                      "with it, is connected, or that is known for less than {} s; end that one "
                      "first, or try again then",
                      volume_, NameOf(session.client_name), session.address, moving_ns / kNsPerS),
          session.epoch);
    }
  }
  if (reserved) return Ok();
  return Refuse(wire::StatusCode::kInvalid,
                fmt::format("volume '{}' is not reserved: there is nothing to release", volume_));
}

OwnershipAnswer OwnerTable::JudgeRelease(const OwnershipCall& call) const {
  const Session* session = SessionOf(call.peer);
  if (session == nullptr || session->token) {
    return Refuse(wire::StatusCode::kNotActive, "the session is not active");
  }
  if (call.message.epoch != session->epoch) {
    return Refuse(wire::StatusCode::kInvalid,
                  fmt::format("RELEASE names epoch {}, but the session is at {}",
                              call.message.epoch, session->epoch),
                  session->epoch);
  }
  return Ok();
}

OwnershipAnswer OwnerTable::JudgeClaim(OwnershipCall* call, int64_t now) const {
  const Session* released = FindToken(call->message.token);
  if (released == nullptr) {
    return Refuse(wire::StatusCode::kBadToken, NotReserved(volume_));
  }
  if (call->message.epoch <= released->epoch) {
    return Refuse(wire::StatusCode::kInvalid,
                  fmt::format("a claim needs an epoch above {}", released->epoch), released->epoch);
  }
  if (SessionOf(call->peer) == released) return Ok();
  const auto observer = observers_.find(call->peer);
  if (observer == observers_.end()) {
    return Refuse(wire::StatusCode::kInvalid,
                  "only who observes or released the volume may claim it");
  }
  // The session that observes may be active too, by other connections: they have its lower epoch.
  const Session* own = FindSession(observer->second.request.open.session);
  if (own != nullptr && call->message.epoch <= own->epoch) {
    return Refuse(wire::StatusCode::kStale,
                  fmt::format("the session is at epoch {} already", own->epoch), own->epoch);
  }
  OwnershipAnswer answer = JudgeOthers(call, observer->second.request, 0, now);
  if (answer.status != wire::StatusCode::kOk) return answer;
  if (own != nullptr) StopAll(call, *own, {});
  // Migration keeps the session's UUID: its connections at the source have the lower epoch.
  StopAll(call, *released, call->revoked);
  return Ok();
}

OwnershipAnswer OwnerTable::JudgeEnd(OwnershipCall* call) const {
  const auto observer = observers_.find(call->peer);
  if (observer != observers_.end()) {
    const wire::Open& open = observer->second.request.open;
    for (const auto& [peer, other] : observers_) {
      if (peer != call->peer && other.request.open.session == open.session &&
          other.request.open.epoch == open.epoch) {
        call->to_stop.insert(peer);
      }
    }
  }
  if (const Session* session = SessionOf(call->peer)) StopAll(call, *session, {});
  call->to_stop.erase(call->peer);
  return Ok();
}

// Those that released the volume to whoever has it from now on.
void OwnerTable::StopReleased(OwnershipCall* call) const {
  const auto claimer = observers_.find(call->peer);
  for (const auto& [peer, observer] : observers_) {
    if (!observer.released) continue;
    // The one that released it takes it back.
    if (claimer != observers_.end() && AreOfOneClient(observer, claimer->second)) continue;
    call->to_stop.insert(peer);
    call->revoke.insert(peer);
  }
}

void OwnerTable::StopAll(OwnershipCall* call, const Session& session, const std::string& revoked) {
  for (const auto& [index, channel] : session.channels) {
    if (channel.peer == nullptr) continue;
    call->to_stop.insert(channel.peer);
    if (!revoked.empty()) call->revoke.insert(channel.peer);
  }
}

std::set<Peer*> OwnerTable::InTheWayOf(const OwnershipCall& call) const {
  std::set<Peer*> peers;
  const Uuid subject = SubjectOf(call);
  for (const auto& [uuid, session] : sessions_) {
    if (session.uuid == subject || session.token) continue;
    for (const auto& [index, channel] : session.channels) {
      if (channel.peer != nullptr) peers.insert(channel.peer);
    }
  }
  return peers;
}

OwnershipAnswer OwnerTable::Busy(const Session& holder, int64_t now) const {
  std::string text = fmt::format("volume '{}' is in use by {} ({})", volume_,
                                 NameOf(holder.client_name), holder.address);
  if (!holder.since.empty()) text += " since " + holder.since;
  if (holder.token) {
    text +=
        ", which released it to whoever goes on with that machine, moved or saved; if nobody is "
        "to, "
        "end that by 'cloudblk release --force', or use takeover";
    return {wire::StatusCode::kBusy, std::move(text), holder.epoch, 0};
  }
  if (holder.connected()) {
    const auto [retry_ms, silent_ns] = AskAgainIn(holder, now);
    text += ", which is connected";
    if (silent_ns >= kNsPerS) text += fmt::format(", but silent for {} s", silent_ns / kNsPerS);
    text += "; stop it, or use takeover";
    return {wire::StatusCode::kBusy, std::move(text), holder.epoch, retry_ms};
  }
  const int64_t left_ns = LeaseEnd(holder) - now;
  const int64_t left_ms = std::max<int64_t>(1, (left_ns + kNsPerMs - 1) / kNsPerMs);
  text += fmt::format(", which is not connected; its lease ends in {:.1f} s: wait, or use takeover",
                      static_cast<double>(left_ms) / 1000);
  return {wire::StatusCode::kBusy, std::move(text), holder.epoch, static_cast<uint32_t>(left_ms)};
}

std::pair<uint32_t, int64_t> OwnerTable::AskAgainIn(const Session& holder, int64_t now) {
  int64_t asked_ns = 0;
  for (const auto& [index, channel] : holder.channels) {
    if (channel.peer == nullptr) continue;
    const int64_t heard_ns = channel.peer->heard_ns();
    if (heard_ns != 0 && now < heard_ns + kAliveNs) return {0, 0};
    if (channel.peer->asked_ns() != 0) asked_ns = channel.peer->asked_ns();
  }
  if (asked_ns == 0) return {kRetryUnknownMs, 0};
  const int64_t silent_ns = now - asked_ns;
  return {silent_ns < kNsPerS ? kRetryUnknownMs : kRetrySilentMs, silent_ns};
}

std::string OwnerTable::Resumer(const Session& session) {
  const std::string text = fmt::format("{} ({})", NameOf(session.client_name), session.address);
  return session.since.empty() ? text : text + " since " + session.since;
}

}  // namespace cloudblk::proxy
