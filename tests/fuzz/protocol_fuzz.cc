// SPDX-License-Identifier: GPL-2.0-or-later
//
// Any bytes into the decoders. What they accept must encode to the same bytes again: a message that
// does not is one of which a part was not understood.
#include <cstdlib>
#include <cstring>
#include <vector>

#include "base/text.h"
#include "proxy-protocol/wire.h"

namespace cloudblk::wire {
namespace {

void Check(bool holds) {
  if (!holds) abort();
}

template <typename Message>
void RoundTrip(std::span<const uint8_t> section) {
  Message message;
  if (Decode(section, &message) != DecodeError::kOk) return;
  std::vector<uint8_t> again(section.size());
  const size_t size = Encode(message, again);
  Check(size <= section.size() && memcmp(again.data(), section.data(), size) == 0);
}

template <typename Entry, typename DecodeFn>
void Batch(const FrameHeader& header, std::span<const uint8_t> section, const FrameLimits& limits,
           DecodeFn decode, size_t entry_size) {
  std::vector<Entry> entries(header.count);
  std::span<const uint8_t> crcs;
  if (decode(header, section, limits, entries, &crcs) != DecodeError::kOk) return;
  Check(crcs.size() + header.count * entry_size == section.size());
  for (uint32_t i = 0; i < header.count; ++i) {
    RoundTrip<Entry>(section.subspan(i * entry_size, entry_size));
  }
}

// The payload of a REPLY may be a list of these.
void Extents(std::span<const uint8_t> payload) {
  for (; payload.size() >= kExtentSize; payload = payload.subspan(kExtentSize)) {
    RoundTrip<Extent>(payload.first(kExtentSize));
  }
}

void Section(const FrameHeader& header, std::span<const uint8_t> section,
             const FrameLimits& limits) {
  switch (header.type) {
    case FrameType::kHello:
      return RoundTrip<Hello>(section);
    case FrameType::kHelloReply:
      return RoundTrip<HelloReply>(section);
    case FrameType::kOpen:
      return RoundTrip<Open>(section);
    case FrameType::kOpenReply:
      return RoundTrip<OpenReply>(section);
    case FrameType::kRequest:
      return Batch<Request>(header, section, limits, DecodeRequests, kRequestHeaderSize);
    case FrameType::kReply:
      return Batch<Reply>(header, section, limits, DecodeReplies, kReplyHeaderSize);
    case FrameType::kPing:
    case FrameType::kPong:
      return RoundTrip<Ping>(section);
    case FrameType::kRelease:
    case FrameType::kClaim:
      return RoundTrip<TokenMessage>(section);
    case FrameType::kReleaseReply:
    case FrameType::kClaimReply:
    case FrameType::kCloseReply:
    case FrameType::kResizeReply:
    case FrameType::kError:
      return RoundTrip<StatusMessage>(section);
    case FrameType::kEvent:
      return RoundTrip<Event>(section);
    case FrameType::kClose:
      return RoundTrip<Close>(section);
    case FrameType::kResize:
      return RoundTrip<Resize>(section);
  }
  abort();  // DecodeFrameHeader let an unknown type through
}

}  // namespace
}  // namespace cloudblk::wire

// The first byte chooses the limits; the rest is a frame whose CRCs are made right, since a fuzzer
// cannot guess them and a peer that means harm can compute them.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace cloudblk;
  using namespace cloudblk::wire;
  if (size < 1 + kFrameHeaderSize) return 0;
  const FrameLimits limits{.payload_crc = (data[0] & 1) != 0};
  std::vector<uint8_t> frame(data + 1, data + size);
  FrameHeader header;
  (void)DecodeFrameHeader(frame, limits, &header);
  const uint32_t length = Load32(&frame[12]);
  if (length > frame.size() - kFrameHeaderSize) return 0;
  Store32(&frame[0], kMagic);
  frame[4] = kVersion;
  const auto section = std::span<const uint8_t>(frame).subspan(kFrameHeaderSize, length);
  Store32(&frame[24], Crc32c(0, section));
  Store32(&frame[28], Crc32c(0, std::span<const uint8_t>(frame).first(28)));
  if (DecodeFrameHeader(frame, limits, &header) != DecodeError::kOk) return 0;
  if (CheckHeaderSection(header, section) != DecodeError::kOk) abort();
  Section(header, section, limits);
  Extents(std::span<const uint8_t>(frame).subspan(kFrameHeaderSize + length));
  (void)IsText(section);
  return 0;
}
