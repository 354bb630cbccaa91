// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/channel.h"

#include <cassert>
#include <cerrno>

namespace cloudblk {

Channel::~Channel() { assert(!attached() && in_flight() == 0); }

void Channel::Attach(const Host& host) {
  queue_.Attach(host.loop, host.complete, host.opaque);
  link_.Attach(host.loop, host.log);
}

void Channel::Detach() {
  link_.Detach();
  queue_.Detach();
}

int Channel::Submit(const CloudblkRequest& request) {
  if (session_->revoked()) return -EIO;
  if (!attached() || state() == State::kIdle || state() == State::kClosing) return -EINVAL;
  const int error = queue_.Submit(request);
  if (error != 0) return error;
  // What is submitted while completions are delivered is sent when that is over.
  if (!queue_.delivering() && (request.flags & CLOUDBLK_REQUEST_MORE) == 0) link_.ScheduleTurn();
  return 0;
}

void Channel::Revoke() {
  link_.GiveUp({.error = ECANCELED, .text = "requests were given up"});
  queue_.FailAll(ECANCELED);
  link_.Deliver();
}

void Channel::FillStats(CloudblkStats* stats) const {
  queue_.FillStats(stats);
  link_.FillStats(stats);
}

void Channel::OnReady() {
  if (observer_ != nullptr) observer_->OnReady(this);
}

void Channel::OnFailure(const Failure& failure) {
  if (observer_ != nullptr) observer_->OnFailure(this, failure);
}

void Channel::OnClosed() {
  if (observer_ != nullptr) observer_->OnClosed(this);
}

void Channel::OnAnswered(Command::Kind kind, int error, const std::string& text) {
  if (observer_ != nullptr) observer_->OnAnswered(this, kind, error, text);
}

}  // namespace cloudblk
