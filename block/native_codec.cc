// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/native_codec.h"

#include <cassert>
#include <cerrno>
#include <utility>

#include "block/native_frame.h"
#include "block/uri.h"
#include "proxy-protocol/wire_errno.h"

namespace cloudblk {
namespace {

// The largest frame that we offer to send and to take: a small request waits at most for one of
// them, and what a frame costs by itself is little beside so much data.
constexpr uint32_t kOfferedPayload = 256 << 10;
constexpr uint32_t kOfferedEntries = 512;

static_assert(kMaxVolumeName == wire::kMaxVolumeName);

wire::Open OpenFrom(const OpenParams& params) {
  wire::Open open;
  open.session = params.session;
  open.epoch = params.epoch;
  open.token = params.token;
  open.claimer = params.claimer;
  open.channel = params.channel;
  open.channel_count = params.channel_count;
  open.incarnation = params.incarnation;
  open.flags = (params.active ? uint32_t{wire::OpenFlag::kActive} : 0u) |
               (params.read_only ? uint32_t{wire::OpenFlag::kReadOnly} : 0u) |
               (params.share_rw ? uint32_t{wire::OpenFlag::kShareRw} : 0u) |
               (params.takeover ? uint32_t{wire::OpenFlag::kTakeover} : 0u) |
               (params.end_reservation ? uint32_t{wire::OpenFlag::kEndReservation} : 0u) |
               (params.resume ? uint32_t{wire::OpenFlag::kResume} : 0u);
  if (params.resume) {
    open.volume = params.volume;
    open.generation = params.generation;
  }
  open.volume_name_length = static_cast<uint16_t>(params.volume_name.size());
  open.client_name_length = static_cast<uint16_t>(params.client_name.size());
  return open;
}

VolumeInfo VolumeFrom(const wire::OpenReply& open) {
  const auto has = [&open](uint32_t flag) { return (open.volume_flags & flag) != 0; };
  VolumeInfo volume;
  volume.uuid = open.volume;
  volume.generation = open.generation;
  volume.size = open.size;
  volume.logical_block_size = open.logical_block_size;
  volume.physical_block_size = open.physical_block_size;
  volume.optimal_io_size = open.optimal_io_size;
  volume.discard_granularity = open.discard_granularity;
  volume.max_ranges = open.max_ranges;
  if (has(wire::VolumeFlag::kDiscard)) volume.max_discard_length = open.max_discard_length;
  if (has(wire::VolumeFlag::kWriteZeroes)) {
    volume.max_write_zeroes_length = open.max_write_zeroes_length;
  }
  volume.read_only = has(wire::VolumeFlag::kReadOnly);
  volume.write_cache = has(wire::VolumeFlag::kWriteCache);
  volume.rotational = has(wire::VolumeFlag::kRotational);
  return volume;
}

Refusal RefusalOf(wire::StatusCode status) {
  switch (status) {
    case wire::StatusCode::kBusy:
      return Refusal::kBusy;
    case wire::StatusCode::kStale:
      return Refusal::kStale;
    case wire::StatusCode::kBadToken:
      return Refusal::kBadToken;
    case wire::StatusCode::kFenced:
      return Refusal::kLost;
    case wire::StatusCode::kVolumeChanged:
      return Refusal::kOtherVolume;
    default:
      return Refusal::kOther;
  }
}

bool EndsSession(Refusal refusal) {
  return refusal == Refusal::kStale || refusal == Refusal::kBadToken || refusal == Refusal::kLost;
}

}  // namespace

// HELLO and OPEN go out together (SPEC.md 4.2), which saves a round trip. But an OPEN that names a
// claimer depends on the HELLO_REPLY (SPEC.md 11.9).
void NativeCodec::Begin(const OpenParams& params, Outbox* outbox) {
  wants_crc_ = params.payload_crc;
  open_ = OpenFrom(params);
  names_.assign(params.volume_name).append(params.client_name);
  outbox_ = outbox;
  wire::Hello hello;
  hello.max_frame_payload = kOfferedPayload;
  hello.max_frame_entries = kOfferedEntries;
  hello.features = wire::Feature::kHoleReply | wire::Feature::kClaimer |
                   wire::Feature::kBlockStatus | wire::Feature::kDenied;
  if (wants_crc_) {
    hello.features |= wire::Feature::kPayloadCrc;
    hello.required_features |= wire::Feature::kPayloadCrc;
  }
  if (params.end_reservation) {
    hello.features |= wire::Feature::kEndReservation;
    hello.required_features |= wire::Feature::kEndReservation;
  }
  AppendControl(wire::FrameType::kHello, hello, wire::kHelloSize, "", outbox_);
  open_waits_ = !open_.claimer.IsNil();
  if (!open_waits_) AppendOpen();
}

void NativeCodec::AppendOpen() {
  AppendControl(wire::FrameType::kOpen, open_, wire::kOpenSize, names_, outbox_);
}

size_t NativeCodec::Append(std::span<Piece*> pieces, Outbox* outbox) {
  const size_t count = AppendRequests(pieces, limits_, wants_crc_ ? &copies_ : nullptr, outbox);
  if (count > 0) ++stats_->frames_sent;
  return count;
}

bool NativeCodec::Receive(Transport* transport, RequestQueue* queue, Outbox* outbox,
                          std::vector<Fact>* facts) {
  outbox_ = outbox;
  facts_ = facts;
  return receiver_.Run(transport, queue, *outbox);
}

bool NativeCodec::Send(const Command& command, Outbox* outbox) {
  assert(state_ == State::kReady);
  switch (command.kind) {
    case Command::Kind::kPing:
      if (outbox->free() < wire::kFrameHeaderSize + wire::kPingSize + kOwnRoom) return false;
      AppendControl(wire::FrameType::kPing, wire::Ping{open_.incarnation}, wire::kPingSize, "",
                    outbox);
      return true;
    case Command::Kind::kRelease:
      release_sent_ = true;
      AppendControl(wire::FrameType::kRelease, wire::TokenMessage{command.token, command.epoch},
                    wire::kTokenMessageSize, "", outbox);
      return true;
    case Command::Kind::kClose: {
      state_ = State::kClosing;
      wire::Close close;
      if (command.end_session) close.flags = wire::CloseFlag::kEndSession;
      AppendControl(wire::FrameType::kClose, close, wire::kCloseSize, "", outbox);
      return true;
    }
    case Command::Kind::kExamine:
      return false;
    case Command::Kind::kResize: {
      resize_sent_ = true;
      const wire::Resize resize{command.size, command.force ? wire::ResizeFlag::kForce : 0u};
      AppendControl(wire::FrameType::kResize, resize, wire::kResizeSize, "", outbox);
      return true;
    }
  }
  return false;
}

bool NativeCodec::OnControl(const wire::FrameHeader& header, std::span<const uint8_t> section,
                            std::string_view text) {
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
      // Only that it came matters: bytes have been received.
      if (serving) return true;
      break;
    case wire::FrameType::kReleaseReply:
      if (serving && release_sent_) return OnAnswer(header, section, text);
      break;
    case wire::FrameType::kResizeReply:
      if (serving && resize_sent_) return OnAnswer(header, section, text);
      break;
    case wire::FrameType::kCloseReply:
      if (state_ != State::kClosing) break;
      facts_->push_back({.kind = Fact::Kind::kAnswered, .command = Command::Kind::kClose});
      return true;
    case wire::FrameType::kError:
      return Violation("the server reports: " + std::string(text));
    default:
      break;
  }
  return Violation("unexpected " + std::string(wire::Name(header.type)) + " frame");
}

