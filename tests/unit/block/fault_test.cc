// SPDX-License-Identifier: GPL-2.0-or-later
//
// Memory that the host cannot provide: here a page without any access, which kills whoever touches
// it by the processor.
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/resource.h>

#include <cerrno>
#include <cstring>
#include <string>
#include <tuple>
#include <vector>

#include "base/bounce.h"
#include "block/copy_batch.h"
#include "tests/support/cpp/channel_fixture.h"

namespace cloudblk::testing {
namespace {

constexpr size_t kPage = 4096;
constexpr size_t kRequests = 32;
constexpr size_t kBad = 13;

// Memory whose second page cannot be touched.
class Pages {
 public:
  explicit Pages(size_t size) : size_(size) {
    base_ = static_cast<uint8_t*>(
        mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    std::memset(base_, 0xee, size);
    SetAccess(PROT_NONE);
  }
  ~Pages() { munmap(base_, size_); }
  Pages(const Pages&) = delete;
  Pages& operator=(const Pages&) = delete;

  void SetAccess(int access) { ASSERT_EQ(mprotect(base_ + kPage, kPage, access), 0); }
  uint8_t* base() const { return base_; }
  iovec bad() const { return {base_ + kPage, kPage}; }
  // Begins in the first page.
  iovec Across(size_t length) const { return {base_ + kPage - 1024, length}; }

 private:
  const size_t size_;
  uint8_t* base_;
};

TEST(Bounce, MovesAllUpToWhatCannotBeTouched) {
  Pages pages(3 * kPage);
  Bounce bounce(kPage);
  std::memset(bounce.data(), 0x11, kPage);
  std::vector<iovec> elements = {
      {pages.base(), 100}, {pages.base() + kPage - 10, 20}, {pages.base(), 10}};
  EXPECT_EQ(bounce.Store(0, elements), 1u);
  EXPECT_EQ(pages.base()[99], 0x11);
  EXPECT_EQ(pages.base()[100], 0xee);
  elements = {{pages.base() + 2 * kPage, 100}, {pages.base(), 50}, {pages.base() + kPage, 1}};
  EXPECT_EQ(bounce.Fetch(1000, elements), 2u);
  EXPECT_EQ(bounce.data()[999], 0x11);
  EXPECT_EQ(bounce.data()[1000], 0xee);
  EXPECT_EQ(bounce.data()[1149], 0x11);
  EXPECT_EQ(bounce.data()[1150], 0x11);
  elements = {{pages.base(), kPage}, {pages.base() + kPage, kPage}};
  EXPECT_EQ(bounce.Zero(elements), 1u);
  EXPECT_EQ(pages.base()[0], 0);
}

TEST(Bounce, MovesMoreElementsThanACallTakesAndMoreZerosThanTheFileHas) {
  std::string memory(3 << 20, 'x');
  Bounce bounce(8192);
  for (size_t i = 0; i < bounce.size(); ++i) bounce.data()[i] = static_cast<uint8_t>(i * 7);
  std::vector<iovec> elements;
  elements.reserve(4000);
  for (size_t i = 0; i < 4000; ++i) elements.push_back({memory.data() + 2 * i, 2});
  EXPECT_EQ(bounce.Store(100, elements), elements.size());
  EXPECT_EQ(std::memcmp(memory.data(), bounce.data() + 100, 8000), 0);
  elements = {{memory.data(), 1 << 20}, {memory.data() + (1 << 20), 1 << 20}};
  EXPECT_EQ(bounce.Zero(elements), 2u);
  EXPECT_EQ(memory, std::string(2 << 20, '\0') + std::string(1 << 20, 'x'));
}

TEST(Bounce, FindsThePageThatCannotBeRead) {
  Pages pages(3 * kPage);
  Bounce bounce(kPage);
  std::string much(10 << 20, 'x');
  EXPECT_TRUE(bounce.CanFetch({}));
  EXPECT_TRUE(bounce.CanFetch(
      std::vector<iovec>{{pages.base() + 1, kPage - 1}, {much.data(), much.size()}}));
  EXPECT_FALSE(bounce.CanFetch(std::vector<iovec>{{pages.base() + 1, kPage}}));
  EXPECT_FALSE(bounce.CanFetch(
      std::vector<iovec>{{much.data(), much.size()}, {pages.base() + 2 * kPage - 1, 2}}));
  EXPECT_TRUE(bounce.CanFetch(std::vector<iovec>{{pages.base() + 2 * kPage, kPage}}));
}

TEST(Bounce, CopiesWithoutAFileToo) {
  rlimit before;
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
  const rlimit none{0, before.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &none), 0);
  Bounce bounce(kPage);
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &before), 0);
  std::string memory = "abcdefgh";
  std::vector<iovec> elements = {{memory.data(), 3}, {memory.data() + 4, 2}};
  EXPECT_EQ(bounce.Fetch(10, elements), 2u);
  elements = {{memory.data() + 6, 2}, {memory.data(), 3}};
  EXPECT_EQ(bounce.Store(10, elements), 2u);
  elements = {{memory.data() + 3, 1}};
  EXPECT_EQ(bounce.Zero(elements), 1u);
  EXPECT_EQ(memory, std::string("cef\0efab", 8));
  EXPECT_TRUE(bounce.CanFetch(std::vector<iovec>{{memory.data(), 8}}));
}

