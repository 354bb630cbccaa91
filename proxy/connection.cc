// SPDX-License-Identifier: GPL-2.0-or-later
//
// The connection's states, from the first byte to the last.
#include "proxy/connection.h"

#include <fmt/format.h>
#include <poll.h>
#include <spdlog/spdlog.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cassert>
#include <cerrno>
#include <cstring>
#include <utility>

#include "base/text.h"

namespace cloudblk::proxy {
namespace {

constexpr int64_t kHandshakeNs = 30'000'000'000;
// Reads of one connection before the others get their turn.
constexpr int kReadsPerTurn = 4;
// Reads of what nobody wants any more, 64 KiB each: more than socket buffers hold as a rule.
constexpr int kDrainReads = 128;
// How long a client may take to read what was ready when the proxy was told to stop.
constexpr int64_t kGoodbyeNs = 2'000'000'000;

}  // namespace

Connection::Connection(LoopThread* thread, const ServerInfo& info, uint64_t id, UniqueFd fd,
                       std::string address)
    : thread_(thread),
      info_(info),
      id_(id),
      address_(std::move(address)),
      fd_(std::move(fd)),
      reader_(&thread->context().buffers(), this),
      writer_(&thread->context().buffers(), this) {}

Connection::~Connection() { assert(finished_ && jobs_in_flight_ == 0 && at_backend_ == 0); }

void Connection::Start() {
  timer_ = thread_->loop().NewTimer([this] { OnHandshakeTimer(); });
  timer_->Arm(thread_->loop().NowNs() + kHandshakeNs);
  UpdateWatch();
}

void Connection::SetState(State next) {
  const auto legal = [&] {
    switch (next) {
      case State::kHello:
        return false;
      case State::kOpen:
        return state_ == State::kHello;
      case State::kOpening:
        return state_ == State::kOpen;
      case State::kReady:
        return state_ == State::kOpening;
      case State::kClosing:
        return state_ == State::kReady;
      case State::kLeaving:
        return state_ != State::kLeaving && state_ != State::kStopping;
      case State::kStopping:
        return state_ != State::kStopping;
    }
    return false;
  };
  assert(legal());
  state_ = next;
  if (next == State::kReady || next == State::kStopping) timer_.reset();
}

void Connection::OnReadable() {
  thread_->context().WatchIdle();
  for (int i = 0; i < kReadsPerTurn && reading_ && !paused_; ++i) {
    const FrameReader::Outcome outcome = reader_.Read(fd_.get());
    if (outcome == FrameReader::Outcome::kEnd) {
      const bool expected = state_ == State::kLeaving || state_ == State::kClosing;
      BeginStop(expected ? "" : "closed by the client");
    }
    if (outcome != FrameReader::Outcome::kMore) return;
  }
}

void Connection::OnWritable() { MarkDirty(); }

bool Connection::OnMessage(const wire::FrameHeader& header, std::span<const uint8_t> section,
                           std::span<const uint8_t> payload) {
  const wire::FrameType type = header.type;
  if (type == wire::FrameType::kError) {
    const std::string_view text(reinterpret_cast<const char*>(payload.data()), payload.size());
    BeginStop("the client reports an error: " +
              (IsText(payload) ? Printable(text) : "in no readable text"));
    return false;
  }
  switch (state_) {
    case State::kHello:
      if (type == wire::FrameType::kHello) return OnHello(section);
      break;
    case State::kOpen:
      if (type == wire::FrameType::kOpen) return OnOpen(section, payload);
      break;
    case State::kReady:
      return OnReadyMessage(type, section);
    case State::kClosing:
      if (type == wire::FrameType::kPong) return true;
      break;
    case State::kLeaving:
      return true;
    case State::kOpening:
    case State::kStopping:
      break;
  }
  return Violation(fmt::format("{} is out of place here", wire::Name(type)));
}

bool Connection::OnHello(std::span<const uint8_t> section) {
  wire::Hello hello;
  const wire::DecodeError error = wire::Decode(section, &hello);
  if (error != wire::DecodeError::kOk) return Violation(wire::Describe(error));
  wire::HelloReply reply;
  reply.server = info_.uuid;
  std::string text;
  if (hello.version_min > wire::kVersion || hello.version_max < wire::kVersion) {
    reply.status = wire::StatusCode::kBadVersion;
    text = fmt::format("this server speaks version {} of the protocol, the client {} to {}",
                       wire::kVersion, hello.version_min, hello.version_max);
  } else if (const uint64_t lacking =
                 hello.required_features & ~(hello.features & uint64_t{wire::Feature::kAll});
             lacking != 0) {
    reply.status = wire::StatusCode::kBadFeature;
    text = fmt::format(
        "this server lacks features that the client requires, or were not offered: {:#x}", lacking);
  }
  reply.features = hello.features & wire::Feature::kAll;
  reply.max_frame_payload = std::min(hello.max_frame_payload, wire::kMaxFramePayload);
  reply.max_frame_entries = std::min(hello.max_frame_entries, wire::kMaxFrameEntries);
  std::array<uint8_t, wire::kHelloReplySize> out;
  wire::Encode(reply, out);
  writer_.AddMessage(wire::FrameType::kHelloReply, out, text);
  MarkDirty();
  if (reply.status != wire::StatusCode::kOk) {
    spdlog::warn("{}: refused: {}", Who(), text);
    StopReading();
    SetState(State::kLeaving);
    return false;
  }
  limits_.max_entries = reply.max_frame_entries;
  limits_.max_payload = reply.max_frame_payload;
  limits_.payload_crc = (reply.features & wire::Feature::kPayloadCrc) != 0;
  hole_reply_ = (reply.features & wire::Feature::kHoleReply) != 0;
  claimer_ = (reply.features & wire::Feature::kClaimer) != 0;
  reader_.set_limits(limits_);
  writer_.set_limits(limits_);
  SetState(State::kOpen);
  return true;
}

bool Connection::OnOpen(std::span<const uint8_t> section, std::span<const uint8_t> payload) {
  OpenRequest request;
  const wire::DecodeError error = wire::Decode(section, &request.open);
  if (error != wire::DecodeError::kOk) return Violation(wire::Describe(error));
  // Where it is not in force, that part of the OPEN is reserved.
  if (!claimer_ && !request.open.claimer.IsNil()) {
    return Violation(wire::Describe(wire::DecodeError::kReservedSet));
  }
  const size_t name_length = request.open.volume_name_length;
  if (payload.size() != name_length + request.open.client_name_length) {
    return Violation("the names of an OPEN do not fill its payload");
  }
  if (!IsText(payload.first(name_length)) || !IsText(payload.subspan(name_length))) {
    return Violation("a name in OPEN is not UTF-8");
  }
  const std::string_view names(reinterpret_cast<const char*>(payload.data()), payload.size());
  request.client_name = Printable(names.substr(name_length));
  request.address = address_;
  client_name_ = request.client_name;
  open_flags_ = request.open.flags;
  SetState(State::kOpening);
  const auto found = info_.volumes->find(names.substr(0, name_length));
  if (found == info_.volumes->end()) {
    const std::string name = Printable(names.substr(0, name_length));
    SendOpenReply({wire::StatusCode::kNoSuchVolume,
                   fmt::format("there is no volume '{}' here; check the name, or start the proxy "
                               "with --volume '{}=...'",
                               name, name),
                   0, 0});
    return false;
  }
  // Who gave up waiting is not to hold the volume for the time of a lease.
  pollfd gone{.fd = fd_.get(), .events = POLLRDHUP, .revents = 0};
  if (poll(&gone, 1, 0) == 1) {
    BeginStop("closed by the client before it was answered");
    return false;
  }
  volume_ = found->second.get();
  known_to_ownership_ = true;
  volume_->ownership.Open(this, request);
  return true;
}

void Connection::SendOpenReply(const OwnershipAnswer& answer) {
  wire::OpenReply reply;
  reply.status = answer.status;
  reply.epoch = answer.epoch;
  reply.retry_ms = answer.retry_ms;
  if (answer.status == wire::StatusCode::kOk) {
    const Geometry& geometry = volume_->backend->geometry();
    const bool read_only = geometry.read_only || (open_flags_ & wire::OpenFlag::kReadOnly) != 0;
    reply.volume_flags = (read_only ? wire::VolumeFlag::kReadOnly : 0u) |
                         (geometry.discard ? wire::VolumeFlag::kDiscard : 0u) |
                         (geometry.write_zeroes ? wire::VolumeFlag::kWriteZeroes : 0u) |
                         (geometry.write_cache ? wire::VolumeFlag::kWriteCache : 0u) |
                         (geometry.rotational ? wire::VolumeFlag::kRotational : 0u);
    joined_ = true;
    paused_ = volume_->resizer.Join(this);
    generation_ = volume_->backend->generation();
    reply.volume = volume_->backend->uuid();
    reply.generation = generation_;
    reply.size = volume_->backend->size();
    reply.logical_block_size = geometry.logical_block_size;
    reply.physical_block_size = geometry.physical_block_size;
    reply.optimal_io_size = geometry.optimal_io_size;
    reply.discard_granularity = geometry.discard_granularity;
    reply.max_discard_length = kMaxDiscardLength;
    reply.max_write_zeroes_length = kMaxWriteZeroesLength;
    reply.max_ranges = kMaxRangesOffered;
    reply.max_channels = Ownership::kMaxChannels;
    reply.credit_requests = kCreditRequests;
    reply.credit_bytes = kCreditBytes;
    reply.lease_ms = volume_->lease_ms;
  }
  std::array<uint8_t, wire::kOpenReplySize> out;
  wire::Encode(reply, out);
  writer_.AddMessage(wire::FrameType::kOpenReply, out, answer.text);
  MarkDirty();
  if (answer.status == wire::StatusCode::kOk) {
    SetState(State::kReady);
    return;
  }
  spdlog::info("{}: refused: {}", Who(), answer.text);
  StopReading();
  SetState(State::kLeaving);
}

bool Connection::OnReadyMessage(wire::FrameType type, std::span<const uint8_t> section) {
  if (writer_.control_size() > kMaxControl) {
    return Violation("frames are sent and their answers not read");
  }
  switch (type) {
    case wire::FrameType::kPing:
      return OnPing(section);
    case wire::FrameType::kPong:
      return true;
    case wire::FrameType::kRelease:
      return OnRelease(section);
    case wire::FrameType::kClaim:
      return OnClaim(section);
    case wire::FrameType::kClose:
      return OnClose(section);
    case wire::FrameType::kResize:
      return OnResize(section);
    default:
      return Violation(fmt::format("{} is out of place here", wire::Name(type)));
  }
}

bool Connection::OnPing(std::span<const uint8_t> section) {
  wire::Ping ping;
  const wire::DecodeError error = wire::Decode(section, &ping);
  if (error != wire::DecodeError::kOk) return Violation(wire::Describe(error));
  std::array<uint8_t, wire::kPingSize> out;
  wire::Encode(ping, out);
  writer_.AddMessage(wire::FrameType::kPong, out, {});
  MarkDirty();
  return true;
}

bool Connection::OnRelease(std::span<const uint8_t> section) {
  wire::TokenMessage message;
  const wire::DecodeError error = wire::Decode(section, &message);
  if (error != wire::DecodeError::kOk) return Violation(wire::Describe(error));
  if (jobs_in_flight_ != 0) return Violation("RELEASE with requests unanswered");
  if (call_ != Call::kNone) return Violation("RELEASE while another call is under way");
  call_ = Call::kRelease;
  volume_->ownership.Release(this, message);
  return true;
}

bool Connection::OnClaim(std::span<const uint8_t> section) {
  wire::TokenMessage message;
  const wire::DecodeError error = wire::Decode(section, &message);
  if (error != wire::DecodeError::kOk) return Violation(wire::Describe(error));
  if (call_ != Call::kNone) return Violation("CLAIM while another call is under way");
  call_ = Call::kClaim;
  volume_->ownership.Claim(this, message);
  return true;
}

bool Connection::OnClose(std::span<const uint8_t> section) {
  wire::Close close;
  const wire::DecodeError error = wire::Decode(section, &close);
  if (error != wire::DecodeError::kOk) return Violation(wire::Describe(error));
  if (call_ != Call::kNone) return Violation("CLOSE while another call is under way");
  end_session_ = (close.flags & wire::CloseFlag::kEndSession) != 0;
  SetState(State::kClosing);
  MarkDirty();
  return true;
}

void Connection::SendStatus(wire::FrameType type, const OwnershipAnswer& answer) {
  std::array<uint8_t, wire::kStatusMessageSize> out;
  wire::Encode(wire::StatusMessage{answer.status, answer.epoch}, out);
  writer_.AddMessage(type, out, answer.text);
  MarkDirty();
}

void Connection::Stop(const std::string& revoked) {
  thread_->Post([thread = thread_, id = id_, revoked] {
    if (Connection* connection = thread->Find(id)) connection->OnStopRequested(revoked);
  });
}

void Connection::Answer(const OwnershipAnswer& answer) {
  thread_->Post([thread = thread_, id = id_, answer] {
    if (Connection* connection = thread->Find(id)) connection->OnAnswer(answer);
  });
}

void Connection::OnAnswer(const OwnershipAnswer& answer) {
  if (state_ == State::kOpening) {
    SendOpenReply(answer);
    return;
  }
  const Call call = std::exchange(call_, Call::kNone);
  if (state_ == State::kReady && call == Call::kRelease) {
    SendStatus(wire::FrameType::kReleaseReply, answer);
  }
  if (state_ == State::kReady && call == Call::kClaim) {
    SendStatus(wire::FrameType::kClaimReply, answer);
  }
  if (state_ == State::kClosing && call == Call::kEnd) {
    SendStatus(wire::FrameType::kCloseReply, answer);
    SetState(State::kLeaving);
  }
}

void Connection::OnStopRequested(const std::string& revoked) {
  if (state_ == State::kStopping) return;
  if (!revoked.empty()) {
    std::array<uint8_t, wire::kEventSize> out;
    wire::Encode(wire::Event{wire::EventKind::kRevoked, 0}, out);
    writer_.DropReplies();
    writer_.AddMessage(wire::FrameType::kEvent, out, revoked);
    // Whether it gets through or not, the next OPEN is told.
    writer_.Send(fd_.get());
  }
  BeginStop(revoked.empty() ? "replaced by a newer connection of its session" : revoked);
}

void Connection::GoAway() {
  if (state_ == State::kStopping) return;
  const bool ending = state_ == State::kClosing || state_ == State::kLeaving;
  if (state_ != State::kReady && !ending) {
    BeginStop("the proxy stops");
    return;
  }
  timer_ = thread_->loop().NewTimer([this] { OnGoodbyeTimer(); });
  timer_->Arm(thread_->loop().NowNs() + kGoodbyeNs);
  // These go by themselves.
  if (ending) return;
  std::array<uint8_t, wire::kEventSize> out;
  wire::Encode(wire::Event{wire::EventKind::kGoingAway, 0}, out);
  writer_.AddMessage(wire::FrameType::kEvent, out, {});
  StopReading();
  DropUnsubmitted();
  SetState(State::kLeaving);
  MarkDirty();
}

void Connection::OnHandshakeTimer() {
  // Whoever waits for ownership is not to blame (SPEC.md 4.3).
  if (state_ == State::kHello || state_ == State::kOpen) {
    Violation("no volume was opened within 30 seconds");
  } else if (state_ == State::kLeaving) {
    BeginStop("does not read what it is sent");
  }
}

// What it has not read by now it asks for again elsewhere (SPEC.md 8.14), and others wait for that.
// The storage may take its time: it is not the client's fault.
void Connection::OnGoodbyeTimer() {
  if (at_backend_ != 0) {
    timer_->Arm(thread_->loop().NowNs() + kGoodbyeNs);
  } else {
    BeginStop("does not read what it is sent");
  }
}

void Connection::OnBadFrame(wire::DecodeError error) { Violation(wire::Describe(error)); }

bool Connection::Violation(std::string_view text) {
  if (state_ == State::kStopping) return false;
  std::array<uint8_t, wire::kStatusMessageSize> out;
  wire::Encode(wire::StatusMessage{wire::StatusCode::kProtocol, 0}, out);
  writer_.DropReplies();
  writer_.AddMessage(wire::FrameType::kError, out, text);
  writer_.Send(fd_.get());
  BeginStop({});
  spdlog::warn("{}: dropped: {}", Who(), text);
  return false;
}

void Connection::BeginStop(std::string_view why) {
  if (state_ == State::kStopping) return;
  if (!why.empty()) spdlog::info("{}: {}", Who(), why);
  thread_->loop().Unwatch(fd_.get());
  reading_ = false;
  SetState(State::kStopping);
  abandoned_.store(true, std::memory_order_relaxed);
  DropUnsubmitted();
  writer_.Clear();
  // Unread bytes would make the kernel reset the connection, and with it what was just sent. A
  // client that goes on sending may have that.
  std::array<uint8_t, 64 << 10> unread;
  for (int i = 0; i < kDrainReads; ++i) {
    if (recv(fd_.get(), unread.data(), unread.size(), MSG_DONTWAIT) <= 0) break;
  }
  fd_.reset();
  FinishStop();
}

void Connection::FinishStop() {
  if (at_backend_ != 0 || finished_) return;
  finished_ = true;
  if (joined_) volume_->resizer.Leave(this);
  if (known_to_ownership_) volume_->ownership.Gone(this);
  thread_->Remove(this);
}

void Connection::StopReading() {
  reading_ = false;
  MarkDirty();
}

void Connection::MarkDirty() {
  if (dirty_ || state_ == State::kStopping) return;
  dirty_ = true;
  thread_->MarkDirty(this);
}

void Connection::Flush() {
  dirty_ = false;
  if (state_ == State::kStopping) return;
  const int error = writer_.Send(fd_.get());
  if (error != 0 && error != EAGAIN) {
    BeginStop(fmt::format("lost: {}", strerror(error)));
    return;
  }
  want_write_ = error == EAGAIN;
  UpdateWatch();
  if (!want_write_) OnDrained();
}

void Connection::OnDrained() {
  if (jobs_in_flight_ != 0 || !writer_.empty()) return;
  if (state_ == State::kLeaving) {
    BeginStop({});
  } else if (state_ == State::kClosing && call_ == Call::kNone) {
    if (end_session_) {
      call_ = Call::kEnd;
      volume_->ownership.End(this);
    } else {
      SendStatus(wire::FrameType::kCloseReply, {});
      SetState(State::kLeaving);
    }
  }
}

void Connection::UpdateWatch() {
  thread_->loop().Watch(fd_.get(), reading_ && !paused_, want_write_, this);
}

std::string Connection::Who() const {
  std::string who = volume_ != nullptr ? fmt::format("volume '{}': ", volume_->name) : "";
  return who + (client_name_.empty() ? address_ : fmt::format("{} ({})", client_name_, address_));
}

}  // namespace cloudblk::proxy
