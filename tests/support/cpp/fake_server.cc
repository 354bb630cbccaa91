// SPDX-License-Identifier: GPL-2.0-or-later
#include "tests/support/cpp/fake_server.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <utility>

namespace cloudblk::testing {
namespace {

std::span<const uint8_t> Bytes(std::string_view text) {
  return {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
}

std::vector<std::pair<uint64_t, uint64_t>> Written(const FakeServer::Seen& seen) {
  std::vector<std::pair<uint64_t, uint64_t>> intervals;
  if (seen.request.operation == wire::Operation::kWrite) {
    intervals.emplace_back(seen.request.offset, seen.request.offset + seen.request.length);
  }
  for (const wire::Range& range : seen.ranges) {
    intervals.emplace_back(range.offset, range.offset + range.length);
  }
  return intervals;
}

}  // namespace

FakeServer::FakeServer(uint64_t size) : disk(size, '\0') {
  hello.features =
      wire::Feature::kHoleReply | wire::Feature::kClaimer | wire::Feature::kBlockStatus;
  hello.max_frame_payload = 256 << 10;
  hello.max_frame_entries = 512;
  hello.server.bytes[0] = 1;
  open.volume_flags =
      wire::VolumeFlag::kDiscard | wire::VolumeFlag::kWriteZeroes | wire::VolumeFlag::kWriteCache;
  open.volume.bytes[0] = 7;
  open.generation = 1;
  open.size = size;
  open.logical_block_size = 512;
  open.physical_block_size = 4096;
  open.max_discard_length = 1 << 30;
  open.max_write_zeroes_length = 1 << 30;
  open.max_ranges = 16;
  open.max_channels = 8;
  open.credit_requests = 128;
  open.credit_bytes = 16 << 20;
  open.lease_ms = 10'000;
  open.epoch = 1;
}

void FakeServer::Accept(std::shared_ptr<MemoryLink> link) {
  // As the protocol has it, the older connection is stopped first.
  if (link_ != nullptr) link_->server_closed = true;
  link_ = std::move(link);
  input_.clear();
  pending.clear();
  ready_ = false;
  frames_ = 0;
  ++connections_;
  OnAccepted();
}

bool FakeServer::Step() {
  if (link_ == nullptr || deaf || link_->to_server.empty() || link_->server_closed) return false;
  input_ += link_->TakeForServer();
  while (ParseFrame()) {
  }
  return true;
}

bool FakeServer::ParseFrame() {
  if (input_.size() < wire::kFrameHeaderSize) return false;
  const wire::FrameLimits limits{hello.max_frame_entries, hello.max_frame_payload, ready_ && crc()};
  wire::FrameHeader header;
  const wire::DecodeError error = wire::DecodeFrameHeader(Bytes(input_), limits, &header);
  EXPECT_EQ(error, wire::DecodeError::kOk) << wire::Describe(error);
  if (error != wire::DecodeError::kOk) return false;
  const size_t head = wire::kFrameHeaderSize + header.header_length;
  if (input_.size() < head + header.payload_length) return false;
  const std::string frame = input_.substr(0, head + header.payload_length);
  input_.erase(0, frame.size());
  const auto section = Bytes(frame).subspan(wire::kFrameHeaderSize, header.header_length);
  EXPECT_EQ(wire::CheckHeaderSection(header, section), wire::DecodeError::kOk);
  OnFrame(header, section, Bytes(frame).subspan(head));
  return true;
}

void FakeServer::OnFrame(const wire::FrameHeader& header, std::span<const uint8_t> section,
                         std::span<const uint8_t> payload) {
  const std::string_view text(reinterpret_cast<const char*>(payload.data()), payload.size());
  switch (header.type) {
    case wire::FrameType::kHello:
      return OnHello(section);
    case wire::FrameType::kOpen:
      return OnOpen(section, text);
    case wire::FrameType::kRequest:
      EXPECT_TRUE(ready_);
      return OnRequests(header, section, text);
    case wire::FrameType::kPing: {
      EXPECT_TRUE(ready_);
      ++pings;
      wire::Ping ping;
      EXPECT_EQ(wire::Decode(section, &ping), wire::DecodeError::kOk);
      if (!silent) Send(Frame(wire::FrameType::kPong, ping, wire::kPingSize, ""));
      return;
    }
    case wire::FrameType::kPong:
      return;
    case wire::FrameType::kResize:
      EXPECT_TRUE(ready_);
      return OnResize(section);
    case wire::FrameType::kRelease:
      EXPECT_TRUE(ready_);
      return OnRelease(section);
    case wire::FrameType::kClose: {
      ++closes;
      wire::Close close;
      EXPECT_EQ(wire::Decode(section, &close), wire::DecodeError::kOk);
      close_flags.push_back(close.flags);
      if (silent) return;
      Send(
          Frame(wire::FrameType::kCloseReply, wire::StatusMessage{}, wire::kStatusMessageSize, ""));
      Cut();
      return;
    }
    default:
      ADD_FAILURE() << "a client does not send " << wire::Name(header.type);
  }
}

void FakeServer::OnResize(std::span<const uint8_t> section) {
  wire::Resize resize;
  EXPECT_EQ(wire::Decode(section, &resize), wire::DecodeError::kOk);
  resizes.push_back(resize);
  if (cut_by_resize) return Cut();
  if (silent) return;
  const bool ok = resize_status == wire::StatusCode::kOk;
  if (ok) SendEvent(wire::EventKind::kResized, resize.size, "");
  Send(Frame(wire::FrameType::kResizeReply, wire::StatusMessage{resize_status, 0},
             wire::kStatusMessageSize, ok ? "" : refusal));
}

void FakeServer::OnRelease(std::span<const uint8_t> section) {
  wire::TokenMessage message;
  EXPECT_EQ(wire::Decode(section, &message), wire::DecodeError::kOk);
  EXPECT_TRUE(pending.empty());
  const Lose lose = std::exchange(lose_release, Lose::kNothing);
  if (lose == Lose::kRequest) return Cut();
  const wire::StatusCode status = judge_release ? judge_release(message) : wire::StatusCode::kOk;
  if (lose == Lose::kAnswer) return Cut();
  if (silent) return;
  Send(Frame(wire::FrameType::kReleaseReply, wire::StatusMessage{status, message.epoch},
             wire::kStatusMessageSize, status == wire::StatusCode::kOk ? "" : refusal));
}

void FakeServer::OnHello(std::span<const uint8_t> section) {
  wire::Hello offer;
  EXPECT_EQ(wire::Decode(section, &offer), wire::DecodeError::kOk);
  EXPECT_GE(offer.max_frame_payload, wire::kMinFramePayload);
  hello.max_frame_payload = std::min(hello.max_frame_payload, offer.max_frame_payload);
  hello.max_frame_entries = std::min(hello.max_frame_entries, offer.max_frame_entries);
  hello.features &= offer.features;
  if (!silent) {
    Send(Frame(wire::FrameType::kHelloReply, hello, wire::kHelloReplySize,
               hello.status == wire::StatusCode::kOk ? "" : refusal));
  }
}

void FakeServer::OnOpen(std::span<const uint8_t> section, std::string_view payload) {
  wire::Open message;
  EXPECT_EQ(wire::Decode(section, &message), wire::DecodeError::kOk);
  EXPECT_TRUE(message.claimer.IsNil() || (hello.features & wire::Feature::kClaimer) != 0);
  NoteOpen(message);
  opened_names.emplace_back(payload);
  const Lose lose = std::exchange(lose_open, Lose::kNothing);
  if (lose == Lose::kRequest) return Cut();
  if (judge_open) open.status = judge_open(message);
  if (lose == Lose::kAnswer) return Cut();
  if (silent || hold_opens) return;
  Send(Frame(wire::FrameType::kOpenReply, open, wire::kOpenReplySize,
             open.status == wire::StatusCode::kOk ? note : refusal));
  if (open.status == wire::StatusCode::kOk) {
    ready_ = true;
  } else {
    Cut();
  }
}

void FakeServer::NoteOpen(const wire::Open& message) {
  // Else a server would answer STALE (SPEC.md 6.5, number 6).
  uint64_t& last = incarnations_[{message.session.bytes, message.channel}];
  EXPECT_GT(message.incarnation, last);
  last = message.incarnation;
  opens.push_back(message);
}

void FakeServer::OnRequests(const wire::FrameHeader& header, std::span<const uint8_t> section,
                            std::string_view payload) {
  const wire::FrameLimits limits{hello.max_frame_entries, hello.max_frame_payload, crc()};
  std::vector<wire::Request> requests(header.count);
  std::span<const uint8_t> crcs;
  const wire::DecodeError error = wire::DecodeRequests(header, section, limits, requests, &crcs);
  ASSERT_EQ(error, wire::DecodeError::kOk) << wire::Describe(error);
  std::vector<Seen> taken;
  for (const wire::Request& request : requests) {
    Seen one{request, {}, {}};
    const std::string_view mine = payload.substr(0, request.PayloadLength());
    payload.remove_prefix(mine.size());
    if (crc()) {
      for (size_t at = 0; at < mine.size(); at += wire::kCrcBlock) {
        EXPECT_EQ(wire::Crc32c(0, Bytes(mine.substr(at, wire::kCrcBlock))), Load32(crcs.data()));
        crcs = crcs.subspan(4);
      }
    }
    if (request.operation == wire::Operation::kWrite) one.data = mine;
    for (uint16_t i = 0; i < request.range_count; ++i) {
      wire::Range range;
      EXPECT_EQ(wire::Decode(Bytes(mine).subspan(i * wire::kRangeSize), &range),
                wire::DecodeError::kOk);
      one.ranges.push_back(range);
    }
    taken.push_back(std::move(one));
  }
  TakeRequests(std::move(taken));
}

void FakeServer::TakeRequests(std::vector<Seen> requests) {
  const size_t before = pending.size();
  for (Seen& one : requests) {
    one.connection = connections_ - 1;
    one.frame = frames_;
    CheckRules(one);
    seen.push_back(one);
    pending.push_back(std::move(one));
  }
  ++frames_;
  if (hold || silent) return;
  if (reverse) std::reverse(pending.begin() + before, pending.end());
  while (pending.size() > before) Answer(before, one_by_one ? 1 : pending.size() - before);
}

// What SPEC.md demands of a request, beside the layout.
void FakeServer::CheckRules(const Seen& added) const {
  uint64_t bytes = 0;
  const auto data_bytes = [](const Seen& one) {
    const bool data = one.request.operation == wire::Operation::kRead ||
                      one.request.operation == wire::Operation::kWrite;
    return uint64_t{data ? one.request.length : 0};
  };
  for (const Seen& other : pending) {
    EXPECT_NE(other.request.tag, added.request.tag);
    bytes += data_bytes(other);
    for (const auto& [begin, end] : Written(added)) {
      for (const auto& [other_begin, other_end] : Written(other)) {
        EXPECT_TRUE(end <= other_begin || other_end <= begin) << "overlapping writes (8.13)";
      }
    }
  }
  EXPECT_LT(pending.size(), open.credit_requests);
  EXPECT_LE(bytes + data_bytes(added), open.credit_bytes);
  EXPECT_LE(added.request.length, hello.max_frame_payload);
  EXPECT_LE(added.request.range_count, open.max_ranges);
  for (const wire::Range& range : added.ranges) {
    EXPECT_LE(range.length, added.request.operation == wire::Operation::kDiscard
                                ? open.max_discard_length
                                : open.max_write_zeroes_length);
  }
}

void FakeServer::CarryOut(const Seen& one) {
  if (one.request.operation == wire::Operation::kWrite) {
    disk.replace(one.request.offset, one.data.size(), one.data);
  }
  for (const wire::Range& range : one.ranges) {
    std::fill_n(disk.begin() + static_cast<ptrdiff_t>(range.offset), range.length, '\0');
  }
}

void FakeServer::Answer(size_t first, size_t count, wire::StatusCode status) {
  std::vector<Answered> answers;
  for (size_t i = 0; i < count; ++i) {
    const Seen one = pending[first];
    pending.erase(pending.begin() + static_cast<ptrdiff_t>(first));
    Answered answer{one.request, status, {}};
    if (status == wire::StatusCode::kOk) {
      CarryOut(one);
      if (one.request.operation == wire::Operation::kRead) {
        answer.data = disk.substr(one.request.offset, one.request.length);
      }
      if (one.request.operation == wire::Operation::kBlockStatus)
        answer.data = Extents(one.request);
    }
    answers.push_back(std::move(answer));
  }
  SendAnswers(answers);
}

// What lies between zeros, in whole pages.
std::string FakeServer::Extents(const wire::Request& request) const {
  constexpr uint64_t kPage = 4096;
  std::vector<wire::Extent> extents;
  const uint64_t end = request.offset + request.extent;
  for (uint64_t at = request.offset; at < end;) {
    const uint64_t next = std::min(end, (at / kPage + 1) * kPage);
    const bool zero = std::string_view(disk).substr(at, next - at).find_first_not_of('\0') ==
                      std::string_view::npos;
    const uint32_t flags = zero ? wire::ExtentFlag::kHole | wire::ExtentFlag::kZero : 0u;
    if (extents.empty() || extents.back().flags != flags) extents.push_back({0, flags});
    extents.back().length += next - at;
    at = next;
  }
  extents.resize(std::min<size_t>(extents.size(), request.length / wire::kExtentSize));
  std::string list(extents.size() * wire::kExtentSize, '\0');
  for (size_t i = 0; i < extents.size(); ++i) {
    wire::Encode(extents[i],
                 {reinterpret_cast<uint8_t*>(&list[i * wire::kExtentSize]), wire::kExtentSize});
  }
  return list;
}

void FakeServer::SendAnswers(const std::vector<Answered>& answers) {
  std::vector<wire::Reply> replies;
  std::string payload;  // of the frame
  for (const Answered& answer : answers) {
    wire::Reply reply;
    reply.tag = answer.request.tag;
    reply.status = answer.status;
    const std::string& data = answer.data;
    const bool reads = answer.request.operation == wire::Operation::kRead;
    if (!data.empty() && holes && reads && data.find_first_not_of('\0') == std::string::npos) {
      reply.flags = wire::ReplyFlag::kHole;
    } else if (!data.empty()) {
      if (payload.size() + data.size() > hello.max_frame_payload) {
        SendReply(replies, payload);
        replies.clear();
        payload.clear();
      }
      reply.length = static_cast<uint32_t>(data.size());
      payload += data;
    }
    replies.push_back(reply);
  }
  if (!replies.empty()) SendReply(replies, payload);
}

void FakeServer::SendReply(const std::vector<wire::Reply>& replies, std::string_view payload) {
  std::string frame = ReplyFrame(replies, payload, crc());
  if (corrupt_data && !payload.empty()) {
    frame.back() = static_cast<char>(frame.back() ^ 1);
    corrupt_data = false;
  }
  Send(frame);
}

std::string FakeServer::ReplyFrame(const std::vector<wire::Reply>& replies,
                                   std::string_view payload, bool crc) {
  std::string crcs;
  std::string_view left = payload;
  for (const wire::Reply& reply : replies) {
    for (uint32_t at = 0; crc && at < reply.length; at += wire::kCrcBlock) {
      uint8_t sum[4];
      const uint32_t block = std::min(wire::kCrcBlock, reply.length - at);
      Store32(sum, wire::Crc32c(0, Bytes(left.substr(at, block))));
      crcs.append(reinterpret_cast<char*>(sum), 4);
    }
    if (crc) left.remove_prefix(std::min<size_t>(reply.length, left.size()));
  }
  std::string frame(wire::kFrameHeaderSize + replies.size() * wire::kReplyHeaderSize, '\0');
  const std::span<uint8_t> bytes(reinterpret_cast<uint8_t*>(frame.data()), frame.size());
  for (size_t i = 0; i < replies.size(); ++i) {
    wire::Encode(replies[i], bytes.subspan(wire::kFrameHeaderSize + i * wire::kReplyHeaderSize));
  }
  frame += crcs;
  wire::FrameHeader header;
  header.type = wire::FrameType::kReply;
  header.count = static_cast<uint32_t>(replies.size());
  header.header_length = static_cast<uint32_t>(frame.size() - wire::kFrameHeaderSize);
  header.payload_length = static_cast<uint32_t>(payload.size());
  wire::SealFrame(header, {reinterpret_cast<uint8_t*>(frame.data()), frame.size()});
  return frame + std::string(payload);
}

void FakeServer::SendEvent(wire::EventKind kind, uint64_t value, std::string_view text) {
  Send(Frame(wire::FrameType::kEvent, wire::Event{kind, value}, wire::kEventSize, text));
}

void FakeServer::Send(std::string_view bytes) {
  if (!link_->server_closed) link_->to_client += bytes;
}

void FakeServer::Cut() { link_->server_closed = true; }

}  // namespace cloudblk::testing
