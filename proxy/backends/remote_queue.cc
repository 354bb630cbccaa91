// SPDX-License-Identifier: GPL-2.0-or-later
#include "proxy/backends/remote_queue.h"

#include <spdlog/spdlog.h>

#include <cerrno>
#include <cstring>
#include <memory>
#include <utility>

#include "proxy/backends/remote.h"
#include "proxy/backends/sync_queue.h"
#include "proxy/extent_writer.h"

namespace cloudblk::proxy {
namespace {

constexpr int kUnderWay = 1;  // no errno, and not 0

void Log(CloudblkLogLevel level, const char* message) {
  switch (level) {
    case CLOUDBLK_LOG_DEBUG:
      return spdlog::debug("storage {}", message);
    case CLOUDBLK_LOG_INFO:
      return spdlog::info("storage {}", message);
    case CLOUDBLK_LOG_WARNING:
      return spdlog::warn("storage {}", message);
    case CLOUDBLK_LOG_ERROR:
      return spdlog::error("storage {}", message);
  }
}

// Nobody misses the volume while only the observer is without its server.
void LogOfObserver(CloudblkLogLevel level, const char* message) {
  Log(level == CLOUDBLK_LOG_ERROR ? level : CLOUDBLK_LOG_DEBUG, message);
}

// As Channel::Submit.
int SubmitBlockStatus(Channel* channel, IoOp* op, uint32_t flags) {
  const CloudblkRange range{op->offset, op->extent, 0};
  const iovec room{op->buffer.data, op->max_extents * sizeof(Extent)};
  CloudblkRequest request{};
  request.operation = CLOUDBLK_OP_BLOCK_STATUS;
  request.flags = flags;
  request.ranges = &range;
  request.range_count = 1;
  request.iov = &room;
  request.iov_count = 1;
  request.opaque = op;
  return channel->Submit(request);
}

// Turns the `bytes` of the engine's extents in the operation's buffer into ours, in place.
void TakeExtents(IoOp* op, uint64_t bytes) {
  static_assert(sizeof(Extent) == sizeof(CloudblkExtent));
  // The server that is connected now cannot tell.
  if (op->result == -ENOTSUP) return AnswerAllData(op);
  if (op->result != 0) return;
  op->extents = static_cast<uint32_t>(bytes / sizeof(Extent));
  for (uint32_t i = 0; i < op->extents; ++i) {
    uint8_t* const at = op->buffer.data + i * sizeof(Extent);
    CloudblkExtent extent;
    std::memcpy(&extent, at, sizeof(extent));
    std::construct_at(reinterpret_cast<Extent*>(at),
                      Extent{extent.length, (extent.flags & CLOUDBLK_EXTENT_HOLE) != 0,
                             (extent.flags & CLOUDBLK_EXTENT_ZERO) != 0});
  }
}

}  // namespace

RemoteQueue::~RemoteQueue() {
  Leave();
  if (observer_ != nullptr) {
    if (observer_->in_flight() != 0) observer_->Revoke();
    observer_->Detach();
  }
  remote_->Forget(this);
}

void RemoteQueue::Observe(Channel* channel) {
  observer_ = channel;
  channel->Attach({&context_->loop(), OnLooked, this, LogOfObserver});
}

void RemoteQueue::Serve(const SessionState* state, Channel* channel) {
  state_ = state;
  channel_ = channel;
  channel->Attach({&context_->loop(), OnComplete, this, Log});
  IoOp* done = nullptr;
  for (IoOp* op : std::exchange(waiting_, {})) {
    if (Start(op)) op->next = std::exchange(done, op);
  }
  PostDone(done);
  channel->Kick();
}

void RemoteQueue::Leave() {
  if (channel_ == nullptr) return;
  // Nobody has any, but for a sync that the end of the loop cuts short.
  if (channel_->in_flight() != 0) channel_->Revoke();
  channel_->Detach();
  channel_ = nullptr;
  state_ = nullptr;
  remote_->NoteLeft(this);
}

void RemoteQueue::PostServe(const SessionState* state, Channel* channel) {
  context_->loop().Post([this, state, channel] { Serve(state, channel); });
}

void RemoteQueue::PostLeave() {
  context_->loop().Post([this] { Leave(); });
}

void RemoteQueue::PostSubmit(IoOp* op) {
  context_->loop().Post([this, op] {
    if (Submit(op)) op->sink->OnIoDone(op);
    Kick();
  });
}

bool RemoteQueue::Submit(IoOp* op) {
  op->context = context_;
  if (!Prepare(op)) return true;
  if (carrier_ == this) return Start(op);
  op->next = std::exchange(forwarded_, op);
  return false;
}

void RemoteQueue::Kick() {
  if (channel_ != nullptr) channel_->Kick();
  if (forwarded_ == nullptr) return;
  // In the order in which they came.
  IoOp* first = nullptr;
  for (IoOp* op = std::exchange(forwarded_, nullptr); op != nullptr;) {
    IoOp* next = std::exchange(op->next, first);
    first = std::exchange(op, next);
  }
  carrier_->context_->loop().Post([carrier = carrier_, first] {
    IoOp* done = nullptr;
    for (IoOp* op = first; op != nullptr;) {
      IoOp* next = op->next;
      if (carrier->Start(op)) op->next = std::exchange(done, op);
      op = next;
    }
    PostDone(done);
    carrier->Kick();
  });
}

// On the loop that the operation came by, whose buffers it uses.
bool RemoteQueue::Prepare(IoOp* op) {
  op->result = 0;
  if ((op->kind == Operation::kFlush || op->fua) && op->generation != remote_->generation()) {
    op->result = -EIO;
    return false;
  }
  if (op->kind == Operation::kBlockStatus) {
    op->extents = 0;
    return true;
  }
  if (op->kind != Operation::kRead) return true;
  op->buffer = context_->buffers().Get(op->length);
  if (op->buffer.data != nullptr) return true;
  op->result = -ENOMEM;
  return false;
}

bool RemoteQueue::Start(IoOp* op) {
  if (channel_ == nullptr) {
    // Who only observes may ask.
    if (op->kind == Operation::kBlockStatus && !remote_->WillServe(this)) return Look(op);
    waiting_.push_back(op);
    return false;
  }
  const int result = SubmitRequest(op);
  if (result == kUnderWay) return false;
  op->result = result;
  return true;
}

bool RemoteQueue::Look(IoOp* op) {
  if (observing_ == this) return LookHere(op);
  observing_->context_->loop().Post([queue = observing_, op] {
    op->next = nullptr;
    if (queue->LookHere(op)) PostDone(op);
  });
  return false;
}

bool RemoteQueue::LookHere(IoOp* op) {
  // Refused where there is nothing to observe (NBD): nobody is connected then.
  if (observer_ != nullptr && SubmitBlockStatus(observer_, op, 0) == 0) return false;
  AnswerAllData(op);
  return true;
}

int RemoteQueue::SubmitRequest(IoOp* op) {
  const iovec data{op->buffer.data, op->length};
  CloudblkRequest request{};
  request.flags = CLOUDBLK_REQUEST_MORE | (op->fua ? CLOUDBLK_REQUEST_FUA : 0);
  request.offset = op->offset;
  request.opaque = op;
  switch (op->kind) {
    case Operation::kRead:
    case Operation::kWrite:
      request.operation = op->kind == Operation::kRead ? CLOUDBLK_OP_READ : CLOUDBLK_OP_WRITE;
      request.iov = &data;
      request.iov_count = 1;
      break;
    case Operation::kFlush:
      // Whether writes were lost before, the generation says to whom it concerns.
      request.operation = CLOUDBLK_OP_FLUSH;
      request.flags |= CLOUDBLK_REQUEST_OWN;
      break;
    case Operation::kDiscard:
    case Operation::kWriteZeroes: {
      const bool discard = op->kind == Operation::kDiscard;
      request.operation = discard ? CLOUDBLK_OP_DISCARD : CLOUDBLK_OP_WRITE_ZEROES;
      ranges_.clear();
      for (const Range& range : op->ranges) {
        const uint32_t flags = !discard && range.unmap ? CLOUDBLK_RANGE_UNMAP : 0;
        if (range.length != 0) ranges_.push_back({range.offset, range.length, flags});
      }
      if (ranges_.empty()) return 0;
      request.ranges = ranges_.data();
      request.range_count = static_cast<uint32_t>(ranges_.size());
      break;
    }
    case Operation::kBlockStatus: {
      const int error = SubmitBlockStatus(channel_, op, CLOUDBLK_REQUEST_MORE);
      if (error == 0) return kUnderWay;
      if (error != -ENOTSUP) return error;
      AnswerAllData(op);
      return 0;
    }
  }
  const int error = channel_->Submit(request);
  return error != 0 ? error : kUnderWay;
}

void RemoteQueue::OnComplete(void* opaque, const CloudblkCompletion* done, uint32_t count) {
  RemoteQueue* self = static_cast<RemoteQueue*>(opaque);
  self->remote_->NoteLosses(*self->state_);
  IoOp* elsewhere = nullptr;
  for (uint32_t i = 0; i < count; ++i) {
    IoOp* op = static_cast<IoOp*>(done[i].opaque);
    self->Finish(op, done[i]);
    self->Tell(op, &elsewhere);
  }
  PostDone(elsewhere);
}

void RemoteQueue::OnLooked(void* opaque, const CloudblkCompletion* done, uint32_t count) {
  const RemoteQueue* self = static_cast<RemoteQueue*>(opaque);
  IoOp* elsewhere = nullptr;
  for (uint32_t i = 0; i < count; ++i) {
    IoOp* op = static_cast<IoOp*>(done[i].opaque);
    op->result = done[i].result;
    TakeExtents(op, done[i].bytes_stored);
    self->Tell(op, &elsewhere);
  }
  PostDone(elsewhere);
}

void RemoteQueue::Finish(IoOp* op, const CloudblkCompletion& done) {
  const int result = done.result;
  // Who has it now may have done it otherwise: its client asks, and is told.
  op->result = result == -EIO && state_->revoked() ? IoOp::kLost : result;
  if (op->kind == Operation::kRead) {
    op->data = op->buffer.data;
    return;
  }
  if (op->kind == Operation::kFlush) {
    if (result == 0) remote_->NoteFlushed();
    if (result == -EIO) remote_->NoteFlushFailed(op->generation);
  } else if (!op->fua) {
    if (op->kind == Operation::kBlockStatus) [[unlikely]] {
      TakeExtents(op, done.bytes_stored);
    }
    return;
  }
  // Writes of before its connection was opened may be lost: it is to be opened anew (SPEC.md 10.3).
  if (op->result == 0 && op->generation != remote_->generation()) op->result = -EIO;
}

}  // namespace cloudblk::proxy
