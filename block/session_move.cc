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
  release_confirmed_ = confirmed;
  claim_epoch_ = epoch_ + kReclaimEpochStep;
}

void SessionState::Adopt(const Uuid& uuid, uint64_t epoch, const Uuid& token, uint64_t generation,
                         bool unflushed, bool lost) {
  uuid_ = uuid;
  epoch_ = epoch;
  epoch_claimed_ = false;
  claim_epoch_ = epoch + kClaimEpochStep;
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
  claim_ = release_confirmed_ ? ClaimMode::kToken : ClaimMode::kTryToken;
}

void SessionState::CancelClaim() {
  released_ = true;
  claim_ = ClaimMode::kNone;
}

void SessionState::ClaimGranted(ClaimMode mode) {
  if (mode == ClaimMode::kTryToken) claim_.compare_exchange_strong(mode, ClaimMode::kToken);
  if (mode == ClaimMode::kTryNone) claim_.compare_exchange_strong(mode, ClaimMode::kNone);
}

bool SessionState::ClaimRefused(ClaimMode mode, Refusal refusal) {
  const bool retry =
      refusal == Refusal::kBadToken || refusal == Refusal::kBusy || refusal == Refusal::kStale;
  if (!retry) return false;
  // Another channel has found out meanwhile: do as it did.
  if (claim() != mode) return true;
  // The token is not known to anybody else, so that another epoch can only be ours.
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
