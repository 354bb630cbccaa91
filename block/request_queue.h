// SPDX-License-Identifier: GPL-2.0-or-later
//
// The requests of a channel, from submission to completion, across connections. Knows no protocol
// and no socket.
#ifndef CLOUDBLK_BLOCK_REQUEST_QUEUE_H_
#define CLOUDBLK_BLOCK_REQUEST_QUEUE_H_

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "base/event_loop.h"
#include "block/bulk_window.h"
#include "block/include/cloudblk.h"
#include "block/overlap.h"
#include "block/request.h"
#include "block/session_state.h"
#include "block/sg_list.h"
#include "block/tag_table.h"
#include "block/types.h"

namespace cloudblk {

// Everything is called on the channel's loop, or on the session's thread while it is detached.
class RequestQueue final {
 public:
  // `index`: the channel's.
  RequestQueue(SessionState* session, uint32_t index) : session_(session), index_(index) {}
  RequestQueue(const RequestQueue&) = delete;
  RequestQueue& operator=(const RequestQueue&) = delete;

  // --- The host's side ------------------------------------------------------------------------

  // `clock` is asked for the time only. `complete` may be null, and is kept beyond Detach: what is
  // given up then is told as well.
  void Attach(const EventLoop* clock, CloudblkCompleteFn* complete, void* opaque);
  void Detach() { clock_ = nullptr; }

  // As cloudblk_channel_submit().
  int Submit(const CloudblkRequest& request);
  // Accepted and not completed. Any thread.
  uint32_t in_flight() const { return in_flight_.load(std::memory_order_relaxed); }
  // Completed, and the host was not told.
  bool has_done() const { return !done_.empty(); }
  // The host is being told; what it submits is sent when that has returned.
  bool delivering() const { return delivering_; }
  // Tells the host, which may submit and even revoke meanwhile.
  void Deliver();

  // Completes everything with the error. Precondition: nothing is sent and unanswered.
  void FailAll(int error);
  // Time goes on: all requests in flight are a step older. True: some have reached kMaxAge steps.
  bool Age();
  // Completes these with the error. Precondition: as FailAll.
  void FailOld(int error);
  // A request that is submitted between two steps reaches it after kMaxAge steps, and not a whole
  // one more.
  static constexpr uint32_t kMaxAge = 11;
  // Whether a FLUSH that FailAll gave up would fail if it were submitted again
  // (CLOUDBLK_REQUEST_AGAIN), as writes that it has to tell of were lost. False once something else
  // was submitted.
  bool given_up_flush_fails() const {
    return flushes_given_up_ && session_->LostSince(given_up_since_);
  }
  // Sets the counters of requests and of their bytes.
  void FillStats(CloudblkStats* stats) const;

  // --- The link's side ------------------------------------------------------------------------

  // A connection is ready. `generation`: the volume's, as its server told. `fences`: nothing that
  // the one before has sent takes effect any more (Capabilities).
  void Open(const Limits& limits, uint64_t generation, bool fences);
  // Another channel was told of a newer generation, and this one's server cannot tell.
  void SetGeneration(uint64_t generation) { generation_ = generation; }
  // It is gone. What was not answered is sent over the next one, in the order of its sending and
  // ahead of all else (SPEC.md 8.14).
  void Requeue();

  // The transport says EFAULT after `sent` bytes of the outbox: looks which WRITEs that are not
  // sent whole have data in memory that cannot be read. They fail with EFAULT when the next
  // connection is open, as only then what of them was sent cannot land any more. False: there are
  // none. To be followed by Requeue.
  bool FindUnreadable(uint64_t sent);

  bool has_unsent() const { return !queue_.empty() || !bulk_queue_.empty(); }
  bool has_unanswered() const { return !sent_.empty(); }

  // Whether there are requests that wait for the session's Quarantine, which ReleaseHeld asks
  // again.
  bool has_held() const { return !held_.empty(); }
  void ReleaseHeld();

  // Before a series of Gather.
  void BeginSending();
  // Admits pieces, as many as the codec takes at a time and `room` bytes of the outbox hold: each
  // has its tag and counts as sent from here on. None: there are none, or they have to wait.
  void Gather(size_t room, std::vector<Piece*>* batch);

  // Answers so far, since the start.
  uint64_t answers() const { return answers_; }
  // Whether since the last call a FLUSH or FUA request of this connection failed at the server with
  // EIO: then all later ones fail too (SPEC.md 10.3).
  bool TakeSyncFailure() { return std::exchange(sync_failed_, false); }
  // Whether since the last call a FLUSH was failed here and not sent, as writes that it was to
  // cover may be lost.
  bool TakeLossTold() { return std::exchange(loss_told_, false); }

  // --- The codec's side: answers. --------------------------------------------------------------

