// SPDX-License-Identifier: GPL-2.0-or-later
#include "proxy/backends/remote_queue.h"

#include <spdlog/spdlog.h>

#include <cerrno>
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

}  // namespace

RemoteQueue::~RemoteQueue() {
  Leave();
  if (observer_ != nullptr) observer_->Detach();
  remote_->Forget(this);
}

void RemoteQueue::Observe(Channel* channel) {
  observer_ = channel;
  channel->Attach({&context_->loop(), IgnoreCompletions, nullptr, LogOfObserver});
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
    AnswerAllData(op);
    return false;
  }
  if (op->kind != Operation::kRead) return true;
  op->buffer = context_->buffers().Get(op->length);
  if (op->buffer.data != nullptr) return true;
  op->result = -ENOMEM;
  return false;
}

bool RemoteQueue::Start(IoOp* op) {
  if (channel_ == nullptr) {
    waiting_.push_back(op);
    return false;
  }
  const int result = SubmitRequest(*op);
  if (result == kUnderWay) return false;
  op->result = result;
  return true;
}

int RemoteQueue::SubmitRequest(const IoOp& op) {
  const iovec data{op.buffer.data, op.length};
  CloudblkRequest request{};
  request.flags = CLOUDBLK_REQUEST_MORE | (op.fua ? CLOUDBLK_REQUEST_FUA : 0);
  request.offset = op.offset;
  request.opaque = const_cast<IoOp*>(&op);
  switch (op.kind) {
    case Operation::kRead:
    case Operation::kWrite:
      request.operation = op.kind == Operation::kRead ? CLOUDBLK_OP_READ : CLOUDBLK_OP_WRITE;
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
      const bool discard = op.kind == Operation::kDiscard;
      request.operation = discard ? CLOUDBLK_OP_DISCARD : CLOUDBLK_OP_WRITE_ZEROES;
      ranges_.clear();
      for (const Range& range : op.ranges) {
        const uint32_t flags = !discard && range.unmap ? CLOUDBLK_RANGE_UNMAP : 0;
        if (range.length != 0) ranges_.push_back({range.offset, range.length, flags});
      }
      if (ranges_.empty()) return 0;
      request.ranges = ranges_.data();
      request.range_count = static_cast<uint32_t>(ranges_.size());
      break;
    }
    case Operation::kBlockStatus:
      return -EINVAL;  // Prepare has answered it
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
    self->Finish(op, done[i].result);
    if (op->context == self->context_) {
      op->sink->OnIoDone(op);
    } else {
      op->next = std::exchange(elsewhere, op);
    }
  }
  PostDone(elsewhere);
}

void RemoteQueue::Finish(IoOp* op, int result) {
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
    return;
  }
  // Writes of before its connection was opened may be lost: it is to be opened anew (SPEC.md 10.3).
  if (op->result == 0 && op->generation != remote_->generation()) op->result = -EIO;
}

}  // namespace cloudblk::proxy
