// SPDX-License-Identifier: GPL-2.0-or-later
//
// What a client says beside requests, and what it is answered: HELLO, OPEN, and the calls of an
// open session (SPEC.md 6, 11, 14).
#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <array>
#include <utility>

#include "base/text.h"
#include "proxy/connection.h"

namespace cloudblk::proxy {

bool Connection::OnHello(std::span<const uint8_t> section) {
  client_.Add(transport_->peer());
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
  reply.max_frame_payload = std::min(hello.max_frame_payload, kMostFramePayload);
  reply.max_frame_entries = std::min(hello.max_frame_entries, wire::kMaxFrameEntries);
  std::array<uint8_t, wire::kHelloReplySize> out;
  wire::Encode(reply, out);
  writer_.AddMessage(wire::FrameType::kHelloReply, out, text);
  MarkDirty();
  if (reply.status != wire::StatusCode::kOk) {
    LogLimited(spdlog::level::warn, "refused", fmt::format("refused: {}", text));
    StopReading();
    SetState(State::kLeaving);
    return false;
  }
  terms_.limits.max_entries = reply.max_frame_entries;
  terms_.limits.max_payload = reply.max_frame_payload;
  terms_.limits.payload_crc = (reply.features & wire::Feature::kPayloadCrc) != 0;
  terms_.hole_reply = (reply.features & wire::Feature::kHoleReply) != 0;
  terms_.block_status = (reply.features & wire::Feature::kBlockStatus) != 0;
  claimer_ = (reply.features & wire::Feature::kClaimer) != 0;
  knows_denied_ = (reply.features & wire::Feature::kDenied) != 0;
  end_reservation_ = (reply.features & wire::Feature::kEndReservation) != 0;
  reader_.set_limits(terms_.limits);
  writer_.set_limits(terms_.limits);
  SetState(State::kOpen);
  return true;
}

bool Connection::OnOpen(std::span<const uint8_t> section, std::span<const uint8_t> payload) {
  OpenRequest request;
  const wire::DecodeError error = wire::Decode(section, &request.open);
  if (error != wire::DecodeError::kOk) return Violation(wire::Describe(error));
  // Where CLAIMER is not in force, that part of the OPEN is reserved.
  if (!claimer_ && !request.open.claimer.IsNil()) {
    return Violation(wire::Describe(wire::DecodeError::kReservedSet));
  }
  if (!end_reservation_ && (request.open.flags & wire::OpenFlag::kEndReservation) != 0) {
    return Violation(wire::Describe(wire::DecodeError::kReservedSet));
  }
  if ((request.open.flags & wire::OpenFlag::kResume) == 0 &&
      (!request.open.volume.IsNil() || request.open.generation != 0)) {
    return Violation("an OPEN without RESUME names a volume's UUID or generation");
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
  request.address = client_.address;
  // What it has proved goes into the log, and to who is refused because of it.
  if (client_.psk || !client_.names.empty()) request.address += ", " + client_.ToString();
  client_name_ = request.client_name;
  open_flags_ = request.open.flags;
  SetState(State::kOpening);
  if (host_->going_away()) {
    SendOpenReply({wire::StatusCode::kShuttingDown, kStops, 0, 0});
    return false;
  }
  const std::string name = Printable(names.substr(0, name_length));
  // Before it is told whether there is such a volume.
  const std::string denied = WhyDenied(std::string(names.substr(0, name_length)), open_flags_);
  if (!denied.empty()) {
    SendOpenReply({Denial(wire::StatusCode::kNoSuchVolume), denied, 0, 0});
    return false;
  }
  const auto found = info_.volumes->find(names.substr(0, name_length));
  if (found == info_.volumes->end()) {
    SendOpenReply({wire::StatusCode::kNoSuchVolume,
                   fmt::format("there is no volume '{}' here; check the name, or start the proxy "
                               "with --volume '{}=...'",
                               name, name),
                   0, 0});
    return false;
  }
  // A client that gave up waiting must not hold the volume for the time of a lease.
  if (transport_->PeerGone()) {
    BeginStop("closed by the client before it was answered");
    return false;
  }
  Volume* volume = found->second.get();
  if (volume == nullptr) {
    // Another server may have it: BUSY would keep the client here.
    const std::string why = found->second.why();
    SendOpenReply({wire::StatusCode::kShuttingDown,
                   !why.empty() ? why
                                : fmt::format("the storage of volume '{}' has not answered since "
                                              "the proxy started; see whether its server or "
                                              "device hangs",
                                              name),
                   0, 0});
    return false;
  }
  Result<BackendQueue*> queue = host_->QueueOf(volume);
  if (!queue.ok()) {
    SendOpenReply({wire::StatusCode::kIoError, queue.status().message(), 0, 0});
    return false;
  }
  terms_.queue = *queue;
  volume_ = volume;
  Limits& limits = host_->limits();
  counted_ = limits.TryOpen();
  if (!counted_) {
    request.no_room = fmt::format(
        "{} connections have a volume open, which is the limit; start the proxy with a "
        "higher --max-connections",
        limits.settings().max_connections);
  }
  known_to_ownership_ = true;
  volume_->ownership.Open(this, request);
  return true;
}

std::string Connection::WhyDenied(const std::string& volume, uint32_t flags) const {
  const std::shared_ptr<const AccessRules> rules = info_.access->rules();
  const Rights rights = rules->Of(client_, volume);
  Right wanted = Right::kObserve;
  if ((flags & wire::OpenFlag::kActive) != 0) {
    wanted = (flags & wire::OpenFlag::kReadOnly) != 0 ? Right::kRead : Right::kWrite;
  }
  const char* hint = wanted == Right::kWrite && rights.has(Right::kRead)
                         ? "; it may open it with read-only=on"
                         : "";
  // A session that goes on does not take the volume from anybody.
  constexpr uint32_t kForce = wire::OpenFlag::kTakeover | wire::OpenFlag::kEndReservation;
  const bool forces = (flags & kForce) != 0 && (flags & wire::OpenFlag::kResume) == 0;
  if (rights.has(wanted)) {
    if (!forces || rights.has(Right::kTakeover)) return {};
    wanted = Right::kTakeover;
  }
  return fmt::format(
      "{} does not have the right '{}' for volume '{}'{}; the proxy's configuration "
      "gives rights, in [[access]]",
      client_.ToString(), Name(wanted), Printable(volume), hint);
}

wire::StatusCode Connection::Denial(wire::StatusCode otherwise) const {
  return knows_denied_ ? wire::StatusCode::kDenied : otherwise;
}

void Connection::CheckRights() {
  const bool has_volume =
      state_ == State::kOpening || state_ == State::kReady || state_ == State::kClosing;
  if (!has_volume || volume_ == nullptr) return;
  const std::string denied =
      WhyDenied(volume_->name, open_flags_ | uint32_t{wire::OpenFlag::kResume});
  if (denied.empty()) return;
  if (state_ == State::kOpening) {
    SendOpenReply({Denial(wire::StatusCode::kNoSuchVolume), denied, 0, 0});
  } else {
    EndWithError(Denial(wire::StatusCode::kProtocol), "denied", denied);
  }
}

void Connection::FindTrouble(const OwnershipAnswer& answer) {
  finding_trouble_ = true;
  volume_->backend->FindTrouble([host = host_, id = id_, answer](const std::string& trouble) {
    OwnershipAnswer whole = answer;
    whole.text = trouble;
    host->Post(id, [whole](Connection* connection) {
      connection->finding_trouble_ = false;
      if (connection->state_ == State::kOpening) connection->SendOpenReply(whole);
      if (connection->state_ == State::kStopping) connection->FinishStop();
    });
  });
}

void Connection::SendOpenReply(const OwnershipAnswer& answer) {
  wire::OpenReply reply;
  reply.status = answer.status;
  reply.epoch = answer.epoch;
  reply.retry_ms = answer.retry_ms;
  if (answer.status == wire::StatusCode::kOk) {
    // Of a session that is known already, and so is let in.
    if (!counted_) host_->limits().Open();
    counted_ = true;
    const Geometry& geometry = volume_->backend->geometry();
    terms_.backend = volume_->backend.get();
    terms_.read_only = geometry.read_only || (open_flags_ & wire::OpenFlag::kReadOnly) != 0;
    terms_.generation = volume_->backend->generation();
    requests_.Open(terms_);
    reply.volume_flags = (terms_.read_only ? wire::VolumeFlag::kReadOnly : 0u) |
                         (geometry.discard ? wire::VolumeFlag::kDiscard : 0u) |
                         (geometry.write_zeroes ? wire::VolumeFlag::kWriteZeroes : 0u) |
                         (geometry.write_cache ? wire::VolumeFlag::kWriteCache : 0u) |
                         (geometry.rotational ? wire::VolumeFlag::kRotational : 0u);
    joined_ = true;
    paused_ = volume_->gate.Join(this);
    reply.volume = volume_->backend->uuid();
    reply.generation = terms_.generation;
    reply.size = volume_->backend->size();
    reply.logical_block_size = geometry.logical_block_size;
    reply.physical_block_size = geometry.physical_block_size;
    reply.optimal_io_size = geometry.optimal_io_size;
    reply.discard_granularity = geometry.discard_granularity;
    reply.max_discard_length = geometry.max_discard_length;
    reply.max_write_zeroes_length = geometry.max_write_zeroes_length;
    reply.max_ranges = geometry.max_ranges;
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
  // Who waits for a lease to end asks again and again.
  LogLimited(spdlog::level::info,
             "refused" + (volume_ != nullptr ? " for " + volume_->name : std::string()),
             fmt::format("refused: {}", answer.text));
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
  if (requests_.in_flight() != 0) return Violation("RELEASE with requests unanswered");
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

void Connection::SendStatusMessage(wire::FrameType type, const OwnershipAnswer& answer) {
  std::array<uint8_t, wire::kStatusMessageSize> out;
  wire::Encode(wire::StatusMessage{answer.status, answer.epoch}, out);
  writer_.AddMessage(type, out, answer.text);
  MarkDirty();
}

void Connection::Answer(const OwnershipAnswer& answer) {
  host_->Post(id_, [answer](Connection* connection) { connection->OnAnswer(answer); });
}

void Connection::OnAnswer(const OwnershipAnswer& answer) {
  if (state_ == State::kOpening) {
    const bool observes = (open_flags_ & wire::OpenFlag::kActive) == 0;
    if (observes && answer.status == wire::StatusCode::kOk) {
      FindTrouble(answer);
    } else {
      SendOpenReply(answer);
    }
    return;
  }
  const Call call = std::exchange(call_, Call::kNone);
  if (state_ == State::kReady && call == Call::kRelease) {
    SendStatusMessage(wire::FrameType::kReleaseReply, answer);
  }
  if (state_ == State::kReady && call == Call::kClaim) {
    SendStatusMessage(wire::FrameType::kClaimReply, answer);
  }
  if (state_ == State::kClosing && call == Call::kEnd) {
    SendStatusMessage(wire::FrameType::kCloseReply, answer);
    SetState(State::kLeaving);
  }
}

bool Connection::OnResize(std::span<const uint8_t> section) {
  wire::Resize request;
  const wire::DecodeError error = wire::Decode(section, &request);
  if (error != wire::DecodeError::kOk) return Violation(wire::Describe(error));
  if (resizing_) return Violation("RESIZE while another is under way");
  if (!MayResize()) return true;
  resizing_ = true;
  volume_->resizer.Resize(this, request, Who());
  return true;
}

bool Connection::MayResize() {
  const std::shared_ptr<const AccessRules> rules = info_.access->rules();
  if (rules->empty() && !client_.is_admin && !client_.uid) {
    LogLimited(spdlog::level::warn, "resize over TCP",
               "RESIZE over TCP without a right to it: the next release refuses that; give rights "
               "in [[access]] of the configuration, or resize at an address of --admin");
  }
  if (rules->Of(client_, volume_->name).has(Right::kResize)) return true;
  const std::string text = fmt::format(
      "{} does not have the right 'resize' for volume '{}'; the proxy's configuration "
      "gives rights, in [[access]]",
      client_.ToString(), volume_->name);
  LogLimited(spdlog::level::warn, "denied", fmt::format("refused: {}", text));
  SendStatusMessage(wire::FrameType::kResizeReply,
                    {Denial(wire::StatusCode::kNotSupported), text, 0, 0});
  return false;
}

void Connection::Pause() {
  host_->Post(id_, [](Connection* connection) { connection->OnPause(); });
}

void Connection::Resume() {
  host_->Post(id_, [](Connection* connection) { connection->OnResume(); });
}

void Connection::Resized(uint64_t size) {
  host_->Post(id_, [size](Connection* connection) { connection->OnResized(size); });
}

void Connection::AnswerResize(const ResizeAnswer& answer) {
  host_->Post(id_, [answer](Connection* connection) { connection->OnResizeAnswer(answer); });
}

// A frame may be half received: the rest of it waits in the socket, so that none of its requests
// becomes ready to be handed over.
void Connection::OnPause() {
  paused_ = true;
  requests_.WatchIdle(true);
  if (requests_.at_storage() == 0) volume_->gate.Paused(this);
  MarkDirty();
}

void Connection::OnResume() {
  paused_ = false;
  requests_.WatchIdle(state_ == State::kStopping);
  MarkDirty();
}

void Connection::OnResized(uint64_t size) {
  MarkDirty();
  if (state_ != State::kReady && state_ != State::kClosing) return;
  if (writer_.control_size() > kMaxControl) {
    BeginStop("does not read what it is sent");
    return;
  }
  std::array<uint8_t, wire::kEventSize> out;
  wire::Encode(wire::Event{wire::EventKind::kResized, size}, out);
  writer_.AddMessage(wire::FrameType::kEvent, out, {});
}

void Connection::OnResizeAnswer(const ResizeAnswer& answer) {
  resizing_ = false;
  if (state_ != State::kReady) return;
  SendStatusMessage(wire::FrameType::kResizeReply, {answer.status, answer.text, 0, 0});
}

}  // namespace cloudblk::proxy
