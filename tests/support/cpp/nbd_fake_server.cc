// SPDX-License-Identifier: GPL-2.0-or-later
#include "tests/support/cpp/nbd_fake_server.h"

#include <gtest/gtest.h>

#include <algorithm>

namespace cloudblk::testing {
namespace {

std::string Numbers(const std::vector<std::pair<uint64_t, size_t>>& values) {
  std::string bytes;
  for (const auto& [value, size] : values) {
    for (size_t i = size; i > 0; --i) bytes += static_cast<char>(value >> (8 * (i - 1)) & 0xff);
  }
  return bytes;
}

uint64_t Number(std::string_view bytes, size_t at, size_t size) {
  uint64_t value = 0;
  for (size_t i = 0; i < size; ++i) value = value << 8 | static_cast<uint8_t>(bytes[at + i]);
  return value;
}

bool IsZero(std::string_view data) { return data.find_first_not_of('\0') == std::string::npos; }

uint32_t ErrorOf(wire::StatusCode status) {
  switch (status) {
    case wire::StatusCode::kOk:
      return 0;
    case wire::StatusCode::kNoSpace:
      return 28;
    case wire::StatusCode::kInvalid:
      return 22;
    case wire::StatusCode::kNotSupported:
      return 95;
    case wire::StatusCode::kNoMemory:
      return 12;
    case wire::StatusCode::kNotActive:
      return 1;
    case wire::StatusCode::kShuttingDown:
      return 108;
    default:
      return 5;
  }
}

}  // namespace

std::string NbdFakeServer::OptionReply(nbd::Option option, uint32_t type, std::string_view data) {
  return Numbers({{nbd::kOptionReplyMagic, 8},
                  {static_cast<uint32_t>(option), 4},
                  {type, 4},
                  {data.size(), 4}}) +
         std::string(data);
}

std::string NbdFakeServer::SimpleReply(uint32_t error, uint64_t cookie, std::string_view data) {
  return Numbers({{nbd::kSimpleReplyMagic, 4}, {error, 4}, {cookie, 8}}) + std::string(data);
}

std::string NbdFakeServer::Chunk(uint16_t flags, uint16_t type, uint64_t cookie,
                                 std::string_view payload) {
  return Numbers({{nbd::kChunkMagic, 4}, {flags, 2}, {type, 2}, {cookie, 8}, {payload.size(), 4}}) +
         std::string(payload);
}

std::string NbdFakeServer::DataChunk(uint16_t flags, uint64_t cookie, uint64_t offset,
                                     std::string_view data) {
  return Chunk(flags, nbd::ChunkType::kOffsetData, cookie,
               Numbers({{offset, 8}}) + std::string(data));
}

std::string NbdFakeServer::HoleChunk(uint16_t flags, uint64_t cookie, uint64_t offset,
                                     uint32_t length) {
  return Chunk(flags, nbd::ChunkType::kOffsetHole, cookie, Numbers({{offset, 8}, {length, 4}}));
}

std::string NbdFakeServer::ErrorChunk(uint16_t flags, uint64_t cookie, uint32_t error,
                                      std::string_view text) {
  return Chunk(flags, nbd::ChunkType::kError, cookie,
               Numbers({{error, 4}, {text.size(), 2}}) + std::string(text));
}

std::string NbdFakeServer::StatusChunk(
    uint16_t flags, uint64_t cookie,
    const std::vector<std::pair<uint32_t, uint32_t>>& descriptors) {
  std::string payload = Numbers({{kContext, 4}});
  for (const auto& [length, state] : descriptors) payload += Numbers({{length, 4}, {state, 4}});
  return Chunk(flags, nbd::ChunkType::kBlockStatus, cookie, payload);
}

void NbdFakeServer::OnAccepted() {
  step_ = Step::kFlags;
  structured_ = context_ = false;
  if (silent) return;
  const uint16_t handshake = nbd::HandshakeFlag::kFixedNewstyle | nbd::HandshakeFlag::kNoZeroes;
  Send(!greeting.empty()
           ? greeting
           : Numbers({{nbd::kGreetingMagic, 8}, {nbd::kOptionMagic, 8}, {handshake, 2}}));
}

bool NbdFakeServer::ParseFrame() {
  switch (step_) {
    case Step::kFlags:
      if (input().size() < nbd::kClientFlagsSize) return false;
      EXPECT_EQ(Number(input(), 0, 4), 3u);
      input().erase(0, nbd::kClientFlagsSize);
      step_ = Step::kOptions;
      return true;
    case Step::kOptions:
      return OnOption();
    case Step::kRequests:
      return OnRequest();
  }
  return false;
}

bool NbdFakeServer::OnOption() {
  if (input().size() < nbd::kOptionSize) return false;
  const size_t length = Number(input(), 12, 4);
  if (input().size() < nbd::kOptionSize + length) return false;
  EXPECT_EQ(Number(input(), 0, 8), nbd::kOptionMagic);
  const auto option = static_cast<nbd::Option>(Number(input(), 8, 4));
  const std::string data = input().substr(nbd::kOptionSize, length);
  input().erase(0, nbd::kOptionSize + length);
  if (option == nbd::Option::kGo) {
    OnGo(data);
    return true;
  }
  if (option == nbd::Option::kSetMetaContext) {
    OnSetMetaContext(data);
    return true;
  }
  EXPECT_EQ(option, nbd::Option::kStructuredReply);
  EXPECT_EQ(length, 0u);
  structured_ = structured;
  Send(OptionReply(option, structured ? nbd::OptionReply::kAck : nbd::OptionReply::kUnsupported,
                   ""));
  return true;
}

void NbdFakeServer::OnSetMetaContext(std::string_view data) {
  EXPECT_TRUE(structured_);
  const size_t name = Number(data, 0, 4);
  EXPECT_EQ(data.substr(4 + name), Numbers({{1, 4}, {15, 4}}) + "base:allocation");
  if (silent) return;
  Send(before_context);
  context_ = contexts && context_error == 0;
  if (contexts) {
    Send(OptionReply(nbd::Option::kSetMetaContext, nbd::OptionReply::kMetaContext,
                     Numbers({{kContext, 4}}) + "base:allocation"));
  }
  const uint32_t end = context_error != 0 ? context_error : uint32_t{nbd::OptionReply::kAck};
  Send(OptionReply(nbd::Option::kSetMetaContext, end, ""));
}

void NbdFakeServer::OnGo(std::string_view data) {
  const size_t name = Number(data, 0, 4);
  EXPECT_EQ(data.size(), 4 + name + 4);
  opened_names.emplace_back(data.substr(4, name));
  wire::Open opened;
  opened.incarnation = connections();
  NoteOpen(opened);
  if (silent) return;
  Send(before_go);
  const auto reply = [this](uint32_t type, const std::string& text) {
    Send(OptionReply(nbd::Option::kGo, type, text));
  };
  const uint32_t error =
      open.status == wire::StatusCode::kOk ? go_error : uint32_t{nbd::OptionReply::kShutdown};
  if (error != 0) {
    reply(error, "says the server");
    return Cut();
  }
  const bool read_only = (open.volume_flags & wire::VolumeFlag::kReadOnly) != 0;
  const uint16_t all = flags | (read_only ? nbd::ExportFlag::kReadOnly : 0);
  const uint64_t size = export_size != 0 ? export_size : open.size;
  reply(nbd::OptionReply::kInfo, Numbers({{nbd::InfoType::kExport, 2}, {size, 8}, {all, 2}}));
  if (block_sizes) {
    reply(nbd::OptionReply::kInfo, Numbers({{nbd::InfoType::kBlockSize, 2},
                                            {open.logical_block_size, 4},
                                            {std::max(open.logical_block_size, 4096u), 4},
                                            {hello.max_frame_payload, 4}}));
  }
  reply(nbd::OptionReply::kAck, "");
  step_ = Step::kRequests;
}

bool NbdFakeServer::OnRequest() {
  if (input().size() < nbd::kRequestSize) return false;
  EXPECT_EQ(Number(input(), 0, 4), nbd::kRequestMagic);
  const uint64_t flag_bits = Number(input(), 4, 2);
  const auto command = static_cast<nbd::Command>(Number(input(), 6, 2));
  if (command == nbd::Command::kDisconnect) {
    ++closes;
    input().erase(0, nbd::kRequestSize);
    Cut();
    return false;
  }
  Seen one;
  one.request.tag = Number(input(), 8, 8);
  one.request.offset = Number(input(), 16, 8);
  one.request.length = static_cast<uint32_t>(Number(input(), 24, 4));
  one.request.flags = (flag_bits & nbd::CommandFlag::kFua) != 0 ? wire::RequestFlag::kFua : 0;
  const size_t data = command == nbd::Command::kWrite ? one.request.length : 0;
  if (input().size() < nbd::kRequestSize + data) return false;
  one.data = input().substr(nbd::kRequestSize, data);
  input().erase(0, nbd::kRequestSize + data);
  EXPECT_EQ(one.request.offset % open.logical_block_size, 0u);
  EXPECT_EQ(one.request.length % open.logical_block_size, 0u);
  EXPECT_TRUE(one.request.flags == 0 || (flags & nbd::ExportFlag::kFua) != 0);
  const bool zeroes = command == nbd::Command::kWriteZeroes;
  switch (command) {
    case nbd::Command::kRead:
      one.request.operation = wire::Operation::kRead;
      break;
    case nbd::Command::kWrite:
      one.request.operation = wire::Operation::kWrite;
      break;
    case nbd::Command::kFlush:
      one.request.operation = wire::Operation::kFlush;
      EXPECT_EQ(one.request.offset + one.request.length, 0u);
      ++syncs;
      break;
    case nbd::Command::kTrim:
    case nbd::Command::kWriteZeroes:
      one.request.operation = zeroes ? wire::Operation::kWriteZeroes : wire::Operation::kDiscard;
      one.ranges.push_back(
          {one.request.offset, one.request.length,
           zeroes && (flag_bits & nbd::CommandFlag::kNoHole) == 0 ? wire::RangeFlag::kUnmap : 0u});
      one.request.range_count = 1;
      one.request.length = 0;  // of data
      break;
    case nbd::Command::kBlockStatus:
      EXPECT_TRUE(context_);
      one.request.operation = wire::Operation::kBlockStatus;
      one.request.extent = one.request.length;
      one.request.length = wire::kMaxExtents * wire::kExtentSize;
      break;
    default:
      ADD_FAILURE() << "unknown command " << static_cast<int>(command);
  }
  TakeRequests({one});
  return true;
}

void NbdFakeServer::SendAnswers(const std::vector<Answered>& answers) {
  for (const Answered& answer : answers) {
    const uint32_t error = ErrorOf(answer.status);
    const bool reads = answer.request.operation == wire::Operation::kRead;
    const bool tells = answer.request.operation == wire::Operation::kBlockStatus;
    if (tells && error == 0) {
      SendExtents(answer);
    } else if (!structured_ || !reads) {
      Send(SimpleReply(error, answer.request.tag, error == 0 ? answer.data : std::string()));
    } else if (error != 0) {
      Send(ErrorChunk(nbd::ChunkFlag::kDone, answer.request.tag, error, "says the server"));
    } else {
      SendRead(answer);
    }
  }
}

// In three parts, the last one first, those of zeros as holes.
void NbdFakeServer::SendRead(const Answered& answer) {
  const std::string& data = answer.data;
  const size_t first = data.size() / 3;
  const size_t second = data.size() - data.size() / 4;
  const std::pair<size_t, size_t> parts[] = {{second, data.size()}, {0, first}, {first, second}};
  for (const auto& [begin, end] : parts) {
    if (begin == end) continue;
    const std::string_view part = std::string_view(data).substr(begin, end - begin);
    const uint64_t offset = answer.request.offset + begin;
    Send(holes && IsZero(part)
             ? HoleChunk(0, answer.request.tag, offset, static_cast<uint32_t>(part.size()))
             : DataChunk(0, answer.request.tag, offset, part));
  }
  Send(Chunk(nbd::ChunkFlag::kDone, nbd::ChunkType::kNone, answer.request.tag, ""));
}

// The end comes by itself.
void NbdFakeServer::SendExtents(const Answered& answer) {
  std::vector<std::pair<uint32_t, uint32_t>> descriptors;
  for (size_t at = 0; at < answer.data.size(); at += wire::kExtentSize) {
    wire::Extent extent;
    const auto* bytes = reinterpret_cast<const uint8_t*>(&answer.data[at]);
    EXPECT_EQ(wire::Decode(std::span(bytes, wire::kExtentSize), &extent), wire::DecodeError::kOk);
    descriptors.emplace_back(static_cast<uint32_t>(extent.length), extent.flags);
  }
  Send(StatusChunk(0, answer.request.tag, descriptors));
  Send(Chunk(nbd::ChunkFlag::kDone, nbd::ChunkType::kNone, answer.request.tag, ""));
}

}  // namespace cloudblk::testing
