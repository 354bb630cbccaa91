// SPDX-License-Identifier: GPL-2.0-or-later
#include "tests/unit/proxy/ownership_fixture.h"

namespace cloudblk::proxy {
namespace {

using ::testing::HasSubstr;

TEST_F(OwnershipTest, TheFirstIsActiveAndTheStorageLocked) {
  EXPECT_EQ(OpenNow(&a_, Request(1)), Code::kOk);
  EXPECT_TRUE(a_.active());
  EXPECT_EQ(a_.answers[0].epoch, 1u);
  EXPECT_EQ(disk_.locks, 1);
  EXPECT_THAT(disk_.record, HasSubstr("client 1"));
}

TEST_F(OwnershipTest, ASecondIsToldWhoHoldsIt) {
  Open(&a_, Request(1));
  EXPECT_EQ(OpenNow(&b_, Request(2)), Code::kBusy);
  EXPECT_FALSE(b_.active());
  EXPECT_TRUE(a_.active());
  EXPECT_EQ(a_.stops, 0);
  EXPECT_THAT(b_.answers[0].text, HasSubstr("'client 1' (tcp://host:1)"));
  EXPECT_THAT(b_.answers[0].text, HasSubstr("connected"));
}

TEST_F(OwnershipTest, OthersMayObserve) {
  Open(&a_, Request(1));
  EXPECT_EQ(OpenNow(&b_, Request(2, kObserve)), Code::kOk);
  EXPECT_FALSE(b_.active());
  EXPECT_EQ(OpenNow(&c_, Request(1, kObserve)), Code::kOk);
  EXPECT_EQ(a_.stops, 0);
}

TEST_F(OwnershipTest, SharersShareAndOnlyWithSharers) {
  EXPECT_EQ(OpenNow(&a_, Request(1, kShare)), Code::kOk);
  EXPECT_EQ(OpenNow(&b_, Request(2, kShare)), Code::kOk);
  EXPECT_EQ(OpenNow(&c_, Request(3)), Code::kBusy);
  EXPECT_TRUE(a_.active() && b_.active());
}

TEST_F(OwnershipTest, NobodySharesWithWhoDoesNot) {
  EXPECT_EQ(OpenNow(&a_, Request(1)), Code::kOk);
  EXPECT_EQ(OpenNow(&b_, Request(2, kShare)), Code::kBusy);
  EXPECT_EQ(OpenNow(&c_, Request(3, kReader)), Code::kBusy);
  EXPECT_EQ(a_.stops, 0);
}

TEST_F(OwnershipTest, ReadersShareWithReaders) {
  EXPECT_EQ(OpenNow(&a_, Request(1, kReader)), Code::kOk);
  EXPECT_EQ(OpenNow(&b_, Request(2, kReader)), Code::kOk);
  EXPECT_EQ(OpenNow(&c_, Request(3)), Code::kBusy);
}

TEST_F(OwnershipTest, AnybodyReadsAReadOnlyVolume) {
  backend_->MakeReadOnly();
  EXPECT_EQ(OpenNow(&a_, Request(1)), Code::kOk);
  EXPECT_EQ(OpenNow(&b_, Request(2)), Code::kOk);
}

TEST_F(OwnershipTest, TheEndOfASessionFreesTheVolumeAtOnce) {
  Open(&a_, Request(1));
  End(&a_);
  EXPECT_EQ(Last(a_), Code::kOk);
  EXPECT_FALSE(a_.active());
  EXPECT_EQ(disk_.locks, 0);
  EXPECT_EQ(OpenNow(&b_, Request(2)), Code::kOk);
}

TEST_F(OwnershipTest, TheEndStopsTheSessionsOtherConnectionsFirst) {
  OpenRequest first = OneOfTwo(0, Request(1));
  OpenRequest second = OneOfTwo(1, first);
  Open(&a_, first);
  Open(&b_, second);
  End(&a_);
  EXPECT_EQ(b_.stops, 1);
  EXPECT_EQ(a_.answers.size(), 1u);
  EXPECT_EQ(OpenNow(&c_, Request(2)), Code::kBusy);
  Gone(&b_);
  EXPECT_EQ(Last(a_), Code::kOk);
  EXPECT_EQ(OpenNow(&d_, Request(2)), Code::kOk);
}

TEST_F(OwnershipTest, TheEndOfAnObserverStopsItsOtherConnectionsToo) {
  OpenRequest first = OneOfTwo(0, Request(1, kObserve));
  OpenRequest second = OneOfTwo(1, first);
  Open(&a_, first);
  Open(&b_, second);
  Open(&c_, Request(1, kObserve, 2));
  Open(&d_, Request(2, kObserve));
  End(&a_);
  EXPECT_EQ(b_.stops, 1);
  EXPECT_EQ(c_.stops + d_.stops, 0);
  EXPECT_EQ(a_.answers.size(), 1u);
  Gone(&b_);
  EXPECT_EQ(a_.answers.size(), 2u);
}

TEST_F(OwnershipTest, ALostHolderKeepsItsLease) {
  Open(&a_, Request(1));
  now_ += 100 * kLeaseNs;
  Gone(&a_);
  now_ += kLeaseNs - 2'500'000'000;
  EXPECT_EQ(OpenNow(&b_, Request(2)), Code::kBusy);
  EXPECT_EQ(b_.answers[0].retry_ms, 2500u);
  EXPECT_THAT(b_.answers[0].text, HasSubstr("not connected; its lease ends in 2.5 s"));
  EXPECT_EQ(OpenNow(&c_, Request(1, kResume, 1, 2)), Code::kOk);
}

TEST_F(OwnershipTest, AnExpiredHolderMayResumeUntilAnotherCame) {
  Open(&a_, Request(1));
  Gone(&a_);
  now_ += kLeaseNs;
  EXPECT_EQ(OpenNow(&b_, Request(1, kResume, 1, 2)), Code::kOk);
  Gone(&b_);
  now_ += kLeaseNs;
  EXPECT_EQ(OpenNow(&c_, Request(2)), Code::kOk);
  EXPECT_EQ(OpenNow(&d_, Request(1, kResume, 1, 3)), Code::kFenced);
  FakePeer e;
  EXPECT_EQ(OpenNow(&e, Request(1, kActive, 2)), Code::kFenced);
}

TEST_F(OwnershipTest, TheLeaseStartsWithTheLastConnection) {
  OpenRequest first = OneOfTwo(0, Request(1));
  OpenRequest second = OneOfTwo(1, first);
  Open(&a_, first);
  Open(&b_, second);
  Gone(&a_);
  now_ += 2 * kLeaseNs;
  EXPECT_EQ(OpenNow(&c_, Request(2)), Code::kBusy);
  EXPECT_THAT(c_.answers[0].text, HasSubstr("which is connected"));
}

TEST_F(OwnershipTest, AHigherIncarnationIsAnsweredOnceTheOlderIsStopped) {
  Open(&a_, Request(1));
  Open(&b_, Request(1, kResume, 1, 2));
  EXPECT_EQ(a_.stops, 1);
  EXPECT_EQ(a_.revoked, "");
  EXPECT_FALSE(a_.active());
  EXPECT_TRUE(b_.waiting());
  EXPECT_FALSE(b_.active());
  Gone(&a_);
  EXPECT_EQ(b_.status(), Code::kOk);
  EXPECT_TRUE(b_.active());
}

TEST_F(OwnershipTest, AnotherChannelStopsNobody) {
  OpenRequest first = OneOfTwo(0, Request(1));
  OpenRequest second = OneOfTwo(1, first);
  Open(&a_, first);
  EXPECT_EQ(OpenNow(&b_, second), Code::kOk);
  EXPECT_EQ(a_.stops, 0);
}

TEST_F(OwnershipTest, AnOldOrEqualIncarnationIsStale) {
  Open(&a_, Request(1, kActive, 1, 5));
  EXPECT_EQ(OpenNow(&b_, Request(1, kResume, 1, 5)), Code::kStale);
  EXPECT_EQ(OpenNow(&c_, Request(1, kResume, 1, 4)), Code::kStale);
  // Also when the connection is gone: what it sent may have been carried out.
  Gone(&a_);
  EXPECT_EQ(OpenNow(&d_, Request(1, kResume, 1, 5)), Code::kStale);
}

TEST_F(OwnershipTest, AHigherEpochStopsAllOfTheLower) {
  OpenRequest first = OneOfTwo(0, Request(1));
  OpenRequest second = OneOfTwo(1, first);
  Open(&a_, first);
  Open(&b_, second);
  Open(&c_, Request(1, kResume, 2, 1));
  EXPECT_EQ(a_.stops + b_.stops, 2);
  Gone(&a_);
  EXPECT_TRUE(c_.waiting());
  Gone(&b_);
  EXPECT_EQ(c_.status(), Code::kOk);
  EXPECT_EQ(c_.answers[0].epoch, 2u);
  EXPECT_EQ(OpenNow(&d_, Request(1, kResume, 1, 9)), Code::kStale);
  EXPECT_EQ(d_.answers[0].epoch, 2u);
}

TEST_F(OwnershipTest, ANewEpochCountsItsIncarnationsAnew) {
  OpenRequest first = OneOfTwo(0, Request(1, kActive, 1, 7));
  OpenRequest second = OneOfTwo(1, first);
  Open(&a_, first);
  Open(&b_, second);
  Gone(&a_);
  Gone(&b_);
  first.open.epoch = second.open.epoch = 2;
  first.open.incarnation = second.open.incarnation = 1;
  EXPECT_EQ(OpenNow(&c_, first), Code::kOk);
  EXPECT_EQ(OpenNow(&d_, second), Code::kOk);
}

TEST_F(OwnershipTest, AnEpochHasOneChannelCount) {
  OpenRequest first = Request(1);
  first.open.channel_count = 2;
  Open(&a_, first);
  OpenRequest second = first;
  second.open.channel = 1;
  second.open.channel_count = 3;
  EXPECT_EQ(OpenNow(&b_, second), Code::kInvalid);
  OpenRequest many = Request(2);
  many.open.channel_count = Ownership::kMaxChannels + 1;
  EXPECT_EQ(OpenNow(&c_, many), Code::kTooMany);
  // SPEC.md 6.5: not before it is told that it is too old.
  many = first;
  many.open.channel_count = Ownership::kMaxChannels + 1;
  EXPECT_EQ(OpenNow(&d_, many), Code::kStale);
}

TEST_F(OwnershipTest, AllChannelsOfASessionAreOpenedForTheSame) {
  OpenRequest reader = Request(1, kReader);
  reader.open.channel_count = 2;
  OpenRequest writer = Request(1, kActive);
  writer.open.channel_count = 2;
  writer.open.channel = 1;
  EXPECT_EQ(OpenNow(&a_, reader), Code::kOk);
  EXPECT_EQ(OpenNow(&b_, writer), Code::kInvalid);
  writer.open.flags = kReader | wire::OpenFlag::kShareRw;
  EXPECT_EQ(OpenNow(&c_, writer), Code::kInvalid);
  writer.open.flags = kReader;
  EXPECT_EQ(OpenNow(&d_, writer), Code::kOk);
}

TEST_F(OwnershipTest, ResumeOfAnotherDiskIsRefused) {
  OpenRequest request = Request(1, kResume);
  request.open.volume = Id(9);
  EXPECT_EQ(OpenNow(&a_, request), Code::kVolumeChanged);
}

TEST_F(OwnershipTest, ATakeoverRevokesStopsAndThenGrants) {
  Open(&a_, Request(1));
  Open(&b_, Request(2, kTakeover));
  EXPECT_EQ(a_.stops, 1);
  EXPECT_THAT(a_.revoked, HasSubstr("client 2"));
  EXPECT_FALSE(a_.active());
  EXPECT_TRUE(b_.waiting());
  // Its old connection comes back while that is under way: it has to wait, and has lost.
  Open(&c_, Request(1, kResume, 1, 2));
  EXPECT_TRUE(c_.waiting());
  Gone(&a_);
  EXPECT_EQ(b_.status(), Code::kOk);
  EXPECT_EQ(c_.status(), Code::kFenced);
  EXPECT_THAT(disk_.record, HasSubstr("client 2"));
  EXPECT_THAT(disk_.record, ::testing::Not(HasSubstr("client 1")));
}

TEST_F(OwnershipTest, ATakeoverOfALostHolderNeedsNobodysHelp) {
  Open(&a_, Request(1));
  Gone(&a_);
  EXPECT_EQ(OpenNow(&b_, Request(2, kTakeover)), Code::kOk);
  EXPECT_EQ(OpenNow(&c_, Request(1, kResume, 1, 2)), Code::kFenced);
}

TEST_F(OwnershipTest, WhoAskedAndLeftChangesNothing) {
  Open(&a_, Request(1));
  Open(&b_, Request(1, kResume, 1, 2));
  Gone(&b_);
  Gone(&a_);
  EXPECT_TRUE(b_.answers.empty());
  EXPECT_EQ(OpenNow(&c_, Request(1, kResume, 1, 3)), Code::kOk);
}

TEST_F(OwnershipTest, OpensOfASessionAreAnsweredInTheirOrderAndOthersBeside) {
  Open(&a_, Request(1));
  Open(&b_, Request(1, kResume, 1, 2));
  Open(&c_, Request(1, kResume, 1, 3));
  Open(&d_, Request(2));
  EXPECT_EQ(d_.status(), Code::kBusy);
  Gone(&a_);
  EXPECT_EQ(b_.status(), Code::kOk);
  EXPECT_EQ(b_.stops, 1);
  EXPECT_TRUE(c_.waiting());
  Gone(&b_);
  EXPECT_EQ(c_.status(), Code::kOk);
}

TEST_F(OwnershipTest, AStorageLockedElsewhereIsBusy) {
  disk_.locked_elsewhere = true;
  EXPECT_EQ(OpenNow(&a_, Request(1)), Code::kBusy);
  EXPECT_THAT(a_.answers[0].text, HasSubstr("locked elsewhere"));
  EXPECT_EQ(OpenNow(&b_, Request(2, kTakeover)), Code::kBusy);
  EXPECT_EQ(OpenNow(&c_, Request(3, kObserve)), Code::kOk);
  disk_.locked_elsewhere = false;
  EXPECT_EQ(OpenNow(&d_, Request(1)), Code::kOk);
}

TEST_F(OwnershipTest, ARefusalLeavesTheStorageUnlocked) {
  OpenRequest request = Request(1);
  request.open.token = Id(5);
  EXPECT_EQ(OpenNow(&a_, request), Code::kBadToken);
  EXPECT_EQ(disk_.locks, 0);
}

TEST_F(OwnershipTest, WhoEndedItsSessionDoesNotResumeItAfterAnother) {
  Open(&a_, Request(1));
  End(&a_);
  Gone(&a_);
  Open(&b_, Request(2));
  Gone(&b_);
  now_ += kLeaseNs;
  EXPECT_EQ(OpenNow(&c_, Request(1, kResume, 1, 2)), Code::kFenced);
  EXPECT_EQ(OpenNow(&d_, Request(2, kResume, 1, 2)), Code::kOk);
}

// A resize, for instance.
TEST_F(OwnershipTest, TheStorageStaysLockedWhileItIsHeld) {
  Open(&a_, Request(1));
  ASSERT_EQ(Hold(), Code::kOk);
  End(&a_);
  EXPECT_EQ(Last(a_), Code::kOk);
  EXPECT_EQ(disk_.locks, 1);
  Unhold();
  EXPECT_EQ(disk_.locks, 0);
}

TEST_F(OwnershipTest, AnotherServersLockIsNotHeld) {
  disk_.locked_elsewhere = true;
  EXPECT_EQ(Hold(), Code::kBusy);
  disk_.locked_elsewhere = false;
  EXPECT_EQ(Hold(), Code::kOk);
  EXPECT_EQ(disk_.locks, 1);
  Unhold();
  EXPECT_EQ(disk_.locks, 0);
}

TEST_F(OwnershipTest, ALockThatNobodyWantsAnyMoreIsGivenBack) {
  hangs_ = true;
  Open(&a_, Request(1));
  Gone(&a_);
  hangs_ = false;
  Store();
  EXPECT_EQ(disk_.locks, 0);
  EXPECT_EQ(OpenNow(&b_, Request(2)), Code::kOk);
}

TEST_F(OwnershipTest, ALockThatIsDeniedIsDeniedToAllWhoWaitForIt) {
  disk_.locked_elsewhere = true;
  hangs_ = true;
  Open(&a_, Request(1));
  Open(&b_, Request(2));
  hangs_ = false;
  blocking_.Step();
  EXPECT_EQ(a_.status(), Code::kBusy);
  EXPECT_EQ(b_.status(), Code::kBusy);
  disk_.locked_elsewhere = false;
  EXPECT_EQ(OpenNow(&c_, Request(2)), Code::kOk);
}

TEST_F(OwnershipTest, TheEndIsAnsweredWhenTheLockIsFree) {
  Open(&a_, Request(1));
  hangs_ = true;
  End(&a_);
  EXPECT_EQ(disk_.locks, 1);
  blocking_.Step();
  EXPECT_EQ(Last(a_), Code::kOk);
  EXPECT_EQ(disk_.locks, 0);
  hangs_ = false;
}

// --- Restarts of the proxy -----------------------------------------------------------------------

TEST_F(OwnershipTest, AfterARestartOnlyTheHolderMayResumeUntilItsLeaseEnds) {
  Open(&a_, Request(1, kActive, 3));
  Restart();
  EXPECT_EQ(disk_.locks, 1);
  EXPECT_EQ(OpenNow(&b_, Request(2)), Code::kBusy);
  EXPECT_EQ(b_.answers[0].retry_ms, 10000u);
  EXPECT_THAT(b_.answers[0].text, HasSubstr("client 1"));
  EXPECT_EQ(OpenNow(&c_, Request(1, kResume, 2, 9)), Code::kStale);
  EXPECT_EQ(OpenNow(&d_, Request(1, kResume, 3, 1)), Code::kOk);
}

TEST_F(OwnershipTest, AfterARestartAndALeaseAnybodyMayHaveIt) {
  Open(&a_, Request(1));
  Restart();
  now_ += kLeaseNs;
  EXPECT_EQ(OpenNow(&b_, Request(2)), Code::kOk);
  Restart();
  EXPECT_EQ(OpenNow(&c_, Request(1, kResume, 1, 2)), Code::kFenced);
}

TEST_F(OwnershipTest, WhoLostTheVolumeIsFencedAfterARestartToo) {
  Open(&a_, Request(1));
  Open(&b_, Request(2, kTakeover));
  Gone(&a_);
  End(&b_);
  Restart();
  // Nobody holds it now; yet somebody wrote to it since.
  EXPECT_EQ(OpenNow(&c_, Request(1, kResume, 1, 2)), Code::kFenced);
  EXPECT_EQ(OpenNow(&d_, Request(3)), Code::kOk);
}

TEST_F(OwnershipTest, WithoutARecordTheHolderMayStillResume) {
  disk_.keeps_record = false;
  Open(&a_, Request(1));
  Restart();
  EXPECT_EQ(OpenNow(&b_, Request(1, kResume, 1, 2)), Code::kOk);
}

TEST_F(OwnershipTest, WhileTheRecordCannotBeReadNobodyGetsTheVolume) {
  Open(&a_, Request(1));
  disk_.readable = false;
  Restart();
  EXPECT_EQ(OpenNow(&b_, Request(2)), Code::kBusy);
  EXPECT_THAT(b_.answers[0].text, HasSubstr("cannot be read"));
  EXPECT_EQ(disk_.locks, 0);
  disk_.readable = true;
  EXPECT_EQ(OpenNow(&c_, Request(2)), Code::kBusy);
  EXPECT_THAT(c_.answers[0].text, HasSubstr("client 1"));
}

TEST_F(OwnershipTest, ARecordThatCannotBeRenewedIsRemoved) {
  Open(&a_, Request(1));
  ASSERT_NE(disk_.record, "");
  disk_.full = true;
  Open(&b_, Request(2, kTakeover));
  Gone(&a_);
  ASSERT_EQ(b_.status(), Code::kOk);
  EXPECT_EQ(disk_.record, "");
}

TEST_F(OwnershipTest, WhatWasRemovedIsStoredAgainOnceThereIsRoom) {
  Open(&a_, Request(1, kShare));
  disk_.full = true;
  Open(&b_, Request(2, kShare));
  ASSERT_EQ(disk_.record, "");
  disk_.full = false;
  End(&b_);
  EXPECT_THAT(disk_.record, HasSubstr("client 1"));
}

TEST_F(OwnershipTest, TheLastOfTheSharersIsKnownAfterARestart) {
  Open(&a_, Request(1, kShare));
  Open(&b_, Request(2, kShare));
  End(&b_);
  End(&a_);
  Restart();
  EXPECT_EQ(OpenNow(&c_, Request(2, kShare | wire::OpenFlag::kResume, 1, 2)), Code::kFenced);
  EXPECT_EQ(OpenNow(&d_, Request(1, kShare | wire::OpenFlag::kResume, 1, 2)), Code::kOk);
}

TEST_F(OwnershipTest, WhoIsToldThatItHoldsTheVolumeIsFoundAfterARestart) {
  hangs_ = true;
  Open(&a_, Request(1));
  blocking_.Step();  // the lock, and then the record
  EXPECT_TRUE(a_.waiting());
  EXPECT_FALSE(a_.active());
  Open(&b_, Request(2));
  EXPECT_TRUE(b_.waiting());
  hangs_ = false;
  Store();
  EXPECT_THAT(disk_.record, HasSubstr("client 1"));
  EXPECT_EQ(a_.status(), Code::kOk);
  EXPECT_TRUE(a_.active());
  EXPECT_EQ(b_.status(), Code::kBusy);
}

TEST_F(OwnershipTest, WhoLeavesBeforeItIsToldHasALease) {
  hangs_ = true;
  Open(&a_, Request(1));
  blocking_.Step();  // the lock, and then the record
  Gone(&a_);
  hangs_ = false;
  Store();
  EXPECT_TRUE(a_.waiting());
  EXPECT_EQ(OpenNow(&b_, Request(2)), Code::kBusy);
  EXPECT_EQ(b_.answers[0].retry_ms, 10000u);
  EXPECT_EQ(OpenNow(&c_, Request(1, kActive, 1, 2)), Code::kOk);
}

TEST_F(OwnershipTest, TheStorageStaysLockedUntilItKeepsTheEnd) {
  Open(&a_, Request(1));
  ASSERT_EQ(Hold(), Code::kOk);
  hangs_ = true;
  End(&a_);
  Unhold();
  EXPECT_EQ(disk_.locks, 1);
  EXPECT_EQ(a_.answers.size(), 1u);
  hangs_ = false;
  Store();
  EXPECT_EQ(disk_.locks, 0);
  EXPECT_EQ(Last(a_), Code::kOk);
}

TEST_F(OwnershipTest, SharersResumeAfterARestart) {
  Open(&a_, Request(1, kShare));
  Open(&b_, Request(2, kShare));
  Restart();
  EXPECT_EQ(OpenNow(&c_, Request(2, kShare | wire::OpenFlag::kResume, 1, 2)), Code::kOk);
  EXPECT_EQ(OpenNow(&d_, Request(1, kShare | wire::OpenFlag::kResume, 1, 2)), Code::kOk);
}

TEST(OwnerRecordTest, KeepsNoPartOfACharacter) {
  OwnerRecord record;
  Uuid uuid;
  uuid.bytes.fill(0xab);
  std::string name;
  // 3 bytes each
  for (int i = 0; i < 40; ++i) name += "\u4eee";
  record.holders.push_back({uuid, 7, true, false, std::nullopt, {}, {}, name});
  const std::string kept = ParseOwnerRecord(Format(record)).value().holders.at(0).client_name;
  EXPECT_EQ(kept, name.substr(0, 63));
}

TEST(OwnerRecordTest, ANameAddsNoLine) {
  OwnerRecord record;
  Uuid uuid;
  uuid.bytes.fill(0xab);
  const std::string name = "host\nlast " + ToString(uuid);
  record.holders.push_back({uuid, 7, false, false, std::nullopt, {}, {}, name});
  const OwnerRecord kept = ParseOwnerRecord(Format(record)).value();
  EXPECT_EQ(kept.holders.size(), 1u);
  EXPECT_TRUE(kept.last.empty());
}

TEST(OwnerRecordTest, SurvivesItsText) {
  OwnerRecord record;
  Uuid uuid;
  uuid.bytes.fill(0xab);
  record.holders.push_back({uuid, 7, true, false, std::nullopt, {}, {}, "a host, process 3"});
  Uuid other;
  other.bytes.fill(0xcd);
  record.holders.push_back({other, 8, false, true, uuid, uuid, other, ""});
  record.last.push_back({uuid, 7, other, uuid});
  record.last.push_back({other, 9, {}, {}});
  record.last.push_back({other, 0, {}, {}});
  EXPECT_EQ(ParseOwnerRecord(Format(record)).value(), record);
  EXPECT_EQ(Format(OwnerRecord{}), "");
}

// Taken for nobody, the holder would lose the volume to whoever comes first.
TEST(OwnerRecordTest, ADamagedLineIsAnError) {
  const std::string uuid = "abababab-abab-abab-abab-abababababab";
  const std::string holder = "holder " + uuid + " 7 exclusive - a host\n";
  ASSERT_TRUE(ParseOwnerRecord(holder + "spent " + uuid + " " + uuid + "\n").ok());
  const std::vector<std::string> damaged = {"holder",
                                            "holder x 7 exclusive - a host",
                                            "holder " + uuid,
                                            "holder " + uuid + " x exclusive - a host",
                                            "holder " + uuid + " 7 maybe - a host",
                                            "holder " + uuid + " 7 exclusive",
                                            "holder " + uuid + " 7 exclusive x a host",
                                            "spent",
                                            "spent " + uuid,
                                            "spent " + uuid + " x",
                                            "spent x " + uuid,
                                            "last",
                                            "last 12",
                                            "last " + uuid + " 0 - -",
                                            "lastly " + uuid,
                                            std::string(8, '\0')};
  for (const std::string& line : damaged) {
    const Result<OwnerRecord> record = ParseOwnerRecord(holder + line);
    EXPECT_EQ(record.status().error(), EINVAL) << line;
    EXPECT_THAT(record.status().message(),
                HasSubstr("damaged line: " + line.substr(0, line.find('\0'))));
  }
  EXPECT_FALSE(ParseOwnerRecord("\n" + holder).ok());
}

TEST_F(OwnershipTest, WhileTheRecordMakesNoSenseNobodyGetsTheVolume) {
  disk_.record = "holder of the volume";
  Restart();
  EXPECT_EQ(OpenNow(&a_, Request(1, kTakeover)), Code::kBusy);
  EXPECT_THAT(a_.answers[0].text, HasSubstr("damaged line: holder of the volume"));
  EXPECT_EQ(disk_.locks, 0);
  EXPECT_EQ(disk_.record, "holder of the volume");
}

}  // namespace
}  // namespace cloudblk::proxy
