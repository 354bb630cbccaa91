// SPDX-License-Identifier: GPL-2.0-or-later
#include "proxy/reply_writer.h"

#include <limits.h>

#include <algorithm>
#include <cassert>
#include <cerrno>
#include <cstring>

#include "base/text.h"

namespace cloudblk::proxy {

void ReplyWriter::AddMessage(wire::FrameType type, std::span<const uint8_t> section,
                             std::string_view text) {
  // A path or a damaged record may be in it.
  const std::string printable = Printable(CutText(text, wire::kMaxText));
  text = printable;
  const size_t at = control_.size();
  control_.resize(at + wire::kFrameHeaderSize + section.size() + text.size());
  const std::span frame(control_.data() + at, control_.size() - at);
  std::ranges::copy(section, frame.begin() + wire::kFrameHeaderSize);
  std::ranges::copy(
      text, frame.begin() + static_cast<ptrdiff_t>(wire::kFrameHeaderSize + section.size()));
  wire::FrameHeader header;
  header.type = type;
  header.header_length = static_cast<uint32_t>(section.size());
  header.payload_length = static_cast<uint32_t>(text.size());
  wire::SealFrame(header, frame);
}

int ReplyWriter::Send(Transport* transport) {
  for (;;) {
    if (!BuildSegments()) return ENOMEM;
    if (head_ == segments_.size()) {
      segments_.clear();
      head_ = 0;
      return 0;
    }
    vector_.clear();
    size_t wanted = 0;
    for (size_t i = head_; i < segments_.size() && vector_.size() < IOV_MAX; ++i) {
      vector_.push_back({const_cast<uint8_t*>(segments_[i].data), segments_[i].length});
      wanted += segments_[i].length;
    }
    const ssize_t sent = transport->Writev(vector_.data(), static_cast<int>(vector_.size()));
    if (sent < 0) return static_cast<int>(-sent);
    Sent(static_cast<size_t>(sent));
    if (static_cast<size_t>(sent) < wanted) return EAGAIN;
  }
}

bool ReplyWriter::BuildSegments() {
  while (pending_ < kAhead && held_ < kMostHeld && !(control_.empty() && replies_.empty())) {
    if (!(control_.empty() ? BuildReplyFrame() : BuildControl())) return false;
  }
  return true;
}

bool ReplyWriter::BuildControl() {
  Segment segment;
  const size_t length = std::min<size_t>(control_.size(), BufferPool::kLargest);
  segment.buffer = pool_->Get(static_cast<uint32_t>(length));
  if (segment.buffer.data == nullptr) return false;
  memcpy(segment.buffer.data, control_.data(), length);
  segment.data = segment.buffer.data;
  segment.length = length;
  segments_.push_back(segment);
  pending_ += length;
  held_ += segment.buffer.capacity;
  control_.erase(control_.begin(), control_.begin() + static_cast<ptrdiff_t>(length));
  return true;
}

// The CRCs of the job's payload, one for each block; returns the bytes written.
uint32_t ReplyWriter::WriteChecksums(const Job& job, uint8_t* out) const {
  uint32_t written = 0;
  const uint32_t length = job.ReplyLength();
  for (uint32_t at = 0; at < length; at += wire::kCrcBlock) {
    const uint32_t block = std::min(wire::kCrcBlock, length - at);
    Store32(out + written, wire::Crc32c(0, {job.data + at, block}));
    written += 4;
  }
  return written;
}

bool ReplyWriter::BuildReplyFrame() {
  const uint32_t goal = std::min(limits_.max_payload, kFrameGoal);
  uint32_t count = 0;
  uint32_t payload = 0;
  uint32_t blocks = 0;
  for (const Job* job = replies_.front(); job != nullptr && count < limits_.max_entries;
       job = job->next_job) {
    const uint32_t length = job->ReplyLength();
    if (payload + length > goal && payload != 0) break;
    payload += length;
    blocks += wire::CrcBlocks(length);
    ++count;
  }
  const auto entries = count * static_cast<uint32_t>(wire::kReplyHeaderSize);
  wire::FrameHeader header;
  header.type = wire::FrameType::kReply;
  header.count = count;
  header.header_length = entries + (limits_.payload_crc ? blocks * 4 : 0);
  header.payload_length = payload;
  const uint32_t length = static_cast<uint32_t>(wire::kFrameHeaderSize) + header.header_length;
  Segment first;
  first.buffer = pool_->Get(length);
  if (first.buffer.data == nullptr) return false;
  first.data = first.buffer.data;
  first.length = length;
  segments_.push_back(first);
  held_ += first.buffer.capacity;
  uint8_t* entry = first.buffer.data + wire::kFrameHeaderSize;
  uint8_t* checksum = entry + entries;
  for (uint32_t i = 0; i < count; ++i) {
    Job* job = replies_.Pop();
    wire::Reply reply;
    reply.tag = job->tag;
    reply.status = job->status;
    reply.length = job->ReplyLength();
    if (job->status == wire::StatusCode::kOk && job->hole) reply.flags = wire::ReplyFlag::kHole;
    entry += wire::Encode(reply, {entry, wire::kReplyHeaderSize});
    if (limits_.payload_crc) checksum += WriteChecksums(*job, checksum);
    if (reply.length != 0) {
      segments_.push_back({job->data, reply.length, job, {}});
    } else {
      owner_->ReleaseJob(job);
    }
  }
  wire::SealFrame(header, {first.buffer.data, length});
  pending_ += length + payload;
  return true;
}

void ReplyWriter::Sent(size_t bytes) {
  pending_ -= bytes;
  sent_ += bytes;
  while (bytes > 0) {
    Segment& segment = segments_[head_];
    const size_t taken = std::min(bytes, segment.length);
    segment.data += taken;
    segment.length -= taken;
    bytes -= taken;
    if (segment.length != 0) break;
    Release(&segment);
    ++head_;
  }
  // A socket that is never quite empty must not make the list grow.
  if (head_ > kSentKept) {
    segments_.erase(segments_.begin(), segments_.begin() + static_cast<ptrdiff_t>(head_));
    head_ = 0;
  }
}

void ReplyWriter::Release(Segment* segment) {
  held_ -= segment->buffer.capacity;
  pool_->Put(&segment->buffer);
  if (segment->job != nullptr) owner_->ReleaseJob(segment->job);
  segment->job = nullptr;
}

void ReplyWriter::Clear() {
  for (; head_ < segments_.size(); ++head_) Release(&segments_[head_]);
  segments_.clear();
  head_ = 0;
  pending_ = 0;
  control_.clear();
  DropReplies();
}

void ReplyWriter::DropReplies() {
  while (!replies_.empty()) owner_->ReleaseJob(replies_.Pop());
}

}  // namespace cloudblk::proxy
