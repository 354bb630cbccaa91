// SPDX-License-Identifier: GPL-2.0-or-later
//
// A session that moves from one client to another, or comes back (SPEC.md 11).
#include <algorithm>
#include <cassert>
#include <cerrno>

#include "base/epoll_loop.h"
#include "base/uuid.h"
#include "block/answer_waiter.h"
#include "block/session.h"

namespace cloudblk {
namespace {

Uuid UuidOf(const uint8_t (&bytes)[16]) {
  Uuid uuid;
  std::ranges::copy(bytes, uuid.bytes.begin());
  return uuid;
}

}  // namespace

void SessionState::BeginRelease() {
  assert(!released_ && !observe_);
  epoch_claimed_ = epoch_claimed_ || ClaimsWithToken(claim());
  epoch_ = epoch();
  claim_ = ClaimStep::kNone;
  token_ = RandomUuid();
}

void SessionState::NoteReleased(bool confirmed) {
  released_ = true;
  release_confirmed_ = confirmed;
  claim_epoch_ = epoch_ + kReclaimStep;
}

void SessionState::Adopt(const Uuid& uuid, uint64_t epoch, const Uuid& token, uint64_t generation,
                         bool unflushed, bool lost) {
  uuid_ = uuid;
  epoch_ = epoch;
  epoch_claimed_ = false;
  claim_epoch_ = epoch + kClaimStep;
  token_ = token;
  observe_ = false;
  released_ = true;
  release_confirmed_ = true;
  // Flushes that the source gave up come again with Since{}: all of them tell what is lost.
  written_ = unflushed ? 1 : 0;
  losses_ = lost ? 1 : 0;
  flushed_ = 0;
  told_ = 0;
  lost_mark_ = 0;
  // What was lost since is found out by comparing the next OPEN_REPLY with it.
  generation_ = generation;
}

void SessionState::BeginClaim() {
  assert(released_);
  released_ = false;
  if (claimer_.IsNil()) claimer_ = RandomUuid();
  claim_ = release_confirmed_ ? ClaimStep::kToken : ClaimStep::kTryToken;
}

void SessionState::CancelClaim() {
  released_ = true;
  claim_ = ClaimStep::kNone;
}

void SessionState::ClaimGranted(ClaimStep step) {
  if (step == ClaimStep::kTryToken) claim_.compare_exchange_strong(step, ClaimStep::kToken);
  if (step == ClaimStep::kTryNone) claim_.compare_exchange_strong(step, ClaimStep::kNone);
}

bool SessionState::ClaimRefused(ClaimStep step, wire::StatusCode status) {
  const bool retry = status == wire::StatusCode::kBadToken || status == wire::StatusCode::kBusy ||
                     status == wire::StatusCode::kStale;
  if (!retry) return false;
  // Another channel has found out meanwhile: do as it did.
  if (claim() != step) return true;
  // The token is not known to anybody else, so that another epoch can only be ours.
  if (step == ClaimStep::kTryToken) {
    claim_.compare_exchange_strong(step, ClaimStep::kTryNone);
    return true;
  }
  if (step == ClaimStep::kTryNone) {
    claim_.compare_exchange_strong(step, ClaimStep::kTryToken);
    return true;
  }
  return false;
}

void Session::AbandonAll() {
  for (const auto& channel : channels_) channel->Abandon();
}

Status Session::WaitReady(EpollLoop* loop, int64_t deadline_ns) {
  Channel* channel = channels_[0].get();
  while (channel->state() != Channel::State::kReady) {
    const int64_t left = deadline_ns - loop->NowNs();
    if (channel->state() == Channel::State::kFailed) {
      return Status(EIO, "the volume was lost to another client");
    }
    if (left <= 0) return Status(ETIMEDOUT, "there is no connection to the server");
    loop->RunOnce(left);
  }
  return Status::Ok();
}

Status Session::SendRelease(EpollLoop* loop, int64_t deadline_ns) {
  Channel* channel = channels_[0].get();
  AnswerWaiter releaser;
  channel->set_observer(&releaser);
  state_.BeginRelease();
  channel->Release();
  while (!releaser.answer() && !releaser.cut()) {
    const int64_t left = deadline_ns - loop->NowNs();
    if (left <= 0) break;
    loop->RunOnce(left);
  }
  channel->set_observer(nullptr);
  if (!releaser.answer()) {
    state_.NoteReleased(false);
    return Status(ETIMEDOUT, releaser.cut() ? "lost the server meanwhile: " + releaser.text()
                                            : "the server does not answer");
  }
  if (*releaser.answer() != wire::StatusCode::kOk) {
    return Status(EPERM, "the server refuses: " + releaser.text());
  }
  state_.NoteReleased(true);
  return Status::Ok();
}

Status Session::Release(int64_t timeout_ns) {
  if (state_.revoked()) return Status(EIO, "the volume was lost to another client");
  if (state_.observe()) return Status(EPERM, "the session only observes the volume");
  for (const auto& each : channels_) {
    if (each->in_flight() != 0) return Status(EBUSY, "requests are in flight");
  }
  Result<std::unique_ptr<EpollLoop>> loop = EpollLoop::Create();
  if (!loop.ok()) return loop.status();
  const int64_t deadline = (*loop)->NowNs() + timeout_ns;
  Channel* channel = channels_[0].get();
  channel->Attach({loop->get(), nullptr, nullptr, nullptr});
  // Whoever has the token of an earlier release must not be able to use it any more.
  const bool reclaims = state_.released();
  if (reclaims) {
    AbandonAll();
    state_.BeginClaim();
    channel->Start();
  }
  Status status = WaitReady(loop->get(), deadline);
  if (status.ok()) {
    status = SendRelease(loop->get(), deadline);
    // Channel 0 alone has come back. Claim connects them all, with the token or without.
    if (reclaims && !state_.released()) state_.NoteReleased(false);
  } else if (reclaims && !state_.revoked()) {
    // It may have happened without our knowing; the same claim again does no harm.
    state_.CancelClaim();
  }
  channel->Detach();
  if (state_.released()) AbandonAll();
  return status;
}

Status Session::Adopt(const CloudblkIdentity& identity) {
  if (!state_.observe()) return Status(EPERM, "the session does not observe");
  if (UuidOf(identity.volume_uuid) != state_.volume().volume) {
    return Status(ESTALE, "the volume here is not the one that the source released; check server=");
  }
  AbandonAll();
  state_.Adopt(UuidOf(identity.session_uuid), identity.epoch, UuidOf(identity.token),
               identity.generation, identity.unflushed, identity.lost);
  return Status::Ok();
}

void Session::Export(CloudblkIdentity* identity) const {
  std::ranges::copy(state_.uuid().bytes, identity->session_uuid);
  std::ranges::copy(state_.volume().volume.bytes, identity->volume_uuid);
  std::ranges::copy(state_.token().bytes, identity->token);
  identity->epoch = state_.epoch();
  identity->generation = state_.generation();
  identity->unflushed = state_.unflushed();
  identity->lost = state_.LostSince(state_.Now());
  // A flush that was given up may be from before another one told.
  for (const auto& channel : channels_) {
    if (channel->given_up_flush_fails()) identity->lost = true;
  }
}

Status Session::Claim() {
  if (state_.revoked()) return Status(EIO, "the volume was lost to another client");
  if (!state_.released()) {
    return state_.observe() ? Status(EPERM, "no migration stream brought the session")
                            : Status::Ok();
  }
  AbandonAll();
  state_.BeginClaim();
  for (const auto& channel : channels_) channel->Start();
  return Status::Ok();
}

}  // namespace cloudblk
