// SPDX-License-Identifier: GPL-2.0-or-later
//
// Ownership that moves from one client to another (SPEC.md 11).
#include "tests/unit/proxy/ownership_fixture.h"

namespace cloudblk::proxy {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

class MigrationTest : public OwnershipTest {
 protected:
  // `a_` was active at epoch 1 and released; `b_`, of the same session, observes.
  MigrationTest() {
    Open(&a_, Request(1));
    Open(&b_, Request(1, kObserve, 5));
    Release(&a_, {Id(42), 1});
    EXPECT_EQ(Last(a_), Code::kOk);
  }
  // `c_` and `d_`, of another session.
  void ObserveByTwoChannels() {
    OpenRequest request = Request(2, kObserve);
    request.open.channel_count = 2;
    Open(&c_, request);
    request.open.channel = 1;
    Open(&d_, request);
  }
};

TEST_F(MigrationTest, WhatIsReleasedIsActiveForNobody) {
  EXPECT_FALSE(a_.active());
  EXPECT_FALSE(b_.active());
  now_ += 100 * kLeaseNs;
  EXPECT_EQ(OpenNow(&c_, Request(2)), Code::kBusy);
  Release(&a_, {Id(43), 1});
  EXPECT_EQ(Last(a_), Code::kNotActive);
}

TEST_F(MigrationTest, OnlyTheTokenOpensWhatIsReleased) {
  EXPECT_EQ(OpenNow(&c_, Request(1, kResume, 1, 2)), Code::kBusy);
  EXPECT_EQ(OpenNow(&d_, Request(1, kResume, 2, 1)), Code::kBusy);
  EXPECT_EQ(a_.stops, 0);
  Claim(&b_, {Id(42), 2});
  Gone(&a_);
  EXPECT_EQ(Last(b_), Code::kOk);
}

TEST_F(OwnershipTest, AReleaseOfAnotherEpochIsRefused) {
  Open(&a_, Request(1, kActive, 2));
  Release(&a_, {Id(42), 1});
  EXPECT_EQ(Last(a_), Code::kInvalid);
  Release(&a_, {Id(42), 3});
  EXPECT_EQ(Last(a_), Code::kInvalid);
  EXPECT_EQ(a_.answers.back().epoch, 2u);
  EXPECT_TRUE(a_.active());
}

// Two sharers that move: each has its own token.
TEST_F(OwnershipTest, AClaimLeavesTheOtherReservationAlone) {
  Open(&a_, Request(1, kShare));
  Open(&b_, Request(2, kShare));
  Release(&a_, {Id(42), 1});
  Release(&b_, {Id(43), 1});
  Gone(&a_);
  Gone(&b_);
  OpenRequest claim = WithToken(42, Request(3, kShare, 2));
  EXPECT_EQ(OpenNow(&c_, claim), Code::kOk);
  EXPECT_EQ(OpenNow(&d_, WithToken(43, Request(4, kShare, 2))), Code::kOk);
  EXPECT_TRUE(c_.active());
}

TEST_F(MigrationTest, TheDestinationClaimsAndTheSourceIsFenced) {
  Claim(&b_, {Id(42), 2});
  EXPECT_EQ(a_.stops, 1);
  EXPECT_NE(a_.revoked, "");
  EXPECT_EQ(b_.answers.size(), 1u);
  Gone(&a_);
  EXPECT_EQ(Last(b_), Code::kOk);
  EXPECT_EQ(b_.answers.back().epoch, 2u);
  EXPECT_TRUE(b_.active());
  EXPECT_EQ(OpenNow(&c_, Request(1, kResume, 1, 2)), Code::kStale);
}

TEST_F(MigrationTest, TheSourceMayReclaimAndTheDestinationComesTooLate) {
  Claim(&a_, {Id(42), 2});
  EXPECT_EQ(Last(a_), Code::kOk);
  EXPECT_TRUE(a_.active());
  Claim(&b_, {Id(42), 3});
  EXPECT_EQ(Last(b_), Code::kBadToken);
  EXPECT_FALSE(b_.active());
  EXPECT_TRUE(a_.active());
}

// SPEC.md 11.6, whichever way it was made active.
TEST_F(MigrationTest, AnOpenMayRepeatTheTokenOfAClaim) {
  Claim(&b_, {Id(42), 2});
  Gone(&a_);
  ASSERT_EQ(Last(b_), Code::kOk);
  EXPECT_EQ(OpenNow(&c_, WithToken(41, Request(1, kResume, 2, 9))), Code::kBadToken);
  Open(&d_, WithToken(42, Request(1, kResume, 2, 9)));
  Gone(&b_);
  EXPECT_EQ(d_.status(), Code::kOk);
}

TEST_F(MigrationTest, AnOpenMayRepeatTheTokenThatWasTakenBack) {
  Claim(&a_, {Id(42), 2});
  Open(&d_, WithToken(42, Request(1, kResume, 2, 9)));
  Gone(&a_);
  EXPECT_EQ(d_.status(), Code::kOk);
}

TEST_F(MigrationTest, AClaimNeedsTheTokenAndAHigherEpoch) {
  Claim(&b_, {Id(41), 2});
  EXPECT_EQ(Last(b_), Code::kBadToken);
  Claim(&b_, {Id(42), 1});
  EXPECT_EQ(Last(b_), Code::kInvalid);
  EXPECT_FALSE(b_.active());
}

TEST_F(MigrationTest, ASpentTokenIsSaidToBeSpentWhoeverHoldsTheVolume) {
  Claim(&a_, {Id(42), 2});
  ASSERT_EQ(Last(a_), Code::kOk);
  OpenRequest request = WithToken(42, Request(2, kActive, 3));
  EXPECT_EQ(OpenNow(&c_, request), Code::kBadToken);
  EXPECT_TRUE(a_.active());
}

TEST_F(MigrationTest, AnActiveOpenWithTheTokenClaims) {
  OpenRequest request = WithToken(42, Request(1, kActive, 2));
  Open(&c_, request);
  EXPECT_EQ(a_.stops, 1);
  Gone(&a_);
  EXPECT_EQ(c_.status(), Code::kOk);
  EXPECT_TRUE(c_.active());
  request.open.epoch = 3;
  EXPECT_EQ(OpenNow(&d_, request), Code::kBadToken);
}

TEST_F(MigrationTest, SoItNeedsAHigherEpochToo) {
  OpenRequest request = WithToken(42, Request(2, kActive, 1));
  EXPECT_EQ(OpenNow(&c_, request), Code::kInvalid);
  EXPECT_EQ(c_.answers[0].epoch, 1u);
  request.open.epoch = 2;
  Open(&d_, request);
  Gone(&a_);
  EXPECT_EQ(d_.status(), Code::kOk);
}

TEST_F(MigrationTest, ATokenIsRepeatedAtItsOwnEpochOnly) {
  OpenRequest claim = WithToken(42, Request(1, kActive, 2));
  Open(&c_, claim);
  Gone(&a_);
  ASSERT_EQ(c_.status(), Code::kOk);
  OpenRequest repeated = WithToken(42, Request(1, kActive, 3, 9));
  // Taken back.
  Release(&c_, {Id(43), 2});
  Claim(&c_, {Id(43), 3});
  ASSERT_EQ(Last(c_), Code::kOk);
  EXPECT_EQ(OpenNow(&d_, repeated), Code::kBadToken);
  EXPECT_EQ(c_.stops, 0);
}

TEST_F(MigrationTest, NorIsItAfterTheClaimantCameAgainWithoutIt) {
  OpenRequest claim = WithToken(42, Request(1, kActive, 2));
  Open(&c_, claim);
  Gone(&a_);
  Gone(&c_);
  ASSERT_EQ(OpenNow(&d_, Request(1, kActive, 3)), Code::kOk);
  FakePeer other;
  OpenRequest repeated = WithToken(42, Request(1, kActive, 3, 9));
  EXPECT_EQ(OpenNow(&other, repeated), Code::kBadToken);
  EXPECT_EQ(d_.stops, 0);
}

// Its answer may have been lost with the proxy.
TEST_F(MigrationTest, AClaimMayBeRepeatedAfterARestart) {
  OpenRequest request = WithToken(42, Request(1, kActive, 2));
  Open(&c_, request);
  Gone(&a_);
  ASSERT_EQ(c_.status(), Code::kOk);
  Restart();
  request.open.incarnation = 2;
  EXPECT_EQ(OpenNow(&d_, request), Code::kOk);
  Restart();
  // Whoever else has the token comes too late.
  FakePeer other;
  request.open.epoch = 3;
  EXPECT_EQ(OpenNow(&other, request), Code::kBadToken);
}

TEST_F(MigrationTest, AnotherSessionMayClaimAndTheOldOneIsFenced) {
  Open(&c_, Request(2, kObserve));
  Claim(&c_, {Id(42), 2});
  Gone(&a_);
  EXPECT_EQ(Last(c_), Code::kOk);
  EXPECT_EQ(OpenNow(&d_, Request(1, kResume, 1, 2)), Code::kFenced);
}

TEST_F(MigrationTest, AllChannelsOfTheClaimantBecomeActive) {
  ObserveByTwoChannels();
  Claim(&d_, {Id(42), 2});
  Gone(&a_);
  EXPECT_TRUE(c_.active());
  EXPECT_TRUE(d_.active());
}

TEST_F(MigrationTest, NobodyElseBecomesActiveWithTheClaimant) {
  ObserveByTwoChannels();
  OpenRequest request = Request(2, kObserve);
  request.open.channel_count = 2;
  FakePeer others[3];
  request.open.incarnation = 0;  // that the first one has replaced
  Open(&others[0], request);
  request.open.incarnation = 9;
  request.open.epoch = 2;
  Open(&others[1], request);
  request.open.epoch = 1;
  request.client_name = "another client";
  Open(&others[2], request);
  Claim(&d_, {Id(42), 2});
  Gone(&a_);
  EXPECT_TRUE(c_.active());
  EXPECT_TRUE(d_.active());
  for (FakePeer& other : others) {
    EXPECT_FALSE(other.active());
    Gone(&other);
  }
}

// A session may be active and observe, by different connections. The former have its older epoch.
TEST_F(OwnershipTest, AClaimStopsTheConnectionsThatTheClaimantHasAlready) {
  Open(&a_, Request(1, kShare));
  Open(&b_, Request(2, kShare, 5));
  Open(&c_, Request(2, wire::OpenFlag::kShareRw, 7));
  Release(&a_, {Id(42), 1});
  ASSERT_EQ(Last(a_), Code::kOk);
  Claim(&c_, {Id(42), 5});
  EXPECT_EQ(Last(c_), Code::kStale);
  EXPECT_TRUE(b_.active());
  Claim(&c_, {Id(42), 6});
  EXPECT_EQ(b_.stops, 1);
  EXPECT_FALSE(b_.active());
  Gone(&a_);
  EXPECT_FALSE(c_.active());
  Gone(&b_);
  EXPECT_EQ(Last(c_), Code::kOk);
  EXPECT_TRUE(c_.active());
}

TEST_F(MigrationTest, AReservationOutlivesTheSourceAndTheProxy) {
  End(&a_);
  Gone(&a_);
  Restart();
  now_ += 100 * kLeaseNs;
  EXPECT_EQ(OpenNow(&c_, Request(2)), Code::kBusy);
  OpenRequest request = WithToken(42, Request(1, kActive, 2));
  EXPECT_EQ(OpenNow(&d_, request), Code::kOk);
}

TEST_F(OwnershipTest, AReleaseIsAnsweredWhenAllIsDurable) {
  Open(&a_, Request(1));
  EXPECT_EQ(disk_.syncs, 0);
  Release(&a_, {Id(42), 1});
  EXPECT_EQ(Last(a_), Code::kOk);
  EXPECT_EQ(disk_.syncs, 1);
  Claim(&a_, {Id(42), 2});
  EXPECT_EQ(disk_.syncs, 1);
  // Who claims it is told by the generation.
  disk_.loses_writes = true;
  Release(&a_, {Id(43), 2});
  EXPECT_EQ(Last(a_), Code::kOk);
}

TEST_F(OwnershipTest, AReleaseIsAnsweredWhenTheStorageKeepsIt) {
  Open(&a_, Request(1));
  Open(&b_, Request(1, kObserve, 5));
  hangs_ = true;
  Release(&a_, {Id(42), 1});
  EXPECT_FALSE(a_.active());
  EXPECT_EQ(a_.answers.size(), 1u);
  Claim(&b_, {Id(42), 2});
  EXPECT_EQ(a_.stops, 0);
  hangs_ = false;
  Store();
  EXPECT_EQ(a_.answers.size(), 2u);
  EXPECT_EQ(Last(a_), Code::kOk);
  EXPECT_EQ(a_.stops, 1);
  Gone(&a_);
  EXPECT_EQ(Last(b_), Code::kOk);
  EXPECT_TRUE(b_.active());
}

TEST_F(MigrationTest, AClaimHoldsThoughTheChannelThatAskedIsGoneWhenItIsKept) {
  ObserveByTwoChannels();
  hangs_ = true;
  Claim(&d_, {Id(42), 2});
  blocking_.Step();  // the lock, and then the record
  Gone(&a_);
  Gone(&d_);
  EXPECT_FALSE(c_.active());
  hangs_ = false;
  Store();
  EXPECT_TRUE(c_.active());
  EXPECT_EQ(d_.answers.size(), 1u);
  EXPECT_EQ(OpenNow(&a_, Request(1, kResume, 1, 2)), Code::kBadFeature);
  EXPECT_EQ(Last(a_), Code::kFenced);
}

TEST_F(MigrationTest, WhoClaimsAndLeavesBeforeItIsToldHasALease) {
  now_ += 100 * kLeaseNs;
  Open(&c_, Request(2, kObserve));
  hangs_ = true;
  Claim(&c_, {Id(42), 2});
  blocking_.Step();  // the lock, and then the record
  Gone(&a_);
  Gone(&c_);
  hangs_ = false;
  Store();
  EXPECT_EQ(OpenNow(&d_, Request(3)), Code::kBusy);
  EXPECT_EQ(d_.answers[0].retry_ms, 10000u);
}

TEST_F(MigrationTest, ATakeoverEndsAReservation) {
  Open(&c_, Request(2, kTakeover));
  Gone(&a_);
  EXPECT_EQ(c_.status(), Code::kOk);
  Claim(&b_, {Id(42), 2});
  EXPECT_EQ(Last(b_), Code::kBadToken);
}

TEST_F(MigrationTest, AReservationIsEndedWhenNobodyIsThereToGoOn) {
  EXPECT_EQ(OpenNow(&c_, Request(2, kEndReservation)), Code::kBusy);
  EXPECT_THAT(c_.answers[0].text, HasSubstr("may be on its way: 'client 1'"));
  Pass(60'000'000'000);
  Gone(&a_);
  // The destination, which is of the session that released it.
  EXPECT_EQ(OpenNow(&d_, Request(2, kEndReservation)), Code::kBusy);
  EXPECT_EQ(a_.stops + b_.stops, 0);
  Gone(&b_);
  FakePeer e;
  EXPECT_EQ(OpenNow(&e, Request(2, kEndReservation)), Code::kOk);
  End(&e);
  FakePeer late;
  EXPECT_EQ(OpenNow(&late, WithToken(42, Request(1, kResume, 2, 5))), Code::kFenced);
  FakePeer next;
  EXPECT_EQ(OpenNow(&next, Request(3)), Code::kOk);
}

// As in the middle of a migration.
TEST_F(MigrationTest, NorIsOneThatWasMadeJustNow) {
  Gone(&a_);
  Gone(&b_);
  EXPECT_EQ(OpenNow(&c_, Request(2, kEndReservation)), Code::kBusy);
  Pass(59'000'000'000);
  EXPECT_EQ(OpenNow(&d_, Request(2, kEndReservation)), Code::kBusy);
  Pass(1'000'000'000);
  FakePeer e;
  EXPECT_EQ(OpenNow(&e, Request(2, kEndReservation)), Code::kOk);
  // Its answer was lost.
  FakePeer again;
  Open(&again, Request(2, kEndReservation, 1, 2));
  Gone(&e);
  EXPECT_EQ(Last(again), Code::kOk);
}

TEST_F(MigrationTest, SoItIsAfterARestart) {
  Restart();
  // Who released it may have done so just before.
  EXPECT_EQ(OpenNow(&d_, Request(2, kEndReservation)), Code::kBusy);
  Pass(60'000'000'000);
  EXPECT_EQ(OpenNow(&c_, Request(2, kEndReservation)), Code::kOk);
  EXPECT_THAT(disk_.record, Not(HasSubstr(ToString(Id(42)))));
}

TEST_F(OwnershipTest, EndingAReservationEndsNothingElse) {
  EXPECT_EQ(OpenNow(&a_, Request(1, kEndReservation)), Code::kInvalid);
  EXPECT_THAT(a_.answers[0].text, HasSubstr("is not reserved"));
  EXPECT_EQ(disk_.record, "");
  EXPECT_EQ(OpenNow(&b_, Request(2)), Code::kOk);
  EXPECT_EQ(OpenNow(&c_, Request(3, kEndReservation)), Code::kBusy);
  Gone(&b_);
  EXPECT_EQ(OpenNow(&d_, Request(3, kEndReservation)), Code::kBusy) << "the lease of who may come";
  EXPECT_EQ(b_.stops, 0);
}

}  // namespace
}  // namespace cloudblk::proxy
