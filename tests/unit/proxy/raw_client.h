// SPDX-License-Identifier: GPL-2.0-or-later
//
// A client that sends any bytes it is told to, and waits for answers.
#ifndef CLOUDBLK_TESTS_UNIT_PROXY_RAW_CLIENT_H_
#define CLOUDBLK_TESTS_UNIT_PROXY_RAW_CLIENT_H_

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/socket.h"
#include "proxy-protocol/wire.h"

namespace cloudblk::proxy {

using Bytes = std::vector<uint8_t>;

inline Bytes operator+(Bytes left, const Bytes& right) {
  left.insert(left.end(), right.begin(), right.end());
  return left;
}

inline Bytes Frame(wire::FrameType type, const Bytes& section, const Bytes& payload = {},
                   uint32_t count = 0) {
  Bytes frame(wire::kFrameHeaderSize);
  frame = frame + section + payload;
  wire::FrameHeader header;
  header.type = type;
  header.count = count;
  header.header_length = static_cast<uint32_t>(section.size());
  header.payload_length = static_cast<uint32_t>(payload.size());
  wire::SealFrame(header, frame);
  return frame;
}

template <typename Message>
Bytes Encoded(const Message& message) {
  Bytes bytes(256);
  bytes.resize(wire::Encode(message, bytes));
  return bytes;
}

inline Bytes HelloFrame(uint64_t features = 0) {
  wire::Hello hello;
  hello.max_frame_payload = 1 << 20;
  hello.max_frame_entries = wire::kMaxFrameEntries;
  hello.features = features;
  return Frame(wire::FrameType::kHello, Encoded(hello));
}

inline Bytes Text(std::string_view text) { return Bytes(text.begin(), text.end()); }

inline Uuid SessionId(uint8_t number) {
  Uuid uuid;
  uuid.bytes.fill(number);
  return uuid;
}

inline wire::Open OpenOf(uint8_t session, uint32_t flags = wire::OpenFlag::kActive,
                         uint64_t incarnation = 1) {
  wire::Open open;
  open.session = SessionId(session);
  open.flags = flags;
  open.epoch = 1;
  open.incarnation = incarnation;
  return open;
}

inline Bytes OpenFrame(wire::Open open, std::string_view volume = "disk") {
  constexpr std::string_view kName = "raw client";
  open.volume_name_length = static_cast<uint16_t>(volume.size());
  open.client_name_length = kName.size();
  return Frame(wire::FrameType::kOpen, Encoded(open), Text(volume) + Text(kName));
}

inline wire::Request ReadOf(uint64_t tag, uint64_t offset, uint32_t length) {
  wire::Request request;
  request.tag = tag;
  request.operation = wire::Operation::kRead;
  request.offset = offset;
  request.length = length;
  return request;
}
inline wire::Request WriteOf(uint64_t tag, uint64_t offset, uint32_t length) {
  wire::Request request = ReadOf(tag, offset, length);
  request.operation = wire::Operation::kWrite;
  return request;
}
inline wire::Request BlockStatusOf(uint64_t tag, uint64_t offset, uint64_t extent,
                                   uint32_t most = wire::kMaxExtents) {
  wire::Request request;
  request.tag = tag;
  request.operation = wire::Operation::kBlockStatus;
  request.offset = offset;
  request.length = most * static_cast<uint32_t>(wire::kExtentSize);
  request.extent = extent;
  return request;
}
inline wire::Request FlushOf(uint64_t tag) {
  wire::Request request;
  request.tag = tag;
  request.operation = wire::Operation::kFlush;
  return request;
}

inline Bytes RequestFrame(const std::vector<wire::Request>& requests, const Bytes& payload = {},
                          const std::vector<uint32_t>& crcs = {}) {
  Bytes section;
  for (const wire::Request& request : requests) section = section + Encoded(request);
  for (const uint32_t crc : crcs) {
    Bytes bytes(4);
    Store32(bytes.data(), crc);
    section = section + bytes;
  }
  return Frame(wire::FrameType::kRequest, section, payload, static_cast<uint32_t>(requests.size()));
}

struct Received {
  wire::FrameHeader header;
  Bytes section;
  Bytes payload;
  std::string text() const { return std::string(payload.begin(), payload.end()); }
};

struct ReceivedReply {
  wire::Reply reply;
  Bytes data;
};

class RawClient {
 public:
  explicit RawClient(int fd) : fd_(fd) {
    timeval patience{30, 0};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
  }

