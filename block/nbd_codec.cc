// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/nbd_codec.h"

#include <algorithm>
#include <bit>
#include <cassert>
#include <cerrno>
#include <string>
#include <utility>

#include "block/nbd_extents.h"
#include "block/ranges.h"
#include "block/sg_list.h"

namespace cloudblk {
namespace {

// Of a volume that a guest can have.
constexpr uint32_t kLeastBlock = 512;
constexpr uint32_t kMostBlock = 4096;
// A small request waits at most for so much.
constexpr uint32_t kMostData = 64 << 10;
// Requests in flight: what a server does not take waits in the socket. Each may be followed by a
// FLUSH (OnPieceDone), for which there is to be room.
constexpr uint32_t kCreditRequests = 256;
constexpr uint64_t kCreditBytes = uint64_t{64} << 20;
constexpr uint32_t kBatchPieces = 128;
constexpr uint32_t kRanges = 64;
constexpr uint64_t kMostTrim = uint64_t{1} << 30;

uint64_t RoundDown(uint64_t value, uint64_t unit) { return value - value % unit; }

nbd::Command CommandOf(Operation operation) {
  switch (operation) {
    case Operation::kRead:
      return nbd::Command::kRead;
    case Operation::kWrite:
      return nbd::Command::kWrite;
    case Operation::kFlush:
      return nbd::Command::kFlush;
    case Operation::kDiscard:
      return nbd::Command::kTrim;
    case Operation::kWriteZeroes:
      return nbd::Command::kWriteZeroes;
    case Operation::kBlockStatus:
      return nbd::Command::kBlockStatus;
  }
  return nbd::Command::kFlush;
}

nbd::Request RequestOf(const Piece& piece, const Limits& limits, bool fua) {
  const Request& request = *piece.request;
  nbd::Request message;
  message.command = CommandOf(request.operation);
  message.cookie = piece.tag;
  if (request.fua && fua) message.flags = nbd::CommandFlag::kFua;
  if (HasRanges(request.operation)) {
    // A piece is cut to one range.
    WalkRanges(request, piece.begin, piece.end, RangeLimit(request.operation, limits),
               [&](const CloudblkRange& range) {
                 message.offset = range.offset;
                 message.length = static_cast<uint32_t>(range.length);
                 const bool zeroes = request.operation == Operation::kWriteZeroes;
                 if (zeroes && (range.flags & CLOUDBLK_RANGE_UNMAP) == 0) {
                   message.flags |= nbd::CommandFlag::kNoHole;
                 }
                 return true;
               });
  } else if (request.operation == Operation::kBlockStatus) [[unlikely]] {
    message.offset = request.ranges.front().offset;
    message.length = NbdExtents::AskedBy(piece);
  } else if (request.operation != Operation::kFlush) {
    message.offset = request.offset + piece.begin;
    message.length = static_cast<uint32_t>(piece.length());
  }
  return message;
}

}  // namespace

void NbdCodec::Begin(const OpenParams& params, Outbox*) {
  known_ = params.known;
  negotiation_.Begin(params.volume_name, params.tls);
}

// Headers that follow each other go out as one element.
size_t NbdCodec::Append(std::span<Piece*> pieces, Outbox* outbox) {
  uint8_t* header = outbox->Reserve(pieces.size() * nbd::kRequestSize);
  uint8_t* first = header;
  const auto append_headers = [&] {
    if (header != first) outbox->Append(first, static_cast<size_t>(header - first));
    first = header;
  };
  const uint64_t before = outbox->appended();
  uint64_t end = before;
  for (Piece* piece : pieces) {
    nbd::Encode(RequestOf(*piece, limits_, fua_), header);
    header += nbd::kRequestSize;
    end += nbd::kRequestSize;
    if (piece->request->operation == Operation::kWrite) {
      append_headers();
      outbox->Append(SgCursor(piece->request->iov, piece->begin), piece->length());
      end += piece->length();
    } else if (piece->request->operation == Operation::kBlockStatus) [[unlikely]] {
      // Its answer comes in one part.
      piece->coverage.Reset(NbdExtents::AskedBy(*piece));
    }
    piece->stream_end = end;
  }
  append_headers();
  assert(end == outbox->appended());
  ++stats_->frames_sent;
  return pieces.size();
}

bool NbdCodec::Receive(Transport* transport, RequestQueue* queue, Outbox* outbox,
                       std::vector<Fact>* facts) {
  transport_ = transport;
  outbox_ = outbox;
  facts_ = facts;
  return receiver_.Run(transport, queue, *outbox);
}

bool NbdCodec::Send(const Command& command, Outbox* outbox) {
  outbox_ = outbox;
  if (command.kind == Command::Kind::kClose || command.kind == Command::Kind::kRelease) {
    ends_for_ = command.kind;
    // Who closes has flushed what it wanted flushed.
    if (command.kind == Command::Kind::kRelease && has(nbd::ExportFlag::kFlush)) {
      receiver_.ExpectOwn();
      SendRequest({.command = nbd::Command::kFlush, .cookie = NbdReceiver::kOwnCookie});
    } else {
      SendDisconnect();
    }
    return true;
  }
  if (command.kind != Command::Kind::kExamine) return false;
  Examine(command.block);
  return true;
}

void NbdCodec::Examine(const KnownBlock& block) {
  examined_ = block;
  content_.resize(block.length);
  examination_.operation = Operation::kRead;
  examination_.offset = block.offset;
  examination_.length = block.length;
  examination_.iov = {{content_.data(), content_.size()}};
  examination_piece_.request = &examination_;
  examination_piece_.end = block.length;
  examination_piece_.tag = NbdReceiver::kOwnReadCookie;
  examination_piece_.state = Piece::State::kSent;
  examination_piece_.error = 0;
  examination_piece_.coverage.Reset(block.length);
  SendRequest(RequestOf(examination_piece_, limits_, fua_));
  examination_piece_.stream_end = outbox_->appended();
  receiver_.ExpectRead(&examination_piece_);
}

bool NbdCodec::OnOwnRead(int error) {
  examined_.digest = error == 0 ? Witness::DigestOf(content_) : Witness::kNoDigest;
  if (!known_.has_value()) {
    facts_->push_back({.kind = Fact::Kind::kAnswered,
                       .command = Command::Kind::kExamine,
                       .error = error,
                       .block = examined_});
    return true;
  }
  const KnownBlock known = *std::exchange(known_, std::nullopt);
  // What cannot be read tells nothing.
  if (error == 0 && examined_.digest != known.digest) {
    return Fail({.error = ESTALE,
                 .text = "the export does not hold what was flushed to it: " +
                         std::to_string(known.length) + " bytes at offset " +
                         std::to_string(known.offset) +
                         " differ from what was flushed. Its server keeps nothing when it stops, "
                         "or the data is another disk's: bring the data back",
                 .refusal = Refusal::kOtherVolume});
  }
  return Opened();
}

void NbdCodec::SendRequest(const nbd::Request& request) {
  uint8_t* const out = outbox_->Reserve(nbd::kRequestSize);
  nbd::Encode(request, out);
  outbox_->Append(out, nbd::kRequestSize);
}

void NbdCodec::SendDisconnect() {
  SendRequest({.command = nbd::Command::kDisconnect});
  disconnecting_ = true;
}

bool NbdCodec::OnOwn(int error) {
  if (error != 0) {
    facts_->push_back({.kind = Fact::Kind::kAnswered,
                       .command = Command::Kind::kRelease,
                       .error = error,
                       .text = "it cannot flush"});
    return true;
  }
  SendDisconnect();
  return true;
}

bool NbdCodec::OnEnd() {
  if (!disconnecting_) return false;
  disconnecting_ = false;
  facts_->push_back({.kind = Fact::Kind::kAnswered, .command = ends_for_});
  return true;
}

// Where the server knows no FUA, a write that is to be durable is one when a FLUSH was answered
// that was sent after it was done.
bool NbdCodec::OnForcedDone(Piece* piece, int error) {
  if (fua_ || !has(nbd::ExportFlag::kFlush)) return true;
  const auto synced = std::ranges::find(syncing_, piece->tag);
  if (synced != syncing_.end()) {
    syncing_.erase(synced);
    return true;
  }
  if (error != 0) return true;
  syncing_.push_back(piece->tag);
  SendRequest({.command = nbd::Command::kFlush, .cookie = piece->tag});
  piece->stream_end = outbox_->appended();
  return false;
}

size_t NbdCodec::HandshakeNeeds() const { return negotiation_.done() ? 0 : negotiation_.needed(); }

bool NbdCodec::OnHandshake(std::span<const uint8_t> message) {
  if (!negotiation_.OnMessage(message, outbox_, &failure_)) return false;
  if (negotiation_.starts_tls()) return StartTls();
  return !negotiation_.done() || OnOpened();
}

bool NbdCodec::StartTls() {
  // Somebody on the way could have put it there, for us to take it for what the server says.
  if (receiver_.has_unparsed()) return Violation("data between STARTTLS and TLS");
  const int error = transport_->StartTls();
  if (error != 0) return Fail({.error = -error, .text = "TLS is agreed on, and there is none"});
  negotiation_.OnTls(outbox_);
  return true;
}

bool NbdCodec::OnOpened() {
  const nbd::BlockSizes& sizes = negotiation_.block_sizes();
  const uint64_t size = negotiation_.export_info().size;
  const uint32_t block = std::max(sizes.minimum, kLeastBlock);
  const auto refuse = [this](int error, std::string text) {
    return Fail({.error = error, .text = std::move(text), .refusal = Refusal::kOther});
  };
  if (block > kMostBlock) {
    return refuse(ENOTSUP, "its export has blocks of " + std::to_string(block) +
                               " bytes, and a guest's disk may have 4096 at most");
  }
  if (size < block) {
    return refuse(EINVAL, "its export has " + std::to_string(size) +
                              " bytes, which is less than a block: give it a size");
  }
  if (sizes.max_payload < block) {
    return refuse(ENOTSUP, "its export takes less than a block at a time");
  }
  receiver_.set_structured(negotiation_.structured());
  receiver_.SetAllocation(negotiation_.allocation(), block);
  fua_ = has(nbd::ExportFlag::kFua);
  volume_.size = RoundDown(size, block);
  volume_.logical_block_size = block;
  volume_.physical_block_size = std::clamp(sizes.preferred, block, kMostBlock);
  if (sizes.preferred > kMostBlock) volume_.optimal_io_size = sizes.preferred;
  volume_.discard_granularity = volume_.physical_block_size;
  volume_.max_ranges = kRanges;
  volume_.read_only = has(nbd::ExportFlag::kReadOnly);
  volume_.write_cache = has(nbd::ExportFlag::kFlush);
  volume_.rotational = has(nbd::ExportFlag::kRotational);
  limits_.max_data =
      static_cast<uint32_t>(RoundDown(std::min(sizes.max_payload, kMostData), block));
  limits_.max_ranges = 1;
  limits_.max_discard_length = kMostTrim;
  // A server may hold these to what it takes of data.
  limits_.max_write_zeroes_length =
      RoundDown(std::min(sizes.max_payload, nbd::kDefaultMaxPayload), block);
  if (has(nbd::ExportFlag::kTrim)) volume_.max_discard_length = limits_.max_discard_length;
  if (has(nbd::ExportFlag::kWriteZeroes)) {
    volume_.max_write_zeroes_length = limits_.max_write_zeroes_length;
  }
  limits_.credit_requests = kCreditRequests;
  limits_.credit_bytes = kCreditBytes;
  limits_.flush = has(nbd::ExportFlag::kFlush);
  limits_.block_status = negotiation_.allocation().has_value();
  limits_.batch_pieces = kBatchPieces;
  limits_.batch_payload = UINT64_MAX;
  limits_.batch_overhead = (kCreditRequests + 3) * nbd::kRequestSize;
  limits_.piece_overhead = nbd::kRequestSize;
  capabilities_ = {.several_channels = has(nbd::ExportFlag::kMultiConn),
                   .move = true,
                   .block_status = limits_.block_status,
                   .flush = has(nbd::ExportFlag::kFlush),
                   .fences = false,
                   .generation = false};
  // Of an export that has shrunk there is more to say.
  if (known_.has_value() && known_->offset + known_->length <= volume_.size) {
    Examine(*known_);
    return true;
  }
  known_.reset();
  return Opened();
}

bool NbdCodec::Opened() {
  const uint64_t tail = negotiation_.export_info().size - volume_.size;
  facts_->push_back({.kind = Fact::Kind::kOpened,
                     .text = tail == 0 ? std::string()
                                       : "the last " + std::to_string(tail) +
                                             " bytes of the export are no whole block, and are not "
                                             "part of the disk"});
  return true;
}

}  // namespace cloudblk
