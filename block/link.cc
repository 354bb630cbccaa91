// SPDX-License-Identifier: GPL-2.0-or-later
//
// The states of a link: from connect over handshake to loss and back.
#include "block/link.h"

#include <algorithm>
#include <array>
#include <cassert>
#include <cerrno>
#include <cstring>
#include <utility>

#include "base/clock.h"
#include "base/text.h"

namespace cloudblk {
namespace {

// How often a channel looks whether channel 0 has the volume, or knows who has.
constexpr int64_t kClaimPoll = 10 * kNsPerMs;
// After that long without an answer to a connection people are told what is waited for.
constexpr int64_t kTellSlow = 3 * kNsPerS;
// A server with the holder that others do not know takes a connection so soon, a lost packet
// included; or the volume may be free at the others meanwhile.
constexpr int64_t kConnectToHolders = 3 * kNsPerS / 2;
// A server that has said hello may take so long to open the volume: what an earlier connection left
// at its storage has to be done first.
constexpr int64_t kOpenPatience = 30 * kNsPerS;
// So long a connection has to have worked, for its silence not to count with earlier ones'.
constexpr int64_t kWorked = 60 * kNsPerS;

using State = LinkState;

constexpr uint32_t Bit(State state) { return 1u << static_cast<int>(state); }

// Where each state may lead.
constexpr std::array<uint32_t, 7> kNext = {
    /* kIdle */ Bit(State::kConnecting) | Bit(State::kEnded),
    /* kConnecting */ Bit(State::kHandshake) | Bit(State::kBackoff) | Bit(State::kIdle),
    /* kHandshake */ Bit(State::kReady) | Bit(State::kBackoff) | Bit(State::kIdle) |
        Bit(State::kEnded),
    /* kReady */ Bit(State::kClosing) | Bit(State::kBackoff) | Bit(State::kIdle) |
        Bit(State::kEnded),
    /* kBackoff */ Bit(State::kConnecting) | Bit(State::kIdle) | Bit(State::kEnded),
    /* kClosing */ Bit(State::kIdle),
    /* kEnded */ Bit(State::kIdle),
};

}  // namespace

std::string_view Name(LinkState state) {
  constexpr std::array<std::string_view, 7> kNames = {"idle",    "connecting", "handshake", "ready",
                                                      "backoff", "closing",    "ended"};
  return kNames[static_cast<size_t>(state)];
}

Link::Link(SessionState* session, uint32_t index, Connector* connector, RequestQueue* queue,
           LinkObserver* observer)
    : session_(session),
      index_(index),
      connector_(connector),
      queue_(queue),
      observer_(observer),
      backoff_(session->config().jitter_seed + index) {}

Link::~Link() { assert(!attached()); }

void Link::SetState(State next) {
  assert((kNext[static_cast<size_t>(state_)] & Bit(next)) != 0);
  Log(CLOUDBLK_LOG_DEBUG, std::string(Name(state_)) + " -> " + std::string(Name(next)));
  if (state_ == State::kReady) session_->ChannelNotReady();
  state_ = next;
}

void Link::Attach(EventLoop* loop, LogFn log) {
  assert(!attached() && loop != nullptr);
  loop_ = loop;
  log_ = log;
  timer_ = loop_->NewTimer([this] { OnTimer(); });
  age_timer_ = loop_->NewTimer([this] { OnAgeTimer(); });
  hold_timer_ = loop_->NewTimer([this] { OnHoldTimer(); });
  hold_armed_ = false;
  queue_->ReleaseHeld();
  StartAging();
  // Time-outs begin anew: while it was detached, nothing was received.
  ArmForState();
  UpdateWatch();
  ScheduleTurn();
}

void Link::Detach() {
  if (!attached()) return;
  if (watching_) loop_->Unwatch(transport_->fd());
  watching_ = watching_read_ = watching_write_ = false;
  timer_.reset();
  age_timer_.reset();
  hold_timer_.reset();
  aging_ = false;
  timer_armed_ = false;
  if (turn_ != nullptr) turn_->link = nullptr;
  turn_.reset();
  loop_ = nullptr;
}

void Link::Start() {
  assert(state_ == State::kIdle && attached());
  claimed_ = false;
  backoff_.Reset();
  Connect();
}

void Link::Reopen() {
  Abandon();
  if (state_ == State::kEnded) SetState(State::kIdle);
  opened_ = false;
  lost_ns_ = 0;
  reopened_for_.reset();
  Start();
}

void Link::Close(bool end_session) {
  assert(attached() && queue_->in_flight() == 0);
  close_wanted_ = true;
  close_ends_session_ = end_session;
  if (state_ == State::kReady) SendClose();
}

void Link::Release() {
  assert(attached() && queue_->in_flight() == 0);
  release_wanted_ = true;
  if (state_ == State::kReady) SendRelease();
}

void Link::Resize(uint64_t size, bool force) {
  assert(state_ == State::kReady && !resize_sent_);
  resize_sent_ = true;
  SendCommand({.kind = Command::Kind::kResize, .size = size, .force = force});
}

void Link::ForgetResize() {
  // Not ETIMEDOUT: the server lives, it is the work that takes long.
  if (resize_sent_) Cut({.error = ECONNABORTED, .text = "no answer to a RESIZE"});
}

void Link::Abandon() {
  assert(queue_->in_flight() == 0);
  // Whatever had become of its server: nobody will say.
  if (session_->release_unconfirmed() && lost_ns_ == 0) lost_ns_ = MonotonicNs();
  DropConnection();
  if (timer_ != nullptr) timer_->Disarm();
  close_wanted_ = release_wanted_ = false;
  // After a release the next claim is at a higher epoch, which fences all that was given up. Where
  // the release may not have happened, the session may go on at its old epoch.
  if (!session_->release_unconfirmed()) Settle();
  if (state_ != State::kIdle && state_ != State::kEnded) SetState(State::kIdle);
}

void Link::GiveUp(const Failure& why) {
  const bool exposed = queue_->has_unanswered();
  // Without a connection that is ready, an earlier one may have sent them.
  const bool may_be_exposed =
      queue_->in_flight() > 0 && state_ != State::kReady && state_ != State::kEnded;
  if (!unsettled_ && (exposed || may_be_exposed)) {
    unsettled_ = true;
    session_->NoteGivenUp();
  }
  if (exposed) Cut(why);
}

void Link::Settle() {
  if (unsettled_) session_->NoteSettled();
  unsettled_ = false;
}

void Link::Connect() {
  if (session_->revoked()) {
    return EndSession({.error = EIO, .text = "the session was revoked", .final = true});
  }
  if (index_ != 0 && (session_->claim_unsure() || session_->renewing())) {
    // The first channel decides, as at the first opening. The RELEASE may still be on its way, over
    // the connection of channel 0. That channel's OPEN stops it, and until then the others would
    // open what is about to be released.
    SetState(State::kConnecting);
    SetState(State::kBackoff);
    return timer_->Arm(loop_->NowNs() + kClaimPoll);
  }
  // Counted up even if nothing comes of it: a server that has seen it must never see it again.
  ++incarnation_;
  backoff_.NoteAttempt();
  address_ = session_->address();
  server_name_ = connector_->Name(address_);
  connect_began_ns_ = loop_->NowNs();
  SetState(State::kConnecting);
  Result<std::unique_ptr<Transport>> transport = connector_->Connect(address_);
  if (!transport.ok()) {
    return Cut({.error = transport.status().error(), .text = transport.status().message()});
  }
  transport_ = std::move(*transport);
  ArmForState();
  UpdateWatch();
}

void Link::FinishConnect() {
  const int error = -transport_->ConnectResult();
  if (error == EINPROGRESS) return;
  if (error != 0) {
    return Cut({.error = error,
                .text = "cannot connect to " + server_name_ + ": " + std::strerror(error)});
  }
  SetState(State::kHandshake);
  ArmForState();
  Begin();
  Send();
  UpdateWatch();
}

void Link::Begin() {
  const SessionConfig& config = session_->config();
  claim_mode_ = session_->claim();
  OpenParams params;
  params.session = session_->uuid();
  params.epoch = session_->EpochOf(claim_mode_);
  if (claim_mode_ == ClaimMode::kTryToken || (claim_mode_ == ClaimMode::kToken && !claimed_)) {
    params.token = session_->token();
  }
  params.claimer = session_->ClaimerOf(claim_mode_);
  params.channel = index_;
  params.channel_count = config.channels;
  params.incarnation = incarnation_;
  params.active = !session_->observe();
  params.read_only = config.read_only;
  params.share_rw = config.share_rw;
  params.payload_crc = config.payload_crc;
  params.tls = config.tls.has_value();
  params.resume = opened_;
  if (opened_) {
    params.volume = session_->volume().uuid;
    params.generation = session_->generation();
    params.known = session_->witness().known();
    known_ = params.known;
  } else {
    // Only the first channel takes over, and only once: a session that lost the volume must not
    // fence its successor.
    const bool first = !session_->observe() && !session_->has_volume();
    params.takeover = config.takeover && first;
    params.end_reservation = config.end_reservation && first;
  }
  params.volume_name = config.volume;
  params.client_name = config.client_name;
  codec_ = config.new_codec(&codec_stats_);
  codec_->Begin(params, &outbox_);
}

// The one place where a connection ends: what was not answered is sent again over the next one.
void Link::Cut(const Failure& failure) {
  const State was = state_;
  DropConnection();
  const int64_t now = attached() ? loop_->NowNs() : 0;
  if (was == State::kClosing) {
    SetState(State::kIdle);
    close_wanted_ = false;
    return observer_->OnClosed();
  }
  if (failure.final && opened_) return EndSession(failure);
  // A lost volume that cannot be had stays lost.
  if (session_->renewing() && failure.refused() && !failure.may_pass()) return EndSession(failure);
  // That we end a connection says nothing of the server.
  if (opened_ && lost_ns_ == 0 && failure.error != ECANCELED) lost_ns_ = now;
  if (was == State::kReady) {
    NoteLost(failure, now);
  } else {
    Log(CLOUDBLK_LOG_DEBUG, server_name_ + ": " + failure.text);
    if (failure.refusal == Refusal::kOtherVolume && opened_ &&
        !std::exchange(other_volume_told_, true)) {
      Log(CLOUDBLK_LOG_ERROR, server_name_ + ": " + failure.text +
                                  "; requests wait until the name stands for ours again");
    }
    NoteFailed(failure.error == EPROTO && !failure.refused()
                   ? "what answers there is no " + session_->config().protocol +
                         " server: " + failure.text
                   : failure.text);
    // A server that tells when a lease ends has the volume: no other one could let us in meanwhile.
    if (failure.refused()) held_elsewhere_ = failure.elsewhere;
    const bool has_it = failure.error == EBUSY && failure.retry_ms != 0 && !failure.elsewhere;
    if (!has_it) TryNextAddress();
  }
  SetState(State::kBackoff);
  // Only now that this channel counts as not ready: else another one that becomes ready could end
  // the outage (SessionState::ChannelReady).
  if (was == State::kReady && failure.error != ECANCELED) session_->NoteOutage();
  const int64_t delay =
      backoff_.Delay(failure.retry_ms, opened_ ? Backoff::kMost : Backoff::kOpening);
  // From one beginning to the next: who has waited for an answer has waited already.
  if (attached()) timer_->Arm(std::max(now, connect_began_ns_ + delay));
  observer_->OnFailure(failure);
}

// A connection that was ready is lost. ECANCELED: we ended it to connect anew, which is no news to
// the host.
void Link::NoteLost(const Failure& failure, int64_t now) {
  if (attached() && now - ready_since_ns_ >= Backoff::kMost) backoff_.Reset();
  ++reconnects_;
  // A server that fell silent is likely to stay so. One that closed the connection may be back
  // before another one is up.
  if (failure.error == ETIMEDOUT && !StayThoughSilent()) TryNextAddress();
  if (failure.error == ECANCELED) return;
  QueueEvent(CLOUDBLK_EVENT_LOST, 0, failure.text);
  if (!attached()) return;
  std::string next = "reconnecting";
  if (session_->address() != address_) {
    next = "going on to " + connector_->Name(session_->address());
  }
  if (IsSilentAgain(failure)) {
    next +=
        ". The server takes connections and then nothing passes: does the network drop large "
        "packets (MTU)?";
  }
  Tell(CLOUDBLK_LOG_WARNING, session_->outage().Lost(now, server_name_, failure.text, next));
}

// Whether one connection after the other was made and then fell silent.
bool Link::IsSilentAgain(const Failure& failure) {
  if (failure.error != ETIMEDOUT) {
    silences_ = 0;
    return false;
  }
  if (silent_since_ns_ - ready_since_ns_ >= kWorked) silences_ = 0;
  return ++silences_ > 1;
}

// Requests wait, and an attempt to come back has failed or takes long. Before the volume was opened
// for the first time whoever opens it tells.
void Link::NoteFailed(const std::string& why) {
  if (!opened_ || !attached()) return;
  Tell(CLOUDBLK_LOG_WARNING, session_->outage().Failed(loop_->NowNs(), server_name_, why));
}

// All channels are to be with one server: while others hear from it, a silent connection is made
// anew there, once.
bool Link::StayThoughSilent() {
  const bool worked = silent_since_ns_ - ready_since_ns_ >= Backoff::kMost;
  stayed_ = session_->OthersHeardSince(index_, silent_since_ns_) && (worked || !stayed_);
  return stayed_;
}

void Link::TryNextAddress() {
  if (opened_ && !capabilities_.fences && !session_->config().unfenced_failover &&
      !session_->read_only()) {
    // What the server still has it may write at any time: nobody else may go on meanwhile. But its
    // name may lead elsewhere now, which is somebody's decision.
    if (attached()) connector_->Refresh(loop_->NowNs());
    return;
  }
  const bool all_failed = session_->AddressFailed(address_, connector_->count());
  if (!all_failed || !opened_ || !attached()) return;
  const int64_t now = loop_->NowNs();
  // If the server moved, its name leads to it. One that other channels hear from has not moved.
  if (session_->OthersHeardSince(index_, now - Backoff::kMost)) return;
  connector_->Refresh(now);
}

void Link::DropConnection() {
  session_->NoteDisconnected(index_);
  if (watching_) loop_->Unwatch(transport_->fd());
  watching_ = watching_read_ = watching_write_ = false;
  send_blocked_ = receive_blocked_ = polled_ = pass_ended_ = false;
  going_away_ = silence_told_ = releasing_ = false;
  resize_sent_ = false;
  if (std::exchange(examining_, false)) session_->witness().GiveUp(index_);
  timer_armed_ = false;
  facts_.clear();
  outbox_.Clear();
  codec_.reset();
  transport_.reset();
  queue_->Requeue();
}

// The server will not let this session in again.
void Link::EndSession(const Failure& failure) {
  SetState(State::kEnded);
  Settle();
  if (timer_ != nullptr) timer_->Disarm();
  if (session_->Revoke()) {
    Log(CLOUDBLK_LOG_ERROR,
        "volume " + session_->config().NameForPeople() + " is lost: " + failure.text);
    QueueEvent(CLOUDBLK_EVENT_REVOKED, session_->moved() ? 1 : 0, failure.text);
  }
  queue_->FailAll(EIO);
  ScheduleTurn();
  observer_->OnFailure(failure);
}

void Link::ArmForState() {
  const SessionConfig& config = session_->config();
  const int64_t now = loop_->NowNs();
  timer_armed_ = false;
  switch (state_) {
    case State::kConnecting:
      return ArmAttempt(now, held_elsewhere_
                                 ? std::min(config.connect_timeout_ns, kConnectToHolders)
                                 : config.connect_timeout_ns);
    case State::kHandshake:
      handshake_began_ns_ = now;
      unheard_bytes_ = codec_stats_.bytes_received;
      return ArmAttempt(now, config.answer_timeout_ns);
    case State::kBackoff:
      return timer_->Arm(now);
    case State::kReady:
      timer_->Disarm();
      if (queue_->has_unanswered()) NoteWaiting();
      return;
    case State::kIdle:
    case State::kClosing:
    case State::kEnded:
      return timer_->Disarm();
  }
}

// Until the channel was opened once, all steps at one address share open_answer_timeout_ns.
int64_t Link::OpeningEnds() const {
  return opened_ ? INT64_MAX : connect_began_ns_ + session_->config().open_answer_timeout_ns;
}

void Link::ArmAttempt(int64_t now, int64_t timeout) {
  deadline_ns_ = std::min(now + timeout, OpeningEnds());
  timer_->Arm(opened_ ? std::min(now + kTellSlow, deadline_ns_) : deadline_ns_);
}

// An attempt to connect has no answer yet.
void Link::OnSlow() {
  const int64_t now = loop_->NowNs();
  const bool heard = state_ == State::kHandshake && codec_stats_.bytes_received != unheard_bytes_;
  if (heard && now >= deadline_ns_) {
    const int64_t patience = std::max(session_->config().answer_timeout_ns, kOpenPatience);
    deadline_ns_ = std::min(handshake_began_ns_ + patience, OpeningEnds());
  }
  if (now < deadline_ns_) {
    NoteFailed(heard ? "does not open the volume yet" : "does not answer");
    return timer_->Arm(deadline_ns_);
  }
  if (state_ == State::kConnecting) {
    return Cut(
        {.error = ETIMEDOUT, .text = "cannot connect to " + server_name_ + ": no answer in time"});
  }
  const std::string what =
      heard ? " does not open the volume in time"
            : " accepted the connection and does not answer" + session_->config().silence_hint;
  Cut({.error = ETIMEDOUT, .text = server_name_ + what});
}

void Link::OnTimer() {
  switch (state_) {
    case State::kBackoff:
      Connect();
      break;
    case State::kConnecting:
    case State::kHandshake:
      OnSlow();
      break;
    case State::kReady:
      CheckLiveness();
      break;
    default:
      break;
  }
  Deliver();
}

void Link::QueueEvent(CloudblkEventKind kind, uint64_t value, std::string_view text) {
  events_.push_back({kind, value, Printable(text)});
  ScheduleTurn();
}

void Link::Log(CloudblkLogLevel level, const std::string& text) const {
  if (log_ == nullptr) return;
  // A server's text may be in it.
  const std::string line = Printable(session_->config().NameForPeople() + " channel " +
                                     std::to_string(index_) + ": " + text);
  log_(level, line.c_str());
}

// Of the session as a whole. Empty: there is nothing to tell.
void Link::Tell(CloudblkLogLevel level, const std::string& line) const {
  if (log_ == nullptr || line.empty()) return;
  log_(level, Printable(session_->config().NameForPeople() + ": " + line).c_str());
}

void Link::FillStats(CloudblkStats* stats) const {
  stats->frames_sent = codec_stats_.frames_sent;
  stats->frames_received = codec_stats_.frames_received;
  stats->send_calls = send_calls_;
  stats->receive_calls = codec_stats_.receive_calls;
  stats->reconnects = reconnects_;
}

}  // namespace cloudblk
