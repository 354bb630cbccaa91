// SPDX-License-Identifier: GPL-2.0-or-later
//
// The storage's lock is wanted elsewhere, or was lost.
#include <gmock/gmock.h>

#include "proxy/ownership.h"
#include "tests/unit/proxy/ownership_fixture.h"

namespace cloudblk::proxy {
namespace {

class OwnershipYieldTest : public OwnershipTest {
 protected:
  void Yield() {
    ownership_->Yield([this] {
      ++done_;
      locks_when_done_ = disk_.locks;
    });
    Store();
  }

  int done_ = 0;
  int locks_when_done_ = -1;
};

TEST_F(OwnershipYieldTest, TheHolderIsStoppedAndNotToldThatItLostTheVolume) {
  ASSERT_EQ(OpenNow(&a_, Request(1)), Code::kOk);
  ASSERT_EQ(disk_.locks, 1);
  Yield();
  EXPECT_EQ(a_.stops, 1);
  EXPECT_EQ(a_.revoked, "");
  EXPECT_FALSE(a_.active());
  EXPECT_EQ(done_, 0);
  EXPECT_EQ(disk_.locks, 1);
  Gone(&a_);
  EXPECT_EQ(done_, 1);
  EXPECT_EQ(locks_when_done_, 0);
  EXPECT_THAT(disk_.record, ::testing::HasSubstr("client 1"));
}

TEST_F(OwnershipYieldTest, WhoeverIsOnRecordComesBack) {
  ASSERT_EQ(OpenNow(&a_, Request(1)), Code::kOk);
  Yield();
  Gone(&a_);
  FakePeer again;
  EXPECT_EQ(OpenNow(&again, Request(1, kResume, 1, 2)), Code::kOk);
  EXPECT_TRUE(again.active());
  EXPECT_EQ(disk_.locks, 1);
  // The lease of who was there before counts on.
  EXPECT_EQ(OpenNow(&b_, Request(2)), Code::kBusy);
  Gone(&again);
}

TEST_F(OwnershipYieldTest, WhoWasPutAsideElsewhereIsFenced) {
  ASSERT_EQ(OpenNow(&a_, Request(1)), Code::kOk);
  Yield();
  Gone(&a_);
  // The other proxy gives it to another.
  Restart();
  ASSERT_EQ(OpenNow(&b_, Request(2, kTakeover)), Code::kOk);
  Gone(&b_);
  Restart();
  FakePeer again;
  EXPECT_EQ(OpenNow(&again, Request(1, kResume, 1, 2)), Code::kFenced);
}

TEST_F(OwnershipYieldTest, WhoeverOpensMeanwhileWaits) {
  ASSERT_EQ(OpenNow(&a_, Request(1)), Code::kOk);
  Yield();
  Open(&b_, Request(2, kTakeover));
  EXPECT_TRUE(b_.waiting());
  disk_.locked_elsewhere = true;
  Gone(&a_);
  EXPECT_EQ(done_, 1);
  EXPECT_EQ(b_.status(), Code::kBusy);
  EXPECT_EQ(disk_.locks, 0);
}

TEST_F(OwnershipYieldTest, OnlyObserversStay) {
  ASSERT_EQ(OpenNow(&a_, Request(1)), Code::kOk);
  ASSERT_EQ(OpenNow(&b_, Request(2, kObserve)), Code::kOk);
  Yield();
  Gone(&a_);
  EXPECT_EQ(b_.stops, 0);
  EXPECT_EQ(done_, 1);
}

TEST_F(OwnershipYieldTest, WithoutTheLockItIsDoneAtOnce) {
  Yield();
  EXPECT_EQ(done_, 1);
  EXPECT_EQ(disk_.locks, 0);
}

TEST_F(OwnershipYieldTest, AResizeHasItsTime) {
  ASSERT_EQ(Hold(), Code::kOk);
  Yield();
  EXPECT_EQ(done_, 0);
  Unhold();
  EXPECT_EQ(done_, 1);
  EXPECT_EQ(locks_when_done_, 0);
}

TEST_F(OwnershipYieldTest, ALockThatIsJustBeingHadIsGivenBackToo) {
  hangs_ = true;
  Open(&a_, Request(1));
  Yield();
  EXPECT_EQ(done_, 0);
  hangs_ = false;
  Store();
  EXPECT_EQ(a_.status(), Code::kOk);
  EXPECT_EQ(a_.stops, 1);
  Gone(&a_);
  EXPECT_EQ(done_, 1);
  EXPECT_EQ(disk_.locks, 0);
}

TEST_F(OwnershipYieldTest, ATakeoverSaysSoToTheStorage) {
  ASSERT_EQ(OpenNow(&a_, Request(1)), Code::kOk);
  EXPECT_EQ(disk_.takeovers, 0);
  Gone(&a_);
  Pass(kLeaseNs);
  ASSERT_EQ(disk_.locks, 0);
  EXPECT_EQ(OpenNow(&b_, Request(2, kTakeover)), Code::kOk);
  EXPECT_EQ(disk_.takeovers, 1);
}

}  // namespace
}  // namespace cloudblk::proxy
