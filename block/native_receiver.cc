// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/native_receiver.h"

#include <limits.h>

#include <algorithm>
#include <array>
#include <cassert>
#include <cerrno>
#include <cstring>

#include "base/tls_trouble.h"
#include "block/codec.h"
#include "proxy-protocol/wire_errno.h"

namespace cloudblk {
namespace {

// Holds a whole header section and what is read ahead.
constexpr size_t kStagingSize = 64 << 10;
// How much is read ahead, before it is known what it is: a small frame comes whole in one read.
// Data among it has to be copied.
constexpr size_t kReadAhead = 16 << 10;
static_assert(wire::kFrameHeaderSize + wire::kMaxHeaderLength + kReadAhead <= kStagingSize);

constexpr size_t kMaxElements = 256;
constexpr int kReadsPerPass = 16;

constexpr char kWantsTls[] =
    "the server wants TLS at this address; give credentials, and say cloudblks:// in the server "
    "URI";

bool IsBlockStatus(const Piece& piece) {
  return piece.request->operation == Operation::kBlockStatus;
}

}  // namespace

NativeReceiver::NativeReceiver(ControlSink* sink, CodecStats* stats, Failure* failure)
    : sink_(sink),
      stats_(stats),
      failure_(failure),
      staging_(std::make_unique<Bounce>(kStagingSize)) {
  iov_.reserve(kMaxElements + 1);
  copies_.SetBounce(staging_.get());
}

void NativeReceiver::Open(const wire::FrameLimits& limits, bool hole_reply) {
  open_ = true;
  limits_ = limits;
  hole_reply_ = hole_reply;
  if (!limits.payload_crc) return;
  // All data is staged: there is to be room for that of a frame.
  auto larger = std::make_unique<Bounce>(kStagingSize + limits.max_payload);
  std::ranges::copy(Staged(available()), larger->data());
  tail_ = available();
  head_ = 0;
  staging_ = std::move(larger);
  copies_.SetBounce(staging_.get());
}

bool NativeReceiver::Fail(int error, std::string text) {
  *failure_ = {.error = error, .text = std::move(text)};
  return false;
}

// A server that was given clear text answers with an alert.
bool NativeReceiver::WantsTls() const {
  return !open_ && phase_ == Phase::kHeader && LooksLikeTls(Staged(available()));
}

bool NativeReceiver::Run(Transport* transport, RequestQueue* queue, const Outbox& outbox) {
  for (int reads = 0; reads < kReadsPerPass; ++reads) {
    iov_.clear();
    // A transport that moves bytes by the processor must not be given the requests' memory.
    const bool staged = limits_.payload_crc || stages_rest_ || !transport->scatters();
    const uint64_t direct = phase_ == Phase::kPayload && !staged ? DescribeDestinations() : 0;
    DescribeStaging(staged);
    uint64_t wanted = 0;
    for (const iovec& element : iov_) wanted += element.iov_len;
    const ssize_t n = transport->Readv(iov_.data(), static_cast<int>(iov_.size()));
    ++stats_->receive_calls;
    if (n == -EAGAIN) return true;
    if (n == -EFAULT && direct > 0) {
      OnFault(queue);
      continue;
    }
    if (n == 0) {
      return WantsTls() ? Fail(EPROTO, kWantsTls)
                        : Fail(ECONNRESET, "the server closed the connection");
    }
    if (n < 0) {
      const int error = static_cast<int>(-n);
      return Fail(error, DescribeError(*transport, error));
    }
    stats_->bytes_received += static_cast<uint64_t>(n);
    const uint64_t stored = std::min<uint64_t>(n, direct);
    tail_ += n - stored;
    if (stored > 0 && !StorePayload(stored, queue)) return false;
    const bool good = Parse(queue, outbox);
    if (!copies_.empty()) FinishCopies(queue);
    if (!good) return false;
    // A short read says that there is no more.
    if (static_cast<uint64_t>(n) < wanted && !transport->has_pending()) return true;
  }
  return true;
}

uint64_t NativeReceiver::DescribeDestinations() {
  assert(available() == 0);
  uint64_t described;
  iov_.resize(kMaxElements);
  size_t used = cursor_.Describe(entry_left_, iov_, &described);
  uint64_t total = described;
  bool whole = described == entry_left_;
  for (size_t i = next_entry_ + 1; i < entries_.size() && whole && used < kMaxElements; ++i) {
    const Entry& entry = entries_[i];
    const SgCursor cursor(entry.piece->request->iov,
                          entry.reply.length > 0 ? entry.piece->begin : 0);
    used += cursor.Describe(entry.reply.length, std::span(iov_).subspan(used), &described);
    total += described;
    whole = described == entry.reply.length;
  }
  iov_.resize(used);
  return total;
}

void NativeReceiver::DescribeStaging(bool all) {
  if (head_ == tail_) {
    head_ = tail_ = 0;
  } else if (staging_->size() - tail_ < (all ? staging_->size() / 2 : kReadAhead)) {
    std::memmove(staging_->data(), staging_->data() + head_, available());
    tail_ = available();
    head_ = 0;
  }
  const size_t room = staging_->size() - tail_;
  iov_.push_back({staging_->data() + tail_, all ? room : std::min(room, ReadAhead())});
}

// The next frame will be like the last. If that is small, it is to come whole, and what follows it
// too. Of a large one the headers come first, so that its data need not be copied.
size_t NativeReceiver::ReadAhead() const {
  const size_t headers = wire::kFrameHeaderSize + header_.header_length;
  const bool small = headers + header_.payload_length <= kReadAhead;
  if (small || phase_ == Phase::kControl) return kReadAhead;
  if (phase_ == Phase::kReplies) return header_.header_length - available();
  return headers - available();
}

// Memory of a request cannot be touched. The stream is where it was, but some of it may have been
// stored and not been counted. Which request it is shows when what is staged now is copied.
void NativeReceiver::OnFault(RequestQueue* queue) {
  stages_rest_ = true;
  for (size_t i = next_entry_; i < entries_.size(); ++i) {
    const Entry& entry = entries_[i];
    if (entry.reply.length > 0) queue->NoteStored(entry.piece, entry.reply.length);
  }
}

bool NativeReceiver::Parse(RequestQueue* queue, const Outbox& outbox) {
  // Until a phase needs more bytes than there are.
  while (true) {
    const Phase before = phase_;
    bool good = true;
    switch (phase_) {
      case Phase::kHeader:
        good = ParseHeader();
        break;
      case Phase::kControl:
        good = ParseControl();
        break;
      case Phase::kReplies:
        good = ParseReplies(queue, outbox);
        break;
      case Phase::kPayload:
        good = StorePayload(0, queue);
        break;
    }
    if (!good || phase_ == before) return good;
  }
}

bool NativeReceiver::ParseHeader() {
  if (available() < wire::kFrameHeaderSize) return true;
  const wire::DecodeError error =
      wire::DecodeFrameHeader(Staged(wire::kFrameHeaderSize), limits_, &header_);
  if (error != wire::DecodeError::kOk) {
    if (WantsTls()) return Fail(EPROTO, kWantsTls);
    return Fail(EPROTO, "bad frame: " + std::string(wire::Describe(error)));
  }
  head_ += wire::kFrameHeaderSize;
  ++stats_->frames_received;
  if (header_.type != wire::FrameType::kReply) {
    // A REQUEST may carry far more; no server sends one, and there is no room for it.
    if (header_.header_length + header_.payload_length > kStagingSize - kReadAhead) {
      return Fail(EPROTO, "unexpected " + std::string(wire::Name(header_.type)) + " frame");
    }
    phase_ = Phase::kControl;
    return true;
  }
  if (!open_) return Fail(EPROTO, "unexpected REPLY frame");
  phase_ = Phase::kReplies;
  return true;
}

bool NativeReceiver::ParseControl() {
  const size_t size = header_.header_length + header_.payload_length;
  if (available() < size) return true;
  const auto section = Staged(size).first(header_.header_length);
  const auto payload = Staged(size).subspan(header_.header_length);
  if (wire::CheckHeaderSection(header_, section) != wire::DecodeError::kOk) {
    return Fail(EPROTO,
                "bad frame: " + std::string(wire::Describe(wire::DecodeError::kBadSectionCrc)));
  }
  head_ += size;
  phase_ = Phase::kHeader;
  return sink_->OnControl(header_, section,
                          {reinterpret_cast<const char*>(payload.data()), payload.size()});
}

bool NativeReceiver::ParseReplies(RequestQueue* queue, const Outbox& outbox) {
  if (available() < header_.header_length) return true;
  const auto section = Staged(header_.header_length);
  std::span<const uint8_t> crcs;
  replies_.resize(header_.count);
  wire::DecodeError error = wire::CheckHeaderSection(header_, section);
  if (error == wire::DecodeError::kOk) {
    error = wire::DecodeReplies(header_, section, limits_, replies_, &crcs);
  }
  if (error != wire::DecodeError::kOk) {
    return Fail(EPROTO, "bad REPLY frame: " + std::string(wire::Describe(error)));
  }
  entries_.clear();
  for (const wire::Reply& reply : replies_) {
    const char* why = nullptr;
    Piece* piece = CheckReply(reply, queue, outbox, &why);
    if (piece == nullptr) return Fail(EPROTO, std::string("bad REPLY frame: ") + why);
    queue->BeginAnswer(piece);
    entries_.push_back({piece, reply});
  }
  if (limits_.payload_crc) crcs_.assign(crcs.begin(), crcs.end());
  next_crc_ = 0;
  head_ += header_.header_length;
  next_entry_ = 0;
  phase_ = Phase::kPayload;
  StartEntry();
  return true;
}

Piece* NativeReceiver::CheckReply(const wire::Reply& reply, RequestQueue* queue,
                                  const Outbox& outbox, const char** why) {
  Piece* piece = queue->Find(reply.tag);
  if (piece == nullptr) {
    *why = "a tag that no request waits under";
    return nullptr;
  }
  if (piece->stream_end > outbox.sent()) {
    *why = "an answer to what was not sent yet";
    return nullptr;
  }
  const bool reads = piece->request->operation == Operation::kRead;
  const bool hole = (reply.flags & wire::ReplyFlag::kHole) != 0;
  if (hole && (!reads || !hole_reply_)) {
    *why = "HOLE where it may not be";
    return nullptr;
  }
  const bool done = reply.status == wire::StatusCode::kOk;
  if (!reads && done && IsBlockStatus(*piece)) [[unlikely]] {
    stages_rest_ = true;
    if (reply.length != 0 && reply.length % wire::kExtentSize == 0 &&
        reply.length / wire::kExtentSize <=
            std::min<uint64_t>(piece->max_extents(), wire::kMaxExtents)) {
      return piece;
    }
    *why = "a list of extents that is not as long as it may be";
    return nullptr;
  }
  const bool has_data = reads && !hole && done;
  if (reply.length != (has_data ? piece->length() : 0)) {
    *why = "a length that is not the request's";
    return nullptr;
  }
  return piece;
}

void NativeReceiver::StartEntry() {
  if (next_entry_ == entries_.size()) return;
  const Entry& entry = entries_[next_entry_];
  entry_left_ = entry.reply.length;
  if (entry_left_ > 0) cursor_ = SgCursor(entry.piece->request->iov, entry.piece->begin);
}

bool NativeReceiver::StorePayload(uint64_t direct, RequestQueue* queue) {
  while (next_entry_ < entries_.size()) {
    if (entry_left_ == 0) {
      FinishEntry(queue);
      StartEntry();
      continue;
    }
    const bool in_place = direct > 0;
    uint64_t bytes = std::min<uint64_t>(in_place ? direct : available(), entry_left_);
    if (limits_.payload_crc) {
      const uint32_t block = std::min(entry_left_, wire::kCrcBlock);
      if (bytes < block) return true;
      if (!CheckBlock(block)) return false;
      bytes = block;
    }
    if (bytes == 0) return true;
    if (stages_rest_ && IsBlockStatus(*entries_[next_entry_].piece)) {
      if (bytes < entry_left_) return true;
      if (!StoreExtents(queue)) return false;
      continue;
    }
    StorePlain(in_place, bytes, queue);
    if (in_place) direct -= bytes;
  }
  assert(direct == 0);
  phase_ = Phase::kHeader;
  stages_rest_ = false;
  return true;
}

void NativeReceiver::FinishEntry(RequestQueue* queue) {
  const Entry& entry = entries_[next_entry_++];
  Piece* const piece = entry.piece;
  if ((entry.reply.flags & wire::ReplyFlag::kHole) != 0) {
    copies_.AddZeros(piece, queue->Memory(piece, 0), piece->length());
    queue->NoteStored(piece, piece->length());
  }
  const int error = wire::ErrnoOf(entry.reply.status);
  if (copies_.empty()) {
    queue->Answer(piece, error);
  } else {
    const std::pair<Piece*, int> answered(piece, error);
    answered_.push_back(answered);
  }
}

// `bytes` more of the present entry's data: they are in the request's memory, or staged.
void NativeReceiver::StorePlain(bool direct, uint64_t bytes, RequestQueue* queue) {
  const Entry& entry = entries_[next_entry_];
  if (direct) {
    if (bytes < entry_left_) cursor_.Advance(bytes);
  } else {
    // Of a piece that has failed the rest is dropped.
    if (entry.piece->error == 0) copies_.Add(entry.piece, head_, &cursor_, bytes);
    head_ += bytes;
  }
  entry_left_ -= static_cast<uint32_t>(bytes);
  queue->NoteStored(entry.piece, entry.reply.length - entry_left_);
}

bool NativeReceiver::StoreExtents(RequestQueue* queue) {
  std::array<CloudblkExtent, wire::kMaxExtents> extents;
  const size_t count = entry_left_ / wire::kExtentSize;
  const auto list = Staged(entry_left_);
  for (size_t i = 0; i < count; ++i) {
    wire::Extent extent;
    const wire::DecodeError error = wire::Decode(list.subspan(i * wire::kExtentSize), &extent);
    if (error != wire::DecodeError::kOk) {
      return Fail(EPROTO, "bad extent: " + std::string(wire::Describe(error)));
    }
    extents[i] = {extent.length, extent.flags, 0};
  }
  if (!queue->StoreExtents(entries_[next_entry_].piece, std::span(extents).first(count))) {
    return Fail(EPROTO, "bad extents: they are not what was asked about");
  }
  head_ += entry_left_;
  entry_left_ = 0;
  return true;
}

bool NativeReceiver::CheckBlock(uint32_t size) {
  if (wire::Crc32c(0, Staged(size)) != Load32(&crcs_[next_crc_])) {
    return Fail(EPROTO, "CRC of data does not match");
  }
  next_crc_ += sizeof(uint32_t);
  return true;
}

void NativeReceiver::FinishCopies(RequestQueue* queue) {
  // The rest of a piece that has failed must not go straight to its memory.
  if (!copies_.Store() && phase_ == Phase::kPayload) stages_rest_ = true;
  for (const auto& [piece, error] : answered_) queue->Answer(piece, error);
  answered_.clear();
}

}  // namespace cloudblk