TEST(CopyBatch, FailsThePiecesWhoseMemoryIsBad) {
  Pages pages(3 * kPage);
  std::string good(100, ' ');
  Bounce bounce(kPage);
  std::memcpy(bounce.data(), "headerdata1headerdata2headerdata3", 33);
  Request a, b, c;
  a.iov = {{good.data(), 5}};
  b.iov = {{pages.base() + kPage - 2, 5}};
  c.iov = {{good.data() + 5, 5}};
  Piece first, second, third;
  first.request = &a;
  second.request = &b;
  third.request = &c;
  CopyBatch batch;
  batch.SetBounce(&bounce);
  size_t at = 6;
  for (Piece* piece : {&first, &second, &third}) {
    SgCursor cursor(piece->request->iov);
    batch.Add(piece, at, &cursor, 5);
    at += 11;
  }
  EXPECT_FALSE(batch.Store());
  EXPECT_TRUE(batch.empty());
  EXPECT_EQ(first.error, 0);
  EXPECT_EQ(second.error, EFAULT);
  EXPECT_EQ(third.error, 0);
  EXPECT_EQ(good.substr(0, 11), "data1data3 ");
  EXPECT_EQ(std::memcmp(bounce.data(), "headerdata1headerdata2headerdata3", 33), 0);
}

TEST(Fault, WhatWasStoredAndNotCountedIsReported) {
  Pages pages(2 * kPage + (128 << 10));
  ChannelFixture f;
  f.habits.untouchable = pages.bad();
  f.server.hold = true;
  f.Open();
  // More than is read ahead comes before the bad page.
  uint8_t* const good = pages.base() + 2 * kPage;
  const std::vector<iovec> data = {{good, 65536}, pages.bad(), {good + 65536, 61440}};
  f.ios.push_back(std::make_unique<Io>());
  Io* const io = f.ios.back().get();
  ASSERT_EQ(f.TrySubmit({CLOUDBLK_OP_READ, 0, 0, data.data(), 3, 0, nullptr, io}), 0);
  f.Run();
  f.server.link()->habits.cut_to_client = f.server.link()->to_client_total + 100'000;
  f.server.Answer(0);
  f.Run();
  f.channel.Revoke();
  EXPECT_EQ(io->bytes_stored, 131072u);
}

struct Variant {
  const char* name;
  Speaks protocol = Speaks::kNative;
  bool crc = false;
};
constexpr Variant kVariants[] = {{"plain"},
                                 {"crc", Speaks::kNative, true},
                                 {"nbd", Speaks::kNbd},
                                 {"simple_nbd", Speaks::kSimpleNbd}};

