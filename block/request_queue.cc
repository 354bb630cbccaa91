// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/request_queue.h"

#include <limits.h>

#include <algorithm>
#include <cassert>
#include <cerrno>
#include <cstring>
#include <utility>

#include "base/bounce.h"
#include "block/ranges.h"
#include "block/request_check.h"

namespace cloudblk {
namespace {

// Bytes [first, second) of the volume. Precondition: the piece was cut to one range.
std::pair<uint64_t, uint64_t> ExtentOf(const Piece& piece) {
  const Request& request = *piece.request;
  if (request.operation == Operation::kBlockStatus) {
    const CloudblkRange& range = request.ranges.front();
    return {range.offset, range.offset + range.length};
  }
  uint64_t begin = request.offset + piece.begin;
  if (HasRanges(request.operation)) {
    WalkRanges(request, piece.begin, piece.end, UINT64_MAX, [&](const CloudblkRange& range) {
      begin = range.offset;
      return false;
    });
  }
  return {begin, begin + piece.length()};
}

static_assert(static_cast<int>(Operation::kRead) == CLOUDBLK_OP_READ);
static_assert(static_cast<int>(Operation::kWrite) == CLOUDBLK_OP_WRITE);
static_assert(static_cast<int>(Operation::kFlush) == CLOUDBLK_OP_FLUSH);
static_assert(static_cast<int>(Operation::kDiscard) == CLOUDBLK_OP_DISCARD);
static_assert(static_cast<int>(Operation::kWriteZeroes) == CLOUDBLK_OP_WRITE_ZEROES);
static_assert(static_cast<int>(Operation::kBlockStatus) == CLOUDBLK_OP_BLOCK_STATUS);

}  // namespace

void RequestQueue::Attach(const EventLoop* clock, CloudblkCompleteFn* complete, void* opaque) {
  clock_ = clock;
  complete_ = complete;
  opaque_ = opaque;
}

int RequestQueue::Submit(const CloudblkRequest& request) {
  uint64_t length;
  const int error = CheckRequest(*session_, request, &length);
  if (error != 0) return error;
  Request* mine = requests_.Take();
  mine->operation = static_cast<Operation>(request.operation);
  mine->fua = (request.flags & CLOUDBLK_REQUEST_FUA) != 0;
  mine->offset = request.offset;
  mine->length = length;
  mine->opaque = request.opaque;
  mine->age = age_;
  mine->own = (request.flags & CLOUDBLK_REQUEST_OWN) != 0;
  mine->since = (request.flags & CLOUDBLK_REQUEST_AGAIN) != 0 ? given_up_since_ : session_->Now();
  flushes_given_up_ = false;
  mine->iov.clear();
  mine->ranges.clear();
  if (mine->operation == Operation::kBlockStatus) [[unlikely]] {
    mine->ranges.assign(request.ranges, request.ranges + 1);
    mine->iov.assign(request.iov, request.iov + 1);
  } else if (HasRanges(mine->operation)) {
    mine->ranges.assign(request.ranges, request.ranges + request.range_count);
  } else if (length > 0) {
    mine->iov.assign(request.iov, request.iov + request.iov_count);
    std::erase_if(mine->iov, [](const iovec& element) { return element.iov_len == 0; });
  }
  in_flight_.store(in_flight() + 1, std::memory_order_relaxed);
  if (!Writes(mine->operation) || overlaps_.Admit(mine)) Enqueue(mine);
  return 0;
}

void RequestQueue::Enqueue(Request* request) {
  LinkedList<Piece>& queue = BulkWindow::IsBulk(*request) ? bulk_queue_ : queue_;
  queue.PushBack(tags_.Take(request, 0, request->length));
}

void RequestQueue::Open(const Limits& limits, uint64_t generation, bool fences) {
  assert(sent_.empty());
  fences_ = fences;
  if (!fences) session_->quarantine().NoteOpened(index_, clock_->NowNs());
  limits_ = limits;
  generation_ = generation;
  if (std::exchange(unreadable_, false)) FailUnreadable();
}

void RequestQueue::Requeue() {
  if (!fences_) NoteLostWrites();
  for (Piece* piece = sent_.front(); piece != nullptr; piece = piece->next) {
    piece->state = Piece::State::kQueued;
  }
  // All of them into one queue, small ones too, so that they keep the order of their sending.
  bulk_queue_.Prepend(&sent_);
  // If there are small requests among them, the window is to be in force when they are sent again.
  if (credits_used_ > bulk_sent_) bulk_window_.NoteSmall();
  bulk_window_.Reset();
  bulk_sent_ = 0;
  credits_used_ = 0;
  credit_bytes_used_ = 0;
  sync_failed_ = false;
}

// The server may carry them out, whatever becomes of them here.
void RequestQueue::NoteLostWrites() {
  if (std::exchange(covering_, nullptr) != nullptr) session_->witness().NoteFlushed(index_, false);
  for (Piece* piece = sent_.front(); piece != nullptr; piece = piece->next) {
    if (!Writes(piece->request->operation)) continue;
    const auto [begin, end] = ExtentOf(*piece);
    // In this order: while it is in quarantine, nothing is chosen to be known (Link::Examine).
    session_->quarantine().Add(index_, begin, end);
    session_->witness().NoteChange(begin, end);
    piece->replayed = true;
  }
}

// The FLUSH is about to be sent.
void RequestQueue::NoteFlushSent(const Piece& piece) {
  Witness& witness = session_->witness();
  if (covering_ != nullptr && witness.offers(index_)) return;
  if (witness.Offer(index_)) covering_ = &piece;
}

void RequestQueue::NoteDone(const Piece& piece, int error) {
  const Operation operation = piece.request->operation;
  if (&piece == covering_) {
    covering_ = nullptr;
    session_->witness().NoteFlushed(index_, error == 0);
  }
  if (!Writes(operation)) return;
  const auto [begin, end] = ExtentOf(piece);
  session_->witness().NoteChange(begin, end);
  if (operation == Operation::kWrite && error == 0) {
    session_->witness().NoteWritten(index_, begin, end);
  }
  if (piece.replayed) session_->quarantine().NoteAnswered(index_, begin, end);
}

void RequestQueue::NoteGivenUp(const Piece& piece) {
  if (!piece.replayed) return;
  const auto [begin, end] = ExtentOf(piece);
  session_->witness().NoteChange(begin, end);
  session_->quarantine().NoteGivenUp(index_, begin, end);
}

// `first` is to be the first part of it.
void RequestQueue::NoteSplit(const Piece& piece, Piece* first) {
  const auto [begin, end] = ExtentOf(piece);
  session_->quarantine().Split(index_, begin, begin + first->length(), end);
  first->replayed = true;
}

// Whether the piece has to wait for what a lost connection may still do. Then it is taken out of
// its queue.
bool RequestQueue::Hold(Piece* piece, LinkedList<Piece>* queue) {
  const Operation operation = piece->request->operation;
  if (operation == Operation::kFlush) return false;
  const auto [begin, end] = ExtentOf(*piece);
  if (Writes(operation)) session_->witness().NoteChange(begin, end);
  Quarantine& quarantine = session_->quarantine();
  if (!quarantine.any() || piece->replayed) return false;
  if (!quarantine.Holds(begin, end, Writes(operation), clock_->NowNs())) return false;
  queue->Remove(piece);
  held_.PushBack(piece);
  return true;
}

// Those that have to wait on come back when it is their turn.
void RequestQueue::ReleaseHeld() {
  LinkedList<Piece> bulk;
  LinkedList<Piece> small;
  while (!held_.empty()) {
    Piece* piece = held_.PopFront();
    (BulkWindow::IsBulk(*piece->request) ? bulk : small).PushBack(piece);
  }
  bulk_queue_.Prepend(&bulk);
  queue_.Prepend(&small);
}

bool RequestQueue::FindUnreadable(uint64_t sent) {
  Bounce bounce(IOV_MAX);
  std::vector<iovec> data;
  for (Piece* piece = sent_.front(); piece != nullptr; piece = piece->next) {
    Request* request = piece->request;
    if (request->operation != Operation::kWrite || piece->stream_end <= sent) continue;
    uint64_t described;
    data.resize(request->iov.size());
    data.resize(Memory(piece, 0).Describe(piece->length(), data, &described));
    if (bounce.CanFetch(data)) continue;
    request->unreadable = unreadable_ = true;
  }
  return unreadable_;
}

// What is left of these requests is in the queues, all of it.
void RequestQueue::FailUnreadable() {
  for (LinkedList<Piece>* queue : {&queue_, &bulk_queue_, &held_}) {
    Piece* next;
    for (Piece* piece = queue->front(); piece != nullptr; piece = next) {
      next = piece->next;
      if (!piece->request->unreadable) continue;
      queue->Remove(piece);
      NoteGivenUp(*piece);
      FinishPiece(piece, EFAULT);
    }
  }
}

void RequestQueue::BeginSending() {
  if (bulk_queue_.empty()) return;
  const int64_t now = clock_->NowNs();
  const bool small = !queue_.empty() || credits_used_ > bulk_sent_;
  bulk_now_ns_ = bulk_window_.Limits(now, small) ? now : 0;
}

void RequestQueue::Gather(size_t room, std::vector<Piece*>* pieces) {
  pieces->clear();
  Batch batch{.room = room, .used = limits_.batch_overhead, .payload = 0, .pieces = pieces};
  while (NextPiece(&batch)) {
  }
}

// Where the next piece is taken from. Small requests overtake bulk ones, but not for ever: one bulk
// piece is always in flight.
LinkedList<Piece>* RequestQueue::NextQueue() {
  const bool bulk = queue_.empty() || bulk_window_.in_flight() == 0;
  return bulk && !bulk_queue_.empty() ? &bulk_queue_ : &queue_;
}

bool RequestQueue::IsNotSent(const Piece& piece, int* error) {
  const Request& request = *piece.request;
  if (request.operation == Operation::kBlockStatus) {
    *error = ENOTSUP;
    return !limits_.block_status;
  }
  if (request.operation != Operation::kFlush) return false;
  if (!request.own && session_->FlushFails(request.since)) {
    loss_told_ = true;
    *error = EIO;
    return true;
  }
  // The user knows that the server promises nothing.
  *error = 0;
  return !limits_.flush;
}

// Takes the next piece into the batch, cut to what goes in one. False: there is none, or it has to
// wait: for credits, for the window, for the next batch.
bool RequestQueue::NextPiece(Batch* batch) {
  LinkedList<Piece>* const queue = NextQueue();
  if (queue->empty()) return false;
  Piece* piece = queue->front();
  Request* request = piece->request;
  const bool has_data =
      request->operation == Operation::kRead || request->operation == Operation::kWrite;
  if (int error; !has_data && IsNotSent(*piece, &error)) [[unlikely]] {
    queue->Remove(piece);
    FinishPiece(piece, error);
    return true;
  }
  const bool windowed = bulk_now_ns_ != 0 && BulkWindow::IsBulk(*request);
  uint64_t end = FittingEnd(*request, piece->begin, piece->end, limits_);
  if (windowed) end = std::min(end, piece->begin + BulkWindow::kSlice);
  if (end < piece->end) {
    Piece* first = tags_.Take(request, piece->begin, end);
    if (piece->replayed) NoteSplit(*piece, first);
    piece->begin = end;
    queue->InsertBefore(first, piece);
    piece = first;
  }
  if (!fences_ && Hold(piece, queue)) return true;
  if (credits_used_ == limits_.credit_requests ||
      credit_bytes_used_ + piece->credit_bytes() > limits_.credit_bytes ||
      (windowed && !bulk_window_.Admits(piece->length())) || !Fits(*piece, batch)) {
    return false;
  }
  queue->Remove(piece);
  SendPiece(piece);
  batch->pieces->push_back(piece);
  return true;
}

// Whether the batch has room for the piece; if so, adds what it needs.
bool RequestQueue::Fits(const Piece& piece, Batch* batch) const {
  const Operation operation = piece.request->operation;
  uint64_t payload = 0;
  uint64_t copied = 0;
  if (operation == Operation::kWrite) {
    payload = piece.length();
    copied = limits_.copies_data ? payload : 0;
  } else if (HasRanges(operation)) {
    payload = copied = uint64_t{CountRanges(piece, limits_)} * limits_.range_size;
  }
  const uint64_t used = batch->used + limits_.piece_overhead + copied;
  if (batch->pieces->size() == limits_.batch_pieces ||
      batch->payload + payload > limits_.batch_payload || used > batch->room) {
    return false;
  }
  batch->used = used;
  batch->payload += payload;
  return true;
}

void RequestQueue::SendPiece(Piece* piece) {
  // The tag is live before the server can possibly answer.
  tags_.Send(piece);
  sent_.PushBack(piece);
  ++credits_used_;
  credit_bytes_used_ += piece->credit_bytes();
  const Request& request = *piece->request;
  if (request.operation == Operation::kFlush) {
    piece->flush_mark = session_->FlushMark();
    if (!fences_) NoteFlushSent(*piece);
  }
  if (!BulkWindow::IsBulk(request)) {
    bulk_window_.NoteSmall();
    return;
  }
  piece->sent_ns = bulk_now_ns_;
  bulk_window_.Send(piece->length());
  ++bulk_sent_;
}

bool RequestQueue::StoreExtents(Piece* piece, std::span<const CloudblkExtent> extents) {
  const Request& request = *piece->request;
  uint64_t left = request.ranges.front().length;
  const uint32_t block = session_->volume().logical_block_size;
  for (const CloudblkExtent& extent : extents) {
    if (extent.length == 0 || extent.length > left || extent.length % block != 0) return false;
    left -= extent.length;
  }
  if (extents.empty() || extents.size() > piece->max_extents()) return false;
  std::memcpy(request.iov.front().iov_base, extents.data(), extents.size_bytes());
  piece->request->bytes_stored = extents.size_bytes();
  return true;
}

void RequestQueue::Answer(Piece* piece, int error) {
  Request* request = piece->request;
  if (error == 0) error = piece->error;
  ++answers_;
  sent_.Remove(piece);
  --credits_used_;
  credit_bytes_used_ -= piece->credit_bytes();
  if (BulkWindow::IsBulk(*request)) {
    --bulk_sent_;
    bulk_window_.Answer(piece->length());
    if (piece->sent_ns != 0) {
      const int64_t now = clock_->NowNs();
      bulk_window_.Adjust(piece->length(), now - piece->sent_ns, now, limits_.credit_bytes);
    }
  }
  if (!fences_) NoteDone(*piece, error);
  if (!request->answered) {
    request->answered = true;
    request->generation = generation_;
  }
  if (request->operation == Operation::kFlush && error == 0) {
    session_->NoteFlush(piece->flush_mark);
  }
  const bool syncs = request->operation == Operation::kFlush || request->fua;
  if (syncs && error == EIO) sync_failed_ = true;
  FinishPiece(piece, error);
}

void RequestQueue::FinishPiece(Piece* piece, int error) {
  Request* request = piece->request;
  if (request->result == 0) request->result = -error;
  tags_.Give(piece);
  if (request->pieces == 0) CompleteRequest(request);
}

void RequestQueue::CompleteRequest(Request* request) {
  if (Writes(request->operation)) {
    if (request->result == 0 && !request->fua && session_->write_cache()) {
      session_->NoteWrite(request->generation);
    }
    overlaps_.Complete(*request, [this](Request* next) { Enqueue(next); });
  }
  ++stats_.requests;
  if (request->result == 0) {
    if (request->operation == Operation::kRead) stats_.bytes_read += request->length;
    if (request->operation == Operation::kWrite) stats_.bytes_written += request->length;
  }
  done_.push_back({request->opaque, request->result, request->bytes_stored});
  requests_.Give(request);
}

void RequestQueue::FailAll(int error) {
  assert(sent_.empty());
  // Waiting ones first, so that the completion of others does not set them going.
  while (overlaps_.first_waiting() != nullptr) FailWaiting(error);
  queue_.Prepend(&bulk_queue_);
  queue_.Prepend(&held_);
  NoteFlushesGivenUp();
  FailPieces(&queue_, 0, error);
}

// Those of requests that are at least so old.
void RequestQueue::FailPieces(LinkedList<Piece>* pieces, uint32_t age, int error) {
  for (Piece* next = pieces->front(); next != nullptr;) {
    Piece* piece = next;
    next = piece->next;
    if (AgeOf(*piece->request) < age) continue;
    pieces->Remove(piece);
    NoteGivenUp(*piece);
    // Also where another piece has failed before: given up is what counts.
    piece->request->result = -error;
    FinishPiece(piece, error);
  }
}

// The first of those that wait for overlapping ones.
void RequestQueue::FailWaiting(int error) {
  Request* request = overlaps_.TakeWaiting();
  request->result = -error;
  // Not push_back: the compiler inlines that into CompleteRequest as long as nobody else needs it.
  done_.insert(done_.end(), {request->opaque, request->result, request->bytes_stored});
  ++stats_.requests;
  requests_.Give(request);
}

bool RequestQueue::AnyOld(const LinkedList<Piece>& pieces) const {
  for (const Piece* piece = pieces.front(); piece != nullptr; piece = piece->next) {
    if (AgeOf(*piece->request) >= kMaxAge) return true;
  }
  return false;
}

bool RequestQueue::Age() {
  ++age_;
  // One that waits for an overlapping one is younger than that.
  return AnyOld(sent_) || AnyOld(queue_) || AnyOld(bulk_queue_) || AnyOld(held_);
}

void RequestQueue::FailOld(int error) {
  assert(sent_.empty());
  // Waiting ones first, as in FailAll. They wait in the order of their submission.
  while (overlaps_.first_waiting() != nullptr && AgeOf(*overlaps_.first_waiting()) >= kMaxAge) {
    FailWaiting(error);
  }
  for (LinkedList<Piece>* pieces : {&bulk_queue_, &queue_, &held_})
    FailPieces(pieces, kMaxAge, error);
}

// Remembers since when the FLUSHes of queue_ have waited: the host may submit them again.
void RequestQueue::NoteFlushesGivenUp() {
  for (const Piece* piece = queue_.front(); piece != nullptr; piece = piece->next) {
    const Request& request = *piece->request;
    if (request.operation != Operation::kFlush || request.own) continue;
    given_up_since_ = flushes_given_up_ ? Earlier(given_up_since_, request.since) : request.since;
    flushes_given_up_ = true;
  }
}

void RequestQueue::Deliver() {
  while (!done_.empty()) {
    std::vector<CloudblkCompletion> batch = std::move(spare_);
    batch.clear();
    batch.swap(done_);
    const uint32_t count = static_cast<uint32_t>(batch.size());
    in_flight_.store(in_flight() - count, std::memory_order_relaxed);
    const bool outer = std::exchange(delivering_, true);
    if (complete_ != nullptr) complete_(opaque_, batch.data(), count);
    delivering_ = outer;
    spare_ = std::move(batch);
  }
}

void RequestQueue::FillStats(CloudblkStats* stats) const {
  stats->requests = stats_.requests;
  stats->bytes_read = stats_.bytes_read;
  stats->bytes_written = stats_.bytes_written;
}

}  // namespace cloudblk
