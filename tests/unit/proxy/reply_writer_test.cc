// SPDX-License-Identifier: GPL-2.0-or-later
#include "proxy/reply_writer.h"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdint>
#include <span>
#include <vector>

#include "base/socket.h"
#include "base/transport.h"
#include "proxy-protocol/wire.h"

namespace cloudblk::proxy {
namespace {

class ReplyWriterTest : public testing::Test, private JobOwner {
 protected:
  static constexpr uint32_t kLength = 128 << 10;

  ReplyWriterTest() {
    std::array<int, 2> fds;
    EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds.data()), 0);
    near_ = AcceptedTransport(UniqueFd(fds[0]));
    far_ = UniqueFd(fds[1]);
  }

  // Queues as many replies of kLength bytes, tags counted from 0.
  void AddReads(size_t count) {
    jobs_.resize(count);
    for (size_t i = 0; i < count; ++i) {
      Job& job = jobs_[i];
      job.tag = i;
      job.kind = Operation::kRead;
      job.length = kLength;
      job.data = data_.data();
      writer_.AddReply(&job);
    }
  }

  void AddPong() {
    std::array<uint8_t, wire::kPingSize> section;
    wire::Encode(wire::Ping{7}, section);
    writer_.AddMessage(wire::FrameType::kPong, section, {});
  }

  // What the other side gets when it reads all there is and the writer goes on each time.
  std::vector<uint8_t> TakeAll() {
    std::vector<uint8_t> stream;
    std::vector<uint8_t> piece(1 << 20);
    for (;;) {
      const ssize_t got = read(far_.get(), piece.data(), piece.size());
      if (got < 0) {
        EXPECT_EQ(errno, EAGAIN);
        return stream;
      }
      stream.insert(stream.end(), piece.begin(), piece.begin() + got);
      const int error = writer_.Send(near_.get());
      EXPECT_TRUE(error == 0 || error == EAGAIN) << error;
    }
  }

  void ReleaseJob(Job* job) override { released_.push_back(job->tag); }

  std::unique_ptr<Transport> near_;
  UniqueFd far_;
  const std::vector<uint8_t> data_ = std::vector<uint8_t>(kLength, 0x5a);
  std::vector<Job> jobs_;
  std::vector<uint64_t> released_;  // tags, in order
  BufferPool pool_;
  ReplyWriter writer_{&pool_, this};
};

struct Seen {
  size_t replies = 0;
  size_t pong_at = 0;  // bytes in front of it
};

// Parses a stream of REPLY frames with one PONG among them.
Seen Parse(std::span<const uint8_t> stream) {
  Seen seen;
  for (size_t at = 0; at < stream.size();) {
    wire::FrameHeader header;
    const auto bytes = stream.subspan(at).first(wire::kFrameHeaderSize);
    EXPECT_EQ(wire::DecodeFrameHeader(bytes, {}, &header), wire::DecodeError::kOk);
    if (testing::Test::HasFailure()) break;
    if (header.type == wire::FrameType::kPong) seen.pong_at = at;
    seen.replies += header.count;
    at += wire::kFrameHeaderSize + header.header_length + header.payload_length;
  }
  return seen;
}

// The peer takes an unanswered PING for a dead server, however much it has asked for before.
TEST_F(ReplyWriterTest, AMessageWaitsForLittleOfWhatIsReady) {
  AddReads(128);
  ASSERT_EQ(writer_.Send(near_.get()), EAGAIN);
  AddPong();
  const std::vector<uint8_t> stream = TakeAll();
  const Seen seen = Parse(stream);
  EXPECT_EQ(seen.replies, 128u);
  EXPECT_GT(stream.size(), size_t{16} << 20);
  EXPECT_GT(seen.pong_at, 0u);
  EXPECT_LE(seen.pong_at, size_t{3} << 20);
}

TEST_F(ReplyWriterTest, AFrameHasNoMoreEntriesThanNegotiated) {
  wire::FrameLimits limits;
  limits.max_entries = 3;
  writer_.set_limits(limits);
  jobs_.resize(8);
  for (Job& job : jobs_) {
    job.kind = Operation::kFlush;
    writer_.AddReply(&job);
  }
  ASSERT_EQ(writer_.Send(near_.get()), 0);
  const std::vector<uint8_t> stream = TakeAll();
  std::vector<uint32_t> counts;
  for (size_t at = 0; at < stream.size();) {
    wire::FrameHeader header;
    ASSERT_EQ(wire::DecodeFrameHeader(std::span(stream).subspan(at), limits, &header),
              wire::DecodeError::kOk);
    counts.push_back(header.count);
    at += wire::kFrameHeaderSize + header.header_length;
  }
  EXPECT_EQ(counts, (std::vector<uint32_t>{3, 3, 2}));
}

TEST_F(ReplyWriterTest, EveryJobIsGivenBackOnceAndInOrder) {
  AddReads(40);
  writer_.Send(near_.get());
  EXPECT_LT(released_.size(), 40u);
  TakeAll();
  EXPECT_TRUE(writer_.empty());
  ASSERT_EQ(released_.size(), 40u);
  for (size_t i = 0; i < released_.size(); ++i) EXPECT_EQ(released_[i], i);
  EXPECT_EQ(pool_.handed_out(), 0u);
}

// Each has a buffer of pages to itself then, whatever its own length.
TEST_F(ReplyWriterTest, MessagesThatNobodyReadsTakeLittleMemory) {
  for (int i = 0; i < 20'000; ++i) {
    AddPong();
    writer_.Send(near_.get());
  }
  EXPECT_LE(pool_.handed_out() + writer_.control_size(), size_t{4} << 20);
  TakeAll();
  EXPECT_TRUE(writer_.empty());
  EXPECT_EQ(pool_.handed_out(), 0u);
}

TEST_F(ReplyWriterTest, WhatIsDroppedIsGivenBackToo) {
  AddReads(128);
  ASSERT_EQ(writer_.Send(near_.get()), EAGAIN);
  writer_.Clear();
  EXPECT_TRUE(writer_.empty());
  EXPECT_EQ(released_.size(), 128u);
  EXPECT_EQ(pool_.handed_out(), 0u);
}

}  // namespace
}  // namespace cloudblk::proxy
