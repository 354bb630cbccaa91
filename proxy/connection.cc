// SPDX-License-Identifier: GPL-2.0-or-later
//
// The connection's states, from the first byte to the last.
#include "proxy/connection.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <array>
#include <cassert>
#include <cerrno>
#include <cstring>
#include <utility>

#include "base/clock.h"
#include "base/text.h"
#include "base/tls_trouble.h"

namespace cloudblk::proxy {
namespace {

constexpr int64_t kHandshakeNs = 30'000'000'000;
// Reads of one connection before the others get their turn.
constexpr int kReadsPerTurn = 4;
// Reads of what nobody wants any more, 64 KiB each: more than socket buffers hold as a rule.
constexpr int kDrainReads = 128;
// How long a client that holds a volume may be silent once another asks for it.
constexpr int64_t kSilentNs = 6'000'000'000;
// How long a client may take to read what was ready when the proxy was told to stop.
constexpr int64_t kGoodbyeNs = 2'000'000'000;

}  // namespace

bool Progress::Stalls(bool under_way, uint64_t unit, uint64_t bytes, int64_t now_ns,
                      int64_t stall_ns) {
  const bool same = under_way && under_way_ && unit == unit_;
  under_way_ = under_way;
  if (same && bytes - bytes_ < Limits::kStallBytes) return now_ns - since_ns_ >= stall_ns;
  unit_ = unit;
  bytes_ = bytes;
  since_ns_ = now_ns;
  return false;
}

Connection::Connection(ConnectionHost* host, const ServerInfo& info, uint64_t id,
                       std::unique_ptr<Transport> transport, ClientIdentity client)
    : host_(host),
      info_(info),
      id_(id),
      client_(std::move(client)),
      transport_(std::move(transport)),
      is_layered_(transport_->is_layered()),
      reader_(&host->context().buffers(), this),
      requests_(host, this, this, &writer_),
      writer_(&host->context().buffers(), &requests_) {}

Connection::~Connection() { assert(finished_); }

void Connection::Start() {
  timer_ = host_->loop().NewTimer([this] { OnHandshakeTimer(); });
  timer_->Arm(host_->loop().NowNs() + kHandshakeNs);
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
  if (next != State::kOpen) host_->NoStranger(id_);
  if (next == State::kReady || next == State::kStopping) timer_.reset();
  if (next == State::kStopping) probe_.reset();
}

void Connection::OnReadable() {
  host_->context().WatchIdle();
  if (probe_ != nullptr) {
    probe_.reset();
    NoteHeard(host_->loop().NowNs());
  }
  for (int i = 0; i < kReadsPerTurn && reading_ && !paused_; ++i) {
    const FrameReader::Outcome outcome = reader_.Read(transport_.get());
    if (outcome == FrameReader::Outcome::kMore) continue;
    if (outcome != FrameReader::Outcome::kDrained) OnOutcome(outcome);
    break;
  }
  if (reader_.in_frame() && state_ != State::kStopping) host_->WatchProgress();
  if (is_layered_) AfterRead();
}

void Connection::AfterRead() {
  if (state_ == State::kStopping) return;
  ReadOn();
  // What was to be written waits no more, or reading does.
  if ((want_write_ && !transport_->write_wants_read()) || transport_->read_wants_write()) {
    want_write_ = false;
    MarkDirty();
  }
}

void Connection::ReadOn() {
  if (reads_on_ || !may_read() || !transport_->has_pending()) return;
  reads_on_ = true;
  host_->Defer(id_, [](Connection* connection) {
    connection->reads_on_ = false;
    if (connection->state_ != State::kStopping) connection->OnReadable();
  });
}

void Connection::OnOutcome(FrameReader::Outcome outcome) {
  if (outcome == FrameReader::Outcome::kWaiting) MarkDirty();
  if (outcome == FrameReader::Outcome::kEnd && reader_.error() == ENOMEM) {
    OutOfMemory();
  } else if (outcome == FrameReader::Outcome::kEnd && reader_.error() != 0) {
    OnLost(reader_.error());
  } else if (outcome == FrameReader::Outcome::kEnd) {
    const bool expected = state_ == State::kLeaving || state_ == State::kClosing;
    BeginStop(expected ? "" : "closed by the client");
  }
}

void Connection::OnLost(int error) {
  const std::string why = DescribeError(*transport_, error);
  // Who is not let in may need help.
  if (error != EACCES && error != EPROTO) return BeginStop(fmt::format("lost: {}", why));
  BeginStop({});
  LogLimited(spdlog::level::warn, "refused", fmt::format("refused: {}", why));
}

bool Connection::GoOn() {
  if (!requests_.Advance()) return false;
  if (reading_ && reader_.waiting() && requests_.ready()) OnOutcome(reader_.GoOn());
  return state_ != State::kStopping;
}

bool Connection::CheckProgress() {
  if (state_ == State::kStopping) return false;
  // What waits for the proxy is not the client's fault.
  const bool arrives = reader_.in_frame() && reading_ && !paused_ && !reader_.waiting();
  const int64_t now = host_->loop().NowNs();
  const int64_t stall = host_->limits().settings().stall_ns;
  if (arrives_.Stalls(arrives, reader_.frames(), reader_.bytes(), now, stall)) {
    BeginStop(fmt::format("stopped in the middle of a frame for {} s", stall / kNsPerS));
  } else if (leaves_.Stalls(want_write_, 0, writer_.sent(), now, stall)) {
    BeginStop(fmt::format("has not read its answers for {} s", stall / kNsPerS));
  }
  return state_ != State::kStopping && (arrives || want_write_);
}

void Connection::OnWritable() {
  want_write_ = false;
  if (is_layered_ && transport_->read_wants_write()) OnReadable();
  MarkDirty();
}

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

void Connection::Stop(const std::string& why, bool revoked) {
  host_->Post(
      id_, [why, revoked](Connection* connection) { connection->OnStopRequested(why, revoked); });
}

void Connection::Probe() {
  host_->Post(id_, [](Connection* connection) { connection->OnProbe(); });
}

// Without a word from it: whatever the client says counts as an answer.
void Connection::OnProbe() {
  if (probe_ != nullptr || state_ != State::kReady) return;
  if (writer_.control_size() <= kMaxControl) {
    std::array<uint8_t, wire::kPingSize> out;
    wire::Encode(wire::Ping{}, out);
    writer_.AddMessage(wire::FrameType::kPing, out, {});
    MarkDirty();
  }
  const int64_t now = host_->loop().NowNs();
  NoteAsked(now);
  probe_ = host_->loop().NewTimer([this] { OnProbeTimer(); });
  probe_->Arm(now + kSilentNs);
}

void Connection::OnProbeTimer() {
  if (state_ == State::kStopping) return;
  // Nobody listens to it either.
  if (paused_ || reader_.waiting()) {
    probe_->Arm(host_->loop().NowNs() + kSilentNs);
    return;
  }
  BeginStop(
      fmt::format("silent for {} s while another client asks for the volume", kSilentNs / kNsPerS));
}

void Connection::OnStopRequested(const std::string& why, bool revoked) {
  if (state_ == State::kStopping) return;
  if (revoked) {
    std::array<uint8_t, wire::kEventSize> out;
    wire::Encode(wire::Event{wire::EventKind::kRevoked, 0}, out);
    writer_.DropReplies();
    writer_.AddMessage(wire::FrameType::kEvent, out, why);
    // It need not arrive: the session's next OPEN is answered FENCED.
    writer_.Send(transport_.get());
  }
  BeginStop(why);
}

void Connection::GoAway() {
  // An OPEN that is there already is answered too, with SHUTTING_DOWN (SPEC.md 6.5).
  if (state_ == State::kHello || state_ == State::kOpen) OnReadable();
  if (state_ == State::kHello || state_ == State::kOpen) BeginStop(kStops);
  if (state_ == State::kStopping) return;
  if (state_ == State::kOpening) SendOpenReply({wire::StatusCode::kShuttingDown, kStops, 0, 0});
  const bool ending = state_ == State::kClosing || state_ == State::kLeaving;
  timer_ = host_->loop().NewTimer([this] { OnGoodbyeTimer(); });
  timer_->Arm(host_->loop().NowNs() + kGoodbyeNs);
  // It ends by itself, with what is in flight.
  if (ending) return;
  std::array<uint8_t, wire::kEventSize> out;
  wire::Encode(wire::Event{wire::EventKind::kGoingAway, 0}, out);
  writer_.AddMessage(wire::FrameType::kEvent, out, {});
  StopReading();
  requests_.DropUnsubmitted();
  SetState(State::kLeaving);
  MarkDirty();
}

void Connection::OnHandshakeTimer() {
  // In kOpening it is ownership that has not answered yet (SPEC.md 4.3).
  if (state_ == State::kHello || state_ == State::kOpen) {
    Violation("no volume was opened within 30 seconds");
  } else if (state_ == State::kLeaving) {
    BeginStop("does not read what it is sent");
  }
}

// A client that has not read its replies by now asks for them again elsewhere (SPEC.md 8.14), and
// the end of the proxy waits for it. That the storage takes its time is not the client's fault.
void Connection::OnGoodbyeTimer() {
  if (requests_.at_storage() != 0) {
    timer_->Arm(host_->loop().NowNs() + kGoodbyeNs);
  } else {
    BeginStop("does not read what it is sent");
  }
}

FrameSink::Next Connection::OnBatch(const wire::FrameHeader& header,
                                    std::span<const uint8_t> section, std::vector<iovec>* pieces) {
  if (header.type != wire::FrameType::kRequest || state_ != State::kReady) {
    Violation(fmt::format("{} is out of place here", wire::Name(header.type)));
    return Next::kStop;
  }
  return requests_.OnBatch(header, section, pieces);
}

FrameSink::Next Connection::OnPieces(size_t filled, bool complete) {
  return requests_.OnPieces(filled, complete);
}

void Connection::OnBadFrame(wire::DecodeError error) {
  if (state_ == State::kHello && LooksLikeTls(reader_.unparsed())) {
    Violation(
        "the client speaks TLS and this address takes clear text; give the proxy credentials and "
        "an address with TLS, or ask for clear text there (cloudblk://)");
    return;
  }
  Violation(wire::Describe(error));
}

void Connection::OutOfMemory() { BeginStop("out of memory for its requests"); }

void Connection::OnStorageLost() { BeginStop("its storage has to be opened anew"); }

bool Connection::Violation(std::string_view text) {
  EndWithError(wire::StatusCode::kProtocol, "dropped", text);
  return false;
}

void Connection::EndWithError(wire::StatusCode status, const std::string& kind,
                              std::string_view text) {
  if (state_ == State::kStopping) return;
  std::array<uint8_t, wire::kStatusMessageSize> out;
  wire::Encode(wire::StatusMessage{status, 0}, out);
  writer_.DropReplies();
  writer_.AddMessage(wire::FrameType::kError, out, text);
  writer_.Send(transport_.get());
  BeginStop({});
  LogLimited(spdlog::level::warn, kind, fmt::format("dropped: {}", text));
}

void Connection::BeginStop(std::string_view why) {
  if (state_ == State::kStopping) return;
  if (!why.empty()) {
    if (state_ == State::kReady || state_ == State::kClosing) {
      LogLimited(spdlog::level::info, "ended for " + volume_->name, why, LogLimit::kOfVolume);
    } else {
      LogLimited(spdlog::level::info, "ended", why);
    }
  }
  host_->loop().Unwatch(transport_->fd());
  reading_ = false;
  SetState(State::kStopping);
  requests_.Abandon();
  requests_.WatchIdle(true);
  writer_.Clear();
  // Unread bytes would make the kernel reset the connection, and with it what was just sent. A
  // client that goes on sending may have that.
  std::array<uint8_t, 64 << 10> unread;
  const iovec all{unread.data(), unread.size()};
  for (int i = 0; i < kDrainReads; ++i) {
    if (transport_->Readv(&all, 1) <= 0) break;
  }
  transport_.reset();
  FinishStop();
}

void Connection::OnStorageIdle() {
  if (paused_) volume_->gate.Paused(this);
  if (state_ == State::kStopping) FinishStop();
}

void Connection::FinishStop() {
  if (requests_.at_storage() != 0 || finding_trouble_ || finished_) return;
  finished_ = true;
  if (counted_) host_->limits().Closed();
  if (joined_) {
    volume_->gate.Leave(this);
    volume_->resizer.Forget(this);
  }
  if (known_to_ownership_) volume_->ownership.Gone(this);
  host_->Remove(this);
}

void Connection::StopReading() {
  reading_ = false;
  MarkDirty();
}

void Connection::MarkDirty() {
  if (dirty_ || state_ == State::kStopping) return;
  dirty_ = true;
  host_->MarkDirty(this);
}

void Connection::Flush() {
  dirty_ = false;
  requests_.EndTurn();
  if (state_ == State::kStopping) return;
  // Nothing is made ready ahead for a client that does not read what there is.
  const int error = want_write_ ? EAGAIN : writer_.Send(transport_.get());
  if (error != 0 && error != EAGAIN) {
    OnLost(error);
    return;
  }
  want_write_ = error == EAGAIN;
  if (want_write_) host_->WatchProgress();
  if ((reader_.waiting() || requests_.ranges_wait()) && !paused_ && !GoOn()) return;
  UpdateWatch();
  if (is_layered_) ReadOn();
  if (!want_write_) OnDrained();
}

void Connection::OnDrained() {
  if (requests_.in_flight() != 0 || !writer_.empty()) return;
  if (state_ == State::kLeaving) {
    BeginStop({});
  } else if (state_ == State::kClosing && call_ == Call::kNone) {
    if (end_session_) {
      call_ = Call::kEnd;
      volume_->ownership.End(this);
    } else {
      SendStatusMessage(wire::FrameType::kCloseReply, {});
      SetState(State::kLeaving);
    }
  }
}

Connection::Interest Connection::LayeredInterest() const {
  return {.readable = may_read(),
          .writable = (want_write_ && !transport_->write_wants_read()) ||
                      (may_read() && transport_->read_wants_write())};
}

void Connection::UpdateWatch() {
  const Interest now =
      is_layered_ ? LayeredInterest() : Interest{.readable = may_read(), .writable = want_write_};
  if (now == watched_) return;
  watched_ = now;
  host_->loop().Watch(transport_->fd(), now.readable, now.writable, this);
}

void Connection::LogLimited(spdlog::level::level_enum level, const std::string& kind,
                            std::string_view text, uint32_t at_once) const {
  host_->log_limit().Log(level, kind, fmt::format("{}: {}", Who(), text), at_once);
}

std::string Connection::Who() const {
  std::string who = volume_ != nullptr ? fmt::format("volume '{}': ", volume_->name) : "";
  std::string from = client_.address;
  if (client_.uid || client_.psk || !client_.names.empty()) from += ", " + client_.ToString();
  return who + (client_name_.empty() ? from : fmt::format("{} ({})", client_name_, from));
}

}  // namespace cloudblk::proxy