  // False: the server closed the connection meanwhile.
  bool Send(std::span<const uint8_t> bytes) {
    while (!bytes.empty()) {
      const ssize_t sent = send(fd_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
      // The kernel takes a ring of an earlier test apart on the thread that made it.
      if (sent < 0 && errno == EINTR) continue;
      if (sent <= 0) return false;
      bytes = bytes.subspan(static_cast<size_t>(sent));
    }
    return true;
  }
  void Close() { fd_.reset(); }
  // Whether something arrived that was not received yet.
  bool HasData() {
    uint8_t byte;
    return recv(fd_.get(), &byte, 1, MSG_PEEK | MSG_DONTWAIT) > 0;
  }

  // The next frame; nothing if the connection ended.
  std::optional<Received> Receive() {
    Bytes head(wire::kFrameHeaderSize);
    if (!Exactly(head)) return std::nullopt;
    Received frame;
    wire::FrameLimits limits;
    limits.payload_crc = payload_crc;
    EXPECT_EQ(wire::DecodeFrameHeader(head, limits, &frame.header), wire::DecodeError::kOk);
    frame.section.resize(frame.header.header_length);
    frame.payload.resize(frame.header.payload_length);
    if (!Exactly(frame.section) || !Exactly(frame.payload)) return std::nullopt;
    EXPECT_EQ(wire::CheckHeaderSection(frame.header, frame.section), wire::DecodeError::kOk);
    return frame;
  }
  // The next frame that is of this type; others on the way are skipped.
  std::optional<Received> ReceiveOf(wire::FrameType type) {
    for (;;) {
      std::optional<Received> frame = Receive();
      if (!frame || frame->header.type == type) return frame;
      if (frame->header.type == wire::FrameType::kReply) Keep(*frame);
    }
  }
  // The status code, with which the section of every answer but REPLY and PONG begins. BAD_FEATURE:
  // there is no frame.
  static wire::StatusCode StatusOf(const std::optional<Received>& frame) {
    return frame ? static_cast<wire::StatusCode>(Load32(frame->section.data()))
                 : wire::StatusCode::kBadFeature;
  }

  // HELLO and OPEN; the status of the OPEN_REPLY.
  wire::StatusCode Open(const wire::Open& open, std::string_view volume = "disk",
                        uint64_t features = 0) {
    payload_crc = (features & wire::Feature::kPayloadCrc) != 0;
    Send(HelloFrame(features) + OpenFrame(open, volume));
    return Opened();
  }
  wire::StatusCode Opened() {
    const std::optional<Received> reply = ReceiveOf(wire::FrameType::kOpenReply);
    if (reply) {
      EXPECT_EQ(wire::Decode(reply->section, &info), wire::DecodeError::kOk);
      text = reply->text();
    }
    return StatusOf(reply);
  }

  // The reply to that request; BAD_FEATURE if the connection ended before.
  ReceivedReply ReplyTo(uint64_t tag) {
    while (!replies.contains(tag)) {
      const std::optional<Received> frame = ReceiveOf(wire::FrameType::kReply);
      if (!frame) return {{tag, wire::StatusCode::kBadFeature, 0, 0}, {}};
      Keep(*frame);
    }
    auto node = replies.extract(tag);
    return std::move(node.mapped());
  }
  wire::StatusCode Do(const wire::Request& request, const Bytes& payload = {}) {
    Send(RequestFrame({request}, payload));
    return ReplyTo(request.tag).reply.status;
  }
  // True once the connection has ended without another frame but, perhaps, an ERROR.
  bool Ended() {
    const std::optional<Received> frame = ReceiveOf(wire::FrameType::kError);
    if (frame) text = frame->text();
    return !frame || !Receive();
  }

  wire::OpenReply info;
  std::string text;  // of the last OPEN_REPLY or ERROR
  bool payload_crc = false;
  std::map<uint64_t, ReceivedReply> replies;

 private:
  bool Exactly(std::span<uint8_t> bytes) {
    while (!bytes.empty()) {
      const ssize_t got = recv(fd_.get(), bytes.data(), bytes.size(), 0);
      if (got < 0 && errno == EINTR) continue;  // as in Send
      EXPECT_FALSE(got < 0 && errno == EAGAIN) << "the server is silent";
      if (got <= 0) return false;
      bytes = bytes.subspan(static_cast<size_t>(got));
    }
    return true;
  }

  void Keep(const Received& frame) {
    std::vector<wire::Reply> entries(frame.header.count);
    wire::FrameLimits limits;
    limits.payload_crc = payload_crc;
    std::span<const uint8_t> crcs;
    ASSERT_EQ(wire::DecodeReplies(frame.header, frame.section, limits, entries, &crcs),
              wire::DecodeError::kOk);
    size_t at = 0;
    size_t crc = 0;
    for (const wire::Reply& entry : entries) {
      ReceivedReply reply{entry,
                          Bytes(frame.payload.begin() + static_cast<ptrdiff_t>(at),
                                frame.payload.begin() + static_cast<ptrdiff_t>(at + entry.length))};
      for (uint32_t block = 0; payload_crc && block < entry.length; block += wire::kCrcBlock) {
        const size_t length = std::min<size_t>(wire::kCrcBlock, entry.length - block);
        EXPECT_EQ(wire::Crc32c(0, {reply.data.data() + block, length}),
                  Load32(crcs.data() + 4 * crc++));
      }
      at += entry.length;
      EXPECT_TRUE(replies.emplace(entry.tag, std::move(reply)).second) << "answered twice";
    }
  }

  UniqueFd fd_;
};

}  // namespace cloudblk::proxy

#endif  // CLOUDBLK_TESTS_UNIT_PROXY_RAW_CLIENT_H_
