// SPDX-License-Identifier: GPL-2.0-or-later
//
// The rules by which an OPEN, a CLAIM or the end of a session is granted (SPEC.md 6.5, 7, 11).
#include <fmt/format.h>

#include <algorithm>

#include "base/clock.h"
#include "proxy/ownership.h"

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

std::string NameOf(const std::string& client_name) {
  return client_name.empty() ? "a client without a name" : "'" + client_name + "'";
}

}  // namespace

Ownership::Judgement Ownership::Judge(Operation* operation) {
  switch (operation->kind) {
    case Operation::Kind::kOpen:
      return JudgeOpen(operation);
    case Operation::Kind::kRelease:
      return JudgeRelease(operation);
    case Operation::Kind::kClaim:
      return JudgeClaim(operation);
    case Operation::Kind::kEnd:
      return JudgeEnd(operation);
    case Operation::Kind::kHold:
      return locked_ ? Judgement(Ok()) : std::nullopt;
  }
  return Refuse(wire::StatusCode::kInvalid, "unknown operation");
}

Ownership::Judgement Ownership::JudgeOpen(Operation* operation) {
  const wire::Open& open = operation->request.open;
  const bool takeover = (open.flags & wire::OpenFlag::kTakeover) != 0;
  if ((open.flags & wire::OpenFlag::kResume) != 0 && open.volume != backend_->uuid()) {
    return Refuse(
        wire::StatusCode::kVolumeChanged,
        fmt::format("volume '{}' is another disk now than the one that was opened", volume_));
  }
  if (open.channel_count > kMaxChannels) {
    return Refuse(wire::StatusCode::kTooMany,
                  fmt::format("{} channels are asked for; at most {} are possible",
                              open.channel_count, kMaxChannels));
  }
  if ((open.flags & wire::OpenFlag::kActive) == 0) return Ok();
  if (!locked_) return std::nullopt;
  Session* own = FindSession(open.session);
  OwnershipAnswer answer = JudgeOwnSession(open, own);
  if (answer.status != wire::StatusCode::kOk) return answer;

  const bool has_token = !open.token.IsNil() && !Repeats(open, own);
  Session* released = has_token ? FindToken(open.token) : nullptr;
  if (has_token && released == nullptr) {
    return Refuse(wire::StatusCode::kBadToken, NotReserved(volume_));
  }
  if (own != nullptr && own->token && !has_token && !takeover) return Busy(*own);
  answer = JudgeOthers(operation, operation->request, takeover);
  if (answer.status != wire::StatusCode::kOk) return answer;
  if (released != nullptr && open.epoch <= released->epoch) {
    return Refuse(wire::StatusCode::kInvalid,
                  fmt::format("a claim needs an epoch above {}", released->epoch), released->epoch);
  }
  if (own == nullptr) return Ok();
  if (own->epoch < open.epoch) {
    StopAll(operation, *own, own->token ? operation->revoked : std::string());
  } else if (const auto channel = own->channels.find(open.channel);
             channel != own->channels.end() && channel->second.peer != nullptr) {
    operation->to_stop.insert(channel->second.peer);
  }
  return Ok();
}

