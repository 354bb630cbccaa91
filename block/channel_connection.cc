// SPDX-License-Identifier: GPL-2.0-or-later
//
// The connection of a channel: one state machine from connect over handshake to loss and back.
#include <algorithm>
#include <array>
#include <cassert>
#include <cerrno>
#include <cstring>
#include <thread>
#include <utility>

#include "base/clock.h"
#include "base/printable.h"
#include "block/channel.h"

namespace cloudblk {
namespace {

constexpr int64_t kBackoffFirst = 10 * kNsPerMs;
constexpr int64_t kBackoffMost = 2000 * kNsPerMs;
// A holder that is gone may free the volume before its lease ends.
constexpr int64_t kBusyRetryMost = 500 * kNsPerMs;
// How often a channel looks whether channel 0 knows who holds the volume.
constexpr int64_t kClaimPoll = 10 * kNsPerMs;

using State = Channel::State;

constexpr uint32_t Bit(State state) { return 1u << static_cast<int>(state); }

// Where each state may lead.
constexpr std::array<uint32_t, 8> kNext = {
    /* kIdle */ Bit(State::kConnecting) | Bit(State::kFailed),
    /* kConnecting */ Bit(State::kHello) | Bit(State::kBackoff) | Bit(State::kIdle),
    /* kHello */ Bit(State::kOpen) | Bit(State::kBackoff) | Bit(State::kIdle) | Bit(State::kFailed),
    /* kOpen */ Bit(State::kReady) | Bit(State::kBackoff) | Bit(State::kIdle) | Bit(State::kFailed),
    /* kReady */ Bit(State::kClosing) | Bit(State::kBackoff) | Bit(State::kIdle) |
        Bit(State::kFailed),
    /* kBackoff */ Bit(State::kConnecting) | Bit(State::kIdle) | Bit(State::kFailed),
    /* kClosing */ Bit(State::kIdle),
    /* kFailed */ 0,
};

}  // namespace

std::string_view Name(Channel::State state) {
  constexpr std::array<std::string_view, 8> kNames = {"idle",  "connecting", "hello",   "open",
                                                      "ready", "backoff",    "closing", "failed"};
  return kNames[static_cast<size_t>(state)];
}

void Channel::SetState(State next) {
  assert((kNext[static_cast<size_t>(state_)] & Bit(next)) != 0);
  Log(CLOUDBLK_LOG_DEBUG, std::string(Name(state_)) + " -> " + std::string(Name(next)));
  if (state_ == State::kReady) session_->ChannelNotReady();
  state_ = next;
}

void Channel::Attach(const Host& host) {
  assert(!attached() && host.loop != nullptr);
  host_ = host;
  timer_ = host_.loop->NewTimer([this] { OnTimer(); });
  // Time that passed while nobody looked counts for nobody.
  ArmForState();
  UpdateWatch();
  ScheduleTurn();
}

void Channel::Detach() {
  if (!attached()) return;
  if (watching_) host_.loop->Unwatch(transport_->fd());
  watching_ = watching_read_ = watching_write_ = false;
  timer_.reset();
  timer_armed_ = false;
  if (turn_ != nullptr) turn_->channel = nullptr;
  turn_.reset();
  host_.loop = nullptr;
}

void Channel::Start() {
  assert(state_ == State::kIdle && attached());
  claimed_ = false;
  attempts_ = 0;
  Connect();
}

void Channel::Close(bool end_session) {
  assert(attached() && in_flight() == 0);
  close_wanted_ = true;
  close_ends_session_ = end_session;
  if (state_ == State::kReady) SendClose();
}

void Channel::Abandon() {
  assert(in_flight() == 0);
  DropConnection();
  if (timer_ != nullptr) timer_->Disarm();
  close_wanted_ = release_wanted_ = false;
  // The claim of what was released is at a higher epoch, which fences all that was given up. Not so
  // where the release may never have happened.
  if (!session_->release_unconfirmed()) Settle();
  if (state_ != State::kIdle && state_ != State::kFailed) SetState(State::kIdle);
}

void Channel::Connect() {
  if (session_->revoked()) return EndSession({EIO, "the session was revoked", false, 0, true});
  if (index_ != 0 && session_->claim_unsure()) {
    // The RELEASE may still be on its way, over the connection of channel 0. That channel's OPEN
    // stops it, and until then the others would open what is about to be released.
    SetState(State::kConnecting);
    SetState(State::kBackoff);
    return timer_->Arm(host_.loop->NowNs() + kClaimPoll);
  }
  // Counted up even if nothing comes of it: a server that has seen it must never see it again.
  ++incarnation_;
  ++attempts_;
  address_ = session_->address();
  server_name_ = connector_->Name(address_);
  connect_began_ns_ = host_.loop->NowNs();
  SetState(State::kConnecting);
  Result<std::unique_ptr<Transport>> transport = connector_->Connect(address_);
  if (!transport.ok()) {
    return Cut({transport.status().error(), transport.status().message(), false, 0, false});
  }
  transport_ = std::move(*transport);
  receiver_.Reset();
  ArmForState();
  UpdateWatch();
}

void Channel::FinishConnect() {
  const int error = -transport_->ConnectResult();
  if (error == EINPROGRESS) return;
  if (error != 0) {
    return Cut({error, "cannot connect to " + server_name_ + ": " + std::strerror(error), false, 0,
                false});
  }
  SetState(State::kHello);
  ArmForState();
  AppendHello();
  Send();
  UpdateWatch();
}

void Channel::OnReadable() {
  if (write_waits_for_read()) send_blocked_ = false;
  if (transport_ != nullptr && state_ != State::kConnecting) Receive();
  Deliver();
  if (attached()) UpdateWatch();
}

void Channel::OnWritable() {
  if (state_ == State::kConnecting) {
    FinishConnect();
  } else {
    send_blocked_ = false;
    if (receive_blocked_) Receive();
    if (transport_ != nullptr && state_ != State::kReady) Send();
  }
  Deliver();
  if (attached()) UpdateWatch();
}

bool Channel::Poll() {
  if (polled_) return true;
  if (sent_.empty() || transport_ == nullptr || receive_blocked_) return false;
  if (!poll_gate_.Due(host_.loop->NowNs())) return false;
  polled_ = TakeBytes();
  if (polled_) return true;
  const int64_t now = host_.loop->NowNs();
  poll_gate_.Miss(now);
  if (yield_gate_.Due(now)) {
    std::this_thread::yield();
    yield_gate_.Yielded(now, host_.loop->NowNs());
  }
  return false;
}

// Takes what the transport has. Whether there was anything, an error included: then Receive is to
// be called, which alone may change what is watched and tell the host.
bool Channel::TakeBytes() {
  failure_.error = 0;
  const uint64_t before = receiver_.received();
  receive_error_ = receiver_.Run(transport_.get(), this);
  receive_blocked_ = transport_->read_wants_write();
  if (receiver_.received() != before) {
    silent_since_ns_ = host_.loop->NowNs();
    session_->NoteHeard(index_, silent_since_ns_);
    poll_gate_.Hit(silent_since_ns_);
    pinged_ = false;
    return true;
  }
  return receive_error_ != 0;
}

void Channel::Receive() {
  if (!polled_) TakeBytes();
  polled_ = false;
  if (receive_error_ != 0) {
    const int error = std::exchange(receive_error_, 0);
    Cut(failure_.error != 0 ? failure_
                            : ConnectionFailure{-error, receiver_.error(), false, 0, false});
    return;
  }
  if (state_ == State::kReady && session_->generation() != generation_) {
    // Another channel was told of a newer one: what is written here counts as lost until we are
    // too.
    Reopen("the volume has a new generation");
  }
  if (reopen_ != nullptr) {
    const std::string why = reopen_;
    Log(CLOUDBLK_LOG_WARNING, why + "; connecting anew to be told what is lost");
    return Cut({ECANCELED, why, false, 0, false});
  }
  if (transport_->has_pending()) ScheduleTurn();
  // Handshakes and farewells, which nobody pumps.
  if (state_ != State::kReady && !send_blocked_) Send();
}

bool Channel::Send() {
  if (outbox_.empty()) return true;
  const int error = outbox_.Send(transport_.get(), &stats_.send_calls);
  if (error == 0) return true;
  if (error == -EAGAIN) {
    send_blocked_ = true;
  } else {
    Cut({-error, std::string("sending failed: ") + std::strerror(-error), false, 0, false});
  }
  return false;
}

// The connection is over: what was not answered is sent again over the next one.
void Channel::Cut(const ConnectionFailure& failure) {
  const State was = state_;
  DropConnection();
  const int64_t now = attached() ? host_.loop->NowNs() : 0;
  if (was == State::kClosing) {
    SetState(State::kIdle);
    close_wanted_ = false;
    if (observer_ != nullptr) observer_->OnClosed(this);
    return;
  }
  if (failure.final && opened_) return EndSession(failure);
  bool outage = false;
  if (was == State::kReady) {
    if (attached() && now - ready_since_ns_ >= kBackoffMost) attempts_ = 0;
    ++stats_.reconnects;
    // What was silent will be silent again. One that closed may be up again before another is.
    if (failure.error == ETIMEDOUT && !StayThoughSilent()) TryNextAddress();
    if (failure.error != ECANCELED) {
      outage = true;
      Log(CLOUDBLK_LOG_WARNING, "lost " + server_name_ + ": " + failure.text + "; reconnecting");
      QueueEvent(CLOUDBLK_EVENT_LOST, 0, failure.text);
    }
  } else {
    Log(CLOUDBLK_LOG_DEBUG, server_name_ + ": " + failure.text);
    // Who speaks of a lease has the volume: no other server could let us in meanwhile.
    if (failure.error != EBUSY || failure.retry_ms == 0) TryNextAddress();
  }
  SetState(State::kBackoff);
  // Not before: another channel that becomes ready ends it when all are.
  if (outage) session_->NoteOutage();
  const int64_t delay = RetryDelay(failure);
  if (attached()) timer_->Arm(now + delay);
  if (observer_ != nullptr) observer_->OnFailure(this, failure);
}

// All channels are to be with one server: while others hear from it, a silent connection is made
// anew there, once.
bool Channel::StayThoughSilent() {
  const bool worked = silent_since_ns_ - ready_since_ns_ >= kBackoffMost;
  stayed_ = session_->OthersHeardSince(index_, silent_since_ns_) && (worked || !stayed_);
  return stayed_;
}

void Channel::TryNextAddress() {
  const bool all_failed = session_->AddressFailed(address_, connector_->count());
  if (!all_failed || !opened_ || !attached()) return;
  const int64_t now = host_.loop->NowNs();
  // A server that moved has taken its name along. One that others hear from has not moved.
  if (session_->OthersHeardSince(index_, now - kBackoffMost)) return;
  connector_->Refresh(now);
}

void Channel::DropConnection() {
  if (watching_) host_.loop->Unwatch(transport_->fd());
  watching_ = watching_read_ = watching_write_ = false;
  send_blocked_ = receive_blocked_ = polled_ = false;
  going_away_ = false;
  reopen_ = nullptr;
  receive_error_ = 0;
  outbox_.Clear();
  resize_sent_ = false;
  transport_.reset();
  timer_armed_ = false;
  for (Piece* piece = sent_.front(); piece != nullptr; piece = piece->next) {
    piece->state = Piece::State::kQueued;
  }
  // In front of all that was not sent, and in one queue: it keeps its order (SPEC.md 8.14).
  bulk_queue_.Prepend(&sent_);
  // A small request among it will be sent again, and is not to find the window gone.
  if (credits_used_ > bulk_sent_) bulk_window_.NoteSmall();
  bulk_window_.Reset();
  bulk_sent_ = 0;
  credits_used_ = 0;
  credit_bytes_used_ = 0;
}

// The server will not let this session in again.
void Channel::EndSession(const ConnectionFailure& failure) {
  SetState(State::kFailed);
  Settle();
  if (timer_ != nullptr) timer_->Disarm();
  if (session_->Revoke()) {
    Log(CLOUDBLK_LOG_ERROR, "volume " + session_->config().volume + " is lost: " + failure.text);
    QueueEvent(CLOUDBLK_EVENT_REVOKED, 0, failure.text);
  }
  FailAll(EIO);
  ScheduleTurn();
  if (observer_ != nullptr) observer_->OnFailure(this, failure);
}

int64_t Channel::RetryDelay(const ConnectionFailure& failure) {
  // The first attempt after a loss is made at once. Not so when connections break as soon as they
  // are made: only an answer, or some time, starts the count anew.
  if (attempts_ == 0) return 0;
  int64_t delay = std::min(kBackoffMost, kBackoffFirst << std::min<uint32_t>(attempts_ - 1, 20));
  if (failure.retry_ms != 0) delay = std::min(kBusyRetryMost, failure.retry_ms * kNsPerMs);
  // Between a half and the whole of it, so that the clients of a server do not come as one.
  const double share = static_cast<double>(jitter_() - jitter_.min()) /
                       static_cast<double>(jitter_.max() - jitter_.min());
  return static_cast<int64_t>(static_cast<double>(delay) * (0.5 + share / 2));
}

void Channel::UpdateWatch() {
  if (!attached() || transport_ == nullptr) return;
  const bool connecting = state_ == State::kConnecting;
  const bool read = !connecting;
  const bool write = connecting || receive_blocked_ || (send_blocked_ && !write_waits_for_read());
  if (watching_ && read == watching_read_ && write == watching_write_) return;
  host_.loop->Watch(transport_->fd(), read, write, this);
  watching_ = true;
  watching_read_ = read;
  watching_write_ = write;
}

bool Channel::write_waits_for_read() const {
  return send_blocked_ && transport_ != nullptr && transport_->write_wants_read();
}

void Channel::ArmForState() {
  const SessionConfig& config = session_->config();
  const int64_t now = host_.loop->NowNs();
  // Until it was opened once, an address has its share of the time, and no more for all steps.
  const int64_t opening_ends =
      opened_ ? INT64_MAX : connect_began_ns_ + config.open_answer_timeout_ns;
  timer_armed_ = false;
  switch (state_) {
    case State::kConnecting:
      return timer_->Arm(std::min(now + config.connect_timeout_ns, opening_ends));
    case State::kHello:
    case State::kOpen:
      return timer_->Arm(std::min(now + config.answer_timeout_ns, opening_ends));
    case State::kBackoff:
      return timer_->Arm(now);
    case State::kReady:
      timer_->Disarm();
      if (!sent_.empty()) NoteWaiting();
      return;
    case State::kIdle:
    case State::kClosing:
    case State::kFailed:
      return timer_->Disarm();
  }
}

// Requests wait for answers from now on.
void Channel::NoteWaiting() {
  silent_since_ns_ = host_.loop->NowNs();
  poll_gate_.Wait(silent_since_ns_);
  pinged_ = false;
  // Left armed when the last answer comes: it then fires once and rests, and no request has to pay
  // for arming and disarming it.
  if (timer_armed_) return;
  timer_armed_ = true;
  timer_->Arm(silent_since_ns_ + session_->config().answer_timeout_ns / 2);
}

void Channel::OnTimer() {
  switch (state_) {
    case State::kBackoff:
      Connect();
      break;
    case State::kConnecting:
      Cut({ETIMEDOUT, "cannot connect to " + server_name_ + ": no answer in time", false, 0,
           false});
      break;
    case State::kHello:
    case State::kOpen:
      Cut({ETIMEDOUT, server_name_ + " accepted the connection and does not answer", false, 0,
           false});
      break;
    case State::kReady:
      CheckLiveness();
      break;
    default:
      break;
  }
  Deliver();
}

void Channel::CheckLiveness() {
  timer_armed_ = false;
  if (sent_.empty()) return;
  const int64_t timeout = session_->config().answer_timeout_ns;
  const int64_t silence = host_.loop->NowNs() - silent_since_ns_;
  if (silence >= timeout) {
    return Cut({ETIMEDOUT, "no answer for " + std::to_string(timeout / (1000 * kNsPerMs)) + " s",
                false, 0, false});
  }
  timer_armed_ = true;
  if (silence < timeout / 2) return timer_->Arm(silent_since_ns_ + timeout / 2);
  timer_->Arm(silent_since_ns_ + timeout);
  const size_t needed = wire::kFrameHeaderSize + wire::kPingSize + RequestFrame::kOwnRoom;
  if (pinged_ || outbox_.free() < needed) return;
  pinged_ = true;
  AppendControl(wire::FrameType::kPing, wire::Ping{incarnation_}, wire::kPingSize, "", &outbox_);
  Pump();
}

void Channel::QueueEvent(CloudblkEventKind kind, uint64_t value, std::string_view text) {
  events_.push_back({kind, value, Printable(text)});
  ScheduleTurn();
}

void Channel::Log(CloudblkLogLevel level, const std::string& text) const {
  if (host_.log == nullptr) return;
  // A server's text may be in it.
  const std::string line =
      Printable(session_->config().volume + " channel " + std::to_string(index_) + ": " + text);
  host_.log(level, line.c_str());
}

}  // namespace cloudblk
