// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/session_steps.h"

#include <algorithm>
#include <cerrno>
#include <utility>

#include "base/clock.h"

namespace cloudblk {
namespace {

// A server that restarts is back within that. One that cannot be reached for longer is rather not
// there at all, and a mistake in the URI should not take the whole time to be told.
constexpr int64_t kRestart = 5 * kNsPerS;

// Nobody listens, or the network leads nowhere. ENOENT: there is no such socket in the file system.
bool IsUnreachable(const Failure& failure) {
  return !failure.refused() &&
         (failure.error == ECONNREFUSED || failure.error == ENOENT || failure.error == ENETDOWN ||
          failure.error == EHOSTUNREACH || failure.error == ENETUNREACH);
}

bool Ready(const Channel* channel) { return channel->state() == Channel::State::kReady; }

Status Lost() { return Status(EIO, "the volume was lost to another client"); }

}  // namespace

void SessionStep::AttachFirst(const Channel::Host& host) {
  first()->set_observer(this);
  first()->Attach(host);
}

void SessionStep::DetachFirst() {
  first()->set_observer(nullptr);
  first()->Detach();
}

void SessionStep::AbandonAll() {
  for (Channel* channel : channels_) channel->Abandon();
}

// --- Open ---------------------------------------------------------------------------------------

void OpenStep::Start(const Channel::Host& host) {
  loop_ = host.loop;
  for (Channel* channel : channels_) {
    channel->set_observer(this);
    channel->Attach(host);
  }
  first()->Start();
}

void OpenStep::OnReady(Channel* channel) {
  if (done()) return;
  // What was wrong before has nothing to do with what the other channels wait for now.
  exhausted_.clear();
  unreachable_since_ns_ = 0;
  last_ = {};
  last_server_.clear();
  if (!started_others_) {
    started_others_ = true;
    if (channels_.size() > 1 && !channel->link().capabilities().several_channels) {
      return Done(Status(ENOTSUP, "server " + channel->link().server_name() +
                                      " does not promise that several connections see each "
                                      "other's writes; use one IOThread"));
    }
    for (size_t i = 1; i < channels_.size(); ++i) channels_[i]->Start();
  }
  // One of them may have failed at once.
  if (!done() && std::ranges::all_of(channels_, Ready)) Done(Status::Ok());
}

void OpenStep::OnFailure(Channel* channel, const Failure& failure) {
  if (done()) return;
  if (state_->revoked()) {
    return Done(Status(failure.error, "volume '" + state_->config().NameForPeople() +
                                          "' was lost while it was being opened: " + failure.text));
  }
  // That a server refuses is told rather than that another one cannot be reached.
  const std::string& server = channel->link().server_name();
  if (failure.refused() || !last_.refused() || server == last_server_) {
    last_ = failure;
    last_server_ = server;
  }
  // Every address gets its chance, and one that may take us later is waited for.
  if (failure.may_pass()) {
    unreachable_since_ns_ = 0;
    return exhausted_.clear();
  }
  if (IsUnreachable(failure)) {
    if (unreachable_since_ns_ == 0) unreachable_since_ns_ = loop_->NowNs();
    if (loop_->NowNs() - unreachable_since_ns_ < kRestart) return;
  }
  exhausted_.insert(channel->link().address());
  if (exhausted_.size() < channel->link().connector().count()) return;
  Done(Status(last_.error, Describe(last_)));
}

std::string OpenStep::WaitsFor() const {
  const std::string& waiting = (*std::ranges::find_if_not(channels_, Ready))->link().server_name();
  // What a server said, or what is wrong with this one, rather than with another one.
  if (last_.error != 0 && (last_.refused() || last_server_ == waiting)) return Describe(last_);
  return "server " + waiting + " does not answer";
}

void OpenStep::GiveUp(int64_t waited_ns) {
  const std::string waited = waited_ns < kNsPerS ? std::to_string(waited_ns / kNsPerMs) + " ms"
                                                 : std::to_string(waited_ns / kNsPerS) + " s";
  Done(Status(last_.refused() ? last_.error : ETIMEDOUT,
              "gave up after " + waited + ": " + WaitsFor()));
}

void OpenStep::Finish() {
  for (Channel* channel : channels_) {
    channel->Detach();
    channel->set_observer(nullptr);
    // Where nobody keeps a volume's holder, who only looks needs no connection any more, and the
    // server may have room for one client only.
    const bool seen_all = state_->observe() && !channel->link().capabilities().fences;
    if (!status().ok() || seen_all) channel->Abandon();
  }
}

std::string OpenStep::Describe(const Failure& failure) const {
  if (failure.refused()) {
    return "server " + last_server_ + " refuses volume '" + state_->config().NameForPeople() +
           "': " + failure.text;
  }
  if (failure.error == EPROTO) {
    return "no " + state_->config().protocol + " server at " + last_server_ + ": " + failure.text +
           "; check the port in the server URI";
  }
  std::string text = failure.text.find(last_server_) == std::string::npos
                         ? last_server_ + ": " + failure.text
                         : failure.text;
  // Else it is this end that lacks something: permissions, descriptors.
  if (!failure.may_pass() && !IsUnreachable(failure)) return text;
  return text + "; start " + state_->config().server_program + " there, or correct the server URI";
}

// --- Release ------------------------------------------------------------------------------------

void ReleaseStep::Start(const Channel::Host& host) {
  AttachFirst(host);
  reclaims_ = state_->released();
  if (reclaims_) {
    AbandonAll();
    state_->BeginClaim();
    first()->Start();
  } else if (Ready(first())) {
    Send();
  } else if (first()->state() == Channel::State::kEnded) {
    Done(Lost());
  }
}

void ReleaseStep::Send() {
  sent_ = true;
  state_->BeginRelease();
  first()->Release();
}

void ReleaseStep::OnReady(Channel*) {
  if (!done() && !sent_) Send();
}

void ReleaseStep::OnFailure(Channel* channel, const Failure& failure) {
  if (done()) return;
  if (sent_) {
    state_->NoteReleased(false);
    Done(Status(ETIMEDOUT, "lost the server meanwhile: " + failure.text));
  } else if (channel->state() == Channel::State::kEnded) {
    Done(Lost());
  }
}

void ReleaseStep::OnAnswered(Channel*, Command::Kind, int error, const std::string& text) {
  if (done()) return;
  if (error != 0) return Done(Status(EPERM, "the server refuses: " + text));
  state_->NoteReleased(true);
  Done(Status::Ok());
}

void ReleaseStep::GiveUp(int64_t) {
  if (!sent_) return Done(Status(ETIMEDOUT, "there is no connection to the server"));
  state_->NoteReleased(false);
  Done(Status(ETIMEDOUT, "the server does not answer"));
}

void ReleaseStep::Finish() {
  if (reclaims_ && sent_ && !state_->released()) {
    // The first channel has claimed the volume back, but the new RELEASE was refused. The other
    // channels are not connected: that a claim has to do, which also finds out how to claim.
    state_->NoteReleased(false);
  } else if (reclaims_ && !sent_ && !state_->revoked()) {
    // It may have been granted without our knowing; the same claim again does no harm.
    state_->CancelClaim();
  }
  DetachFirst();
  if (state_->released()) AbandonAll();
}

// --- Resize -------------------------------------------------------------------------------------

void ResizeStep::Start(const Channel::Host& host) {
  AttachFirst(host);
  if (Ready(first())) {
    Send();
  } else if (first()->state() == Channel::State::kEnded) {
    Unknown("the volume was lost to another client");
  }
}

void ResizeStep::Send() {
  sent_ = true;
  first()->Resize(size_, force_);
}

void ResizeStep::OnReady(Channel*) {
  if (!done() && !sent_) Send();
}

void ResizeStep::OnFailure(Channel*, const Failure& failure) {
  if (!done()) Unknown(failure.text);
}

void ResizeStep::OnAnswered(Channel*, Command::Kind, int error, const std::string& text) {
  if (done()) return;
  Done(error == 0 ? Status::Ok() : Status(error, "the server refuses: " + text));
}

void ResizeStep::GiveUp(int64_t) { Unknown("the server does not answer in time"); }

void ResizeStep::Unknown(const std::string& why) {
  Done(Status(ETIMEDOUT, why + (sent_ ? "; whether the volume was resized is not known, try again"
                                      : "; the volume was not resized, try again")));
}

void ResizeStep::Finish() {
  first()->set_observer(nullptr);
  // Its answer would be taken for the next one's.
  first()->ForgetResize();
  DetachFirst();
}

// --- Close --------------------------------------------------------------------------------------

void CloseStep::Start(const Channel::Host& host) {
  AttachFirst(host);
  first()->Close(true);
  if (first()->state() == Channel::State::kEnded) Done(Status::Ok());
}

void CloseStep::OnFailure(Channel* channel, const Failure&) {
  if (channel->state() == Channel::State::kEnded) Done(Status::Ok());
}

void CloseStep::Finish() { DetachFirst(); }

}  // namespace cloudblk