// The protocol; the size of the requests.
class FaultTest : public ::testing::TestWithParam<std::tuple<Variant, size_t>> {
 protected:
  static bool crc() { return std::get<0>(GetParam()).crc; }
  static Speaks protocol() { return std::get<0>(GetParam()).protocol; }
  static size_t size() { return std::get<1>(GetParam()); }

  FaultTest() {
    f.habits.untouchable = pages.bad();
    if (crc()) f.server.hello.features |= wire::Feature::kPayloadCrc;
    f.server.disk = Pattern(f.server.disk.size(), 1);
  }

  Io* Bad(CloudblkOperation operation, uint64_t offset) {
    f.ios.push_back(std::make_unique<Io>());
    Io* const io = f.ios.back().get();
    io->operation = operation;
    const iovec data = pages.Across(size());
    EXPECT_EQ(f.TrySubmit({operation, 0, offset, &data, 1, 0, nullptr, io}), 0);
    return io;
  }
  // One at each place, of which one is bad.
  std::vector<Io*> Reads() {
    std::vector<Io*> reads;
    for (size_t i = 0; i < kRequests; ++i) {
      const uint64_t at = i * size();
      reads.push_back(i == kBad ? Bad(CLOUDBLK_OP_READ, at) : f.Read(at, size(), {512, 100}));
    }
    return reads;
  }
  std::vector<Io*> Writes() {
    std::vector<Io*> writes;
    for (size_t i = 0; i < kRequests; ++i) {
      const uint64_t at = i * size();
      writes.push_back(i == kBad ? Bad(CLOUDBLK_OP_WRITE, at)
                                 : f.Write(at, Pattern(size(), 100 + i)));
    }
    return writes;
  }
  void ExpectOneFailed(const std::vector<Io*>& ios) {
    for (size_t i = 0; i < kRequests; ++i) {
      EXPECT_EQ(ios[i]->completions, 1) << i;
      EXPECT_EQ(ios[i]->result, i == kBad ? -EFAULT : 0) << i;
    }
  }
  void ExpectWritten() {
    for (size_t i = 0; i < kRequests; ++i) {
      const std::string before = Pattern(f.server.disk.size(), 1).substr(i * size(), size());
      const std::string expected = i == kBad ? before : Pattern(size(), 100 + i);
      EXPECT_TRUE(f.server.disk.substr(i * size(), size()) == expected) << i;
    }
  }

  Pages pages{2 * kPage + (128 << 10)};
  ChannelFixture f{FixtureOptions{.size = 8 << 20, .payload_crc = crc(), .protocol = protocol()}};
};

INSTANTIATE_TEST_SUITE_P(, FaultTest,
                         ::testing::Combine(::testing::ValuesIn(kVariants),
                                            ::testing::Values(4096, 131072)),
                         [](const auto& info) {
                           return std::string(std::get<0>(info.param).name) +
                                  (std::get<1>(info.param) == kPage ? "_small" : "_large");
                         });

TEST_P(FaultTest, OneReadFailsAlone) {
  f.Open();
  const std::vector<Io*> reads = Reads();
  f.Run();
  ExpectOneFailed(reads);
  for (size_t i = 0; i < kRequests; ++i) {
    if (i == kBad) continue;
    EXPECT_TRUE(reads[i]->Data() == f.server.disk.substr(i * size(), size())) << i;
  }
  EXPECT_EQ(reads[kBad]->bytes_stored, size());
  EXPECT_EQ(f.server.connections(), 1u);
}

TEST_P(FaultTest, OneReadFailsAloneHoweverItsAnswerIsCut) {
  f.habits.read_chunk = 1000;
  f.server.one_by_one = true;
  f.Open();
  const std::vector<Io*> reads = Reads();
  f.Run();
  ExpectOneFailed(reads);
  EXPECT_EQ(f.server.connections(), 1u);
}

TEST_P(FaultTest, OneReadFailsAloneWhereTheTransportDoesNotScatter) {
  f.habits.scatters = false;
  f.habits.record_size = 16384;
  f.Open();
  const std::vector<Io*> reads = Reads();
  f.Run();
  ExpectOneFailed(reads);
  EXPECT_EQ(f.server.connections(), 1u);
}

