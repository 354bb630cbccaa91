// SPDX-License-Identifier: GPL-2.0-or-later
#include "proxy/request_stream.h"

#include <fmt/format.h>

#include <algorithm>
#include <cassert>
#include <cerrno>
#include <memory>

#include "proxy-protocol/wire_errno.h"
#include "proxy/connection_host.h"

namespace cloudblk::proxy {
namespace {

using Next = FrameSink::Next;

// Whether it may be as long as the volume.
constexpr bool SpansRanges(Operation operation) {
  return HasRanges(operation) || operation == Operation::kBlockStatus;
}

}  // namespace

RequestStream::~RequestStream() {
  assert(jobs_in_flight_ == 0 && at_storage_ == 0);
  assert(in_bytes_ == 0 && out_bytes_ == 0);
}

Next RequestStream::OnBatch(const wire::FrameHeader& header, std::span<const uint8_t> section,
                            std::vector<iovec>* pieces) {
  std::span<wire::Request> requests = host_->scratch();
  std::span<const uint8_t> crcs;
  const wire::DecodeError error =
      wire::DecodeRequests(header, section, terms_.limits, requests, &crcs);
  if (error != wire::DecodeError::kOk) return owner_->Violation(wire::Describe(error)), Next::kStop;
  requests = requests.first(header.count);
  // Before any memory is taken for them.
  const uint64_t in = header.payload_length;
  uint64_t out = 0;
  uint64_t ranges = 0;
  for (const wire::Request& request : requests) {
    out += request.operation == wire::Operation::kRead ? request.length : 0;
    if (in != 0) ranges += uint64_t{request.range_count} * wire::kRangeSize;
    if (request.operation == wire::Operation::kBlockStatus && !terms_.block_status) {
      return owner_->Violation("BLOCK_STATUS is not in force"), Next::kStop;
    }
  }
  const uint64_t data = in_bytes_ + in - range_bytes_ - ranges + out_bytes_ + out;
  if (jobs_in_flight_ + header.count > kCreditRequests || data > kCreditBytes) {
    owner_->Violation(fmt::format("more is in flight than granted: {} requests, {} bytes",
                                  jobs_in_flight_ + header.count, data));
    return Next::kStop;
  }
  LoopContext& context = host_->context();
  if (ranges != in + out) context.NoteOtherWork();
  // The allocator rounds up.
  const uint64_t small = uint64_t{header.count} * BufferPool::kAlignment;
  const wire::StatusCode refused = in != 0 ? JudgeWrite() : wire::StatusCode::kOk;
  const bool takes = in != 0 && refused == wire::StatusCode::kOk;
  metered_ = !HasRoomFor((takes ? in : 0) + out + small);
  if (metered_) {
    if (takes && in_bytes_ != 0 && !HasRoomFor(in + small)) return Next::kWait;
    out_waiting_ = out;
  }
  if (terms_.limits.payload_crc) batch_crcs_.assign(crcs.begin(), crcs.end());
  batch_pieces_ = filled_ = 0;
  complete_ = false;
  jobs_in_flight_ += header.count;
  in_bytes_ += in;
  range_bytes_ += ranges;
  out_bytes_ += out;
  bool memory = true;
  for (const wire::Request& request : requests) {
    Job* job = NewJob(request);
    if (job->payload_length == 0) continue;
    job->status = refused;
    if (refused != wire::StatusCode::kOk) {
      pieces->push_back({host_->DiscardTo(), job->payload_length});
      continue;
    }
    job->buffer = context.buffers().Get(job->payload_length);
    memory = memory && job->buffer.data != nullptr;
    pieces->push_back({job->buffer.data, job->payload_length});
  }
  if (memory) return Next::kGo;
  owner_->OutOfMemory();
  return Next::kStop;
}

// Each connection may have a quarter of what it leaves to the others: so there always is something
// left, and who asks for less than others is not held up by them. Beyond that it has a frame each
// way, and waits for its own answers to be taken: no other's.
bool RequestStream::HasRoomFor(uint64_t bytes) const {
  const uint64_t held = in_bytes_ + out_bytes_ - out_waiting_;
  return held + bytes <= host_->context().buffers().left() / 4;
}

Job* RequestStream::NewJob(const wire::Request& request) {
  Job* job = host_->jobs().Get();
  job->kind = static_cast<Operation>(request.operation);
  job->tag = request.tag;
  job->fua = (request.flags & wire::RequestFlag::kFua) != 0;
  job->offset = request.offset;
  job->length = request.length;
  job->payload_length = request.PayloadLength();
  job->read_length = request.operation == wire::Operation::kRead ? request.length : 0;
  job->extent = request.extent;
  job->hole_allowed = terms_.hole_reply;
  job->stable_data = terms_.limits.payload_crc;
  job->generation = terms_.generation;
  job->sink = this;
  job->abandoned = &abandoned_;
  batch_.Push(job);
  return job;
}

Next RequestStream::OnPieces(size_t filled, bool complete) {
  filled_ = filled;
  complete_ = complete;
  if (terms_.limits.payload_crc) {
    // None of the frame's requests may be carried out before all of its payload is known to be good
    // (SPEC.md 9.2).
    if (!complete) return Next::kGo;
    if (!CheckPayload()) {
      owner_->Violation("CRC of a payload does not match");
      return Next::kStop;
    }
  }
  return SubmitReady();
}

Next RequestStream::SubmitReady() {
  while (Job* job = batch_.front()) {
    if (job->payload_length != 0) {
      if (batch_pieces_ == filled_) break;
      ++batch_pieces_;
    } else if (metered_ && job->kind == Operation::kRead) {
      if (out_bytes_ != out_waiting_ && !HasRoomFor(job->length)) break;
      out_waiting_ -= job->length;
    }
    batch_.Pop();
    if (!SpansRanges(job->kind)) {
      SubmitJob(job);
    } else if (ranges_at_storage_ >= kRangesAtStorage) {
      ranges_.Push(job);
    } else if (!SubmitRanges(job)) {
      return Next::kStop;
    }
  }
  return complete_ && !batch_.empty() ? Next::kWait : Next::kGo;
}

bool RequestStream::Advance() {
  while (!ranges_.empty() && ranges_at_storage_ < kRangesAtStorage) {
    if (!SubmitRanges(ranges_.Pop())) return false;
  }
  return batch_.empty() || !complete_ || SubmitReady() != Next::kStop;
}

bool RequestStream::CheckPayload() const {
  const uint8_t* expected = batch_crcs_.data();
  for (const Job* job = batch_.front(); job != nullptr; job = job->next_job) {
    // What is refused anyway was not kept.
    const bool kept = job->buffer.data != nullptr;
    for (uint32_t at = 0; at < job->payload_length; at += wire::kCrcBlock) {
      const uint32_t block = std::min(wire::kCrcBlock, job->payload_length - at);
      if (kept && wire::Crc32c(0, {job->buffer.data + at, block}) != Load32(expected)) return false;
      expected += 4;
    }
  }
  return true;
}

// Turns the range list in the job's buffer into host order, in place.
bool RequestStream::DecodeRanges(Job* job) {
  static_assert(sizeof(Range) == wire::kRangeSize && alignof(Range) <= 4096);
  const size_t count = job->payload_length / wire::kRangeSize;
  for (size_t i = 0; i < count; ++i) {
    uint8_t* at = job->buffer.data + i * wire::kRangeSize;
    wire::Range range;
    const wire::DecodeError error = wire::Decode({at, wire::kRangeSize}, &range);
    if (error != wire::DecodeError::kOk) return owner_->Violation(wire::Describe(error));
    if (job->kind == Operation::kDiscard && range.flags != 0) {
      return owner_->Violation("a flag of a DISCARD's range is reserved");
    }
    std::construct_at(
        reinterpret_cast<Range*>(at),
        Range{range.offset, range.length, (range.flags & wire::RangeFlag::kUnmap) != 0});
  }
  job->ranges = {reinterpret_cast<const Range*>(job->buffer.data), count};
  return true;
}

bool RequestStream::PrepareRanges(Job* job) {
  if (job->kind != Operation::kBlockStatus) return DecodeRanges(job);
  job->max_extents = job->length / wire::kExtentSize;
  job->buffer = host_->context().buffers().Get(job->length);
  if (job->buffer.data == nullptr) job->status = wire::StatusCode::kNoMemory;
  return true;
}

// Turns what an ExtentWriter has made into what the reply carries, in place.
void RequestStream::EncodeExtents(Job* job) {
  static_assert(sizeof(Extent) == wire::kExtentSize);
  for (uint32_t i = 0; i < job->extents; ++i) {
    uint8_t* at = job->buffer.data + i * wire::kExtentSize;
    const Extent extent = *reinterpret_cast<const Extent*>(at);
    const uint32_t flags =
        (extent.hole ? wire::ExtentFlag::kHole : 0u) | (extent.zero ? wire::ExtentFlag::kZero : 0u);
    wire::Encode(wire::Extent{extent.length, flags}, {at, wire::kExtentSize});
  }
  job->data = job->buffer.data;
  job->length = job->extents * static_cast<uint32_t>(wire::kExtentSize);
}

bool RequestStream::SubmitRanges(Job* job) {
  if (job->status == wire::StatusCode::kOk && !PrepareRanges(job)) {
    ReleaseJob(job);
    return false;
  }
  ++ranges_at_storage_;
  SubmitJob(job);
  return true;
}

void RequestStream::SubmitJob(Job* job) {
  // What was refused before its payload came has lost that.
  if (job->status == wire::StatusCode::kOk) job->status = Judge(*job);
  if (job->status != wire::StatusCode::kOk) {
    if (SpansRanges(job->kind)) --ranges_at_storage_;
    FinishJob(job);
    return;
  }
  ++at_storage_;
  if (terms_.queue->Submit(job)) {
    OnIoDone(job);
  } else {
    host_->NoteSubmitted(terms_.queue);
    // So that the end of the turn hands it to the kernel.
    NoteWork();
  }
}

wire::StatusCode RequestStream::JudgeWrite() const {
  if (!peer_->active()) return wire::StatusCode::kNotActive;
  return terms_.read_only ? wire::StatusCode::kReadOnly : wire::StatusCode::kOk;
}

// SPEC.md 8.12.
wire::StatusCode RequestStream::Judge(const Job& job) const {
  // BLOCK_STATUS is for those who observe, too.
  if (!peer_->active() && job.kind != Operation::kBlockStatus) return wire::StatusCode::kNotActive;
  switch (job.kind) {
    case Operation::kFlush:
      return wire::StatusCode::kOk;
    case Operation::kWrite:
      if (terms_.read_only) return wire::StatusCode::kReadOnly;
      [[fallthrough]];
    case Operation::kRead:
      return JudgeExtent(job.offset, job.length);
    case Operation::kBlockStatus:
      return JudgeExtent(job.offset, job.extent);
    case Operation::kDiscard:
    case Operation::kWriteZeroes:
      return terms_.read_only ? wire::StatusCode::kReadOnly : JudgeRanges(job);
  }
  return wire::StatusCode::kNotSupported;
}

wire::StatusCode RequestStream::JudgeExtent(uint64_t offset, uint64_t length) const {
  const Backend& backend = *terms_.backend;
  if (offset + length > backend.size()) return wire::StatusCode::kOutOfRange;
  if ((offset | length) % backend.geometry().logical_block_size != 0) {
    return wire::StatusCode::kInvalid;
  }
  return wire::StatusCode::kOk;
}

wire::StatusCode RequestStream::JudgeRanges(const Job& job) const {
  const Backend& backend = *terms_.backend;
  const Geometry& geometry = backend.geometry();
  const bool discard = job.kind == Operation::kDiscard;
  if (!(discard ? geometry.discard : geometry.write_zeroes)) return wire::StatusCode::kNotSupported;
  if (job.ranges.size() > geometry.max_ranges) return wire::StatusCode::kInvalid;
  const uint64_t most = discard ? geometry.max_discard_length : geometry.max_write_zeroes_length;
  for (const Range& range : job.ranges) {
    if (range.offset + range.length > backend.size()) return wire::StatusCode::kOutOfRange;
    if ((range.offset | range.length) % geometry.logical_block_size != 0 || range.length > most) {
      return wire::StatusCode::kInvalid;
    }
  }
  return wire::StatusCode::kOk;
}

void RequestStream::OnIoDone(IoOp* op) {
  Job* job = static_cast<Job*>(op);
  assert(at_storage_ > 0);
  if (job->result == IoOp::kLost) owner_->OnStorageLost();
  --at_storage_;
  if (SpansRanges(job->kind)) {
    --ranges_at_storage_;
    if (job->kind == Operation::kBlockStatus) EncodeExtents(job);
  }
  if (abandoned_.load(std::memory_order_relaxed)) {
    ReleaseJob(job);
  } else {
    // What was judged well-formed and the storage calls invalid is the storage's error.
    job->status = wire::StatusCodeOf(job->result == -EINVAL ? EIO : -job->result);
    FinishJob(job);
  }
  if (at_storage_ == 0 && watch_idle_) owner_->OnStorageIdle();
}

void RequestStream::FinishJob(Job* job) {
  // A write's data is of no more use while its reply waits.
  if (job->ReplyLength() == 0) {
    host_->context().buffers().Put(&job->buffer);
  }
  writer_->AddReply(job);
  NoteWork();
}

void RequestStream::ReleaseJob(Job* job) {
  assert(jobs_in_flight_ > 0);
  --jobs_in_flight_;
  in_bytes_ -= job->payload_length;
  out_bytes_ -= job->read_length;
  if (HasRanges(job->kind)) range_bytes_ -= job->payload_length;
  host_->context().buffers().Put(&job->buffer);
  if (job->lent != nullptr) job->lent.reset();
  host_->jobs().Put(job);
}

void RequestStream::NoteWork() {
  if (has_work_) return;
  has_work_ = true;
  owner_->OnWork();
}

void RequestStream::DropUnsubmitted() {
  out_waiting_ = 0;
  while (!batch_.empty()) ReleaseJob(batch_.Pop());
  while (!ranges_.empty()) ReleaseJob(ranges_.Pop());
}

void RequestStream::Abandon() {
  abandoned_.store(true, std::memory_order_relaxed);
  DropUnsubmitted();
}

}  // namespace cloudblk::proxy
