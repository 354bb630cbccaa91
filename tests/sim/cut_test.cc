// SPDX-License-Identifier: GPL-2.0-or-later
//
// The connection between engine and server breaks at every byte.
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <utility>

#include "base/tls_transport.h"
#include "tests/sim/world.h"
#include "tests/support/cpp/certificates.h"

namespace cloudblk::testing {
namespace {

// ThreadSanitizer has nothing to find here, where there is one thread, and both are slow. At full
// speed it is every byte.
#if defined(__SANITIZE_THREAD__)
constexpr uint64_t kStride = 37;
#elif defined(__SANITIZE_ADDRESS__)
constexpr uint64_t kStride = 7;
#else
constexpr uint64_t kStride = 1;
#endif

enum class Over { kPlain, kSums, kTls };

std::string Name(const ::testing::TestParamInfo<Over>& info) {
  return info.param == Over::kPlain ? "plain" : info.param == Over::kSums ? "sums" : "tls";
}

// TLS with keys: no handshake is as fast.
struct Keys {
  Keys() { WriteKey(folder, "alice", 1); }
  TlsFolder folder;
};

std::unique_ptr<Transport> Secure(std::unique_ptr<Transport> below, TlsSettings::Role role) {
  static const Keys keys;
  static const auto client = MustLoad(PskOf(keys.folder, TlsSettings::Role::kClient));
  static const auto server = MustLoad(PskOf(keys.folder, TlsSettings::Role::kServer));
  const bool is_client = role == TlsSettings::Role::kClient;
  return std::move(MakeTlsTransport(std::move(below), is_client ? client : server, "").value());
}

class SimCut : public ::testing::TestWithParam<Over> {
 protected:
  // Does every operation once, while the first connection ends after so many bytes. Returns that
  // connection's link, for what went over it.
  static MemoryLink RunOnce(uint64_t cut_to_client, uint64_t cut_to_server) {
    World world(7, 32 << 10);
    const std::string content = Pattern(world.medium.data.size(), 77);
    world.medium.data = world.medium.durable = content;
    FixtureOptions options = world.Client();
    options.payload_crc = GetParam() == Over::kSums;
    std::shared_ptr<MemoryLink> first;
    bool is_first = true;
    world.on_link = [&](MemoryLink* link) {
      if (!std::exchange(is_first, false)) return;
      link->habits.cut_to_client = cut_to_client;
      link->habits.cut_to_server = cut_to_server;
    };
    ChannelFixture f(options);
    if (GetParam() == Over::kTls) {
      f.connector.wrap = [](std::unique_ptr<Transport> below) {
        return Secure(std::move(below), TlsSettings::Role::kClient);
      };
      world.wrap = [](std::unique_ptr<Transport> below) {
        return Secure(std::move(below), TlsSettings::Role::kServer);
      };
    }
    f.Open();
    first = world.last_link;
    world.loop.Advance(20 * kSecond);
    EXPECT_TRUE(f.ready());
    if (!f.ready()) return *first;
    std::string expected = content;
    Io* read = f.Read(512, 1024, {3, 700});
    Io* write = f.Write(4096, Pattern(1024, 1), {1000});
    Io* over = f.Write(4608, Pattern(512, 2));  // overlaps the one before
    Io* flush = f.Flush();
    Io* zero = f.Ranges(CLOUDBLK_OP_WRITE_ZEROES, {{8192, 512, 0}, {16384, 1024, 0}});
    Io* forced = f.Write(24576, Pattern(512, 3), {}, CLOUDBLK_REQUEST_FUA);
    f.channel.Kick();
    world.loop.Advance(20 * kSecond);
    for (const Io* io : {read, write, over, flush, zero, forced}) {
      EXPECT_EQ(io->completions, 1);
      EXPECT_EQ(io->result, 0);
    }
    EXPECT_EQ(read->Data(), expected.substr(512, 1024));
    expected.replace(4096, 1024, Pattern(1024, 1));
    expected.replace(4608, 512, Pattern(512, 2));
    expected.replace(8192, 512, std::string(512, '\0'));
    expected.replace(16384, 1024, std::string(1024, '\0'));
    expected.replace(24576, 512, Pattern(512, 3));
    EXPECT_TRUE(world.medium.data == expected);
    const MemoryLink went = *first;
    f.channel.Close(true);
    world.loop.Advance(kSecond);
    EXPECT_EQ(f.times_closed, 1);
    EXPECT_FALSE(world.medium.locked) << "the end of the session gives the volume back";
    return went;
  }
};

INSTANTIATE_TEST_SUITE_P(Over, SimCut, ::testing::Values(Over::kPlain, Over::kSums, Over::kTls),
                         Name);

TEST_P(SimCut, AtEveryByteFromTheServer) {
  const MemoryLink whole = RunOnce(UINT64_MAX, UINT64_MAX);
  ASSERT_GT(whole.to_client_total, 1024u);
  for (uint64_t at = 0; at <= whole.to_client_total; at += kStride) {
    SCOPED_TRACE(at);
    RunOnce(at, UINT64_MAX);
    if (HasFailure()) return;
  }
}

TEST_P(SimCut, AtEveryByteToTheServer) {
  const MemoryLink whole = RunOnce(UINT64_MAX, UINT64_MAX);
  ASSERT_GT(whole.server_took, 2048u);
  for (uint64_t at = 0; at <= whole.server_took; at += kStride) {
    SCOPED_TRACE(at);
    RunOnce(UINT64_MAX, at);
    if (HasFailure()) return;
  }
}

}  // namespace
}  // namespace cloudblk::testing
