// SPDX-License-Identifier: GPL-2.0-or-later
#include "tests/sim/storage.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "proxy/backends/plain_queue.h"
#include "proxy/extent_writer.h"
#include "proxy/loop_context.h"

namespace cloudblk::testing {

SimBackend::SimBackend(Medium* medium, std::mt19937* random) : medium_(medium), random_(random) {
  size_ = medium->data.size();
  uuid_.bytes.fill(9);
  generation_ = medium->generation;
}

SimBackend::~SimBackend() { EXPECT_TRUE(under_way_.empty()); }

Result<std::unique_ptr<proxy::BackendQueue>> SimBackend::Attach(proxy::LoopContext& context) {
  return proxy::PlainQueue<SimBackend>::New(this, context);
}

bool SimBackend::Submit(proxy::LoopContext& context, proxy::IoOp* op) {
  EXPECT_TRUE(medium_->locked) << "an operation at a storage whose lock was given back";
  op->context = &context;
  if (op->kind == Operation::kRead) {
    op->buffer = context.buffers().Get(op->length);
    op->data = op->buffer.data;
  }
  if (op->kind == Operation::kWrite) medium_->submitted.push_back(op->offset);
  under_way_.push_back(op);
  return false;
}

void SimBackend::Step() {
  const size_t which = (*random_)() % under_way_.size();
  proxy::IoOp* const op = under_way_[which];
  under_way_.erase(under_way_.begin() + static_cast<ptrdiff_t>(which));
  EXPECT_TRUE(medium_->locked) << "an operation at a storage whose lock was given back";
  op->result = CarryOut(op);
  op->sink->OnIoDone(op);
}

void SimBackend::DropAll() {
  while (!under_way_.empty()) {
    proxy::IoOp* const op = under_way_.back();
    under_way_.pop_back();
    op->result = -EIO;
    op->sink->OnIoDone(op);
  }
}

int SimBackend::CarryOut(proxy::IoOp* op) {
  switch (op->kind) {
    case Operation::kRead:
      std::memcpy(op->buffer.data, medium_->data.data() + op->offset, op->length);
      return 0;
    case Operation::kWrite:
      std::memcpy(medium_->data.data() + op->offset, op->buffer.data, op->length);
      return op->fua ? Flush() : 0;
    case Operation::kFlush:
      return op->generation == generation() ? Flush() : -EIO;
    case Operation::kDiscard:
    case Operation::kWriteZeroes:
      return Zero(*op);
    case Operation::kBlockStatus:
      proxy::AnswerAllData(op);
      return 0;
  }
  return -EINVAL;
}

int SimBackend::Zero(const proxy::IoOp& op) {
  for (const Range& range : op.ranges) {
    std::fill_n(medium_->data.begin() + static_cast<ptrdiff_t>(range.offset), range.length, '\0');
  }
  return op.fua ? Flush() : 0;
}

// A flush that fails changes the generation, and none of the data becomes durable by it.
int SimBackend::Flush() {
  if (medium_->flushes_to_fail > 0) {
    --medium_->flushes_to_fail;
    generation_ = ++medium_->generation;
    return -EIO;
  }
  medium_->durable = medium_->data;
  medium_->durable_owner = medium_->owner;
  return 0;
}

Status SimBackend::AcquireExclusive(bool /*takeover*/) {
  if (medium_->locked) return Status(EBUSY, "another server has it");
  medium_->locked = true;
  generation_ = medium_->generation;
  return Status::Ok();
}

void SimBackend::ReleaseExclusive() {
  EXPECT_TRUE(medium_->locked);
  EXPECT_TRUE(under_way_.empty()) << "the lock is given back while operations are under way";
  medium_->locked = false;
}

Status SimBackend::StoreOwner(const std::string& text, bool lasting) {
  EXPECT_TRUE(medium_->locked) << "a record without the lock";
  medium_->owner = text;
  if (lasting) medium_->durable_owner = text;
  return Status::Ok();
}

Status SimBackend::SyncAll() {
  const int error = -Flush();
  return error == 0 ? Status::Ok() : Status(error, "writes were lost");
}

}  // namespace cloudblk::testing