  // The piece that was sent under this tag and is not answered, or null.
  Piece* Find(uint64_t tag) { return tags_.Find(tag); }
  // The whole answer is about to come: the tag is not found again.
  void BeginAnswer(Piece* piece) { piece->state = Piece::State::kAnswering; }
  // A part of a READ's answer is about to come: bytes [at, at + length) of the piece. False: they
  // do not lie within it, or were there before.
  bool Reserve(Piece* piece, uint64_t at, uint64_t length) {
    return piece->request->operation == Operation::kRead && piece->coverage.Add(at, length);
  }
  // All of the piece was reserved.
  bool Covered(const Piece* piece) const { return piece->coverage.complete(); }
  // Where byte `at` of a READ's piece belongs, and what follows it.
  SgCursor Memory(const Piece* piece, uint64_t at) const {
    return SgCursor(piece->request->iov, piece->begin + at);
  }
  // Bytes [.., end) of the piece may have been written, whatever becomes of it.
  void NoteStored(const Piece* piece, uint64_t end) {
    Request* request = piece->request;
    request->bytes_stored = std::max(request->bytes_stored, piece->begin + end);
  }
  // Keeps what a BLOCK_STATUS was answered. False: that cannot be.
  bool StoreExtents(Piece* piece, std::span<const CloudblkExtent> extents);
  // Keeps the first error (a positive errno) of an answer in parts.
  void NoteError(Piece* piece, int error) {
    if (piece->error == 0) piece->error = error;
  }
  // The piece is answered. `error`: a positive errno; 0: done, unless NoteError was called.
  void Answer(Piece* piece, int error);

 private:
  // What one Gather has taken so far, and what that needs of the outbox.
  struct Batch {
    size_t room;
    size_t used;
    uint64_t payload;
    std::vector<Piece*>* pieces;
  };

  void Enqueue(Request* request);
  LinkedList<Piece>* NextQueue();
  bool NextPiece(Batch* batch);
  // Whether the piece, which has no data, is answered without the server; and with what.
  [[gnu::noinline]] bool IsNotSent(const Piece& piece, int* error);
  bool Fits(const Piece& piece, Batch* batch) const;
  // Of servers that do not fence, nor tell of losses; not inlined into what runs for each request.
  [[gnu::noinline]] bool Hold(Piece* piece, LinkedList<Piece>* queue);
  [[gnu::noinline]] void NoteFlushSent(const Piece& piece);
  [[gnu::noinline]] void NoteDone(const Piece& piece, int error);
  [[gnu::cold]] void NoteLostWrites();
  [[gnu::cold]] void NoteGivenUp(const Piece& piece);
  [[gnu::cold]] void NoteSplit(const Piece& piece, Piece* first);
  void SendPiece(Piece* piece);
  void FinishPiece(Piece* piece, int error);
  void CompleteRequest(Request* request);
  void FailWaiting(int error);
  void FailPieces(LinkedList<Piece>* pieces, uint32_t age, int error);
  uint32_t AgeOf(const Request& request) const { return age_ - request.age; }
  bool AnyOld(const LinkedList<Piece>& pieces) const;
  void NoteFlushesGivenUp();
  void FailUnreadable();

  SessionState* const session_;
  const uint32_t index_;
  const EventLoop* clock_ = nullptr;
  CloudblkCompleteFn* complete_ = nullptr;
  void* opaque_ = nullptr;

  // The connection's.
  Limits limits_;
  uint64_t generation_ = 0;
  bool fences_ = true;

  RequestPool requests_;
  TagTable tags_;
  OverlapGuard overlaps_;
  LinkedList<Piece> queue_;        // to be sent, in order
  LinkedList<Piece> bulk_queue_;   // likewise, of bulk requests, and what is to be sent again
  LinkedList<Piece> held_;         // waits for the session's Quarantine, in order
  LinkedList<Piece> sent_;         // not answered, in the order of sending
  Since given_up_since_;           // of the flushes that were given up last, the earliest
  bool flushes_given_up_ = false;  // and nothing was submitted since
  uint32_t age_ = 0;
  BulkWindow bulk_window_;
  // Since BeginSending: the time that bulk pieces are stamped with; 0: the window is not in force.
  int64_t bulk_now_ns_ = 0;
  uint32_t bulk_sent_ = 0;  // bulk pieces among sent_
  uint32_t credits_used_ = 0;
  uint64_t credit_bytes_used_ = 0;

  uint64_t answers_ = 0;
  bool unreadable_ = false;  // FindUnreadable found some
  bool sync_failed_ = false;
  bool loss_told_ = false;
  const Piece* covering_ = nullptr;  // the FLUSH that covers what the session's Witness is offered
  std::vector<CloudblkCompletion> done_;
  std::vector<CloudblkCompletion> spare_;
  bool delivering_ = false;
  CloudblkStats stats_{};

  // Written by the loop's thread, read by any.
  std::atomic<uint32_t> in_flight_{0};
};

}  // namespace cloudblk

#endif  // CLOUDBLK_BLOCK_REQUEST_QUEUE_H_