bool NativeCodec::BadMessage(wire::FrameType type, wire::DecodeError error) {
  return Violation("bad " + std::string(wire::Name(type)) + ": " +
                   std::string(wire::Describe(error)));
}

bool NativeCodec::Refused(wire::StatusCode status, std::string_view text, uint32_t retry_ms,
                          uint64_t epoch) {
  const Refusal refusal = RefusalOf(status);
  return Fail({.error = wire::ErrnoOf(status),
               .text = std::string(text.empty() ? wire::Name(status) : text),
               .refusal = refusal,
               .retry_ms = retry_ms,
               .elsewhere = refusal == Refusal::kBusy && epoch == 0,
               .final = EndsSession(refusal)});
}

bool NativeCodec::OnHelloReply(std::span<const uint8_t> section, std::string_view text) {
  const wire::DecodeError error = wire::Decode(section, &hello_);
  if (error != wire::DecodeError::kOk) return BadMessage(wire::FrameType::kHelloReply, error);
  if (hello_.status != wire::StatusCode::kOk) return Refused(hello_.status, text, 0, 0);
  const bool crc = (hello_.features & wire::Feature::kPayloadCrc) != 0;
  if (hello_.max_frame_payload > kOfferedPayload || hello_.max_frame_entries > kOfferedEntries ||
      crc != wants_crc_) {
    return Violation("HELLO_REPLY grants what was not asked for");
  }
  state_ = State::kOpen;
  if ((hello_.features & wire::Feature::kClaimer) == 0) open_.claimer = {};
  if (open_waits_) AppendOpen();
  return true;
}

