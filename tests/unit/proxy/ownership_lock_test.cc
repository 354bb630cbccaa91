// SPDX-License-Identifier: GPL-2.0-or-later
//
// When the storage's lock is held, what is remembered without it, and who does not wait for whom.
#include "tests/unit/proxy/ownership_fixture.h"

namespace cloudblk::proxy {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

class OwnershipLockTest : public OwnershipTest {};

TEST_F(OwnershipLockTest, ALeaseThatHasRunOutFreesTheStorage) {
  Open(&a_, Request(1));
  Gone(&a_);
  Pass(kLeaseNs - 1);
  EXPECT_EQ(disk_.locks, 1);
  Pass(1);
  EXPECT_EQ(disk_.locks, 0);
  EXPECT_THAT(disk_.record, ::testing::Not(HasSubstr("holder")));
  // By another server, which this one is not told of.
  EXPECT_EQ(OpenNow(&b_, Request(1, kResume, 1, 2)), Code::kOk);
}

TEST_F(OwnershipLockTest, ASharersLeaseFreesNothingWhileAnotherHasTheVolume) {
  Open(&a_, Request(1, kShare));
  Open(&b_, Request(2, kShare));
  Gone(&a_);
  Pass(2 * kLeaseNs);
  EXPECT_EQ(disk_.locks, 1);
  EXPECT_EQ(OpenNow(&c_, Request(1, kShare | wire::OpenFlag::kResume, 1, 2)), Code::kOk);
}

TEST_F(OwnershipLockTest, ALeaseFoundInTheRecordRunsOutToo) {
  Open(&a_, Request(1));
  Restart();
  EXPECT_EQ(disk_.locks, 1);
  Pass(kLeaseNs);
  EXPECT_EQ(disk_.locks, 0);
}

TEST_F(OwnershipLockTest, AReconnectKeepsTheLease) {
  Open(&a_, Request(1));
  Gone(&a_);
  Pass(kLeaseNs / 2);
  Open(&b_, Request(1, kResume, 1, 2));
  Pass(2 * kLeaseNs);
  EXPECT_TRUE(b_.active());
  EXPECT_EQ(disk_.locks, 1);
  EXPECT_EQ(OpenNow(&c_, Request(2)), Code::kBusy);
}

TEST_F(OwnershipLockTest, WhatWasReleasedIsFreeForOtherServersBeforeTheAnswer) {
  Open(&a_, Request(1));
  hangs_ = true;
  Release(&a_, {Id(42), 1});
  EXPECT_EQ(disk_.locks, 1);
  EXPECT_EQ(a_.answers.size(), 1u);
  hangs_ = false;
  Store();
  EXPECT_EQ(Last(a_), Code::kOk);
  EXPECT_EQ(disk_.locks, 0);
}

TEST_F(OwnershipLockTest, AReservationFoundInTheRecordNeedsNoLock) {
  Open(&a_, Request(1));
  Release(&a_, {Id(42), 1});
  Restart();
  EXPECT_EQ(disk_.locks, 0);
  EXPECT_EQ(OpenNow(&b_, Request(2)), Code::kBusy);
  EXPECT_EQ(disk_.locks, 0);
  EXPECT_EQ(OpenNow(&c_, WithToken(42, Request(3, kActive, 2))), Code::kOk);
}

TEST_F(OwnershipLockTest, AnotherServerMayHaveSpentTheToken) {
  Open(&a_, Request(1));
  Release(&a_, {Id(42), 1});
  disk_.record = "last " + ToString(Id(2)) + " 3 - -\n";
  Claim(&a_, {Id(42), 2});
  EXPECT_EQ(Last(a_), Code::kBadToken);
  EXPECT_FALSE(a_.active());
}

TEST_F(OwnershipLockTest, WhoReleasedItTakesItBackWithAllItsChannels) {
  Open(&a_, OneOfTwo(0, Request(1)));
  Open(&b_, OneOfTwo(1, Request(1)));
  Open(&c_, Request(1, kObserve, 5));
  Release(&a_, {Id(42), 1});
  Claim(&b_, {Id(42), 2});
  EXPECT_EQ(Last(b_), Code::kOk);
  EXPECT_TRUE(a_.active() && b_.active());
  EXPECT_FALSE(c_.active());
  EXPECT_EQ(a_.stops + b_.stops + c_.stops, 0);
}

// What the storage cannot keep this process has to remember, and nobody else may have it.
TEST_F(OwnershipLockTest, AReservationThatIsNotOnRecordKeepsTheLock) {
  disk_.keeps_record = false;
  Open(&a_, Request(1));
  Release(&a_, {Id(42), 1});
  EXPECT_EQ(disk_.locks, 1);
  EXPECT_EQ(OpenNow(&b_, WithToken(42, Request(2, kActive, 2))), Code::kBadFeature);
  Gone(&a_);
  EXPECT_EQ(b_.status(), Code::kOk);
}

TEST_F(OwnershipLockTest, AnEpochIsRememberedWithoutALock) {
  Open(&a_, ClaimedBy(7, Request(1, kActive, 5)));
  End(&a_);
  ASSERT_EQ(disk_.locks, 0);
  EXPECT_EQ(OpenNow(&b_, ClaimedBy(7, Request(1, kResume, 4, 9))), Code::kStale);
  EXPECT_EQ(b_.answers[0].epoch, 5u);
  EXPECT_EQ(OpenNow(&c_, ClaimedBy(8, Request(1, kResume, 5, 9))), Code::kFenced);
  EXPECT_EQ(OpenNow(&d_, ClaimedBy(7, Request(1, kResume, 5, 9))), Code::kOk);
}

// SPEC.md 11.6: every channel brings the token by which its epoch was made active.
TEST_F(OwnershipLockTest, ASpentTokenIsRememberedWithoutALock) {
  Open(&a_, Request(1));
  Release(&a_, {Id(42), 1});
  Gone(&a_);
  const OpenRequest claim = WithToken(42, Request(2, kActive, 3));
  ASSERT_EQ(OpenNow(&b_, claim), Code::kOk);
  Gone(&b_);
  Pass(kLeaseNs);
  ASSERT_EQ(disk_.locks, 0);
  EXPECT_EQ(OpenNow(&c_, WithToken(42, Request(2, kResume, 3, 2))), Code::kOk);
  OpenRequest other = WithToken(42, Request(2, kResume, 3, 1));
  other.open.channel = 1;
  EXPECT_EQ(OpenNow(&d_, other), Code::kOk);
}

TEST_F(OwnershipLockTest, NobodyWaitsForWhomItDoesNotConcern) {
  Open(&a_, Request(1, kShare));
  Open(&b_, Request(2, kTakeover));
  ASSERT_EQ(a_.stops, 1);
  ASSERT_TRUE(b_.waiting());
  EXPECT_EQ(OpenNow(&c_, Request(3, kObserve)), Code::kOk);
  EXPECT_EQ(OpenNow(&d_, Request(4, kShare)), Code::kOk);
  // Judged again when the first is gone: the other is in its way now.
  Gone(&a_);
  EXPECT_TRUE(b_.waiting());
  EXPECT_EQ(d_.stops, 1);
  Gone(&d_);
  EXPECT_EQ(b_.status(), Code::kOk);
}

TEST_F(OwnershipLockTest, ObserversDoNotWaitForTheStorage) {
  hangs_ = true;
  Open(&a_, Request(1));
  EXPECT_EQ(OpenNow(&b_, Request(2, kObserve)), Code::kOk);
  blocking_.Step();  // the lock, and then the record
  EXPECT_EQ(OpenNow(&c_, Request(3, kObserve)), Code::kOk);
  EXPECT_TRUE(a_.waiting());
  hangs_ = false;
}

TEST_F(OwnershipLockTest, ARefusedClientHasTheHolderProbed) {
  Open(&a_, Request(1));
  Open(&b_, Request(2, kObserve));
  EXPECT_EQ(OpenNow(&c_, Request(3)), Code::kBusy);
  EXPECT_EQ(a_.probes, 1);
  EXPECT_EQ(b_.probes, 0);
}

TEST_F(OwnershipLockTest, WhoeverIsRefusedComesAgainUntilItIsKnownWhetherTheHolderIsThere) {
  Open(&a_, Request(1));
  EXPECT_EQ(OpenNow(&b_, Request(2)), Code::kBusy);
  EXPECT_EQ(b_.answers[0].retry_ms, 250u);
  a_.NoteAsked(now_);
  now_ += 3'000'000'000;
  EXPECT_EQ(OpenNow(&c_, Request(2)), Code::kBusy);
  EXPECT_EQ(c_.answers[0].retry_ms, 1000u);
  EXPECT_THAT(c_.answers[0].text, HasSubstr("silent for 3 s"));
  a_.NoteHeard(now_);
  EXPECT_EQ(OpenNow(&d_, Request(2)), Code::kBusy);
  EXPECT_EQ(d_.answers[0].retry_ms, 0u);
  EXPECT_THAT(d_.answers[0].text, Not(HasSubstr("silent")));
}

TEST_F(OwnershipLockTest, OneConnectionThatAnswersIsEnough) {
  Open(&a_, OneOfTwo(0, Request(1)));
  Open(&b_, OneOfTwo(1, Request(1)));
  a_.NoteAsked(now_);
  b_.NoteHeard(now_);
  EXPECT_EQ(OpenNow(&c_, Request(2)), Code::kBusy);
  EXPECT_EQ(c_.answers[0].retry_ms, 0u);
}

TEST_F(OwnershipLockTest, WhatWasHeardLongAgoSaysNothing) {
  Open(&a_, Request(1));
  a_.NoteHeard(now_);
  now_ += 2'000'000'000;
  EXPECT_EQ(OpenNow(&c_, Request(2)), Code::kBusy);
  EXPECT_EQ(c_.answers[0].retry_ms, 250u);
}

TEST_F(OwnershipLockTest, TheLockOfAnotherServerMayBeGivenBack) {
  disk_.locked_elsewhere = true;
  EXPECT_EQ(OpenNow(&a_, Request(1)), Code::kBusy);
  EXPECT_EQ(a_.answers[0].retry_ms, 1000u);
}

TEST_F(OwnershipLockTest, AProcessThatEndsGivesBackWhatNobodyIsConnectedTo) {
  Open(&a_, Request(1));
  ownership_->Leave();
  Store();
  EXPECT_EQ(disk_.locks, 1);
  Gone(&a_);
  EXPECT_EQ(disk_.locks, 0);
  EXPECT_THAT(disk_.record, HasSubstr("client 1"));
}

}  // namespace
}  // namespace cloudblk::proxy
