// SPDX-License-Identifier: GPL-2.0-or-later
//
// The receiving half of NBD: bytes into answers, whose data goes to where it belongs.
#ifndef CLOUDBLK_BLOCK_NBD_RECEIVER_H_
#define CLOUDBLK_BLOCK_NBD_RECEIVER_H_

#include <sys/uio.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/bounce.h"
#include "base/transport.h"
#include "block/copy_batch.h"
#include "block/nbd_extents.h"
#include "block/outbox.h"
#include "block/request_queue.h"
#include "block/sg_list.h"
#include "block/types.h"
#include "proxy-protocol/nbd/nbd.h"

namespace cloudblk {

struct CodecStats;

// Who has the rest of the protocol.
class NbdSink {
 public:
  // Bytes of the next message of the handshake; 0: it is over.
  virtual size_t HandshakeNeeds() const = 0;
  virtual bool OnHandshake(std::span<const uint8_t> message) = 0;
  // The answer to what ExpectOwn has announced, and to what ExpectRead has; 0 or an errno.
  virtual bool OnOwn(int error) = 0;
  virtual bool OnOwnRead(int error) = 0;
  // The server has answered a request that is to be durable. False: there is more to be done, under
  // the same cookie.
  virtual bool OnForcedDone(Piece* piece, int error) = 0;
  // The server has closed the connection. True: it was to.
  virtual bool OnEnd() = 0;

 protected:
  ~NbdSink() = default;
};

// Replies come one for each request, and in any order: where a payload belongs is known once its
// header was read. Small ones are staged and copied, together with whatever came with them; of a
// large one what is not here yet is read straight into the request's memory.
class NbdReceiver {
 public:
  // What ends the connection is written to *failure.
  NbdReceiver(NbdSink* sink, CodecStats* stats, Failure* failure);

  // No piece of the queue has them (TagTable).
  static constexpr uint64_t kOwnCookie = UINT64_MAX;
  static constexpr uint64_t kOwnReadCookie = UINT64_MAX - 1;

  // Bytes have come beyond the message that is being handled.
  bool has_unparsed() const { return available() != 0; }
  void set_structured(bool structured) { structured_ = structured; }
  // By which context, if any, the server tells where there is data, and the volume's block size.
  void SetAllocation(std::optional<uint32_t> context, uint32_t block_size) {
    allocation_ = context;
    block_size_ = block_size;
  }
  // A request of the sink's own is sent under kOwnCookie.
  void ExpectOwn() { expects_own_ = true; }
  // A READ of the sink's own, which the queue does not know, is sent under kOwnReadCookie.
  void ExpectRead(Piece* piece) { own_read_ = piece; }

  // One pass, as Codec::Receive.
  bool Run(Transport* transport, RequestQueue* queue, const Outbox& outbox);

 private:
  enum class Phase {
    kHeader,
    kChunkHead,  // what stands before the data of a chunk, or is all of it
    kData,       // of a READ
    kExtents,    // of a BLOCK_STATUS
  };

  size_t available() const { return tail_ - head_; }
  const uint8_t* staged() const { return staging_->data() + head_; }
  bool Fail(int error, std::string text);
  bool Violation(std::string text) { return Fail(EPROTO, "bad reply: " + std::move(text)); }

  bool IsOwn(uint64_t cookie) const { return expects_own_ && cookie == kOwnCookie; }
  bool OnOwn(int error);
  bool is_done() const { return (chunk_.flags & nbd::ChunkFlag::kDone) != 0; }
  // Bytes of the payload that stand before data.
  size_t chunk_head() const;

  void DescribeStaging(bool header_only);
  // Uses what is staged, as far as it goes. False, here and below: the connection is over.
  bool Parse(RequestQueue* queue, const Outbox& outbox);
  // Each does nothing while bytes are missing.
  bool ParseHandshake();
  bool ParseHeader(RequestQueue* queue, const Outbox& outbox);
  bool ParseSimple(RequestQueue* queue, const Outbox& outbox);
  bool ParseChunk(RequestQueue* queue, const Outbox& outbox);
  bool ParseChunkHead(RequestQueue* queue);
  // Of a BLOCK_STATUS: what it begins with, and its descriptors.
  [[gnu::cold]] bool StartExtents(const uint8_t* head);
  [[gnu::cold]] bool ParseExtents(RequestQueue* queue);
  bool OnErrorChunk(const uint8_t* head, RequestQueue* queue);
  bool OnDone(RequestQueue* queue);
  // Null: a violation.
  Piece* FindSent(uint64_t cookie, RequestQueue* queue, const Outbox& outbox);
  // The next `length` bytes are data of the piece, from byte `at` on.
  void StartData(Piece* piece, uint64_t at, uint64_t length, RequestQueue* queue);
  bool StoreStaged(RequestQueue* queue);
  bool StoreDirect(uint64_t bytes, RequestQueue* queue);
  bool Stored(uint64_t bytes, RequestQueue* queue);
  bool FinishPiece(Piece* piece, int error, RequestQueue* queue);
  bool Answer(Piece* piece, int error, RequestQueue* queue);
  bool FinishCopies(RequestQueue* queue);

  NbdSink* const sink_;
  CodecStats* const stats_;
  Failure* const failure_;
  bool structured_ = false;
  bool handshake_ = true;
  bool expects_own_ = false;
  Piece* own_read_ = nullptr;

  // Bytes received and not used: [head_, tail_) of staging_.
  std::unique_ptr<Bounce> staging_;
  size_t head_ = 0;
  size_t tail_ = 0;

  Phase phase_ = Phase::kHeader;
  bool is_simple_ = false;  // the reply under way, and whose it is
  bool is_own_ = false;
  int own_error_ = 0;
  nbd::Chunk chunk_;
  Piece* piece_ = nullptr;  // whose reply it is
  SgCursor cursor_;         // kData: where the next byte belongs
  uint64_t at_ = 0;         // and which of the piece's it is
  uint64_t left_ = 0;       // and how many are still to come; kExtents: likewise
  bool faulted_ = false;    // its memory cannot be touched: the rest is staged
  bool was_large_ = false;  // the last payload: the next one will be too

  std::optional<uint32_t> allocation_;
  uint32_t block_size_ = 0;  // bytes
  NbdExtents extents_;       // kExtents

  // What goes to requests' memory at the end of Parse, and the pieces that are answered then, with
  // their errors.
  CopyBatch copies_;
  std::vector<std::pair<Piece*, int>> answered_;
  std::vector<iovec> iov_;
};

}  // namespace cloudblk

#endif  // CLOUDBLK_BLOCK_NBD_RECEIVER_H_
