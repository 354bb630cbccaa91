// SPDX-License-Identifier: GPL-2.0-or-later
#include "tests/support/cpp/chunk_server.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cerrno>

#include "proxy-protocol/wire_errno.h"

namespace cloudblk::testing {
namespace {

constexpr uint64_t kNonce = 0x1122334455667788;

std::string Numbers(const std::vector<std::pair<uint64_t, size_t>>& values) {
  std::string bytes;
  for (auto [value, size] : values) {
    for (; size > 0; --size, value >>= 8) bytes += static_cast<char>(value & 0xff);
  }
  return bytes;
}

uint64_t Number(std::string_view bytes, size_t at, size_t size) {
  uint64_t value = 0;
  while (size-- > 0) value = value << 8 | static_cast<uint8_t>(bytes[at + size]);
  return value;
}

bool IsZero(std::string_view data) { return data.find_first_not_of('\0') == std::string::npos; }

}  // namespace

std::string ChunkServer::Chunk(chunk::Kind kind, uint64_t tag, uint64_t value,
                               std::string_view data) {
  const bool carries = kind == chunk::kDataChunk;
  return Numbers({{kind, 1}, {0, 3}, {data.size(), 4}, {tag, 8}, {value, 8}}) +
         std::string(carries ? data : "");
}

void ChunkServer::OnAccepted() {
  step_ = Step::kHello;
  if (!silent) Send(Numbers({{chunk::kMagic, 8}, {kNonce, 8}}));
}

bool ChunkServer::ParseFrame() {
  switch (step_) {
    case Step::kHello:
      return OnHello();
    case Step::kStart:
      if (input().size() < chunk::kStartSize) return false;
      EXPECT_EQ(Number(input(), 0, 8), chunk::kMagic);
      input().erase(0, chunk::kStartSize);
      step_ = Step::kRequests;
      if (!silent) Send(Numbers({{chunk::kMagic, 8}}));
      return true;
    case Step::kRequests:
      return OnRequest();
  }
  return false;
}

bool ChunkServer::OnHello() {
  if (input().size() < chunk::kHelloSize) return false;
  const size_t name = Number(input(), 24, 4);
  if (input().size() < chunk::kHelloSize + name) return false;
  EXPECT_EQ(Number(input(), 0, 8), chunk::kMagic);
  EXPECT_EQ(Number(input(), 8, 8), kNonce);
  opened_names.push_back(input().substr(chunk::kHelloSize, name));
  wire::Open seen_open;
  seen_open.incarnation = Number(input(), 16, 8);
  NoteOpen(seen_open);
  input().erase(0, chunk::kHelloSize + name);
  if (silent) return true;
  const bool ok = open.status == wire::StatusCode::kOk;
  const uint64_t block = open.logical_block_size;
  const uint64_t data = std::min<uint64_t>(hello.max_frame_payload, open.credit_bytes);
  const uint64_t range =
      std::min({open.max_discard_length, open.max_write_zeroes_length, uint64_t{1} << 20});
  Send(Numbers({{ok ? 0 : EBUSY, 4},
                {block, 4},
                {open.size, 8},
                {open.generation, 8},
                {open.credit_bytes, 8},
                {data / block * block, 4},
                {open.credit_requests, 4},
                {range / block * block, 4}}));
  if (!ok) Cut();
  step_ = Step::kStart;
  return true;
}

bool ChunkServer::OnRequest() {
  if (input().size() < chunk::kRequestSize) return false;
  const uint8_t operation = static_cast<uint8_t>(input()[0]);
  if (operation == 0) {
    ++closes;
    input().erase(0, chunk::kRequestSize);
    Cut();
    return false;
  }
  Seen one;
  one.request.operation = static_cast<wire::Operation>(operation);
  one.request.flags = input()[1] != 0 ? wire::RequestFlag::kFua : 0;
  one.request.tag = Number(input(), 8, 8);
  one.request.offset = Number(input(), 16, 8);
  one.request.length = static_cast<uint32_t>(Number(input(), 4, 4));
  const bool writes = one.request.operation == wire::Operation::kWrite;
  const size_t whole = chunk::kRequestSize + (writes ? one.request.length : 0);
  if (input().size() < whole) return false;
  if (writes) one.data = input().substr(chunk::kRequestSize, one.request.length);
  if (one.request.operation == wire::Operation::kDiscard ||
      one.request.operation == wire::Operation::kWriteZeroes) {
    one.ranges.push_back({one.request.offset, one.request.length, 0});
    one.request.range_count = 1;
    one.request.length = 0;  // of data
  }
  input().erase(0, whole);
  TakeRequests({one});
  return true;
}

// A read's data in three parts, the last one first, those of zeros as holes.
void ChunkServer::SendAnswers(const std::vector<Answered>& answers) {
  for (const Answered& answer : answers) {
    const uint64_t tag = answer.request.tag;
    const std::string& data = answer.data;
    if (answer.status != wire::StatusCode::kOk) {
      Send(Chunk(chunk::kErrorChunk, tag, static_cast<uint64_t>(wire::ErrnoOf(answer.status)), ""));
    } else if (!data.empty()) {
      const size_t first = data.size() / 3;
      const size_t second = data.size() - data.size() / 4;
      const std::pair<size_t, size_t> parts[] = {
          {second, data.size()}, {0, first}, {first, second}};
      for (const auto& [begin, end] : parts) {
        if (begin == end) continue;
        const std::string_view part = std::string_view(data).substr(begin, end - begin);
        const bool hole = holes && IsZero(part);
        Send(Chunk(hole ? chunk::kHoleChunk : chunk::kDataChunk, tag, begin, part));
      }
    }
    Send(Chunk(chunk::kDone, tag, 0, ""));
  }
}

void ChunkServer::AnswerHalf(size_t index, int error) {
  const Seen one = pending[index];
  pending.erase(pending.begin() + static_cast<ptrdiff_t>(index));
  const std::string data = disk.substr(one.request.offset, one.request.length / 2);
  Send(Chunk(chunk::kDataChunk, one.request.tag, 0, data));
  Send(Chunk(chunk::kErrorChunk, one.request.tag, static_cast<uint64_t>(error), ""));
  Send(Chunk(chunk::kDone, one.request.tag, 0, ""));
}

}  // namespace cloudblk::testing
