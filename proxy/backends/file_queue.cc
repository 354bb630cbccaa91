// SPDX-License-Identifier: GPL-2.0-or-later
#include "proxy/backends/file_queue.h"

#include <unistd.h>

#include <cassert>
#include <cerrno>
#include <utility>

#include "proxy/backends/file.h"
#include "proxy/extent_writer.h"
#include "proxy/loop_context.h"

namespace cloudblk::proxy {
namespace {

// What a device may have to split, which it refuses as it refuses what it has no tag for.
constexpr uint32_t kMayBeSplit = 64 << 10;

}  // namespace

FileQueue::FileQueue(File* file, LoopContext* context, AsyncIo* io)
    : file_(file), context_(context), io_(io) {}

FileQueue::~FileQueue() { assert(held_.empty() && delayed_.empty() && under_way_ == 0); }

bool FileQueue::Submit(IoOp* op) {
  op->context = context_;
  op->transferred = 0;
  op->delayed = false;
  op->result = 0;
  switch (op->kind) {
    case Operation::kRead:
    case Operation::kWrite:
      if (!file_->SizeIsRecent(this)) {
        held_.push_back(op);
        return false;
      }
      return SubmitTransfer(op);
    case Operation::kFlush:
      file_->Flush(op);
      return false;
    case Operation::kDiscard:
    case Operation::kWriteZeroes:
      file_->RunRangesOnThread(op);
      return false;
    case Operation::kBlockStatus:
      if (file_->is_block_device()) {
        AnswerAllData(op);
        return true;
      }
      file_->FindExtentsOnThread(op);
      return false;
  }
  op->result = -EINVAL;
  return true;
}

void FileQueue::Kick() { context_->Kick(); }

bool FileQueue::SubmitTransfer(IoOp* op) {
  if (op->offset + op->length > file_->usable_size()) {
    op->result = -EIO;
    return true;
  }
  if (op->kind == Operation::kRead) {
    op->buffer = context_->buffers().Get(op->length);
    if (op->buffer.data == nullptr) {
      op->result = -ENOMEM;
      return true;
    }
    op->data = op->buffer.data;
  }
  // Those that wait already have their turn first.
  if (delayed_.empty()) {
    Transfer(op);
  } else {
    delayed_.push_back(op);
  }
  return false;
}

void FileQueue::OnSizeKnown() {
  context_->loop().Post([this] {
    for (IoOp* op : std::exchange(held_, {})) {
      if (SubmitTransfer(op)) op->sink->OnIoDone(op);
    }
    Kick();
  });
}

void FileQueue::Transfer(IoOp* op) {
  const bool write = op->kind == Operation::kWrite;
  if (io_ == nullptr || !file_->may_refuse_to_wait(write)) {
    TransferOnThread(op);
    return;
  }
  ++under_way_;
  io_->Queue({.fd = file_->fd(),
              .write = write,
              .data = op->buffer.data + op->transferred,
              .length = op->length - op->transferred,
              .offset = op->offset + op->transferred,
              .sink = this,
              .op = op});
}

void FileQueue::OnTransferred(IoOp* op, int64_t result) {
  --under_way_;
  if (result == -EAGAIN) {
    Delay(op);
    return;
  }
  if (result == -EOPNOTSUPP) {
    // Or it is not supported at all, as the thread will find out.
    file_->CannotRefuseToWait(op->kind == Operation::kWrite);
    TransferOnThread(op);
    ResubmitDelayed();
    return;
  }
  if (result > 0) op->transferred += static_cast<uint32_t>(result);
  if (result < 0 && result != -EINTR) {
    Finish(op, static_cast<int>(result));
  } else if (op->transferred == op->length) {
    Finish(op, 0);
  } else if (result == 0 || file_->CannotGoOnAt(op->transferred)) {
    FailBeyondEnd(op);
  } else {
    // Short: go on behind it.
    Transfer(op);
    Kick();
  }
  ResubmitDelayed();
}

// A block device has no tag left as a rule, and one that hangs would keep a thread that waits for
// one from ending with the process. A file's lock is held, or its blocks are to be found first:
// that is over as soon as somebody does it.
void FileQueue::Delay(IoOp* op) {
  const bool small = op->length <= kMayBeSplit;
  if (file_->is_block_device() && under_way_ != 0 && (small || !op->delayed)) {
    op->delayed = true;
    delayed_.push_back(op);
  } else {
    TransferOnThread(op);
  }
}

void FileQueue::ResubmitDelayed() {
  if (delayed_.empty()) return;
  // More than have ended, so that it comes to be known when there is more room.
  for (int i = 0; i < 2 && !delayed_.empty(); ++i) {
    IoOp* op = delayed_.front();
    delayed_.pop_front();
    Transfer(op);
  }
  Kick();
}

void FileQueue::TransferOnThread(IoOp* op) {
  file_->RunTransferOnThread([this, op] { RunTransfer(op); });
}

void FileQueue::RunTransfer(IoOp* op) {
  const bool write = op->kind == Operation::kWrite;
  int error = 0;
  while (op->transferred < op->length && error == 0) {
    uint8_t* const data = op->buffer.data + op->transferred;
    const uint32_t length = op->length - op->transferred;
    const auto offset = static_cast<off_t>(op->offset + op->transferred);
    const ssize_t n = write ? pwrite(file_->fd(), data, length, offset)
                            : pread(file_->fd(), data, length, offset);
    if (n > 0) op->transferred += static_cast<uint32_t>(n);
    if (n == 0 ||
        (n > 0 && op->transferred != op->length && file_->CannotGoOnAt(op->transferred))) {
      file_->LookAtFile();
      error = -EIO;
    }
    if (n < 0 && errno != EINTR) error = -errno;
  }
  context_->loop().Post([this, op, error] {
    Finish(op, error);
    ResubmitDelayed();
  });
}

// The file ends before the volume does. Whoever is told of it finds that it is known.
void FileQueue::FailBeyondEnd(IoOp* op) {
  file_->RunTransferOnThread([this, op] {
    file_->LookAtFile();
    context_->loop().Post([this, op] { Finish(op, -EIO); });
  });
}

void FileQueue::Finish(IoOp* op, int result) {
  if (result == -ENOSPC && file_->IsBeyondDevice(op->offset + op->length)) result = -EIO;
  op->result = result;
  if (result != 0) file_->LogFirst(-result, *op);
  if (result == 0 && op->fua) {
    file_->Flush(op);
    return;
  }
  op->sink->OnIoDone(op);
}

}  // namespace cloudblk::proxy
