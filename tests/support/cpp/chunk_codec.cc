// SPDX-License-Identifier: GPL-2.0-or-later
#include "tests/support/cpp/chunk_codec.h"

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "block/ranges.h"
#include "proxy-protocol/wire.h"

namespace cloudblk::testing::chunk {
namespace {

constexpr int kReadsPerPass = 64;

}  // namespace

void Codec::Begin(const OpenParams& params, Outbox*) {
  incarnation_ = params.incarnation;
  name_ = params.volume_name;
}

size_t Codec::Append(std::span<Piece*> pieces, Outbox* outbox) {
  for (Piece* piece : pieces) {
    const Request& request = *piece->request;
    uint8_t* const head = outbox->Reserve(kRequestSize);
    std::memset(head, 0, kRequestSize);
    head[0] = static_cast<uint8_t>(request.operation);
    head[1] = request.fua ? 1 : 0;
    Store64(head + 8, piece->tag);
    uint64_t offset = request.offset + piece->begin;
    if (HasRanges(request.operation)) {
      // A piece is cut to one range.
      WalkRanges(request, piece->begin, piece->end, RangeLimit(request.operation, limits_),
                 [&](const CloudblkRange& range) {
                   offset = range.offset;
                   return true;
                 });
    }
    Store32(head + 4, static_cast<uint32_t>(piece->length()));
    Store64(head + 16, offset);
    outbox->Append(head, kRequestSize);
    if (request.operation == Operation::kWrite) {
      SgCursor cursor(request.iov, piece->begin);
      std::array<iovec, 16> elements;
      uint64_t described;
      for (uint64_t left = piece->length(); left > 0; left -= described) {
        const size_t count = cursor.Describe(left, elements, &described);
        for (size_t i = 0; i < count; ++i) {
          outbox->Append(elements[i].iov_base, elements[i].iov_len);
        }
        if (described < left) cursor.Advance(described);
      }
    }
    piece->stream_end = outbox->appended();
    ++stats_->frames_sent;
  }
  return pieces.size();
}

bool Codec::Send(const Command& command, Outbox* outbox) {
  if (command.kind != Command::Kind::kClose) return false;
  step_ = Step::kClosing;
  uint8_t* const head = outbox->Reserve(kRequestSize);
  std::memset(head, 0, kRequestSize);
  outbox->Append(head, kRequestSize);
  return true;
}

size_t Codec::needed() const {
  switch (step_) {
    case Step::kGreeting:
      return kGreetingSize;
    case Step::kExport:
      return kExportSize;
    case Step::kStarted:
      return kStartSize;
    default:
      return kChunkSize;
  }
}

bool Codec::Receive(Transport* transport, RequestQueue* queue, Outbox* outbox,
                    std::vector<Fact>* facts) {
  for (int reads = 0; reads < kReadsPerPass; ++reads) {
    const bool data = step_ == Step::kData;
    iovec head{&staging_[filled_], needed() - filled_};
    const ssize_t n = data ? ReadData(transport, queue) : transport->Readv(&head, 1);
    ++stats_->receive_calls;
    if (n == -EAGAIN) return true;
    if (n == 0 && step_ == Step::kClosing) {
      facts->push_back({.kind = Fact::Kind::kAnswered, .command = Command::Kind::kClose});
      return true;
    }
    if (n == 0) return Fail({.error = ECONNRESET, .text = "the server closed the connection"});
    if (n < 0) return Fail({.error = static_cast<int>(-n), .text = "receiving failed"});
    stats_->bytes_received += static_cast<uint64_t>(n);
    if (data) continue;
    filled_ += static_cast<size_t>(n);
    if (filled_ < needed()) continue;
    filled_ = 0;
    if (!OnMessage(queue, outbox, facts)) return false;
  }
  return true;
}

// The rest of a chunk, and not a byte more: straight to where it belongs.
ssize_t Codec::ReadData(Transport* transport, RequestQueue* queue) {
  std::array<iovec, 16> elements;
  uint64_t described;
  size_t count = queue->Memory(piece_, at_).Describe(left_, elements, &described);
  if (!transport->scatters()) count = 1;
  const ssize_t n = transport->Readv(elements.data(), static_cast<int>(count));
  if (n > 0) Store(queue, static_cast<uint64_t>(n));
  return n;
}

void Codec::Store(RequestQueue* queue, uint64_t length) {
  at_ += length;
  left_ -= length;
  queue->NoteStored(piece_, at_);
  if (left_ == 0) step_ = Step::kChunk;
}

bool Codec::OnMessage(RequestQueue* queue, Outbox* outbox, std::vector<Fact>* facts) {
  switch (step_) {
    case Step::kGreeting: {
      if (Load64(staging_.data()) != kMagic) return Violation("no server of this protocol");
      step_ = Step::kExport;
      uint8_t* const hello = outbox->Reserve(kHelloSize + name_.size());
      std::copy_n(staging_.begin(), kGreetingSize, hello);
      Store64(hello + 16, incarnation_);
      Store32(hello + 24, static_cast<uint32_t>(name_.size()));
      std::ranges::copy(name_, hello + kHelloSize);
      outbox->Append(hello, kHelloSize + name_.size());
      return true;
    }
    case Step::kExport:
      return OnExport(outbox);
    case Step::kStarted:
      if (Load64(staging_.data()) != kMagic) return Violation("bad STARTED");
      step_ = Step::kChunk;
      facts->push_back({.kind = Fact::Kind::kOpened});
      return true;
    default:
      return OnChunk(queue, *outbox, facts);
  }
}

bool Codec::OnExport(Outbox* outbox) {
  const uint32_t status = Load32(staging_.data());
  if (status != 0) {
    const bool busy = status == EBUSY;
    return Fail({.error = static_cast<int>(status),
                 .text = "refused",
                 .refusal = busy ? Refusal::kBusy : Refusal::kOther,
                 .retry_ms = busy ? 100u : 0u});
  }
  step_ = Step::kStarted;
  volume_.logical_block_size = volume_.physical_block_size = Load32(&staging_[4]);
  volume_.size = Load64(&staging_[8]);
  volume_.generation = Load64(&staging_[16]);
  volume_.max_ranges = 16;
  volume_.max_discard_length = volume_.max_write_zeroes_length = Load32(&staging_[40]);
  volume_.write_cache = true;
  limits_.max_data = Load32(&staging_[32]);
  limits_.max_ranges = 1;
  limits_.max_discard_length = limits_.max_write_zeroes_length = volume_.max_discard_length;
  limits_.credit_requests = Load32(&staging_[36]);
  limits_.credit_bytes = Load64(&staging_[24]);
  limits_.batch_pieces = 8;
  limits_.batch_payload = UINT64_MAX;
  limits_.piece_overhead = kRequestSize;
  limits_.batch_overhead = kRequestSize;  // of a CLOSE, for which there always is room
  uint8_t* const start = outbox->Reserve(kStartSize);
  Store64(start, kMagic);
  outbox->Append(start, kStartSize);
  return true;
}

bool Codec::OnChunk(RequestQueue* queue, const Outbox& outbox, std::vector<Fact>* facts) {
  const uint8_t kind = staging_[0];
  const uint32_t length = Load32(&staging_[4]);
  const uint64_t value = Load64(&staging_[16]);
  ++stats_->frames_received;
  if (kind == kResized) {
    facts->push_back({.kind = Fact::Kind::kResized, .value = value});
    return true;
  }
  Piece* const piece = queue->Find(Load64(&staging_[8]));
  if (piece == nullptr || piece->stream_end > outbox.sent()) {
    return Violation("a chunk for no request");
  }
  switch (kind) {
    case kDataChunk:
    case kHoleChunk:
      if (!queue->Reserve(piece, value, length)) return Violation("a chunk out of place");
      if (kind == kHoleChunk) {
        queue->NoteStored(piece, value + length);
        zeros_.AddZeros(piece, queue->Memory(piece, value), length);
        zeros_.Store();
        return true;
      }
      piece_ = piece;
      at_ = value;
      left_ = length;
      step_ = Step::kData;
      return true;
    case kErrorChunk:
      if (value == 0 || value > 4095) return Violation("no error");
      queue->NoteError(piece, static_cast<int>(value));
      return true;
    case kDone: {
      const bool reads = piece->request->operation == Operation::kRead;
      if (reads && piece->error == 0 && !queue->Covered(piece)) {
        return Violation("a read without all of its data");
      }
      queue->Answer(piece, 0);
      return true;
    }
    default:
      return Violation("an unknown chunk");
  }
}

}  // namespace cloudblk::testing::chunk
