// SPDX-License-Identifier: GPL-2.0-or-later
//
// How an NBD connection becomes TLS: with what is said before, and what may not come between.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <string>
#include <vector>

#include "block/nbd_codec.h"
#include "block/outbox.h"
#include "tests/support/cpp/channel_fixture.h"

namespace cloudblk::testing {
namespace {

using ::testing::HasSubstr;

// What a server has said so far, and what it is told.
class Stream final : public Transport {
 public:
  int fd() const override { return -1; }
  int ConnectResult() override { return 0; }
  bool PeerGone() const override { return false; }
  ssize_t Readv(const iovec* iov, int) override {
    const size_t n = std::min(iov->iov_len, from_server.size());
    if (n == 0) return -EAGAIN;
    std::memcpy(iov->iov_base, from_server.data(), n);
    from_server.erase(0, n);
    return static_cast<ssize_t>(n);
  }
  ssize_t Writev(const iovec* iov, int count) override {
    ssize_t n = 0;
    for (int i = 0; i < count; ++i) {
      (tls ? hidden : clear).append(static_cast<const char*>(iov[i].iov_base), iov[i].iov_len);
      n += static_cast<ssize_t>(iov[i].iov_len);
    }
    return n;
  }
  int StartTls() override {
    tls = true;
    return 0;
  }

  std::string from_server;
  std::string clear;
  std::string hidden;
  bool tls = false;
};

std::string Big(uint64_t value, int bytes) {
  std::string out;
  while (bytes > 0) out.push_back(static_cast<char>(value >> (--bytes * 8)));
  return out;
}

constexpr uint64_t kOptionMagic = 0x49484156454f5054;
constexpr uint64_t kReplyMagic = 0x3e889045565a9;

std::string Option(uint32_t option) { return Big(kOptionMagic, 8) + Big(option, 4) + Big(0, 4); }

std::string Reply(uint32_t option, uint32_t type, const std::string& text = "") {
  return Big(kReplyMagic, 8) + Big(option, 4) + Big(type, 4) + Big(text.size(), 4) + text;
}

class StartTls : public ::testing::Test {
 protected:
  StartTls() {
    OpenParams params;
    params.volume_name = "x";
    params.tls = true;
    codec_.Begin(params, &outbox_);
    Say("NBDMAGIC" + Big(kOptionMagic, 8) + Big(3, 2));
  }

  // False: the connection is over.
  bool Say(const std::string& bytes) {
    stream_.from_server += bytes;
    std::vector<Fact> facts;
    good_ = codec_.Receive(&stream_, &queue_, &outbox_, &facts);
    uint64_t calls = 0;
    if (good_) outbox_.Send(&stream_, &calls);
    return good_;
  }

  ChannelFixture fixture_;  // for a session
  RequestQueue queue_{&fixture_.state, 0};
  CodecStats stats_;
  NbdCodec codec_{&stats_};
  Outbox outbox_;
  Stream stream_;
  bool good_ = true;
};

TEST_F(StartTls, ComesBeforeAllElseThatIsAskedFor) {
  EXPECT_EQ(stream_.clear, Big(3, 4) + Option(5));
  EXPECT_FALSE(stream_.tls);
  ASSERT_TRUE(Say(Reply(5, 1)));
  EXPECT_TRUE(stream_.tls);
  EXPECT_EQ(stream_.hidden, Option(8));
}

TEST_F(StartTls, NothingMayComeBetweenTheAnswerAndTls) {
  EXPECT_FALSE(Say(Reply(5, 1) + Reply(8, 1)));
  EXPECT_EQ(codec_.failure().error, EPROTO);
  EXPECT_THAT(codec_.failure().text, HasSubstr("between STARTTLS and TLS"));
  EXPECT_FALSE(stream_.tls);
}

TEST_F(StartTls, ThatIsRefusedEndsTheConnection) {
  EXPECT_FALSE(Say(Reply(5, 0x80000001, "no")));
  EXPECT_EQ(codec_.failure().error, EACCES);
  EXPECT_TRUE(codec_.failure().refused());
  EXPECT_THAT(codec_.failure().text, HasSubstr("does not offer TLS"));
  EXPECT_THAT(codec_.failure().text, HasSubstr("no"));
  EXPECT_EQ(stream_.clear, Big(3, 4) + Option(5)) << "and nothing is asked for in clear text";
}

TEST_F(StartTls, OfAServerThatStopsIsTriedAgain) {
  EXPECT_FALSE(Say(Reply(5, 0x80000007)));
  EXPECT_TRUE(codec_.failure().may_pass());
}

}  // namespace
}  // namespace cloudblk::testing
