// SPDX-License-Identifier: GPL-2.0-or-later
//
// What one turn of the loop does with a connection: take bytes, act on what they say, send what
// waits, tell the host.
#include <limits.h>

#include <cerrno>
#include <cstring>
#include <thread>
#include <utility>

#include "block/link.h"
#include "block/open_check.h"

namespace cloudblk {
namespace {

// How often a channel that may not send looks whether it may (SessionState::settled).
constexpr int64_t kSettledPoll = kNsPerMs;
// How often what waits for a lost connection's writes is tried again.
constexpr int64_t kHoldPoll = 20 * kNsPerMs;

using State = LinkState;

}  // namespace

void Link::OnReadable() {
  if (write_waits_for_read()) send_blocked_ = false;
  if (codec_ != nullptr) Receive();
  Deliver();
  // While ready it has pumped, and that has updated.
  if (attached() && state_ != State::kReady) UpdateWatch();
}

void Link::OnWritable() {
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

bool Link::Poll() {
  if (polled_) return true;
  if (!queue_->has_unanswered() || codec_ == nullptr || receive_blocked_) return false;
  if (!poll_gate_.Due(loop_->NowNs())) return false;
  polled_ = TakeBytes();
  if (polled_) return true;
  const int64_t now = loop_->NowNs();
  poll_gate_.Miss(now);
  if (yield_gate_.Due(now)) {
    std::this_thread::yield();
    yield_gate_.Yielded(now, loop_->NowNs());
  }
  return false;
}

// Takes what the transport has. Whether there was anything, an error included: then Receive is to
// be called, which alone may change what is watched and tell the host.
bool Link::TakeBytes() {
  const uint64_t bytes = codec_stats_.bytes_received;
  pass_ended_ = !codec_->Receive(transport_.get(), queue_, &outbox_, &facts_);
  receive_blocked_ = transport_->read_wants_write();
  if (codec_stats_.bytes_received == bytes) return pass_ended_;
  silent_since_ns_ = loop_->NowNs();
  session_->NoteHeard(index_, silent_since_ns_);
  poll_gate_.Hit(silent_since_ns_);
  pinged_ = false;
  return true;
}

void Link::Receive() {
  if (!polled_) TakeBytes();
  polled_ = false;
  if (!facts_.empty() && !ApplyFacts()) return;
  if (std::exchange(pass_ended_, false)) {
    Failure failure = codec_->failure();
    // The session may know another way to ask for the volume.
    if (failure.refused() && session_->ClaimRefused(claim_mode_, failure.refusal)) {
      failure.final = false;
    }
    if (known_.has_value() && failure.refusal == Refusal::kOtherVolume && KnownHasChanged()) {
      failure = {.error = ECANCELED, .text = "another connection writes where it was compared"};
    }
    return Cut(failure);
  }
  if (capabilities_.generation ? MustReopen() : !FollowFlushes()) return;
  if (transport_->has_pending()) ScheduleTurn();
  // Handshakes and farewells: Pump sends only in kReady.
  if (state_ != State::kReady && !send_blocked_) Send();
}

bool Link::ApplyFacts() {
  const std::vector<Fact> facts = std::exchange(facts_, {});
  for (const Fact& fact : facts) {
    if (!OnFact(fact)) return false;
  }
  return true;
}

bool Link::OnFact(const Fact& fact) {
  switch (fact.kind) {
    case Fact::Kind::kOpened:
      return OnOpened(fact.text);
    case Fact::Kind::kResized:
      if (session_->SetSize(fact.value)) {
        QueueEvent(CLOUDBLK_EVENT_RESIZED, fact.value, fact.text);
      }
      return true;
    case Fact::Kind::kGoingAway:
      // The connection ends soon, and the reconnect finds who serves the volume then.
      if (!std::exchange(going_away_, true)) {
        Log(CLOUDBLK_LOG_INFO, server_name_ + " is about to stop");
      }
      return true;
    case Fact::Kind::kAnswered:
      return OnAnswered(fact);
  }
  return true;
}

bool Link::OnAnswered(const Fact& fact) {
  if (fact.command == Command::Kind::kClose) {
    Cut({.error = ESHUTDOWN, .text = "closed"});
    return false;
  }
  if (fact.command == Command::Kind::kExamine) {
    examining_ = false;
    if (fact.error == 0) {
      session_->witness().Take(index_, fact.block);
    } else {
      session_->witness().GiveUp(index_);
    }
    return true;
  }
  if (fact.command == Command::Kind::kResize) resize_sent_ = false;
  observer_->OnAnswered(fact.command, fact.error, fact.text);
  if (fact.command != Command::Kind::kRelease || capabilities_.fences) return true;
  if (fact.error != 0) {
    releasing_ = false;
    session_->NoteSyncFailure();
  }
  if (fact.error != 0 || !session_->released()) return true;
  // Where nobody keeps the volume for whoever comes, the next one may need our place.
  Abandon();
  return false;
}

bool Link::OnOpened(const std::string& note) {
  session_->ClaimGranted(claim_mode_);
  const VolumeInfo& found = codec_->volume();
  const Failure failure = CheckOpened(*session_, found, codec_->capabilities());
  if (failure.error != 0) {
    Cut(failure);
    return false;
  }
  generation_ = found.generation;
  if (!session_->has_volume()) {
    session_->SetVolume(found, codec_->capabilities());
    session_->SetNote(note);
  } else {
    const bool tells = codec_->capabilities().generation;
    if (tells ? session_->SetGeneration(found.generation)
              : session_->NoteReconnected(index_, lost_ns_, loop_->NowNs())) {
      Log(CLOUDBLK_LOG_ERROR,
          "the server may have lost writes that were not flushed; the next flush fails");
    }
    if (!tells) generation_ = session_->generation();
    if (session_->SetSize(found.size)) QueueEvent(CLOUDBLK_EVENT_RESIZED, found.size, "");
  }
  capabilities_ = codec_->capabilities();
  lost_ns_ = 0;
  session_->NoteConnected(index_, loop_->NowNs());
  queue_->Open(codec_->limits(), generation_, capabilities_.fences);
  BecomeReady();
  return true;
}

void Link::BecomeReady() {
  SetState(State::kReady);
  ready_since_ns_ = loop_->NowNs();
  ArmForState();
  if (!opened_) backoff_.Reset();
  opened_ = true;
  claimed_ = true;
  other_volume_told_ = held_elsewhere_ = false;
  session_->NoteRenewed();
  Settle();
  if (session_->ChannelReady()) {
    if (session_->EndOutage()) QueueEvent(CLOUDBLK_EVENT_RESTORED, 0, "");
    Tell(CLOUDBLK_LOG_INFO, session_->outage().Restored(loop_->NowNs(), server_name_));
    if (session_->outage().restored_untold()) ArmLiveness(loop_->NowNs() + ping_after());
  }
  // What is asked for now only goes to the outbox: the pass that we are in ends with a send.
  const bool blocked = std::exchange(send_blocked_, true);
  observer_->OnReady();
  if (release_wanted_) SendRelease();
  if (close_wanted_) SendClose();
  send_blocked_ = blocked;
}

// Of a server that does not tell what is lost, and would tell nothing at a new connection. False:
// the connection is over.
bool Link::FollowFlushes() {
  if (queue_->TakeSyncFailure() && session_->NoteSyncFailure()) {
    Log(CLOUDBLK_LOG_ERROR,
        "the server failed to make writes durable, and may have lost them; the next flush fails");
  }
  const uint64_t present = session_->generation();
  if (generation_ != present) queue_->SetGeneration(present);
  generation_ = present;
  Examine();
  return transport_ != nullptr;
}

// Ends the connection if only a new OPEN can tell what is lost. True: it did.
bool Link::MustReopen() {
  const char* why = nullptr;
  // Once for each generation: if the next OPEN tells the same, another one would not help.
  if (queue_->TakeSyncFailure() && reopened_for_ != generation_) {
    why = "the storage failed to flush";
    reopened_for_ = generation_;
  }
  if (state_ == State::kReady && session_->generation() != generation_ &&
      reopened_for_ != generation_) {
    // Another channel was told of a newer one. Until this one is too, all that is written by it
    // counts as lost (SessionState::NoteWrite).
    why = "the volume has a new generation";
    reopened_for_ = generation_;
  }
  if (why == nullptr) return false;
  Log(CLOUDBLK_LOG_WARNING, std::string(why) + "; connecting anew to be told what is lost");
  Cut({.error = ECANCELED, .text = why});
  return true;
}

// What the server was to have by which it is known, another channel has changed since.
bool Link::KnownHasChanged() const {
  const std::optional<KnownBlock> now = session_->witness().known();
  return !now.has_value() || now->offset != known_->offset || now->digest != known_->digest;
}

// Reads back what was flushed, if there is nothing yet by which the server is known again.
void Link::Examine() {
  if (examining_ || releasing_ || state_ != State::kReady) return;
  // What may still land is no change that a block could be seen to lack.
  if (session_->quarantine().HoldsAnything(loop_->NowNs())) return;
  const std::optional<KnownBlock> block = session_->witness().Choose(index_);
  if (!block.has_value()) return;
  examining_ = true;
  SendCommand({.kind = Command::Kind::kExamine, .block = *block});
}

void Link::SendCommand(const Command& command) {
  codec_->Send(command, &outbox_);
  if (!send_blocked_) Send();
  UpdateWatch();
}

void Link::SendRelease() {
  release_wanted_ = false;
  releasing_ = true;
  SendCommand(
      {.kind = Command::Kind::kRelease, .token = session_->token(), .epoch = session_->epoch()});
}

void Link::SendClose() {
  // Before the sending, as the connection may end with that.
  SetState(State::kClosing);
  SendCommand({.kind = Command::Kind::kClose, .end_session = close_ends_session_});
}

bool Link::Send() {
  if (outbox_.empty()) return true;
  const int error = outbox_.Send(transport_.get(), &send_calls_);
  if (error == 0) return true;
  if (error == -EAGAIN) {
    send_blocked_ = true;
  } else if (error == -EFAULT && queue_->FindUnreadable(outbox_.sent())) {
    CutUnreadable();
  } else {
    const std::string trouble = transport_->trouble();
    Cut({.error = -error,
         .text =
             trouble.empty() ? std::string("sending failed: ") + std::strerror(-error) : trouble});
  }
  return false;
}

// The server waits for data that cannot be had, and must not take anything else for it. So the
// connection ends, and the next one, which fences it, goes on without the requests whose data that
// is. Nothing is wrong with the server: it is connected to at once.
void Link::CutUnreadable() {
  constexpr const char* kText = "data of a write is in memory that the host cannot provide";
  Log(std::exchange(unreadable_told_, true) ? CLOUDBLK_LOG_DEBUG : CLOUDBLK_LOG_WARNING,
      std::string(kText) + "; failing that write, connecting anew for the others");
  backoff_.Reset();
  Cut({.error = ECANCELED, .text = kText});
}

void Link::Pump() {
  if (!attached()) return;
  if (state_ != State::kReady) return StartAging();
  // A batch that waits for the transport goes first; until then nothing more is built.
  while (!send_blocked_ && Send() && BuildFrames()) {
  }
  if (queue_->has_done()) ScheduleTurn();
  UpdateWatch();
}

// Fills the outbox with batches. False: there is nothing to send.
bool Link::BuildFrames() {
  if (!session_->settled()) {
    // Nobody can tell this loop when another one's channel has reopened, so look again soon.
    if (queue_->has_unsent()) {
      timer_armed_ = true;
      timer_->Arm(loop_->NowNs() + kSettledPoll);
      StartAging();
    }
    return !outbox_.empty();
  }
  queue_->BeginSending();
  while (outbox_.elements() < IOV_MAX && BuildFrame()) {
  }
  if (queue_->TakeLossTold()) {
    Log(CLOUDBLK_LOG_ERROR,
        "the server lost writes that were not flushed; this flush fails to say so");
  }
  if (queue_->has_held() && !std::exchange(hold_armed_, true)) {
    hold_timer_->Arm(loop_->NowNs() + kHoldPoll);
  }
  return !outbox_.empty();
}

bool Link::BuildFrame() {
  const bool idle = !queue_->has_unanswered();
  queue_->Gather(outbox_.free(), &batch_);
  if (batch_.empty()) return false;
  const size_t count = codec_->Append(batch_, &outbox_);
  if (count < batch_.size()) FailUnreadable(count);
  if (idle) NoteWaiting();
  return true;
}

// Nothing was sent of these pieces of the batch.
void Link::FailUnreadable(size_t first) {
  for (size_t i = first; i < batch_.size(); ++i) queue_->Answer(batch_[i], EFAULT);
}

// Requests wait for answers from now on.
void Link::NoteWaiting() {
  silent_since_ns_ = loop_->NowNs();
  poll_gate_.Wait(silent_since_ns_);
  pinged_ = false;
  // Left armed when the last answer comes: it then fires once and rests, and no request has to pay
  // for arming and disarming it.
  if (timer_armed_) return;
  ArmLiveness(silent_since_ns_ + ping_after());
  StartAging();
}

// How long a server may be silent before it is asked for a sign of life. There has to be time left
// for its answer.
int64_t Link::ping_after() const { return session_->config().answer_timeout_ns * 3 / 8; }

void Link::ArmLiveness(int64_t deadline_ns) {
  timer_armed_ = true;
  timer_->Arm(deadline_ns);
}

void Link::CheckLiveness() {
  timer_armed_ = false;
  const int64_t now = loop_->NowNs();
  Outage& outage = session_->outage();
  Tell(CLOUDBLK_LOG_INFO, outage.Holds(now, server_name_));
  if (!queue_->has_unanswered()) {
    if (outage.restored_untold()) ArmLiveness(now + ping_after());
    return;
  }
  const int64_t timeout = session_->config().answer_timeout_ns;
  // Where no sign of life can be asked for, a request may take as long as it does: the transport
  // finds out whether the peer is there.
  if (capabilities_.ping && now - silent_since_ns_ >= timeout) {
    // What came while this loop itself stood still is yet to be read.
    Receive();
    if (state_ != State::kReady) return;
    if (!queue_->has_unanswered()) return;
    if (now - silent_since_ns_ >= timeout) {
      return Cut({.error = ETIMEDOUT,
                  .text = "no answer for " + std::to_string(timeout / kNsPerS) + " s"});
    }
  }
  if (now - silent_since_ns_ < ping_after()) return ArmLiveness(silent_since_ns_ + ping_after());
  ArmLiveness((capabilities_.ping ? silent_since_ns_ : now) + timeout);
  if (!capabilities_.ping) {
    if (now - silent_since_ns_ >= timeout && !std::exchange(silence_told_, true)) {
      Log(CLOUDBLK_LOG_WARNING, server_name_ + " has not answered for " +
                                    std::to_string(timeout / kNsPerS) +
                                    " s; its storage may be slow, so requests wait");
    }
    return;
  }
  if (pinged_) return;
  if (!codec_->Send({.kind = Command::Kind::kPing}, &outbox_)) return;
  pinged_ = true;
  Pump();
}

void Link::SetRequestTimeout(int64_t ns) {
  age_step_ns_ = ns / (RequestQueue::kMaxAge - 1);
  if (!attached()) return;
  age_timer_->Disarm();
  aging_ = false;
  StartAging();
}

// Whatever makes requests wait calls it, but not each time: while timer_armed_, it goes on by
// itself.
void Link::StartAging() {
  if (aging_ || age_step_ns_ == 0 || (queue_->in_flight() == 0 && !timer_armed_)) return;
  aging_ = true;
  age_timer_->Arm(loop_->NowNs() + age_step_ns_);
}

void Link::OnAgeTimer() {
  aging_ = false;
  StartAging();
  if (!queue_->Age()) return;
  const int64_t seconds = age_step_ns_ * (RequestQueue::kMaxAge - 1) / kNsPerS;
  const std::string why = "no answer to a request for " + std::to_string(seconds) + " s";
  if (timeout_told_at_ != queue_->answers()) {
    Log(CLOUDBLK_LOG_ERROR, server_name_ + ": " + why + "; requests fail until it answers");
    timeout_told_at_ = queue_->answers();
  }
  GiveUp({.error = ETIMEDOUT, .text = why});
  queue_->FailOld(ETIMEDOUT);
  Deliver();
}

void Link::OnHoldTimer() {
  hold_armed_ = false;
  queue_->ReleaseHeld();
  Pump();
}

void Link::ScheduleTurn() {
  if (turn_ != nullptr || !attached()) return;
  turn_ = std::make_shared<Turn>(Turn{this});
  loop_->Defer([turn = turn_] {
    if (turn->link != nullptr) turn->link->RunTurn();
  });
}

void Link::RunTurn() {
  turn_.reset();
  if (codec_ != nullptr && (polled_ || transport_->has_pending())) Receive();
  Deliver();
  UpdateWatch();
}

void Link::Deliver() {
  while (!events_.empty()) {
    const std::vector<Event> events = std::exchange(events_, {});
    const SessionConfig& config = session_->config();
    for (const Event& event : events) {
      if (config.event != nullptr) {
        config.event(config.event_opaque, event.kind, event.value, event.text.c_str());
      }
    }
  }
  queue_->Deliver();
  Pump();
}

void Link::UpdateWatch() {
  if (!attached() || transport_ == nullptr) return;
  const bool connecting = state_ == State::kConnecting;
  const bool read = !connecting;
  const bool write = connecting || receive_blocked_ || (send_blocked_ && !write_waits_for_read());
  if (watching_ && read == watching_read_ && write == watching_write_) return;
  loop_->Watch(transport_->fd(), read, write, this);
  watching_ = true;
  watching_read_ = read;
  watching_write_ = write;
}

bool Link::write_waits_for_read() const {
  return send_blocked_ && transport_ != nullptr && transport_->write_wants_read();
}

}  // namespace cloudblk
