// SPDX-License-Identifier: GPL-2.0-or-later
//
// Connections that break at every byte, and that move bytes in every awkward way.
#include <gtest/gtest.h>

#include <cstring>
#include <random>
#include <string>
#include <tuple>
#include <vector>

#include "tests/support/cpp/channel_fixture.h"

namespace cloudblk::testing {
namespace {

constexpr int64_t kSecond = 1'000'000'000;

// ThreadSanitizer has nothing to find here, where there is one thread, and both are slow. At full
// speed it is every byte.
#if defined(__SANITIZE_THREAD__)
constexpr uint64_t kStride = 31;
constexpr uint32_t kStormSeeds = 6;
#elif defined(__SANITIZE_ADDRESS__)
constexpr uint64_t kStride = 7;
constexpr uint32_t kStormSeeds = 24;
#else
constexpr uint64_t kStride = 1;
constexpr uint32_t kStormSeeds = 24;
#endif

struct Case {
  const char* name;
  LinkHabits habits;
  bool crc = false;
  Speaks protocol = Speaks::kNative;
};

std::vector<Case> Cases() {
  LinkHabits plain;
  LinkHabits slow;
  slow.read_chunk = 7;
  slow.write_chunk = 5;
  slow.send_buffer = 64;
  LinkHabits tls;
  tls.scatters = false;
  tls.record_size = 100;
  tls.read_chunk = 33;
  tls.wants_other = true;
  return {{"plain", plain},
          {"slow", slow},
          {"tls", tls},
          {"crc", plain, true},
          {"slow_crc", slow, true},
          {"tls_crc", tls, true},
          {"chunked", plain, false, Speaks::kChunked},
          {"slow_chunked", slow, false, Speaks::kChunked},
          {"tls_chunked", tls, false, Speaks::kChunked},
          {"nbd", plain, false, Speaks::kNbd},
          {"slow_nbd", slow, false, Speaks::kNbd},
          {"tls_nbd", tls, false, Speaks::kNbd},
          {"simple_nbd", plain, false, Speaks::kSimpleNbd},
          {"slow_simple_nbd", slow, false, Speaks::kSimpleNbd}};
}

class ChannelCut : public ::testing::TestWithParam<Case> {
 protected:
  // Every operation once, data in both directions; the connection ends after so many bytes.
  static void RunOnce(uint64_t cut_to_client, uint64_t cut_to_server, MemoryLink* first) {
    ChannelFixture f(FixtureOptions{
        .size = 32 << 10, .payload_crc = GetParam().crc, .protocol = GetParam().protocol});
    if (GetParam().crc) f.server.hello.features |= wire::Feature::kPayloadCrc;
    f.server.hello.max_frame_payload = 4096;
    static const std::string kContent = Pattern(f.server.disk.size(), 77);
    f.server.disk = kContent;
    std::string expected = kContent;
    f.habits = GetParam().habits;
    std::shared_ptr<MemoryLink> link;
    f.on_link = [&](size_t, MemoryLink* next) {
      if (f.server.connections() > 0) return;
      next->habits.cut_to_client = cut_to_client;
      next->habits.cut_to_server = cut_to_server;
    };
    f.Open();
    link = f.server.link();
    f.loop.Advance(10 * kSecond);
    ASSERT_TRUE(f.ready());
    Io* read = f.Read(512, 1024, {3, 700});
    Io* write = f.Write(4096, Pattern(1024, 1), {1000});
    Io* over = f.Write(4608, Pattern(512, 2));  // overlaps the one before
    Io* flush = f.Flush();
    Io* zero = f.Ranges(CLOUDBLK_OP_WRITE_ZEROES, {{8192, 512, 0}, {16384, 1024, 0}});
    Io* split = f.Read(20480, 5120, {4000});
    std::vector<Io*> all = {read, write, over, flush, zero, split};
    if (f.state.promises().block_status) all.push_back(f.BlockStatus({28672, 4096, 0}, 4));
    f.channel.Kick();
    f.Run();
    f.loop.Advance(10 * kSecond);
    for (const Io* io : all) {
      ASSERT_EQ(io->completions, 1);
      ASSERT_EQ(io->result, 0);
    }
    ASSERT_EQ(read->Data(), expected.substr(512, 1024));
    ASSERT_EQ(split->Data(), expected.substr(20480, 5120));
    if (all.back() != split) {
      CloudblkExtent extent;
      ASSERT_EQ(all.back()->bytes_stored, sizeof(extent));
      std::memcpy(&extent, all.back()->Data().data(), sizeof(extent));
      ASSERT_EQ(extent.length, 4096u);
    }
    expected.replace(4096, 1024, Pattern(1024, 1));
    expected.replace(4608, 512, Pattern(512, 2));
    expected.replace(8192, 512, std::string(512, '\0'));
    expected.replace(16384, 1024, std::string(1024, '\0'));
    ASSERT_EQ(f.server.disk, expected);
    if (first != nullptr) *first = *link;
  }
};

TEST_P(ChannelCut, AtEveryByteFromTheServer) {
  MemoryLink whole;
  RunOnce(UINT64_MAX, UINT64_MAX, &whole);
  ASSERT_GT(whole.to_client_total, 6144u);
  for (uint64_t at = 0; at <= whole.to_client_total; at += kStride) {
    SCOPED_TRACE(at);
    RunOnce(at, UINT64_MAX, nullptr);
    if (HasFatalFailure()) return;
  }
}

TEST_P(ChannelCut, AtEveryByteToTheServer) {
  MemoryLink whole;
  RunOnce(UINT64_MAX, UINT64_MAX, &whole);
  ASSERT_GT(whole.server_took, 1536u);
  for (uint64_t at = 0; at <= whole.server_took; at += kStride) {
    SCOPED_TRACE(at);
    RunOnce(UINT64_MAX, at, nullptr);
    if (HasFatalFailure()) return;
  }
}

INSTANTIATE_TEST_SUITE_P(Habits, ChannelCut, ::testing::ValuesIn(Cases()),
                         [](const auto& info) { return std::string(info.param.name); });

// Hundreds of overlapping requests over connections that break again and again.
class ChannelStorm : public ::testing::TestWithParam<std::tuple<uint32_t, Speaks>> {};

TEST_P(ChannelStorm, EveryWriteLandsOnceAndInOrder) {
  const auto [seed, protocol] = GetParam();
  std::mt19937 random(seed);
  const auto upto = [&random](uint32_t n) { return static_cast<uint32_t>(random() % n); };
  const std::vector<Case> cases = Cases();
  const bool crc = protocol == Speaks::kNative && seed % 2 == 0;
  ChannelFixture f(FixtureOptions{.size = 64 << 10, .payload_crc = crc, .protocol = protocol});
  if (crc) f.server.hello.features |= wire::Feature::kPayloadCrc;
  f.server.hello.max_frame_payload = 4096 << upto(3);
  f.server.open.credit_requests = 1 + upto(40);
  f.server.open.credit_bytes = 16384;
  const bool tells_limits = protocol == Speaks::kNative || protocol == Speaks::kChunked;
  f.server.open.max_ranges = 2;
  if (tells_limits) f.server.open.max_write_zeroes_length = 2048;
  f.server.holes = true;
  f.on_link = [&](size_t, MemoryLink* link) {
    link->habits = cases[upto(3)].habits;
    if (upto(8) != 0)
      (upto(2) ? link->habits.cut_to_client : link->habits.cut_to_server) = 300 + upto(40000);
    f.server.reverse = upto(2) != 0;
    f.server.one_by_one = upto(2) != 0;
  };
  f.Open();
  f.loop.Advance(60 * kSecond);
  ASSERT_TRUE(f.ready());
  std::string expected = f.server.disk;
  for (uint32_t i = 0; i < 400; ++i) {
    const uint64_t offset = upto(120) * 512;
    const uint64_t length = std::min<uint64_t>((1 + upto(24)) * 512, f.state.size() - offset);
    switch (upto(5)) {
      case 0:
      case 1:
        f.Write(offset, Pattern(length, i), {1 + upto(500)});
        expected.replace(offset, length, Pattern(length, i));
        break;
      case 2:
        f.Ranges(CLOUDBLK_OP_WRITE_ZEROES, {{offset, length, 0}});
        expected.replace(offset, length, std::string(length, '\0'));
        break;
      case 3:
        f.Flush();
        break;
      default:
        f.Read(offset, length, {1 + upto(500)});
    }
    if (upto(10) == 0) f.channel.Kick();
    if (upto(30) == 0) f.loop.Advance(upto(100) * 1'000'000);
  }
  f.loop.Advance(600 * kSecond);
  for (const auto& io : f.ios) {
    ASSERT_EQ(io->completions, 1);
    ASSERT_EQ(io->result, 0);
  }
  EXPECT_EQ(f.server.disk, expected);
}

INSTANTIATE_TEST_SUITE_P(Seeds, ChannelStorm,
                         ::testing::Combine(::testing::Range(1u, 1 + kStormSeeds),
                                            ::testing::Values(Speaks::kNative, Speaks::kChunked,
                                                              Speaks::kNbd, Speaks::kSimpleNbd)),
                         [](const auto& info) {
                           return Name(std::get<1>(info.param)) +
                                  std::to_string(std::get<0>(info.param));
                         });

}  // namespace
}  // namespace cloudblk::testing
