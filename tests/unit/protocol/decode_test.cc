// SPDX-License-Identifier: GPL-2.0-or-later
//
// What the decoders refuse: every truncation, every flipped bit, every limit.
#include <gtest/gtest.h>

#include "tests/unit/protocol/golden_bytes.h"
#include "tests/unit/protocol/messages.h"

namespace cloudblk::wire {
namespace {

struct GoldenFrame {
  const char* name;
  std::string_view hex;
  bool payload_crc = false;
};

const GoldenFrame kFrames[] = {
    {"Hello", golden::kHello},
    {"HelloReply", golden::kHelloReply},
    {"Open", golden::kOpen},
    {"OpenClaimer", golden::kOpenClaimer},
    {"OpenReply", golden::kOpenReply},
    {"OpenReplyBusy", golden::kOpenReplyBusy},
    {"Request", golden::kRequest},
    {"RequestCrc", golden::kRequestCrc, true},
    {"Reply", golden::kReply},
    {"ReplyCrc", golden::kReplyCrc, true},
    {"BlockStatus", golden::kBlockStatus},
    {"BlockStatusReply", golden::kBlockStatusReply},
    {"Ping", golden::kPing},
    {"Pong", golden::kPong},
    {"Release", golden::kRelease},
    {"ReleaseReply", golden::kReleaseReply},
    {"Claim", golden::kClaim},
    {"ClaimReply", golden::kClaimReply},
    {"Event", golden::kEvent},
    {"Close", golden::kClose},
    {"CloseReply", golden::kCloseReply},
    {"Error", golden::kError},
    {"Resize", golden::kResize},
    {"ResizeReply", golden::kResizeReply},
};

template <typename Message>
DecodeError DecodeAs(std::span<const uint8_t> section) {
  Message message;
  return Decode(section, &message);
}

// Decodes the message in `section` as a receiver of this frame would.
DecodeError DecodeSection(const FrameHeader& header, std::span<const uint8_t> section,
                          const FrameLimits& limits) {
  std::span<const uint8_t> crcs;
  switch (header.type) {
    case FrameType::kHello:
      return DecodeAs<Hello>(section);
    case FrameType::kHelloReply:
      return DecodeAs<HelloReply>(section);
    case FrameType::kOpen:
      return DecodeAs<Open>(section);
    case FrameType::kOpenReply:
      return DecodeAs<OpenReply>(section);
    case FrameType::kRequest: {
      std::vector<Request> out(header.count);
      return DecodeRequests(header, section, limits, out, &crcs);
    }
    case FrameType::kReply: {
      std::vector<Reply> out(header.count);
      return DecodeReplies(header, section, limits, out, &crcs);
    }
    case FrameType::kPing:
    case FrameType::kPong:
      return DecodeAs<Ping>(section);
    case FrameType::kRelease:
    case FrameType::kClaim:
      return DecodeAs<TokenMessage>(section);
    case FrameType::kReleaseReply:
    case FrameType::kClaimReply:
    case FrameType::kCloseReply:
    case FrameType::kResizeReply:
    case FrameType::kError:
      return DecodeAs<StatusMessage>(section);
    case FrameType::kEvent:
      return DecodeAs<Event>(section);
    case FrameType::kClose:
      return DecodeAs<Close>(section);
    case FrameType::kResize:
      return DecodeAs<Resize>(section);
  }
  return DecodeError::kBadType;
}

DecodeError DecodeAll(const Bytes& frame, const FrameLimits& limits) {
  FrameHeader header;
  DecodeError error = DecodeFrameHeader(frame, limits, &header);
  if (error != DecodeError::kOk) return error;
  if (frame.size() < kFrameHeaderSize + header.header_length) return DecodeError::kTruncated;
  const auto section = std::span(frame).subspan(kFrameHeaderSize, header.header_length);
  error = CheckHeaderSection(header, section);
  return error != DecodeError::kOk ? error : DecodeSection(header, section, limits);
}

// Gives the frame header and the section CRCs that fit what they say now.
void Reseal(Bytes* frame) {
  Bytes copy = *frame;
  const uint32_t length = Load32(&copy[12]);
  ASSERT_LE(kFrameHeaderSize + length, frame->size());
  Store32(&copy[24], Crc32c(0, std::span(copy).subspan(kFrameHeaderSize, length)));
  Store32(&copy[28], Crc32c(0, std::span(copy).first(28)));
  *frame = copy;
}

class EveryFrame : public testing::TestWithParam<GoldenFrame> {
 protected:
  Bytes frame_ = FromHex(GetParam().hex);
  FrameLimits limits_{.payload_crc = GetParam().payload_crc};
};

TEST_P(EveryFrame, IsWhole) { EXPECT_EQ(DecodeAll(frame_, limits_), DecodeError::kOk); }

TEST_P(EveryFrame, TruncatedAtEveryLength) {
  const size_t headers = kFrameHeaderSize + Load32(&frame_[12]);
  for (size_t n = 0; n < headers; ++n) {
    // Exactly sized, so that AddressSanitizer sees a read behind the end.
    const Bytes cut(frame_.begin(), frame_.begin() + static_cast<ptrdiff_t>(n));
    EXPECT_EQ(DecodeAll(cut, limits_), DecodeError::kTruncated) << n;
  }
  FrameHeader header;
  ASSERT_EQ(DecodeFrameHeader(frame_, limits_, &header), DecodeError::kOk);
  for (uint32_t n = 0; n < header.header_length; ++n) {
    const Bytes cut(frame_.begin() + kFrameHeaderSize, frame_.begin() + kFrameHeaderSize + n);
    EXPECT_EQ(CheckHeaderSection(header, cut), DecodeError::kTruncated) << n;
    EXPECT_EQ(DecodeSection(header, cut, limits_), DecodeError::kTruncated) << n;
  }
}

TEST_P(EveryFrame, EveryFlippedBitOfTheHeadersIsSeen) {
  const size_t headers = kFrameHeaderSize + Load32(&frame_[12]);
  for (size_t bit = 0; bit < headers * 8; ++bit) {
    Bytes bad = frame_;
    bad[bit / 8] = static_cast<uint8_t>(bad[bit / 8] ^ 1u << bit % 8);
    EXPECT_NE(DecodeAll(bad, limits_), DecodeError::kOk) << "bit " << bit;
  }
}

TEST_P(EveryFrame, AnotherVersionIsRefusedAsSuch) {
  frame_[4] = 2;
  Reseal(&frame_);
  EXPECT_EQ(DecodeAll(frame_, limits_), DecodeError::kBadVersion);
}

TEST_P(EveryFrame, FrameFlagsAndReservedFieldAreRefused) {
  for (const size_t at : {6, 7, 20, 21, 22, 23}) {
    Bytes bad = frame_;
    bad[at] = 1;
    Reseal(&bad);
    EXPECT_EQ(DecodeAll(bad, limits_), DecodeError::kReservedSet) << at;
  }
}

TEST_P(EveryFrame, AbsurdCountsAndLengthsAreRefusedByTheHeaderAlone) {
  for (const size_t at : {8, 12, 16}) {
    for (const uint32_t value : {0x7fffffffu, 0xffffffffu, 0x80000000u, 0x00ffffffu}) {
      Bytes bad = frame_;
      Store32(&bad[at], value);
      Store32(&bad[28], Crc32c(0, std::span(bad).first(28)));
      FrameHeader header;
      const DecodeError error = DecodeFrameHeader(bad, limits_, &header);
      EXPECT_TRUE(error == DecodeError::kBadCount || error == DecodeError::kBadLength)
          << at << ": " << Describe(error);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Frames, EveryFrame, testing::ValuesIn(kFrames),
                         [](const auto& info) { return info.param.name; });

TEST(FrameHeaderTest, BadMagicIsSaidBeforeBadCrc) {
  Bytes frame = FromHex(golden::kHello);
  frame[0] = 'X';
  FrameHeader header;
  EXPECT_EQ(DecodeFrameHeader(frame, {}, &header), DecodeError::kBadMagic);
}

TEST(FrameHeaderTest, UnknownTypesAreRefused) {
  for (const int type : {0, 19, 255}) {
    Bytes frame = FromHex(golden::kPing);
    frame[5] = static_cast<uint8_t>(type);
    Reseal(&frame);
    EXPECT_EQ(DecodeAll(frame, {}), DecodeError::kBadType) << type;
  }
}

TEST(FrameHeaderTest, NegotiatedLimitsHold) {
  const Bytes frame = FromHex(golden::kRequest);
  FrameHeader header;
  EXPECT_EQ(DecodeFrameHeader(frame, {.max_entries = 4}, &header), DecodeError::kBadCount);
  EXPECT_EQ(DecodeFrameHeader(frame, {.max_entries = 5}, &header), DecodeError::kOk);
  EXPECT_EQ(DecodeFrameHeader(frame, {.max_payload = 583}, &header), DecodeError::kBadLength);
  EXPECT_EQ(DecodeFrameHeader(frame, {.max_payload = 584}, &header), DecodeError::kOk);
  // A READ has no payload in the REQUEST, but its length is held to the limit all the same.
  std::vector<Request> out(5);
  std::span<const uint8_t> crcs;
  const auto section = std::span(frame).subspan(kFrameHeaderSize, header.header_length);
  EXPECT_EQ(DecodeRequests(header, section, {.max_payload = 8191}, out, &crcs),
            DecodeError::kBadLength);
  EXPECT_EQ(DecodeRequests(header, section, {.max_payload = 8192}, out, &crcs), DecodeError::kOk);
}

DecodeError RequestError(const Request& request) {
  Bytes bytes(kRequestHeaderSize);
  Encode(request, bytes);
  return DecodeAs<Request>(bytes);
}

TEST(RequestTest, EachFieldIsHeldToItsOperation) {
  EXPECT_EQ(RequestError({1, 0, 512, Operation::kRead, 0, 0}), DecodeError::kOk);
  EXPECT_EQ(RequestError({1, 0, 0, Operation::kRead, 0, 0}), DecodeError::kBadLength);
  EXPECT_EQ(RequestError({1, 0, 512, Operation::kRead, 0, 1}), DecodeError::kBadCount);
  EXPECT_EQ(RequestError({1, 0, 512, Operation::kRead, RequestFlag::kFua, 0}),
            DecodeError::kReservedSet);
  EXPECT_EQ(RequestError({1, UINT64_MAX - 511, 512, Operation::kRead, 0, 0}),
            DecodeError::kBadLength);
  EXPECT_EQ(RequestError({1, INT64_MAX - 511, 512, Operation::kWrite, 0, 0}),
            DecodeError::kBadLength);
  EXPECT_EQ(RequestError({1, INT64_MAX - 512, 512, Operation::kWrite, 0, 0}), DecodeError::kOk);
  EXPECT_EQ(RequestError({1, 0, 512, Operation::kWrite, 2, 0}), DecodeError::kReservedSet);
  EXPECT_EQ(RequestError({1, 0, 1, Operation::kFlush, 0, 0}), DecodeError::kBadLength);
  EXPECT_EQ(RequestError({1, 1, 0, Operation::kFlush, 0, 0}), DecodeError::kBadLength);
  EXPECT_EQ(RequestError({1, 0, 0, Operation::kDiscard, 0, 0}), DecodeError::kBadCount);
  EXPECT_EQ(RequestError({1, 0, 24, Operation::kDiscard, 0, 2}), DecodeError::kBadLength);
  EXPECT_EQ(RequestError({1, 0, 257 * 24, Operation::kDiscard, 0, 257}), DecodeError::kBadCount);
  EXPECT_EQ(RequestError({1, 0, 256 * 24, Operation::kWriteZeroes, 0, 256}), DecodeError::kOk);
  EXPECT_EQ(RequestError({1, 0, 512, Operation{0}, 0, 0}), DecodeError::kBadOperation);
  EXPECT_EQ(RequestError({1, 0, 512, Operation{7}, 0, 0}), DecodeError::kBadOperation);
}

TEST(RequestTest, ABlockStatusAsksAboutSomethingAndForSomething) {
  const Request good{1, 512, kExtentSize, Operation::kBlockStatus, 0, 0, 4096};
  const auto with = [&](auto change) {
    Request request = good;
    change(&request);
    return RequestError(request);
  };
  EXPECT_EQ(RequestError(good), DecodeError::kOk);
  EXPECT_EQ(with([](Request* r) { r->length = kMaxExtents * kExtentSize; }), DecodeError::kOk);
  EXPECT_EQ(with([](Request* r) { r->length = (kMaxExtents + 1) * kExtentSize; }),
            DecodeError::kBadLength);
  EXPECT_EQ(with([](Request* r) { r->length = 0; }), DecodeError::kBadLength);
  EXPECT_EQ(with([](Request* r) { r->length = kExtentSize + 8; }), DecodeError::kBadLength);
  EXPECT_EQ(with([](Request* r) { r->extent = 0; }), DecodeError::kBadLength);
  EXPECT_EQ(with([](Request* r) { r->extent = UINT64_MAX; }), DecodeError::kBadLength);
  EXPECT_EQ(with([](Request* r) { r->extent = INT64_MAX - 511; }), DecodeError::kBadLength);
  EXPECT_EQ(with([](Request* r) { r->extent = INT64_MAX - 512; }), DecodeError::kOk);
  EXPECT_EQ(with([](Request* r) { r->offset = UINT64_MAX; }), DecodeError::kBadLength);
  EXPECT_EQ(with([](Request* r) { r->flags = RequestFlag::kFua; }), DecodeError::kReservedSet);
  EXPECT_EQ(with([](Request* r) { r->range_count = 1; }), DecodeError::kBadCount);
}

TEST(ExtentTest, NothingAndUnknownFlagsAreRefused) {
  const auto error = [](const Extent& extent) {
    Bytes bytes(kExtentSize);
    Encode(extent, bytes);
    return DecodeAs<Extent>(bytes);
  };
  EXPECT_EQ(error({512, ExtentFlag::kAll}), DecodeError::kOk);
  EXPECT_EQ(error({512, 4}), DecodeError::kReservedSet);
  EXPECT_EQ(error({0, 0}), DecodeError::kBadLength);
  EXPECT_EQ(error({uint64_t{1} << 63, 0}), DecodeError::kBadLength);
  Bytes bytes(kExtentSize);
  Encode(Extent{512, 0}, bytes);
  bytes.back() = 1;
  EXPECT_EQ(DecodeAs<Extent>(bytes), DecodeError::kReservedSet);
}

TEST(RequestTest, ReservedBytesAreRefused) {
  for (size_t at = 24; at < 32; ++at) {
    Bytes bytes(kRequestHeaderSize);
    Encode(Request{1, 0, 512, Operation::kRead, 0, 0}, bytes);
    bytes[at] = 0x80;
    EXPECT_EQ(DecodeAs<Request>(bytes), DecodeError::kReservedSet) << at;
  }
}

TEST(RangeTest, OverflowAndFlagsAreRefused) {
  const auto error = [](const Range& range) {
    Bytes bytes(kRangeSize);
    Encode(range, bytes);
    return DecodeAs<Range>(bytes);
  };
  EXPECT_EQ(error({512, 512, RangeFlag::kUnmap}), DecodeError::kOk);
  EXPECT_EQ(error({512, 512, 2}), DecodeError::kReservedSet);
  EXPECT_EQ(error({UINT64_MAX, 512, 0}), DecodeError::kBadLength);
  EXPECT_EQ(error({512, UINT64_MAX, 0}), DecodeError::kBadLength);
  EXPECT_EQ(error({512, INT64_MAX, 0}), DecodeError::kBadLength);
}

TEST(ReplyTest, NeitherErrorsNorHolesHavePayload) {
  const auto error = [](const Reply& reply) {
    Bytes bytes(kReplyHeaderSize);
    Encode(reply, bytes);
    return DecodeAs<Reply>(bytes);
  };
  EXPECT_EQ(error({1, StatusCode::kOk, 512, 0}), DecodeError::kOk);
  EXPECT_EQ(error({1, StatusCode::kIoError, 512, 0}), DecodeError::kBadLength);
  EXPECT_EQ(error({1, StatusCode::kOk, 512, ReplyFlag::kHole}), DecodeError::kBadLength);
  EXPECT_EQ(error({1, StatusCode::kIoError, 0, ReplyFlag::kHole}), DecodeError::kReservedSet);
  EXPECT_EQ(error({1, StatusCode::kOk, 0, 2}), DecodeError::kReservedSet);
  EXPECT_EQ(error({1, StatusCode{21}, 0, 0}), DecodeError::kBadStatus);
}

TEST(BatchTest, PayloadsMustSumToTheFrames) {
  const std::vector<Request> writes = {{1, 0, 512, Operation::kWrite, 0, 0}};
  EXPECT_EQ(DecodeAll(BatchFrame(FrameType::kRequest, writes, Bytes(512)), {}), DecodeError::kOk);
  EXPECT_EQ(DecodeAll(BatchFrame(FrameType::kRequest, writes, Bytes(511)), {}),
            DecodeError::kBadLength);
  const std::vector<Reply> reads = {{1, StatusCode::kOk, 512, 0}, {2, StatusCode::kOk, 512, 0}};
  EXPECT_EQ(DecodeAll(BatchFrame(FrameType::kReply, reads, Bytes(1024)), {}), DecodeError::kOk);
  EXPECT_EQ(DecodeAll(BatchFrame(FrameType::kReply, reads, Bytes(1025)), {}),
            DecodeError::kBadLength);
}

TEST(BatchTest, CrcTableHasOneEntryABlock) {
  EXPECT_EQ(CrcBlocks(0), 0u);
  EXPECT_EQ(CrcBlocks(1), 1u);
  EXPECT_EQ(CrcBlocks(kCrcBlock), 1u);
  EXPECT_EQ(CrcBlocks(kCrcBlock + 1), 2u);
  const FrameLimits limits{.payload_crc = true};
  const std::vector<Request> writes = {{1, 0, kCrcBlock + 512, Operation::kWrite, 0, 0}};
  const Bytes payload(kCrcBlock + 512);
  EXPECT_EQ(DecodeAll(BatchFrame(FrameType::kRequest, writes, payload, {1, 2}), limits),
            DecodeError::kOk);
  for (const auto& table : {std::vector<uint32_t>{}, {1}, {1, 2, 3}, {1, 2, 3, 4, 5}}) {
    EXPECT_EQ(DecodeAll(BatchFrame(FrameType::kRequest, writes, payload, table), limits),
              DecodeError::kBadLength)
        << table.size();
  }
  EXPECT_EQ(DecodeAll(BatchFrame(FrameType::kRequest, writes, payload, {1, 2}), {}),
            DecodeError::kBadLength);
}

TEST(OpenReplyTest, GeometryThatCannotBeComputedWithIsRefused) {
  const Bytes good = FromHex(golden::kOpenReply);
  const auto error = [&](size_t offset, uint32_t value) {
    Bytes bad = good;
    Store32(&bad[kFrameHeaderSize + offset], value);
    Reseal(&bad);
    return DecodeAll(bad, {});
  };
  EXPECT_EQ(error(40, 512), DecodeError::kOk);
  for (const uint32_t block : {0u, 511u, 256u, 768u, 8192u, 0x80000000u}) {
    EXPECT_EQ(error(40, block), DecodeError::kBadLength) << block;
  }
  EXPECT_EQ(error(44, 256), DecodeError::kBadLength);         // physical below logical
  EXPECT_EQ(error(32, 0x40000001), DecodeError::kBadLength);  // size not in blocks
  EXPECT_EQ(error(36, 0x80000000), DecodeError::kBadLength);  // size of 2^63 and more
  EXPECT_EQ(error(72, 0), DecodeError::kBadLength);           // no ranges
  EXPECT_EQ(error(72, 257), DecodeError::kBadLength);
  EXPECT_EQ(error(80, 0), DecodeError::kBadLength);      // no credits
  EXPECT_EQ(error(4, 0x20), DecodeError::kReservedSet);  // unknown volume flag
}

TEST(OpenTest, ASessionHasAnIdentityAndItsChannelsAreCounted) {
  Open open;
  open.session = CountingUuid(1);
  open.channel = 1;
  open.channel_count = 2;
  open.volume_name_length = 1;
  const auto error = [](const Open& open) {
    Bytes bytes(kOpenSize);
    Encode(open, bytes);
    return DecodeAs<Open>(bytes);
  };
  EXPECT_EQ(error(open), DecodeError::kOk);
  open.channel = 2;
  EXPECT_EQ(error(open), DecodeError::kBadLength);
  open.channel = 0;
  open.session = {};
  EXPECT_EQ(error(open), DecodeError::kBadLength);
}

TEST(TokenMessageTest, NoTokenIsNoToken) {
  Bytes bytes(kTokenMessageSize);
  Encode(TokenMessage{CountingUuid(1), 1}, bytes);
  EXPECT_EQ(DecodeAs<TokenMessage>(bytes), DecodeError::kOk);
  Encode(TokenMessage{{}, 1}, bytes);
  EXPECT_EQ(DecodeAs<TokenMessage>(bytes), DecodeError::kBadLength);
}

TEST(ResizeTest, ImpossibleSizesAndUnknownFlagsAreRefused) {
  const auto error = [](const Resize& resize) {
    Bytes bytes(kResizeSize);
    Encode(resize, bytes);
    return DecodeAs<Resize>(bytes);
  };
  EXPECT_EQ(error({512, ResizeFlag::kForce}), DecodeError::kOk);
  EXPECT_EQ(error({INT64_MAX, 0}), DecodeError::kOk);
  EXPECT_EQ(error({uint64_t{INT64_MAX} + 1, 0}), DecodeError::kBadLength);
  EXPECT_EQ(error({512, 2}), DecodeError::kReservedSet);
}

TEST(HelloTest, UnknownFeaturesAreOfferedButNeverInForce) {
  Bytes hello = FromHex(golden::kHello);
  hello[kFrameHeaderSize + 15] = 0x80;
  Reseal(&hello);
  EXPECT_EQ(DecodeAll(hello, {}), DecodeError::kOk);
  Bytes reply = FromHex(golden::kHelloReply);
  reply[kFrameHeaderSize + 15] = 0x80;
  Reseal(&reply);
  EXPECT_EQ(DecodeAll(reply, {}), DecodeError::kReservedSet);
}

}  // namespace
}  // namespace cloudblk::wire
