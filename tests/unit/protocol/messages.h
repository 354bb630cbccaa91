// SPDX-License-Identifier: GPL-2.0-or-later
//
// The messages that golden_bytes.h has the bytes of, and the way from one to the other.
#ifndef CLOUDBLK_TESTS_UNIT_PROTOCOL_MESSAGES_H_
#define CLOUDBLK_TESTS_UNIT_PROTOCOL_MESSAGES_H_

#include <string_view>
#include <vector>

#include "proxy-protocol/wire.h"

namespace cloudblk::wire {

using Bytes = std::vector<uint8_t>;

inline Bytes FromHex(std::string_view hex) {
  const auto digit = [](char c) { return c <= '9' ? c - '0' : c - 'a' + 10; };
  Bytes out;
  for (size_t i = 0; i + 1 < hex.size(); i += 2) {
    out.push_back(static_cast<uint8_t>(digit(hex[i]) << 4 | digit(hex[i + 1])));
  }
  return out;
}

// The UUID first, first+1, ... first+15.
inline Uuid CountingUuid(uint8_t first) {
  Uuid id;
  for (uint8_t i = 0; i < 16; ++i) id.bytes[i] = static_cast<uint8_t>(first + i);
  return id;
}

inline Bytes Pattern() {
  Bytes data(512);
  for (size_t i = 0; i < data.size(); ++i) data[i] = static_cast<uint8_t>(i);
  return data;
}

inline Bytes FromText(std::string_view text) { return Bytes(text.begin(), text.end()); }

// A frame of one message.
template <typename Message>
Bytes Frame(FrameType type, const Message& message, const Bytes& payload = {}) {
  Bytes frame(kFrameHeaderSize + 256);
  FrameHeader header;
  header.type = type;
  header.header_length =
      static_cast<uint32_t>(Encode(message, std::span<uint8_t>(frame).subspan(kFrameHeaderSize)));
  header.payload_length = static_cast<uint32_t>(payload.size());
  SealFrame(header, frame);
  frame.resize(kFrameHeaderSize + header.header_length);
  frame.insert(frame.end(), payload.begin(), payload.end());
  return frame;
}

// A REQUEST or REPLY of these entries; `crcs` is the table, empty without PAYLOAD_CRC.
template <typename Entry>
Bytes BatchFrame(FrameType type, const std::vector<Entry>& entries, const Bytes& payload,
                 const std::vector<uint32_t>& crcs = {}) {
  Bytes frame(kFrameHeaderSize + entries.size() * kRequestHeaderSize + crcs.size() * 4);
  size_t at = kFrameHeaderSize;
  for (const Entry& entry : entries) at += Encode(entry, std::span<uint8_t>(frame).subspan(at));
  for (const uint32_t crc : crcs) Store32(&frame[at], crc), at += 4;
  FrameHeader header;
  header.type = type;
  header.count = static_cast<uint32_t>(entries.size());
  header.header_length = static_cast<uint32_t>(at - kFrameHeaderSize);
  header.payload_length = static_cast<uint32_t>(payload.size());
  SealFrame(header, frame);
  frame.resize(at);
  frame.insert(frame.end(), payload.begin(), payload.end());
  return frame;
}

}  // namespace cloudblk::wire

#endif  // CLOUDBLK_TESTS_UNIT_PROTOCOL_MESSAGES_H_
