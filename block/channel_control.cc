// SPDX-License-Identifier: GPL-2.0-or-later
//
// What a channel and its server say to each other beside requests and replies.
#include <cassert>
#include <cerrno>
#include <utility>

#include "block/channel.h"
#include "proxy-protocol/wire_errno.h"

namespace cloudblk {
namespace {

// A read does not sit long behind so much, and a frame's overhead is small beside it.
constexpr uint32_t kOfferedPayload = 256 << 10;
constexpr uint32_t kOfferedEntries = 512;

}  // namespace

// HELLO and OPEN go out together (SPEC.md 4.2): one round trip less. But one that names a claimer
// depends on what the server knows.
void Channel::AppendHello() {
  const SessionConfig& config = session_->config();
  wire::Hello hello;
  hello.max_frame_payload = kOfferedPayload;
  hello.max_frame_entries = kOfferedEntries;
  hello.features = wire::Feature::kHoleReply | wire::Feature::kClaimer;
  if (config.payload_crc) {
    hello.features |= wire::Feature::kPayloadCrc;
    hello.required_features = wire::Feature::kPayloadCrc;
  }
  AppendControl(wire::FrameType::kHello, hello, wire::kHelloSize, "", &outbox_);
  open_waits_ = !session_->ClaimerOf(session_->claim()).IsNil();
  if (!open_waits_) AppendOpen();
}

void Channel::AppendOpen() {
  const SessionConfig& config = session_->config();
  wire::Open open;
  open_step_ = session_->claim();
  open.session = session_->uuid();
  open.epoch = session_->EpochOf(open_step_);
  if (open_step_ == ClaimStep::kTryToken || (open_step_ == ClaimStep::kToken && !claimed_)) {
    open.token = session_->token();
  }
  open.channel = index_;
  open.channel_count = config.channels;
  open.incarnation = incarnation_;
  if (!session_->observe()) open.flags |= wire::OpenFlag::kActive;
  if (config.read_only) open.flags |= wire::OpenFlag::kReadOnly;
  if (config.share_rw) open.flags |= wire::OpenFlag::kShareRw;
  if (opened_) {
    open.flags |= wire::OpenFlag::kResume;
    open.volume = session_->volume().volume;
    open.generation = session_->generation();
  } else if (config.takeover && !session_->observe() && !session_->has_volume()) {
    // Only the first channel takes over, and only once: a session that lost the volume must not
    // fence its successor.
    open.flags |= wire::OpenFlag::kTakeover;
  }
  if (open_waits_ && (hello_.features & wire::Feature::kClaimer) != 0) {
    open.claimer = session_->ClaimerOf(open_step_);
  }
  open.volume_name_length = static_cast<uint16_t>(config.volume.size());
  open.client_name_length = static_cast<uint16_t>(config.client_name.size());
  AppendControl(wire::FrameType::kOpen, open, wire::kOpenSize, config.volume + config.client_name,
                &outbox_);
}

void Channel::Release() {
  assert(attached() && in_flight() == 0);
  release_wanted_ = true;
  release_sent_ = false;
  if (state_ == State::kReady) SendRelease();
}

void Channel::SendRelease() {
  release_wanted_ = false;
  release_sent_ = true;
  AppendControl(wire::FrameType::kRelease, wire::TokenMessage{session_->token(), session_->epoch()},
                wire::kTokenMessageSize, "", &outbox_);
  if (!send_blocked_) Send();
  UpdateWatch();
}

int Channel::OnReleaseReply(std::span<const uint8_t> section, std::string_view text) {
  wire::StatusMessage reply;
  const wire::DecodeError error = wire::Decode(section, &reply);
  if (error != wire::DecodeError::kOk) {
    return Violation("bad RELEASE_REPLY: " + std::string(wire::Describe(error)));
  }
  release_sent_ = false;
  if (observer_ != nullptr) observer_->OnReleased(this, reply.status, text);
  return 0;
}

void Channel::SendClose() {
  wire::Close close;
  if (close_ends_session_) close.flags = wire::CloseFlag::kEndSession;
  AppendControl(wire::FrameType::kClose, close, wire::kCloseSize, "", &outbox_);
  SetState(State::kClosing);
  if (!send_blocked_) Send();
  UpdateWatch();
}

void Channel::Resize(const wire::Resize& request) {
  assert(state_ == State::kReady && !resize_sent_);
  resize_sent_ = true;
  AppendControl(wire::FrameType::kResize, request, wire::kResizeSize, "", &outbox_);
  if (!send_blocked_) Send();
  UpdateWatch();
}

void Channel::ForgetResize() {
  // Not ETIMEDOUT: the server lives, it is the work that takes long.
  if (resize_sent_) Cut({ECONNABORTED, "no answer to a RESIZE", false, 0, false});
}

int Channel::OnControl(const wire::FrameHeader& header, std::span<const uint8_t> section,
                       std::span<const uint8_t> payload) {
  const std::string_view text(reinterpret_cast<const char*>(payload.data()), payload.size());
  const bool serving = state_ == State::kReady || state_ == State::kClosing;
  switch (header.type) {
    case wire::FrameType::kHelloReply:
      if (state_ == State::kHello) return OnHelloReply(section, text);
      break;
    case wire::FrameType::kOpenReply:
      if (state_ == State::kOpen) return OnOpenReply(section, text);
      break;
    case wire::FrameType::kEvent:
      if (serving) return OnEvent(section, text);
      break;
    case wire::FrameType::kPing:
      if (serving) return OnPing(section);
      break;
    case wire::FrameType::kPong:
      // That it came is all it says.
      if (serving) return 0;
      break;
    case wire::FrameType::kReleaseReply:
      if (serving && release_sent_) return OnReleaseReply(section, text);
      break;
    case wire::FrameType::kCloseReply:
      if (state_ != State::kClosing) break;
      failure_ = {ESHUTDOWN, "closed", false, 0, false};
      return -ESHUTDOWN;
    case wire::FrameType::kResizeReply:
      if (serving && resize_sent_) return OnResizeReply(section, text);
      break;
    case wire::FrameType::kError:
      return Violation("the server reports: " + std::string(text));
    default:
      break;
  }
  return Violation("unexpected " + std::string(wire::Name(header.type)) + " frame");
}

int Channel::Violation(std::string text) {
  failure_ = {EPROTO, std::move(text), false, 0, false};
  return -EPROTO;
}

int Channel::Refused(wire::StatusCode status, std::string_view text, uint32_t retry_ms) {
  failure_ = {wire::ErrnoOf(status), std::string(wire::Name(status)), true, retry_ms, false};
  if (!text.empty()) failure_.text = text;
  failure_.final = status == wire::StatusCode::kStale || status == wire::StatusCode::kFenced ||
                   status == wire::StatusCode::kVolumeChanged ||
                   status == wire::StatusCode::kBadToken;
  if (session_->ClaimRefused(open_step_, status)) failure_.final = false;
  return -failure_.error;
}

int Channel::OnHelloReply(std::span<const uint8_t> section, std::string_view text) {
  const wire::DecodeError error = wire::Decode(section, &hello_);
  if (error != wire::DecodeError::kOk) {
    return Violation("bad HELLO_REPLY: " + std::string(wire::Describe(error)));
  }
  if (hello_.status != wire::StatusCode::kOk) return Refused(hello_.status, text, 0);
  const bool crc = (hello_.features & wire::Feature::kPayloadCrc) != 0;
  if (hello_.max_frame_payload > kOfferedPayload || hello_.max_frame_entries > kOfferedEntries ||
      crc != session_->config().payload_crc) {
    return Violation("HELLO_REPLY grants what was not asked for");
  }
  SetState(State::kOpen);
  // Sent when the pass that we are in ends.
  if (open_waits_) AppendOpen();
  return 0;
}

int Channel::OnOpenReply(std::span<const uint8_t> section, std::string_view text) {
  wire::OpenReply reply;
  const wire::DecodeError error = wire::Decode(section, &reply);
  if (error != wire::DecodeError::kOk) {
    return Violation("bad OPEN_REPLY: " + std::string(wire::Describe(error)));
  }
  if (reply.status != wire::StatusCode::kOk) return Refused(reply.status, text, reply.retry_ms);
  if (!outbox_.empty()) return Violation("OPEN_REPLY before OPEN was sent");
  return AcceptOpen(reply);
}

int Channel::AcceptOpen(const wire::OpenReply& reply) {
  session_->ClaimGranted(open_step_);
  if (!session_->has_volume()) {
    session_->SetVolume(reply);
  } else {
    const wire::OpenReply& volume = session_->volume();
    if (reply.volume != volume.volume || reply.logical_block_size != volume.logical_block_size) {
      failure_ = {ESTALE, "the volume of this name is another one now", true, 0, true};
      return -ESTALE;
    }
    if ((reply.volume_flags & wire::VolumeFlag::kWriteCache) != 0 && !session_->write_cache()) {
      return Violation("the volume has a write cache now, of which its user does not know");
    }
    if (session_->SetGeneration(reply.generation)) {
      Log(CLOUDBLK_LOG_ERROR,
          "the server may have lost writes that were not flushed; the next flush fails");
    }
    if (session_->SetSize(reply.size)) {
      QueueEvent(CLOUDBLK_EVENT_RESIZED, reply.size, "");
    }
  }
  generation_ = reply.generation;
  limits_ = LimitsFrom(hello_, reply);
  receiver_.SetLimits(limits_.frame);
  outbox_.SetRoom(Outbox::kHeaderRoom +
                  (limits_.frame.payload_crc ? limits_.frame.max_payload : 0));
  BecomeReady();
  return 0;
}

void Channel::BecomeReady() {
  SetState(State::kReady);
  ready_since_ns_ = host_.loop->NowNs();
  ArmForState();
  if (opened_) {
    Log(CLOUDBLK_LOG_INFO, "connected again to " + server_name_);
  } else {
    attempts_ = 0;
  }
  opened_ = true;
  claimed_ = true;
  Settle();
  if (session_->ChannelReady()) QueueEvent(CLOUDBLK_EVENT_RESTORED, 0, "");
  if (observer_ != nullptr) observer_->OnReady(this);
  // What fails to be sent ends the connection, which the receiver is reading from: so these only go
  // to the outbox, and are sent when it is done.
  const bool blocked = std::exchange(send_blocked_, true);
  if (release_wanted_) SendRelease();
  if (close_wanted_) SendClose();
  send_blocked_ = blocked;
}

int Channel::OnEvent(std::span<const uint8_t> section, std::string_view text) {
  wire::Event event;
  const wire::DecodeError error = wire::Decode(section, &event);
  if (error != wire::DecodeError::kOk) {
    return Violation("bad EVENT: " + std::string(wire::Describe(error)));
  }
  switch (event.kind) {
    case wire::EventKind::kResized:
      if (event.value > uint64_t{INT64_MAX} || !Aligned(event.value, 0)) {
        return Violation("EVENT RESIZED with an impossible size");
      }
      if (session_->SetSize(event.value)) {
        QueueEvent(CLOUDBLK_EVENT_RESIZED, event.value, text);
      }
      return 0;
    case wire::EventKind::kGoingAway:
      // The connection ends soon, and the reconnect finds who serves the volume then.
      if (!std::exchange(going_away_, true)) {
        Log(CLOUDBLK_LOG_INFO, server_name_ + " is about to stop");
      }
      return 0;
    case wire::EventKind::kRevoked:
      failure_ = {ESTALE, std::string(text), false, 0, true};
      return -ESTALE;
  }
  return 0;
}

int Channel::OnPing(std::span<const uint8_t> section) {
  wire::Ping ping;
  if (wire::Decode(section, &ping) != wire::DecodeError::kOk) return Violation("bad PING");
  if (outbox_.free() < wire::kFrameHeaderSize + wire::kPingSize + RequestFrame::kOwnRoom) {
    return Violation("more PINGs than answers that it takes");
  }
  AppendControl(wire::FrameType::kPong, ping, wire::kPingSize, "", &outbox_);
  // The pass that we are in ends with a send.
  return 0;
}

int Channel::OnResizeReply(std::span<const uint8_t> section, std::string_view text) {
  wire::StatusMessage reply;
  const wire::DecodeError error = wire::Decode(section, &reply);
  if (error != wire::DecodeError::kOk) {
    return Violation("bad RESIZE_REPLY: " + std::string(wire::Describe(error)));
  }
  resize_sent_ = false;
  if (observer_ != nullptr) observer_->OnResized(this, reply.status, text);
  return 0;
}

}  // namespace cloudblk