OwnershipAnswer Ownership::JudgeOwnSession(const wire::Open& open, const Session* own) {
  if (own != nullptr && own->epoch > open.epoch) {
    std::string text = fmt::format("the session is at epoch {} already", own->epoch);
    if (!open.token.IsNil()) text += ": the machine goes on as " + Resumer(*own) + "; end this one";
    return Refuse(wire::StatusCode::kStale, std::move(text), own->epoch);
  }
  const bool same_epoch = own != nullptr && own->epoch == open.epoch;
  if (same_epoch && own->claimer && *own->claimer != open.claimer) {
    return Refuse(wire::StatusCode::kFenced,
                  fmt::format("the state that this client resumes was resumed as {}, who was given "
                              "volume '{}' and may have changed it; that is possible once only: if "
                              "the machine does not run there, start it from its disk",
                              Resumer(*own), volume_),
                  own->epoch);
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
  // A session that says it was here, on a volume whose last owners are known and are others, is one
  // that lost it before this process started.
  const bool lost = (open.flags & wire::OpenFlag::kResume) != 0 && own == nullptr && record_kept_ &&
                    !last_.empty() && std::ranges::find(last_, open.session) == last_.end();
  if (lost || fenced_.contains(ToString(open.session))) {
    return Refuse(wire::StatusCode::kFenced,
                  fmt::format("another client was given volume '{}' meanwhile", volume_));
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

// The other sessions of the volume: those it can be shared with stay, those that may be put aside
// become losers, any other is in the way.
OwnershipAnswer Ownership::JudgeOthers(Operation* operation, const OpenRequest& request,
                                       bool takeover) {
  const wire::Open& open = request.open;
  const bool share_rw = SharesRw(open);
  const bool read_only = OnlyReads(open);
  const Uuid& token =
      operation->kind == Operation::Kind::kClaim ? operation->message.token : open.token;
  operation->revoked = fmt::format("volume '{}' was given to {} ({})", volume_,
                                   NameOf(request.client_name), request.address);
  for (const auto& [uuid, session] : sessions_) {
    if (session.uuid == open.session) continue;
    if (session.token) {
      // For a token that is not this one the answer is BAD_TOKEN, not BUSY.
      if (token.IsNil() && !takeover) return Busy(session);
      if (session.token != token && !takeover) continue;
    } else if (!Expired(session)) {
      const bool shared = (share_rw && session.share_rw) || (read_only && session.read_only);
      if (shared) continue;
      if (!takeover) return Busy(session);
    }
    operation->losers.push_back(session.uuid);
  }
  for (const Uuid& loser : operation->losers) {
    StopAll(operation, *FindSession(loser), operation->revoked);
  }
  return Ok();
}

OwnershipAnswer Ownership::JudgeRelease(Operation* operation) {
  const Session* session = SessionOf(operation->peer);
  if (session == nullptr || session->token) {
    return Refuse(wire::StatusCode::kNotActive, "the session is not active");
  }
  if (operation->message.epoch != session->epoch) {
    return Refuse(wire::StatusCode::kInvalid,
                  fmt::format("RELEASE names epoch {}, but the session is at {}",
                              operation->message.epoch, session->epoch),
                  session->epoch);
  }
  return Ok();
}

OwnershipAnswer Ownership::JudgeClaim(Operation* operation) {
  Session* released = FindToken(operation->message.token);
  if (released == nullptr) {
    return Refuse(wire::StatusCode::kBadToken, NotReserved(volume_));
  }
  if (operation->message.epoch <= released->epoch) {
    return Refuse(wire::StatusCode::kInvalid,
                  fmt::format("a claim needs an epoch above {}", released->epoch), released->epoch);
  }
  if (SessionOf(operation->peer) == released) return Ok();
  const auto observer = observers_.find(operation->peer);
  if (observer == observers_.end()) {
    return Refuse(wire::StatusCode::kInvalid,
                  "only who observes or released the volume may claim it");
  }
  // The session that observes may be active too, by other connections: they have its lower epoch.
  const Session* own = FindSession(observer->second.open.session);
  if (own != nullptr && operation->message.epoch <= own->epoch) {
    return Refuse(wire::StatusCode::kStale,
                  fmt::format("the session is at epoch {} already", own->epoch), own->epoch);
  }
  OwnershipAnswer answer = JudgeOthers(operation, observer->second, false);
  if (answer.status != wire::StatusCode::kOk) return answer;
  if (own != nullptr) StopAll(operation, *own, {});
  // Migration keeps the session's UUID: its connections at the source have the lower epoch.
  StopAll(operation, *released, operation->revoked);
  return Ok();
}

OwnershipAnswer Ownership::JudgeEnd(Operation* operation) {
  const auto observer = observers_.find(operation->peer);
  if (observer != observers_.end()) {
    const wire::Open& open = observer->second.open;
    for (const auto& [peer, other] : observers_) {
      if (peer != operation->peer && other.open.session == open.session &&
          other.open.epoch == open.epoch) {
        operation->to_stop.insert(peer);
      }
    }
  }
  if (const Session* session = SessionOf(operation->peer)) StopAll(operation, *session, {});
  operation->to_stop.erase(operation->peer);
  return Ok();
}

void Ownership::StopAll(Operation* operation, const Session& session, const std::string& revoked) {
  for (const auto& [index, channel] : session.channels) {
    if (channel.peer == nullptr) continue;
    operation->to_stop.insert(channel.peer);
    if (!revoked.empty()) operation->revoke.insert(channel.peer);
  }
}

bool Ownership::Expired(const Session& session) const {
  return !session.token && !session.connected() && clock_() - session.lost_ns >= lease_ns_;
}

OwnershipAnswer Ownership::Busy(const Session& holder) const {
  std::string text = fmt::format("volume '{}' is in use by {} ({})", volume_,
                                 NameOf(holder.client_name), holder.address);
  if (!holder.since.empty()) text += " since " + holder.since;
  if (holder.token) {
    text += ", which released it for another host to claim; use takeover to end that";
    return {wire::StatusCode::kBusy, std::move(text), holder.epoch, 0};
  }
  if (holder.connected()) {
    text += ", which is connected; stop it, or use takeover";
    return {wire::StatusCode::kBusy, std::move(text), holder.epoch, 0};
  }
  const int64_t left_ns = lease_ns_ - (clock_() - holder.lost_ns);
  const int64_t left_ms = std::max<int64_t>(1, (left_ns + kNsPerMs - 1) / kNsPerMs);
  text += fmt::format(", which is not connected; its lease ends in {:.1f} s: wait, or use takeover",
                      static_cast<double>(left_ms) / 1000);
  return {wire::StatusCode::kBusy, std::move(text), holder.epoch, static_cast<uint32_t>(left_ms)};
}

std::string Ownership::Resumer(const Session& session) {
  const std::string text = fmt::format("{} ({})", NameOf(session.client_name), session.address);
  return session.since.empty() ? text : text + " since " + session.since;
}

}  // namespace cloudblk::proxy
