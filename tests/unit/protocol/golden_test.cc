// SPDX-License-Identifier: GPL-2.0-or-later
//
// Every message against its golden bytes, both ways.
#include <gtest/gtest.h>

#include "tests/unit/protocol/golden_bytes.h"
#include "tests/unit/protocol/messages.h"

namespace cloudblk::wire {
namespace {

// Decodes the header and the message of a frame that is known to be good.
template <typename Message>
Message DecodeGolden(std::string_view hex, FrameType type, Bytes* payload = nullptr) {
  const Bytes frame = FromHex(hex);
  FrameHeader header;
  EXPECT_EQ(DecodeFrameHeader(frame, {}, &header), DecodeError::kOk);
  EXPECT_EQ(header.type, type);
  const auto section = std::span(frame).subspan(kFrameHeaderSize, header.header_length);
  EXPECT_EQ(CheckHeaderSection(header, section), DecodeError::kOk);
  Message message;
  EXPECT_EQ(Decode(section, &message), DecodeError::kOk);
  EXPECT_EQ(frame.size(), kFrameHeaderSize + header.header_length + header.payload_length);
  if (payload != nullptr) payload->assign(section.end().base(), frame.data() + frame.size());
  return message;
}

TEST(GoldenTest, CrcCheckValue) {
  EXPECT_EQ(Crc32c(0, FromText("123456789")), 0xe3069283u);
  EXPECT_EQ(Crc32c(Crc32c(0, FromText("1234")), FromText("56789")), 0xe3069283u);
}

TEST(GoldenTest, Hello) {
  const Hello hello{1, 3, 1u << 20, 3, 1, 256};
  EXPECT_EQ(Frame(FrameType::kHello, hello), FromHex(golden::kHello));
  const auto got = DecodeGolden<Hello>(golden::kHello, FrameType::kHello);
  EXPECT_EQ(got.version_min, 1);
  EXPECT_EQ(got.version_max, 3);
  EXPECT_EQ(got.max_frame_payload, 1u << 20);
  EXPECT_EQ(got.features, 3u);
  EXPECT_EQ(got.required_features, 1u);
  EXPECT_EQ(got.max_frame_entries, 256u);
}

TEST(GoldenTest, HelloReply) {
  const HelloReply reply{StatusCode::kOk, 1, Feature::kPayloadCrc, 262144, 128, CountingUuid(0x10)};
  EXPECT_EQ(Frame(FrameType::kHelloReply, reply), FromHex(golden::kHelloReply));
  const auto got = DecodeGolden<HelloReply>(golden::kHelloReply, FrameType::kHelloReply);
  EXPECT_EQ(got.status, StatusCode::kOk);
  EXPECT_EQ(got.version, 1);
  EXPECT_EQ(got.features, Feature::kPayloadCrc);
  EXPECT_EQ(got.max_frame_payload, 262144u);
  EXPECT_EQ(got.max_frame_entries, 128u);
  EXPECT_EQ(got.server, CountingUuid(0x10));
}

Open AnOpen() {
  Open open;
  open.session = CountingUuid(0x20);
  open.epoch = 7;
  open.channel = 1;
  open.channel_count = 4;
  open.incarnation = 9;
  open.flags = OpenFlag::kActive | OpenFlag::kReadOnly | OpenFlag::kResume;
  open.volume = CountingUuid(0x30);
  open.generation = 0x1122334455667788;
  open.token = CountingUuid(0x40);
  open.volume_name_length = 2;
  open.client_name_length = 5;
  return open;
}

TEST(GoldenTest, OpenThatNamesItsClaimer) {
  Open open = AnOpen();
  open.claimer = CountingUuid(0x50);
  EXPECT_EQ(Frame(FrameType::kOpen, open, FromText("d0web-1")), FromHex(golden::kOpenClaimer));
  Bytes payload;
  const auto got = DecodeGolden<Open>(golden::kOpenClaimer, FrameType::kOpen, &payload);
  EXPECT_EQ(got.claimer, open.claimer);
  EXPECT_EQ(got.token, open.token);
}

TEST(GoldenTest, Open) {
  const Open open = AnOpen();
  EXPECT_EQ(Frame(FrameType::kOpen, open, FromText("d0web-1")), FromHex(golden::kOpen));
  Bytes payload;
  const auto got = DecodeGolden<Open>(golden::kOpen, FrameType::kOpen, &payload);
  EXPECT_EQ(got.session, open.session);
  EXPECT_EQ(got.epoch, 7u);
  EXPECT_EQ(got.channel, 1u);
  EXPECT_EQ(got.channel_count, 4u);
  EXPECT_EQ(got.incarnation, 9u);
  EXPECT_EQ(got.flags, open.flags);
  EXPECT_EQ(got.volume, open.volume);
  EXPECT_EQ(got.generation, open.generation);
  EXPECT_EQ(got.token, open.token);
  EXPECT_EQ(got.volume_name_length, 2);
  EXPECT_EQ(got.client_name_length, 5);
  EXPECT_TRUE(got.claimer.IsNil());
  EXPECT_EQ(payload, FromText("d0web-1"));
}

TEST(GoldenTest, OpenReply) {
  OpenReply reply;
  reply.volume_flags = VolumeFlag::kDiscard | VolumeFlag::kWriteZeroes | VolumeFlag::kWriteCache;
  reply.volume = CountingUuid(0x30);
  reply.generation = 0x1122334455667788;
  reply.size = 1u << 30;
  reply.logical_block_size = 512;
  reply.physical_block_size = 4096;
  reply.optimal_io_size = 65536;
  reply.discard_granularity = 8192;
  reply.max_discard_length = 1u << 31;
  reply.max_write_zeroes_length = 1u << 30;
  reply.max_ranges = 16;
  reply.max_channels = 64;
  reply.credit_requests = 512;
  reply.lease_ms = 10000;
  reply.credit_bytes = 32u << 20;
  reply.epoch = 7;
  EXPECT_EQ(Frame(FrameType::kOpenReply, reply), FromHex(golden::kOpenReply));
  const auto got = DecodeGolden<OpenReply>(golden::kOpenReply, FrameType::kOpenReply);
  EXPECT_EQ(got.status, StatusCode::kOk);
  EXPECT_EQ(got.volume_flags, reply.volume_flags);
  EXPECT_EQ(got.volume, reply.volume);
  EXPECT_EQ(got.generation, reply.generation);
  EXPECT_EQ(got.size, reply.size);
  EXPECT_EQ(got.logical_block_size, 512u);
  EXPECT_EQ(got.physical_block_size, 4096u);
  EXPECT_EQ(got.optimal_io_size, 65536u);
  EXPECT_EQ(got.discard_granularity, 8192u);
  EXPECT_EQ(got.max_discard_length, 1u << 31);
  EXPECT_EQ(got.max_write_zeroes_length, 1u << 30);
  EXPECT_EQ(got.max_ranges, 16u);
  EXPECT_EQ(got.max_channels, 64u);
  EXPECT_EQ(got.credit_requests, 512u);
  EXPECT_EQ(got.lease_ms, 10000u);
  EXPECT_EQ(got.credit_bytes, 32u << 20);
  EXPECT_EQ(got.epoch, 7u);
}

TEST(GoldenTest, OpenReplyThatRefuses) {
  OpenReply reply;
  reply.status = StatusCode::kBusy;
  reply.retry_ms = 2500;
  EXPECT_EQ(Frame(FrameType::kOpenReply, reply, FromText("held by web-1")),
            FromHex(golden::kOpenReplyBusy));
  Bytes payload;
  const auto got = DecodeGolden<OpenReply>(golden::kOpenReplyBusy, FrameType::kOpenReply, &payload);
  EXPECT_EQ(got.status, StatusCode::kBusy);
  EXPECT_EQ(got.retry_ms, 2500u);
  EXPECT_EQ(payload, FromText("held by web-1"));
}

std::vector<Request> GoldenRequests() {
  return {{0x0102030405060708, 4096, 8192, Operation::kRead, 0, 0},
          {2, uint64_t{1} << 40, 512, Operation::kWrite, RequestFlag::kFua, 0},
          {3, 0, 0, Operation::kFlush, 0, 0},
          {4, 0, 24, Operation::kDiscard, 0, 1},
          {5, 0, 48, Operation::kWriteZeroes, RequestFlag::kFua, 2}};
}

Bytes GoldenRequestPayload() {
  Bytes payload = Pattern();
  const std::vector<Range> ranges = {
      {0, 1u << 20, 0}, {4096, 512, RangeFlag::kUnmap}, {8192, 1024, 0}};
  for (const Range& range : ranges) {
    payload.resize(payload.size() + kRangeSize);
    Encode(range, std::span(payload).last(kRangeSize));
  }
  return payload;
}

void ExpectGoldenRequests(std::string_view hex, bool crc) {
  const Bytes frame = FromHex(hex);
  const FrameLimits limits{.payload_crc = crc};
  FrameHeader header;
  ASSERT_EQ(DecodeFrameHeader(frame, limits, &header), DecodeError::kOk);
  const auto section = std::span(frame).subspan(kFrameHeaderSize, header.header_length);
  ASSERT_EQ(CheckHeaderSection(header, section), DecodeError::kOk);
  std::vector<Request> got(header.count);
  std::span<const uint8_t> crcs;
  ASSERT_EQ(DecodeRequests(header, section, limits, got, &crcs), DecodeError::kOk);
  const auto want = GoldenRequests();
  ASSERT_EQ(got.size(), want.size());
  for (size_t i = 0; i < want.size(); ++i) {
    EXPECT_EQ(got[i].tag, want[i].tag);
    EXPECT_EQ(got[i].offset, want[i].offset);
    EXPECT_EQ(got[i].length, want[i].length);
    EXPECT_EQ(got[i].operation, want[i].operation);
    EXPECT_EQ(got[i].flags, want[i].flags);
    EXPECT_EQ(got[i].range_count, want[i].range_count);
  }
  ASSERT_EQ(crcs.size(), crc ? 12u : 0u);
  if (crc) {
    EXPECT_EQ(Load32(crcs.data()), Crc32c(0, Pattern()));
  }
  Range range;
  ASSERT_EQ(Decode(std::span(frame).last(2 * kRangeSize), &range), DecodeError::kOk);
  EXPECT_EQ(range.offset, 4096u);
  EXPECT_EQ(range.length, 512u);
  EXPECT_EQ(range.flags, RangeFlag::kUnmap);
}

TEST(GoldenTest, Request) {
  EXPECT_EQ(BatchFrame(FrameType::kRequest, GoldenRequests(), GoldenRequestPayload()),
            FromHex(golden::kRequest));
  ExpectGoldenRequests(golden::kRequest, false);
}

TEST(GoldenTest, RequestWithPayloadCrc) {
  const Bytes payload = GoldenRequestPayload();
  const std::span<const uint8_t> bytes(payload);
  EXPECT_EQ(BatchFrame(FrameType::kRequest, GoldenRequests(), payload,
                       {Crc32c(0, bytes.first(512)), Crc32c(0, bytes.subspan(512, 24)),
                        Crc32c(0, bytes.subspan(536))}),
            FromHex(golden::kRequestCrc));
  ExpectGoldenRequests(golden::kRequestCrc, true);
}

TEST(GoldenTest, Reply) {
  const std::vector<Reply> replies = {{0x0102030405060708, StatusCode::kOk, 512, 0},
                                      {2, StatusCode::kNoSpace, 0, 0},
                                      {3, StatusCode::kOk, 0, ReplyFlag::kHole}};
  EXPECT_EQ(BatchFrame(FrameType::kReply, replies, Pattern()), FromHex(golden::kReply));
  EXPECT_EQ(BatchFrame(FrameType::kReply, replies, Pattern(), {Crc32c(0, Pattern())}),
            FromHex(golden::kReplyCrc));
  for (const bool crc : {false, true}) {
    const Bytes frame = FromHex(crc ? golden::kReplyCrc : golden::kReply);
    const FrameLimits limits{.payload_crc = crc};
    FrameHeader header;
    ASSERT_EQ(DecodeFrameHeader(frame, limits, &header), DecodeError::kOk);
    std::vector<Reply> got(header.count);
    std::span<const uint8_t> crcs;
    ASSERT_EQ(DecodeReplies(header, std::span(frame).subspan(32, header.header_length), limits, got,
                            &crcs),
              DecodeError::kOk);
    ASSERT_EQ(got.size(), replies.size());
    for (size_t i = 0; i < replies.size(); ++i) {
      EXPECT_EQ(got[i].tag, replies[i].tag);
      EXPECT_EQ(got[i].status, replies[i].status);
      EXPECT_EQ(got[i].length, replies[i].length);
      EXPECT_EQ(got[i].flags, replies[i].flags);
    }
    EXPECT_EQ(crcs.size(), crc ? 4u : 0u);
  }
}

TEST(GoldenTest, BlockStatus) {
  const Request request{6, 4096, 3 * kExtentSize, Operation::kBlockStatus, 0, 0, uint64_t{1} << 40};
  EXPECT_EQ(BatchFrame(FrameType::kRequest, std::vector{request}, {}),
            FromHex(golden::kBlockStatus));
  Bytes list(2 * kExtentSize);
  Encode(Extent{1u << 20, ExtentFlag::kHole | ExtentFlag::kZero}, list);
  Encode(Extent{4096, 0}, std::span(list).last(kExtentSize));
  const std::vector<Reply> replies = {{6, StatusCode::kOk, 2 * kExtentSize, 0}};
  EXPECT_EQ(BatchFrame(FrameType::kReply, replies, list), FromHex(golden::kBlockStatusReply));
  Request got;
  const Bytes frame = FromHex(golden::kBlockStatus);
  ASSERT_EQ(Decode(std::span(frame).subspan(kFrameHeaderSize), &got), DecodeError::kOk);
  EXPECT_EQ(got.operation, Operation::kBlockStatus);
  EXPECT_EQ(got.offset, 4096u);
  EXPECT_EQ(got.length, 3 * kExtentSize);
  EXPECT_EQ(got.extent, uint64_t{1} << 40);
  EXPECT_EQ(got.PayloadLength(), 0u);
  Extent extent;
  ASSERT_EQ(Decode(list, &extent), DecodeError::kOk);
  EXPECT_EQ(extent.length, 1u << 20);
  EXPECT_EQ(extent.flags, ExtentFlag::kHole | ExtentFlag::kZero);
}

TEST(GoldenTest, PingAndPong) {
  const Ping ping{0xfeedface01020304};
  EXPECT_EQ(Frame(FrameType::kPing, ping), FromHex(golden::kPing));
  EXPECT_EQ(Frame(FrameType::kPong, ping), FromHex(golden::kPong));
  EXPECT_EQ(DecodeGolden<Ping>(golden::kPing, FrameType::kPing).cookie, ping.cookie);
  EXPECT_EQ(DecodeGolden<Ping>(golden::kPong, FrameType::kPong).cookie, ping.cookie);
}

TEST(GoldenTest, ReleaseAndClaim) {
  EXPECT_EQ(Frame(FrameType::kRelease, TokenMessage{CountingUuid(0x50), 7}),
            FromHex(golden::kRelease));
  EXPECT_EQ(Frame(FrameType::kClaim, TokenMessage{CountingUuid(0x50), 8}), FromHex(golden::kClaim));
  const auto got = DecodeGolden<TokenMessage>(golden::kClaim, FrameType::kClaim);
  EXPECT_EQ(got.token, CountingUuid(0x50));
  EXPECT_EQ(got.epoch, 8u);
}

TEST(GoldenTest, StatusMessages) {
  const StatusMessage ok{StatusCode::kOk, 7};
  EXPECT_EQ(Frame(FrameType::kReleaseReply, ok), FromHex(golden::kReleaseReply));
  EXPECT_EQ(Frame(FrameType::kCloseReply, ok), FromHex(golden::kCloseReply));
  EXPECT_EQ(Frame(FrameType::kClaimReply, StatusMessage{StatusCode::kBadToken, 7},
                  FromText("token was spent")),
            FromHex(golden::kClaimReply));
  EXPECT_EQ(Frame(FrameType::kError, StatusMessage{StatusCode::kProtocol, 0}, FromText("bad tag")),
            FromHex(golden::kError));
  const auto got = DecodeGolden<StatusMessage>(golden::kClaimReply, FrameType::kClaimReply);
  EXPECT_EQ(got.status, StatusCode::kBadToken);
  EXPECT_EQ(got.epoch, 7u);
}

TEST(GoldenTest, EventAndClose) {
  EXPECT_EQ(Frame(FrameType::kEvent, Event{EventKind::kResized, 1u << 31}),
            FromHex(golden::kEvent));
  const auto event = DecodeGolden<Event>(golden::kEvent, FrameType::kEvent);
  EXPECT_EQ(event.kind, EventKind::kResized);
  EXPECT_EQ(event.value, 1u << 31);
  EXPECT_EQ(Frame(FrameType::kClose, Close{CloseFlag::kEndSession}), FromHex(golden::kClose));
  EXPECT_EQ(DecodeGolden<Close>(golden::kClose, FrameType::kClose).flags, CloseFlag::kEndSession);
}

TEST(GoldenTest, Resize) {
  const Resize resize{uint64_t{3} << 30, ResizeFlag::kForce};
  EXPECT_EQ(Frame(FrameType::kResize, resize), FromHex(golden::kResize));
  const auto got = DecodeGolden<Resize>(golden::kResize, FrameType::kResize);
  EXPECT_EQ(got.size, resize.size);
  EXPECT_EQ(got.flags, ResizeFlag::kForce);
  EXPECT_EQ(
      Frame(FrameType::kResizeReply, StatusMessage{StatusCode::kInvalid, 0}, FromText("too small")),
      FromHex(golden::kResizeReply));
  const auto reply = DecodeGolden<StatusMessage>(golden::kResizeReply, FrameType::kResizeReply);
  EXPECT_EQ(reply.status, StatusCode::kInvalid);
}

}  // namespace
}  // namespace cloudblk::wire
