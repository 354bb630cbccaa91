// SPDX-License-Identifier: GPL-2.0-or-later
//
// What a session knows of itself while it moves from one client to another, or comes back
// (SPEC.md 11).
#include <cassert>

#include "block/session_state.h"

namespace cloudblk {

void SessionState::BeginRelease() {
  assert(!released_ && !observe_);
  epoch_claimed_ = epoch_claimed_ || ClaimsWithToken(claim());
  epoch_ = epoch();
  claim_ = ClaimMode::kNone;
  token_ = RandomUuid();
}

void SessionState::NoteReleased(bool confirmed) {
  released_ = true;
  moved_ = true;
  release_confirmed_ = confirmed;
  claim_epoch_ = epoch_ + kReclaimEpochStep;
  // From here on others may write.
  witness_.Clear();
}

void SessionState::Adopt(const Uuid& uuid, uint64_t epoch, const Uuid& token, uint64_t generation,
                         bool unflushed, bool lost) {
  {
    const std::lock_guard lock(uuid_mutex_);
    uuid_ = uuid;
  }
  epoch_ = epoch;
  epoch_claimed_ = false;
  claim_epoch_ = epoch + kClaimEpochStep;
  token_ = token;
  observe_ = false;
  released_ = true;
  moved_ = true;
  release_confirmed_ = true;
  // Flushes that the source gave up are submitted again with Since{}, so that each fails if
  // anything was lost.
  written_ = unflushed ? 1 : 0;
  losses_ = lost ? 1 : 0;
  flushed_ = 0;
  told_ = 0;
  lost_mark_ = 0;
  // The next OPEN_REPLY is compared with it, which tells whether anything was lost since.
  generation_ = generation;
}

void SessionState::BeginClaim() {
  assert(released_);
  released_ = false;
  if (claimer_.IsNil()) claimer_ = RandomUuid();
  claim_ = release_confirmed_ ? ClaimMode::kToken : ClaimMode::kTryToken;
}

void SessionState::CancelClaim() {
  released_ = true;
  claim_ = ClaimMode::kNone;
}

void SessionState::ClaimGranted(ClaimMode mode) {
  if (mode != ClaimMode::kNone) moved_ = false;
  if (mode == ClaimMode::kTryToken) claim_.compare_exchange_strong(mode, ClaimMode::kToken);
  if (mode == ClaimMode::kTryNone) claim_.compare_exchange_strong(mode, ClaimMode::kNone);
}

void SessionState::Renew() {
  assert(revoked());
  uuid_ = RandomUuid();
  epoch_ = config_.epoch;
  epoch_claimed_ = false;
  claimer_ = {};
  token_ = {};
  observe_ = false;
  released_ = false;
  moved_ = false;
  claim_ = ClaimMode::kNone;
  // Whoever is told of losses by a flush is gone.
  written_ = flushed_ = losses_ = told_ = 0;
  lost_mark_ = 0;
  renewing_ = true;
  revoked_ = false;
}

bool SessionState::ClaimRefused(ClaimMode mode, Refusal refusal) {
  const bool retry =
      refusal == Refusal::kBadToken || refusal == Refusal::kBusy || refusal == Refusal::kStale;
  if (!retry) return false;
  // Another channel has changed it meanwhile: do the same.
  if (claim() != mode) return true;
  // Nobody else knows the token yet, so that a higher epoch (kStale) can only be our own claim's,
  // whose answer was lost.
  if (mode == ClaimMode::kTryToken) {
    claim_.compare_exchange_strong(mode, ClaimMode::kTryNone);
    return true;
  }
  if (mode == ClaimMode::kTryNone) {
    claim_.compare_exchange_strong(mode, ClaimMode::kTryToken);
    return true;
  }
  return false;
}

}  // namespace cloudblk