TEST_P(FaultTest, OneHoleFailsAlone) {
  f.server.holes = true;
  f.server.disk.assign(f.server.disk.size(), '\0');
  f.Open();
  const std::vector<Io*> reads = Reads();
  f.Run();
  ExpectOneFailed(reads);
  for (size_t i = 0; i < kRequests; ++i) {
    if (i != kBad) {
      EXPECT_TRUE(reads[i]->Data() == std::string(size(), '\0')) << i;
    }
  }
  EXPECT_EQ(f.server.connections(), 1u);
}

TEST_P(FaultTest, OneWriteFailsAlone) {
  f.Open();
  const std::vector<Io*> writes = Writes();
  f.Run();  // without any time passing
  ExpectOneFailed(writes);
  ExpectWritten();
  // Summed data is looked at before anything of it is sent.
  EXPECT_EQ(f.server.connections(), crc() ? 1u : 2u);
  EXPECT_FALSE(f.HasEvent(CLOUDBLK_EVENT_LOST));
}

TEST_P(FaultTest, AWriteFailsOnceNothingOfItCanLand) {
  f.Open();
  f.server.open.status = wire::StatusCode::kBusy;
  Io* write = Bad(CLOUDBLK_OP_WRITE, 0);
  Io* later = f.Write(0, Pattern(512, 2));
  f.Run();
  // Where its header was sent, somebody has to say that the old connection is over.
  EXPECT_EQ(write->completions, crc() ? 1 : 0);
  f.server.open.status = wire::StatusCode::kOk;
  f.loop.Advance(1'000'000'000);
  EXPECT_EQ(write->result, -EFAULT);
  EXPECT_EQ(later->completions, 1);
  EXPECT_EQ(later->result, 0);
  EXPECT_TRUE(f.server.disk.substr(0, 512) == Pattern(512, 2));
}

TEST_P(FaultTest, AWriteOfManyPiecesCutsOnce) {
  f.server.hello.max_frame_payload = 4096;
  f.Open();
  Io* write = Bad(CLOUDBLK_OP_WRITE, 0);
  Io* other = f.Write(1 << 20, Pattern(4096, 3));
  f.Run();
  EXPECT_EQ(write->result, -EFAULT);
  EXPECT_EQ(other->result, 0);
  EXPECT_EQ(f.server.connections(), crc() ? 1u : 2u);
}

TEST_P(FaultTest, AllWritesOfABatchMayFail) {
  f.Open();
  std::vector<Io*> writes;
  writes.reserve(8);
  for (uint64_t i = 0; i < 8; ++i) writes.push_back(Bad(CLOUDBLK_OP_WRITE, i * size()));
  f.Run();
  for (const Io* io : writes) EXPECT_EQ(io->result, -EFAULT);
  EXPECT_LE(f.server.connections(), 2u);
  // Nothing is left of them, also of their room in the outbox, and no time passes.
  for (uint64_t i = 0; i < 100; ++i) {
    Bad(CLOUDBLK_OP_WRITE, i * size() % (4 << 20));
    f.Run();
  }
  Io* good = f.Write(0, Pattern(131072, 4));
  f.Run();
  EXPECT_EQ(good->completions, 1);
  EXPECT_EQ(good->result, 0);
}

TEST_P(FaultTest, MemoryThatIsThereAgainIsUsed) {
  f.Open();
  Io* write = Bad(CLOUDBLK_OP_WRITE, 0);
  f.Run();
  EXPECT_EQ(write->result, -EFAULT);
  pages.SetAccess(PROT_READ | PROT_WRITE);
  f.server.link()->habits.untouchable = {};
  write = Bad(CLOUDBLK_OP_WRITE, 0);
  f.Run();
  EXPECT_EQ(write->result, 0);
  EXPECT_TRUE(f.server.disk.substr(0, size()) == std::string(size(), '\xee'));
}

}  // namespace
}  // namespace cloudblk::testing