bool NativeCodec::OnOpenReply(std::span<const uint8_t> section, std::string_view text) {
  wire::OpenReply reply;
  const wire::DecodeError error = wire::Decode(section, &reply);
  if (error != wire::DecodeError::kOk) return BadMessage(wire::FrameType::kOpenReply, error);
  if (reply.status != wire::StatusCode::kOk) {
    return Refused(reply.status, text, reply.retry_ms, reply.epoch);
  }
  if (!outbox_->empty()) return Violation("OPEN_REPLY before OPEN was sent");
  state_ = State::kReady;
  volume_ = VolumeFrom(reply);
  limits_ = LimitsFrom(hello_, reply);
  capabilities_ = {.several_channels = true,
                   .move = true,
                   .resize = true,
                   .ping = true,
                   .block_status = limits_.block_status};
  receiver_.Open({hello_.max_frame_entries, hello_.max_frame_payload, wants_crc_},
                 (hello_.features & wire::Feature::kHoleReply) != 0);
  outbox_->SetRoom(Outbox::kHeaderRoom + (wants_crc_ ? hello_.max_frame_payload : 0));
  facts_->push_back({.kind = Fact::Kind::kOpened, .text = std::string(text)});
  return true;
}

bool NativeCodec::OnEvent(std::span<const uint8_t> section, std::string_view text) {
  wire::Event event;
  const wire::DecodeError error = wire::Decode(section, &event);
  if (error != wire::DecodeError::kOk) return BadMessage(wire::FrameType::kEvent, error);
  switch (event.kind) {
    case wire::EventKind::kResized:
      if (event.value > uint64_t{INT64_MAX} || event.value % volume_.logical_block_size != 0) {
        return Violation("EVENT RESIZED with an impossible size");
      }
      facts_->push_back(
          {.kind = Fact::Kind::kResized, .value = event.value, .text = std::string(text)});
      return true;
    case wire::EventKind::kGoingAway:
      facts_->push_back({.kind = Fact::Kind::kGoingAway});
      return true;
    case wire::EventKind::kRevoked:
      return Fail({.error = ESTALE, .text = std::string(text), .final = true});
  }
  return true;
}

bool NativeCodec::OnPing(std::span<const uint8_t> section) {
  wire::Ping ping;
  if (wire::Decode(section, &ping) != wire::DecodeError::kOk) return Violation("bad PING");
  if (outbox_->free() < wire::kFrameHeaderSize + wire::kPingSize + kOwnRoom) {
    return Violation("more PINGs than answers that it takes");
  }
  AppendControl(wire::FrameType::kPong, ping, wire::kPingSize, "", outbox_);
  return true;
}

bool NativeCodec::OnAnswer(const wire::FrameHeader& header, std::span<const uint8_t> section,
                           std::string_view text) {
  wire::StatusMessage reply;
  const wire::DecodeError error = wire::Decode(section, &reply);
  if (error != wire::DecodeError::kOk) return BadMessage(header.type, error);
  const bool release = header.type == wire::FrameType::kReleaseReply;
  (release ? release_sent_ : resize_sent_) = false;
  facts_->push_back({.kind = Fact::Kind::kAnswered,
                     .command = release ? Command::Kind::kRelease : Command::Kind::kResize,
                     .error = wire::ErrnoOf(reply.status),
                     .text = std::string(text)});
  return true;
}

}  // namespace cloudblk
