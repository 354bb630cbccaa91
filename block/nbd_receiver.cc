// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/nbd_receiver.h"

#include <algorithm>
#include <cassert>
#include <cerrno>
#include <cstring>

#include "block/codec.h"
#include "block/nbd_negotiation.h"

namespace cloudblk {
namespace {

// How much is read ahead, before it is known what it is. What of it is data has to be copied.
constexpr size_t kReadAhead = 64 << 10;
constexpr size_t kStagingSize = 2 * kReadAhead;
static_assert(kReadAhead >= NbdNegotiation::kMaxMessage && kReadAhead >= nbd::kMaxErrorPayload);
// Data of a payload that is at least so long goes straight to its memory: from here on to copy it
// costs more than the receive call that it saves (docs/architecture.md).
constexpr uint64_t kLarge = 8 << 10;
constexpr size_t kMaxElements = 256;
constexpr int kReadsPerPass = 16;

}  // namespace

NbdReceiver::NbdReceiver(NbdSink* sink, CodecStats* stats, Failure* failure)
    : sink_(sink),
      stats_(stats),
      failure_(failure),
      staging_(std::make_unique<Bounce>(kStagingSize)) {
  iov_.reserve(kMaxElements + 1);
  copies_.SetBounce(staging_.get());
}

bool NbdReceiver::Fail(int error, std::string text) {
  *failure_ = {.error = error, .text = std::move(text)};
  return false;
}

bool NbdReceiver::Run(Transport* transport, RequestQueue* queue, const Outbox& outbox) {
  for (int reads = 0; reads < kReadsPerPass; ++reads) {
    iov_.clear();
    uint64_t direct = 0;
    // A transport that moves bytes by the processor must not be given the requests' memory.
    const bool large = phase_ == Phase::kData && was_large_;
    if (large && !faulted_ && transport->scatters()) {
      assert(available() == 0);
      iov_.resize(kMaxElements);
      iov_.resize(cursor_.Describe(left_, iov_, &direct));
    }
    DescribeStaging(was_large_ && (!large || direct > 0));
    uint64_t wanted = 0;
    for (const iovec& element : iov_) wanted += element.iov_len;
    const ssize_t n = transport->Readv(iov_.data(), static_cast<int>(iov_.size()));
    ++stats_->receive_calls;
    if (n == -EAGAIN) return true;
    if (n == -EFAULT && direct > 0) {
      // The stream is where it was, but some of it may have been stored and not been counted.
      faulted_ = true;
      queue->NoteStored(piece_, at_ + left_);
      continue;
    }
    if (n == 0) {
      return sink_->OnEnd() ||
             Fail(ECONNRESET,
                  handshake_
                      ? "the server closed the connection before it opened the export; does it "
                        "serve fewer clients than there are?"
                      : "the server closed the connection");
    }
    if (n < 0) {
      const int error = static_cast<int>(-n);
      return Fail(error, DescribeError(*transport, error));
    }
    stats_->bytes_received += static_cast<uint64_t>(n);
    const uint64_t stored = std::min<uint64_t>(n, direct);
    tail_ += n - stored;
    bool good = stored == 0 || StoreDirect(stored, queue);
    good = good && Parse(queue, outbox);
    if (!copies_.empty() || !answered_.empty()) good = FinishCopies(queue) && good;
    if (!good) return false;
    // A short read says that there is no more.
    if (static_cast<uint64_t>(n) < wanted && !transport->has_pending()) return true;
  }
  return true;
}

// Where what is read ahead goes. The next reply will be like the last: of a large one the header
// comes first, so that its data need not be copied.
void NbdReceiver::DescribeStaging(bool header_only) {
  if (head_ == tail_) {
    head_ = tail_ = 0;
  } else if (staging_->size() - tail_ < kReadAhead) {
    std::memmove(staging_->data(), staged(), available());
    tail_ = available();
    head_ = 0;
  }
  size_t bytes = kReadAhead;
  if (header_only) {
    size_t head = structured_ ? nbd::kChunkSize + nbd::kDataChunkHead : nbd::kSimpleReplySize;
    if (phase_ == Phase::kChunkHead) head = chunk_head();
    bytes = head > available() ? head - available() : head;
  }
  iov_.push_back({staging_->data() + tail_, bytes});
}

bool NbdReceiver::Parse(RequestQueue* queue, const Outbox& outbox) {
  // Until a step needs more bytes than there are.
  while (true) {
    const size_t before = available();
    const Phase phase = phase_;
    bool good = true;
    if (handshake_) {
      good = ParseHandshake();
    } else if (phase_ == Phase::kHeader) {
      good = ParseHeader(queue, outbox);
    } else if (phase_ == Phase::kChunkHead) {
      good = ParseChunkHead(queue);
    } else if (phase_ == Phase::kData) [[likely]] {
      good = StoreStaged(queue);
    } else {
      good = ParseExtents(queue);
    }
    if (!good || (available() == before && phase_ == phase)) return good;
  }
}

bool NbdReceiver::ParseHandshake() {
  const size_t needed = sink_->HandshakeNeeds();
  if (available() < needed) return true;
  const std::span<const uint8_t> message(staged(), needed);
  head_ += needed;
  if (!sink_->OnHandshake(message)) return false;
  handshake_ = sink_->HandshakeNeeds() != 0;
  return true;
}

bool NbdReceiver::ParseHeader(RequestQueue* queue, const Outbox& outbox) {
  if (available() < nbd::kSimpleReplySize) return true;
  if (nbd::Load32(staged()) == nbd::kSimpleReplyMagic) return ParseSimple(queue, outbox);
  if (nbd::Load32(staged()) != nbd::kChunkMagic || !structured_) {
    return Violation("a wrong magic");
  }
  return ParseChunk(queue, outbox);
}

bool NbdReceiver::ParseSimple(RequestQueue* queue, const Outbox& outbox) {
  nbd::SimpleReply reply;
  nbd::Decode(staged(), &reply);
  head_ += nbd::kSimpleReplySize;
  ++stats_->frames_received;
  const int error = reply.error == 0 ? 0 : nbd::ErrnoOf(reply.error);
  if (error == ESHUTDOWN) return Fail(ECONNRESET, "the server is about to stop");
  if (IsOwn(reply.cookie)) return OnOwn(error);
  Piece* const piece = FindSent(reply.cookie, queue, outbox);
  if (piece == nullptr) return false;
  was_large_ = false;
  if (piece->request->operation != Operation::kRead) {
    if (error == 0 && piece->request->operation == Operation::kBlockStatus) [[unlikely]] {
      return Violation("a simple reply to a BLOCK_STATUS");
    }
    return FinishPiece(piece, error, queue);
  }
  if (structured_) return Violation("a simple reply to a READ");
  if (error != 0) return FinishPiece(piece, error, queue);
  queue->BeginAnswer(piece);
  is_simple_ = true;
  StartData(piece, 0, piece->length(), queue);
  return true;
}

bool NbdReceiver::ParseChunk(RequestQueue* queue, const Outbox& outbox) {
  if (available() < nbd::kChunkSize) return true;
  nbd::Decode(staged(), &chunk_);
  head_ += nbd::kChunkSize;
  ++stats_->frames_received;
  is_own_ = IsOwn(chunk_.cookie);
  piece_ = is_own_ ? nullptr : FindSent(chunk_.cookie, queue, outbox);
  if (piece_ == nullptr && !is_own_) return false;
  is_simple_ = false;
  const uint32_t length = chunk_.length;
  bool fits = false;
  if ((chunk_.type & nbd::ChunkType::kErrorBit) != 0) {
    fits = length >= nbd::kErrorChunkHead && length <= nbd::kMaxErrorPayload;
  } else if (chunk_.type == nbd::ChunkType::kNone) {
    if (!is_done()) return Violation("a chunk of nothing that is not the last");
    fits = length == 0;
  } else if (chunk_.type == nbd::ChunkType::kOffsetData) {
    fits = length > nbd::kDataChunkHead && !is_own_;
  } else if (chunk_.type == nbd::ChunkType::kOffsetHole) {
    fits = length == nbd::kHoleChunkPayload && !is_own_;
  } else if (chunk_.type == nbd::ChunkType::kBlockStatus) {
    const uint32_t list = length - static_cast<uint32_t>(nbd::kContextIdSize);
    fits = length > nbd::kContextIdSize && list % nbd::kDescriptorSize == 0 &&
           list / nbd::kDescriptorSize <= nbd::kMaxDescriptors && !is_own_;
  } else {
    return Violation("a chunk of an unknown type");
  }
  if (!fits) return Violation("a chunk whose length cannot be");
  phase_ = Phase::kChunkHead;
  return true;
}

size_t NbdReceiver::chunk_head() const {
  if (chunk_.type == nbd::ChunkType::kOffsetData) return nbd::kDataChunkHead;
  return chunk_.type == nbd::ChunkType::kBlockStatus ? nbd::kContextIdSize : chunk_.length;
}

bool NbdReceiver::ParseChunkHead(RequestQueue* queue) {
  const size_t needed = chunk_head();
  if (available() < needed) return true;
  const uint8_t* const head = staged();
  head_ += needed;
  phase_ = Phase::kHeader;
  if ((chunk_.type & nbd::ChunkType::kErrorBit) != 0) return OnErrorChunk(head, queue);
  if (chunk_.type == nbd::ChunkType::kNone) return OnDone(queue);
  if (chunk_.type == nbd::ChunkType::kBlockStatus) [[unlikely]]
    return StartExtents(head);
  const uint64_t offset = nbd::Load64(head);
  const bool is_data = chunk_.type == nbd::ChunkType::kOffsetData;
  const uint64_t length = is_data ? chunk_.length - nbd::kDataChunkHead : nbd::Load32(head + 8);
  const uint64_t begin = piece_->request->offset + piece_->begin;
  // What lies before the piece wraps around, and is beyond its end.
  if (!queue->Reserve(piece_, offset - begin, length)) {
    return Violation("a chunk that is not within its request, or came before");
  }
  if (is_data) {
    StartData(piece_, offset - begin, length, queue);
    return true;
  }
  was_large_ = false;
  queue->NoteStored(piece_, offset - begin + length);
  if (piece_->error == 0) {
    copies_.AddZeros(piece_, queue->Memory(piece_, offset - begin), length);
  }
  return !is_done() || OnDone(queue);
}

bool NbdReceiver::StartExtents(const uint8_t* head) {
  if (piece_->request->operation != Operation::kBlockStatus) {
    return Violation("extents that nobody asked for");
  }
  if (allocation_ != nbd::Load32(head)) return Violation("extents of an unknown context");
  if (!piece_->coverage.Add(0, NbdExtents::AskedBy(*piece_))) {
    return Violation("extents that came before");
  }
  was_large_ = false;
  left_ = chunk_.length - nbd::kContextIdSize;
  extents_.Begin(*piece_, block_size_);
  phase_ = Phase::kExtents;
  return true;
}

bool NbdReceiver::ParseExtents(RequestQueue* queue) {
  for (; left_ > 0; left_ -= nbd::kDescriptorSize) {
    if (available() < nbd::kDescriptorSize) return true;
    if (!extents_.Add(nbd::DecodeDescriptor(staged()))) {
      return Violation("extents that are not what was asked about");
    }
    head_ += nbd::kDescriptorSize;
  }
  phase_ = Phase::kHeader;
  if (!queue->StoreExtents(piece_, extents_.Finish())) {
    return Violation("extents that the request has no room for");
  }
  return !is_done() || OnDone(queue);
}

bool NbdReceiver::OnErrorChunk(const uint8_t* head, RequestQueue* queue) {
  const uint32_t error = nbd::Load32(head);
  // The text is for people. nbd-server tells its length in the wrong byte order; the chunk's own
  // length holds.
  if (error == 0) return Violation("an error without a number");
  const int number = nbd::ErrnoOf(error);
  if (number == ESHUTDOWN) return Fail(ECONNRESET, "the server is about to stop");
  was_large_ = false;
  if (is_own_) {
    own_error_ = number;
  } else {
    queue->NoteError(piece_, number);
  }
  return !is_done() || OnDone(queue);
}

// The last chunk of an answer has come.
bool NbdReceiver::OnDone(RequestQueue* queue) {
  if (is_own_) return OnOwn(std::exchange(own_error_, 0));
  Piece* const piece = piece_;
  const Operation operation = piece->request->operation;
  const bool brings = BringsData(operation);
  if (brings && piece->error == 0 && !queue->Covered(piece)) {
    return Violation(operation == Operation::kRead ? "a READ whose data has gaps"
                                                   : "a BLOCK_STATUS without its extents");
  }
  return FinishPiece(piece, 0, queue);
}

bool NbdReceiver::OnOwn(int error) {
  expects_own_ = false;
  return sink_->OnOwn(error);
}

Piece* NbdReceiver::FindSent(uint64_t cookie, RequestQueue* queue, const Outbox& outbox) {
  Piece* piece = queue->Find(cookie);
  if (piece == nullptr && cookie == kOwnReadCookie && own_read_ != nullptr &&
      own_read_->state == Piece::State::kSent) {
    piece = own_read_;
  }
  if (piece == nullptr) {
    Violation("a cookie that no request waits under");
  } else if (piece->stream_end > outbox.sent()) {
    Violation("an answer to what was not sent yet");
    return nullptr;
  }
  return piece;
}

void NbdReceiver::StartData(Piece* piece, uint64_t at, uint64_t length, RequestQueue* queue) {
  phase_ = Phase::kData;
  piece_ = piece;
  at_ = at;
  left_ = length;
  cursor_ = queue->Memory(piece, at);
  was_large_ = length >= kLarge;
}

bool NbdReceiver::StoreStaged(RequestQueue* queue) {
  const uint64_t bytes = std::min<uint64_t>(available(), left_);
  if (bytes == 0) return true;
  // Of a piece that has failed the rest is dropped.
  if (piece_->error == 0) copies_.Add(piece_, head_, &cursor_, bytes);
  head_ += bytes;
  return Stored(bytes, queue);
}

bool NbdReceiver::StoreDirect(uint64_t bytes, RequestQueue* queue) {
  if (bytes < left_) cursor_.Advance(bytes);
  return Stored(bytes, queue);
}

bool NbdReceiver::Stored(uint64_t bytes, RequestQueue* queue) {
  at_ += bytes;
  left_ -= bytes;
  queue->NoteStored(piece_, at_);
  if (left_ > 0) return true;
  phase_ = Phase::kHeader;
  faulted_ = false;
  if (is_simple_) return FinishPiece(piece_, 0, queue);
  return !is_done() || OnDone(queue);
}

bool NbdReceiver::FinishPiece(Piece* piece, int error, RequestQueue* queue) {
  if (piece->request->fua) {
    const int result = error != 0 ? error : piece->error;
    if (!sink_->OnForcedDone(piece, result)) return true;
  }
  queue->BeginAnswer(piece);
  // What was copied for it may still fail.
  if (copies_.empty()) return Answer(piece, error, queue);
  answered_.emplace_back(piece, error);
  return true;
}

bool NbdReceiver::Answer(Piece* piece, int error, RequestQueue* queue) {
  if (own_read_ != nullptr && piece == own_read_) {
    own_read_ = nullptr;
    return sink_->OnOwnRead(error != 0 ? error : piece->error);
  }
  queue->Answer(piece, error);
  return true;
}

bool NbdReceiver::FinishCopies(RequestQueue* queue) {
  // The rest of a piece that has failed must not go straight to its memory.
  if (!copies_.empty() && !copies_.Store() && phase_ == Phase::kData) faulted_ = true;
  bool good = true;
  for (const auto& [piece, error] : answered_) good = Answer(piece, error, queue) && good;
  answered_.clear();
  return good;
}

}  // namespace cloudblk
