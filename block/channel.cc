// SPDX-License-Identifier: GPL-2.0-or-later
//
// The requests of a channel: checked, queued, cut into pieces, sent in frames, completed.
#include "block/channel.h"

#include <limits.h>

#include <algorithm>
#include <cassert>
#include <cerrno>

#include "block/sg_list.h"
#include "proxy-protocol/wire_errno.h"

namespace cloudblk {
namespace {

static_assert(static_cast<int>(wire::Operation::kRead) == CLOUDBLK_OP_READ);
static_assert(static_cast<int>(wire::Operation::kWrite) == CLOUDBLK_OP_WRITE);
static_assert(static_cast<int>(wire::Operation::kFlush) == CLOUDBLK_OP_FLUSH);
static_assert(static_cast<int>(wire::Operation::kDiscard) == CLOUDBLK_OP_DISCARD);
static_assert(static_cast<int>(wire::Operation::kWriteZeroes) == CLOUDBLK_OP_WRITE_ZEROES);

// How often a channel looks whether another one has settled what it gave up.
constexpr int64_t kSettledPoll = 1'000'000;  // ns

wire::Operation OperationOf(const CloudblkRequest& request) {
  return static_cast<wire::Operation>(request.operation);
}

}  // namespace

Channel::Channel(SessionState* session, uint32_t index, Connector* connector)
    : session_(session),
      index_(index),
      connector_(connector),
      jitter_(static_cast<std::minstd_rand::result_type>(session->config().jitter_seed + index)) {}

Channel::~Channel() { assert(!attached() && in_flight() == 0); }

bool Channel::Aligned(uint64_t offset, uint64_t length) const {
  return ((offset | length) & (session_->volume().logical_block_size - 1)) == 0;
}

int Channel::CheckData(const CloudblkRequest& request, uint64_t* length) const {
  uint64_t total = 0;
  for (uint32_t i = 0; i < request.iov_count; ++i) {
    if (request.iov[i].iov_len > uint64_t{INT64_MAX} - total) return -EINVAL;
    total += request.iov[i].iov_len;
  }
  const uint64_t size = session_->size();
  if (total == 0 || !Aligned(request.offset, total) || request.offset > size ||
      total > size - request.offset) {
    return -EINVAL;
  }
  *length = total;
  return 0;
}

int Channel::CheckRanges(const CloudblkRequest& request, uint64_t* length) const {
  const bool discard = request.operation == CLOUDBLK_OP_DISCARD;
  const wire::OpenReply& volume = session_->volume();
  const bool supported =
      discard ? session_->Has(wire::VolumeFlag::kDiscard) && volume.max_discard_length > 0
              : session_->Has(wire::VolumeFlag::kWriteZeroes) && volume.max_write_zeroes_length > 0;
  if (!supported) return -ENOTSUP;
  const uint64_t size = session_->size();
  uint64_t total = 0;
  for (uint32_t i = 0; i < request.range_count; ++i) {
    const CloudblkRange& range = request.ranges[i];
    const uint32_t allowed = discard ? 0 : CLOUDBLK_RANGE_UNMAP;
    if (range.length == 0 || !Aligned(range.offset, range.length) || range.offset > size ||
        range.length > size - range.offset || (range.flags & ~allowed) != 0) {
      return -EINVAL;
    }
    if (range.length > uint64_t{INT64_MAX} - total) return -EINVAL;
    total += range.length;
  }
  *length = total;
  return total == 0 ? -EINVAL : 0;
}

int Channel::Check(const CloudblkRequest& request, uint64_t* length) const {
  *length = 0;
  if (session_->revoked()) return -EIO;
  if (!attached() || state_ == State::kIdle || state_ == State::kClosing) return -EINVAL;
  if (session_->observe()) return -ENOTSUP;
  const bool may_fua =
      request.operation == CLOUDBLK_OP_WRITE || request.operation == CLOUDBLK_OP_WRITE_ZEROES;
  const uint32_t allowed =
      CLOUDBLK_REQUEST_MORE | (may_fua ? CLOUDBLK_REQUEST_FUA : 0u) |
      (request.operation == CLOUDBLK_OP_FLUSH ? CLOUDBLK_REQUEST_OWN | CLOUDBLK_REQUEST_AGAIN : 0u);
  if ((request.flags & ~allowed) != 0) return -EINVAL;
  switch (request.operation) {
    case CLOUDBLK_OP_READ:
      return CheckData(request, length);
    case CLOUDBLK_OP_FLUSH:
      return 0;
    case CLOUDBLK_OP_WRITE:
      return session_->read_only() ? -EROFS : CheckData(request, length);
    case CLOUDBLK_OP_DISCARD:
    case CLOUDBLK_OP_WRITE_ZEROES:
      return session_->read_only() ? -EROFS : CheckRanges(request, length);
  }
  return -EINVAL;
}

int Channel::Submit(const CloudblkRequest& request) {
  uint64_t length;
  const int error = Check(request, &length);
  if (error != 0) return error;
  Request* mine = requests_.Take();
  mine->operation = OperationOf(request);
  mine->fua = (request.flags & CLOUDBLK_REQUEST_FUA) != 0;
  mine->offset = request.offset;
  mine->length = length;
  mine->opaque = request.opaque;
  mine->own = (request.flags & CLOUDBLK_REQUEST_OWN) != 0;
  mine->since = (request.flags & CLOUDBLK_REQUEST_AGAIN) != 0 ? given_up_since_ : session_->Now();
  flushes_given_up_ = false;
  mine->iov.clear();
  mine->ranges.clear();
  if (HasRanges(mine->operation)) {
    mine->ranges.assign(request.ranges, request.ranges + request.range_count);
  } else if (length > 0) {
    mine->iov.assign(request.iov, request.iov + request.iov_count);
    std::erase_if(mine->iov, [](const iovec& element) { return element.iov_len == 0; });
  }
  in_flight_.store(in_flight() + 1, std::memory_order_relaxed);
  if (!Writes(mine->operation) || overlaps_.Admit(mine)) Enqueue(mine);
  if (!completing_ && (request.flags & CLOUDBLK_REQUEST_MORE) == 0) ScheduleTurn();
  return 0;
}

void Channel::Enqueue(Request* request) {
  LinkedList<Piece>& queue = BulkWindow::IsBulk(*request) ? bulk_queue_ : queue_;
  queue.PushBack(tags_.Take(request, 0, request->length));
}

void Channel::Kick() { Pump(); }

void Channel::Pump() {
  if (!attached() || state_ != State::kReady) return;
  // A frame that waits for the transport goes first; until then nothing more is built.
  while (!send_blocked_ && Send() && BuildFrames()) {
  }
  if (!done_.empty()) ScheduleTurn();
  UpdateWatch();
}

// Fills the outbox with frames. False: there is nothing to send.
bool Channel::BuildFrames() {
  if (!session_->settled()) {
    // Nobody can tell this loop when another one's channel has reopened, so look again soon.
    if (!queue_.empty() || !bulk_queue_.empty()) {
      timer_armed_ = true;
      timer_->Arm(host_.loop->NowNs() + kSettledPoll);
    }
    return !outbox_.empty();
  }
  if (!bulk_queue_.empty()) {
    const int64_t now = host_.loop->NowNs();
    const bool small = !queue_.empty() || credits_used_ > bulk_sent_;
    bulk_now_ns_ = bulk_window_.Limits(now, small) ? now : 0;
  }
  while (outbox_.elements() < IOV_MAX && BuildFrame()) {
  }
  return !outbox_.empty();
}

bool Channel::BuildFrame() {
  const bool idle = sent_.empty();
  RequestFrame frame(limits_, &outbox_, &frame_pieces_);
  while (NextPiece(&frame)) {
  }
  if (frame.empty()) return false;
  frame.Seal();
  ++stats_.frames_sent;
  if (idle) NoteWaiting();
  return true;
}

// Where the next piece is taken from. Small requests overtake bulk ones, but not for ever: one bulk
// piece is always in flight.
LinkedList<Piece>* Channel::NextQueue() {
  const bool bulk = queue_.empty() || bulk_window_.in_flight() == 0;
  return bulk && !bulk_queue_.empty() ? &bulk_queue_ : &queue_;
}

// Takes the next piece into the frame, cut to what goes in one. False: there is none, or it has to
// wait, for credits, for the window or for the next frame.
bool Channel::NextPiece(RequestFrame* frame) {
  LinkedList<Piece>* const queue = NextQueue();
  if (queue->empty()) return false;
  Piece* piece = queue->front();
  Request* request = piece->request;
  if (request->operation == wire::Operation::kFlush && !request->own &&
      session_->FlushFails(request->since)) {
    Log(CLOUDBLK_LOG_ERROR,
        "the server lost writes that were not flushed; this flush fails to say so");
    queue->Remove(piece);
    FinishPiece(piece, EIO);
    return true;
  }
  const bool windowed = bulk_now_ns_ != 0 && BulkWindow::IsBulk(*request);
  uint64_t end = FittingEnd(*request, piece->begin, piece->end, limits_);
  if (windowed) end = std::min(end, piece->begin + BulkWindow::kSlice);
  if (end < piece->end) {
    Piece* first = tags_.Take(request, piece->begin, end);
    piece->begin = end;
    queue->InsertBefore(first, piece);
    piece = first;
  }
  if (credits_used_ == limits_.credit_requests ||
      credit_bytes_used_ + piece->credit_bytes() > limits_.credit_bytes || !frame->Fits(*piece) ||
      (windowed && !bulk_window_.Admits(piece->length()))) {
    return false;
  }
  queue->Remove(piece);
  SendPiece(piece);
  frame->Add(piece);
  return true;
}

void Channel::SendPiece(Piece* piece) {
  // The tag is live before the server can possibly answer.
  tags_.Send(piece);
  sent_.PushBack(piece);
  ++credits_used_;
  credit_bytes_used_ += piece->credit_bytes();
  const Request& request = *piece->request;
  if (request.operation == wire::Operation::kFlush) piece->flush_mark = session_->FlushMark();
  if (!BulkWindow::IsBulk(request)) {
    bulk_window_.NoteSmall();
    return;
  }
  piece->sent_ns = bulk_now_ns_;
  bulk_window_.Send(piece->length());
  ++bulk_sent_;
}

bool Channel::AcceptsReplies() const {
  return state_ == State::kReady || state_ == State::kClosing;
}

Piece* Channel::CheckReply(const wire::Reply& reply, const char** why) {
  Piece* piece = tags_.Find(reply.tag);
  if (piece == nullptr) {
    *why = "a tag that no request waits under";
    return nullptr;
  }
  if (piece->stream_end > outbox_.sent()) {
    *why = "an answer to what was not sent yet";
    return nullptr;
  }
  const bool reads = piece->request->operation == wire::Operation::kRead;
  const bool hole = (reply.flags & wire::ReplyFlag::kHole) != 0;
  if (hole && (!reads || !limits_.hole_reply)) {
    *why = "HOLE where it may not be";
    return nullptr;
  }
  const bool has_data = reads && !hole && reply.status == wire::StatusCode::kOk;
  if (reply.length != (has_data ? piece->length() : 0)) {
    *why = "a length that is not the request's";
    return nullptr;
  }
  piece->state = Piece::State::kAnswering;
  return piece;
}

void Channel::OnReply(Piece* piece, const wire::Reply& reply) {
  Request* request = piece->request;
  sent_.Remove(piece);
  --credits_used_;
  credit_bytes_used_ -= piece->credit_bytes();
  if (BulkWindow::IsBulk(*request)) {
    --bulk_sent_;
    bulk_window_.Answer(piece->length());
    if (piece->sent_ns != 0) {
      const int64_t now = host_.loop->NowNs();
      bulk_window_.Adjust(piece->length(), now - piece->sent_ns, now, limits_.credit_bytes);
    }
  }
  if ((reply.flags & wire::ReplyFlag::kHole) != 0) {
    SgCursor(request->iov, piece->begin).Zero(piece->length());
    request->bytes_stored = std::max(request->bytes_stored, piece->end);
  }
  if (!request->answered) {
    request->answered = true;
    request->generation = generation_;
  }
  if (request->operation == wire::Operation::kFlush && reply.status == wire::StatusCode::kOk) {
    session_->NoteFlush(piece->flush_mark);
  }
  const bool syncs = request->operation == wire::Operation::kFlush || request->fua;
  if (syncs && reply.status == wire::StatusCode::kIoError) {
    // All others on this connection would fail too (SPEC.md 10.3).
    Reopen("the storage failed to flush");
  }
  attempts_ = 0;
  FinishPiece(piece, wire::ErrnoOf(reply.status));
}

// Once for each generation: where that stays, connecting anew does not help.
void Channel::Reopen(const char* why) {
  if (reopened_for_ == generation_) return;
  reopened_for_ = generation_;
  reopen_ = why;
}

void Channel::FinishPiece(Piece* piece, int error) {
  Request* request = piece->request;
  if (request->result == 0) request->result = -error;
  tags_.Give(piece);
  if (request->pieces == 0) CompleteRequest(request);
}

void Channel::CompleteRequest(Request* request) {
  if (Writes(request->operation)) {
    if (request->result == 0 && !request->fua && session_->write_cache()) {
      session_->NoteWrite(request->generation);
    }
    overlaps_.Complete(*request, [this](Request* next) { Enqueue(next); });
  }
  ++stats_.requests;
  if (request->result == 0) {
    if (request->operation == wire::Operation::kRead) stats_.bytes_read += request->length;
    if (request->operation == wire::Operation::kWrite) stats_.bytes_written += request->length;
  }
  done_.push_back({request->opaque, request->result, request->bytes_stored});
  requests_.Give(request);
}

// Completes everything in flight with the error. Precondition: nothing is sent and unanswered.
void Channel::FailAll(int error) {
  // Waiting ones first, so that the completion of others does not set them going.
  while (Request* request = overlaps_.TakeWaiting()) {
    request->result = -error;
    done_.push_back({request->opaque, request->result, request->bytes_stored});
    ++stats_.requests;
    requests_.Give(request);
  }
  queue_.Prepend(&bulk_queue_);
  NoteFlushesGivenUp();
  while (!queue_.empty()) {
    Piece* piece = queue_.PopFront();
    // Also where another piece has failed before: given up is what counts.
    piece->request->result = -error;
    FinishPiece(piece, error);
  }
  assert(sent_.empty());
}

// The host may submit them again.
void Channel::NoteFlushesGivenUp() {
  for (const Piece* piece = queue_.front(); piece != nullptr; piece = piece->next) {
    const Request& request = *piece->request;
    if (request.operation != wire::Operation::kFlush || request.own) continue;
    given_up_since_ = flushes_given_up_ ? Earlier(given_up_since_, request.since) : request.since;
    flushes_given_up_ = true;
  }
}

void Channel::Revoke() {
  const bool exposed = !sent_.empty();
  // Without a connection, an earlier one may have sent them.
  const bool may_be_exposed =
      in_flight() > 0 && state_ != State::kReady && state_ != State::kFailed;
  if (!unsettled_ && (exposed || may_be_exposed)) {
    unsettled_ = true;
    session_->NoteGivenUp();
  }
  if (exposed) {
    // What the server still works on is fenced by the next OPEN's incarnation (SPEC.md 8.15).
    Cut({ECANCELED, "requests were given up", false, 0, false});
  }
  FailAll(ECANCELED);
  Deliver();
}

void Channel::Settle() {
  if (unsettled_) session_->NoteSettled();
  unsettled_ = false;
}

void Channel::ScheduleTurn() {
  if (turn_ != nullptr || !attached()) return;
  turn_ = std::make_shared<Turn>(Turn{this});
  host_.loop->Defer([turn = turn_] {
    if (turn->channel != nullptr) turn->channel->RunTurn();
  });
}

void Channel::RunTurn() {
  turn_.reset();
  if (transport_ != nullptr && (polled_ || transport_->has_pending())) Receive();
  Deliver();
  UpdateWatch();
}

// Tells the host what has happened, and sends what it submits meanwhile. Anything may have changed
// when it returns.
void Channel::Deliver() {
  while (!events_.empty()) {
    const std::vector<PendingEvent> events = std::move(events_);
    events_.clear();
    const SessionConfig& config = session_->config();
    for (const PendingEvent& event : events) {
      if (config.event != nullptr) {
        config.event(config.event_opaque, event.kind, event.value, event.text.c_str());
      }
    }
  }
  while (!done_.empty()) {
    // The host may submit, and even revoke, from inside its callback.
    std::vector<CloudblkCompletion> batch = std::move(spare_);
    batch.clear();
    batch.swap(done_);
    const uint32_t count = static_cast<uint32_t>(batch.size());
    in_flight_.store(in_flight() - count, std::memory_order_relaxed);
    const bool outer = std::exchange(completing_, true);
    if (host_.complete != nullptr) host_.complete(host_.opaque, batch.data(), count);
    completing_ = outer;
    spare_ = std::move(batch);
  }
  Pump();
}

void Channel::FillStats(CloudblkStats* stats) const {
  CloudblkStats now = stats_;
  now.frames_received = receiver_.frames();
  now.receive_calls = receiver_.calls();
  now.size = stats->size;
  *stats = now;
}

}  // namespace cloudblk
