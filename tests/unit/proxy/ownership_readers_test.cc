// SPDX-License-Identifier: GPL-2.0-or-later
//
// Sessions that only read: any number of them shares a volume.
#include <deque>

#include "tests/unit/proxy/ownership_fixture.h"

namespace cloudblk::proxy {
namespace {

using ::testing::HasSubstr;

class ReadersTest : public OwnershipTest {
 protected:
  static constexpr uint8_t kMany = 20;
  static constexpr uint32_t kReaderResumes = kReader | wire::OpenFlag::kResume;

  void OpenMany() {
    for (uint8_t i = 1; i <= kMany; ++i)
      ASSERT_EQ(OpenNow(&readers_[i - 1], Request(i, kReader)), Code::kOk);
  }
  void AllGone() {
    for (FakePeer& reader : readers_) Gone(&reader);
  }

  std::deque<FakePeer> readers_ = std::deque<FakePeer>(kMany);
};

TEST_F(ReadersTest, TheFirstRecordNeedNotOutliveTheHost) {
  EXPECT_EQ(OpenNow(&b_, Request(2, kReader)), Code::kOk);
  EXPECT_THAT(disk_.record, HasSubstr(ToString(Id(2))));
  EXPECT_FALSE(disk_.lasting);
  End(&b_);
  EXPECT_FALSE(disk_.lasting);
}

// A record that names others only would fence it.
TEST_F(ReadersTest, ButOneThatFollowsAnotherHasTo) {
  EXPECT_EQ(OpenNow(&a_, Request(1)), Code::kOk);
  EXPECT_TRUE(disk_.lasting);
  End(&a_);
  EXPECT_TRUE(disk_.lasting);
  EXPECT_EQ(OpenNow(&b_, Request(2, kReader)), Code::kOk);
  EXPECT_TRUE(disk_.lasting);
}

TEST_F(ReadersTest, WhoSharesWithAWriterIsNamed) {
  constexpr uint32_t kSharing = kReader | wire::OpenFlag::kShareRw;
  EXPECT_EQ(OpenNow(&a_, Request(100, kShare)), Code::kOk);
  for (uint8_t i = 1; i <= kMany; ++i) {
    ASSERT_EQ(OpenNow(&readers_[i - 1], Request(i, kSharing)), Code::kOk);
  }
  Restart();
  FakePeer back;
  EXPECT_EQ(OpenNow(&back, Request(100, kShare | wire::OpenFlag::kResume)), Code::kOk);
}

TEST_F(ReadersTest, WhomTheyFencedStaysFenced) {
  EXPECT_EQ(OpenNow(&a_, Request(1)), Code::kOk);
  Open(&b_, Request(2, kReader | wire::OpenFlag::kTakeover));
  Gone(&a_);
  EXPECT_EQ(b_.status(), Code::kOk);
  EXPECT_TRUE(disk_.lasting);
}

TEST_F(ReadersTest, ManyOfThemTakeUpAsMuchRoomAsOne) {
  OpenMany();
  EXPECT_LT(disk_.record.size(), 200u) << disk_.record;
  const std::string record = disk_.record;
  EXPECT_EQ(OpenNow(&a_, Request(100, kReader)), Code::kOk);
  EXPECT_EQ(disk_.record, record);
}

TEST_F(ReadersTest, TheyComeBackAfterARestartAndNobodyWritesMeanwhile) {
  OpenMany();
  Restart();
  EXPECT_EQ(OpenNow(&a_, Request(200)), Code::kBusy);
  EXPECT_THAT(a_.answers[0].text, HasSubstr("only read"));
  FakePeer back;
  EXPECT_EQ(OpenNow(&back, Request(7, kReaderResumes)), Code::kOk);
  FakePeer next;
  EXPECT_EQ(OpenNow(&next, Request(8, kReaderResumes)), Code::kOk);
  End(&next);
  FakePeer third;
  EXPECT_EQ(OpenNow(&third, Request(9, kReaderResumes)), Code::kOk);
  FakePeer another;
  EXPECT_EQ(OpenNow(&another, Request(101, kReader)), Code::kOk);
  Pass(kLeaseNs);
  EXPECT_EQ(OpenNow(&b_, Request(200)), Code::kBusy);
}

TEST_F(ReadersTest, WhoWroteMeanwhileFencesThem) {
  OpenMany();
  AllGone();
  Pass(kLeaseNs);
  EXPECT_LT(disk_.record.size(), 200u) << disk_.record;
  FakePeer back;
  EXPECT_EQ(OpenNow(&back, Request(7, kReaderResumes)), Code::kOk) << "nobody did yet";
  End(&back);
  EXPECT_EQ(OpenNow(&a_, Request(200)), Code::kOk);
  End(&a_);
  Restart();
  FakePeer late;
  EXPECT_EQ(OpenNow(&late, Request(8, kReaderResumes)), Code::kFenced);
}

}  // namespace
}  // namespace cloudblk::proxy
