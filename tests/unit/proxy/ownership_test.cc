// SPDX-License-Identifier: GPL-2.0-or-later
#include "proxy/ownership.h"

#include <gmock/gmock.h>

#include <memory>
#include <string>
#include <vector>

#include "proxy/backends/backends.h"

namespace cloudblk::proxy {
namespace {

using testing::HasSubstr;
using Code = wire::Status;

constexpr int64_t kLeaseNs = 10'000'000'000;

// A storage that keeps the owner's record for as long as the test likes, and may be locked by
// others.
struct Disk {
  std::string record;
  bool keeps_record = true;
  bool full = false;  // keeps no other record than none
  bool readable = true;
  bool locked_elsewhere = false;
  int locks = 0;
};

class FakeBackend final : public Backend {
 public:
  explicit FakeBackend(Disk* disk) : disk_(disk) {
    size_ = 1 << 20;
    uuid_.bytes.fill(7);
  }
  Status Prepare(LoopContext&) override { return Status::Ok(); }
  bool Submit(LoopContext&, IoOp*) override { return true; }
  Status AcquireExclusive() override {
    if (disk_->locked_elsewhere) return Status(EBUSY, "locked elsewhere");
    ++disk_->locks;
    return Status::Ok();
  }
  void ReleaseExclusive() override { --disk_->locks; }
  Status StoreOwner(const std::string& text) override {
    if (!disk_->keeps_record) return Status(EOPNOTSUPP, "no attributes");
    if (disk_->full && !text.empty()) return Status(ENOSPC, "no room for attributes");
    disk_->record = text;
    return Status::Ok();
  }
  Result<std::string> LoadOwner() override {
    if (!disk_->readable) return Status(EIO, "the attribute cannot be read");
    return disk_->record;
  }
  void MakeReadOnly() { geometry_.read_only = true; }

 private:
  Disk* const disk_;
};

class FakePeer final : public Peer {
 public:
  void Stop(const std::string& why) override {
    ++stops;
    revoked = why;
  }
  void Answer(const OwnershipAnswer& answer) override { answers.push_back(answer); }

  // The status of its only answer so far; BAD_FEATURE if there is none.
  Code status() const { return answers.size() == 1 ? answers[0].status : Code::kBadFeature; }
  bool waiting() const { return answers.empty(); }

  int stops = 0;
  std::string revoked;
  std::vector<OwnershipAnswer> answers;
};

class OwnershipTest : public testing::Test {
 protected:
  OwnershipTest() { Restart(); }

  // The proxy dies and comes back: only what the storage keeps is left.
  void Restart() {
    disk_.locks = 0;
    backend_ = std::make_unique<FakeBackend>(&disk_);
    ownership_ =
        std::make_unique<Ownership>("disk", backend_.get(), kLeaseNs, [this] { return now_; });
    ownership_->Restore();
  }

  static wire::Uuid Id(uint8_t number) {
    wire::Uuid uuid;
    uuid.bytes.fill(number);
    return uuid;
  }
  OpenRequest Request(uint8_t session, uint32_t flags = wire::OpenFlag::kActive, uint64_t epoch = 1,
                      uint64_t incarnation = 1) {
    OpenRequest request;
    request.open.session = Id(session);
    request.open.flags = flags;
    request.open.epoch = epoch;
    request.open.incarnation = incarnation;
    if ((flags & wire::OpenFlag::kResume) != 0) request.open.volume = backend_->uuid();
    request.client_name = "client " + std::to_string(session);
    request.address = "tcp://host:" + std::to_string(session);
    return request;
  }
  void Open(FakePeer* peer, const OpenRequest& request) { ownership_->Open(peer, request); }
  Code OpenNow(FakePeer* peer, const OpenRequest& request) {
    Open(peer, request);
    return peer->status();
  }
  void Gone(FakePeer* peer) { ownership_->Gone(peer); }
  // Claims and the like come second; the first answer was that of the open.
  static Code Last(const FakePeer& peer) { return peer.answers.back().status; }

  static constexpr uint32_t kActive = wire::OpenFlag::kActive;
  static constexpr uint32_t kShare = wire::OpenFlag::kActive | wire::OpenFlag::kShareRw;
  static constexpr uint32_t kReader = wire::OpenFlag::kActive | wire::OpenFlag::kReadOnly;
  static constexpr uint32_t kResume = wire::OpenFlag::kActive | wire::OpenFlag::kResume;
  static constexpr uint32_t kTakeover = wire::OpenFlag::kActive | wire::OpenFlag::kTakeover;
  static constexpr uint32_t kObserve = 0;

  int64_t now_ = 1'000'000'000;
  Disk disk_;
  std::unique_ptr<FakeBackend> backend_;
  std::unique_ptr<Ownership> ownership_;
  FakePeer a_, b_, c_, d_;
};

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
  EXPECT_EQ(b_.answers[0].retry_ms, 0u);
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
  ownership_->End(&a_);
  EXPECT_EQ(Last(a_), Code::kOk);
  EXPECT_EQ(disk_.locks, 0);
  EXPECT_EQ(OpenNow(&b_, Request(2)), Code::kOk);
}

TEST_F(OwnershipTest, TheEndStopsTheSessionsOtherConnectionsFirst) {
  OpenRequest first = Request(1);
  first.open.channel_count = 2;
  OpenRequest second = first;
  second.open.channel = 1;
  Open(&a_, first);
  Open(&b_, second);
  ownership_->End(&a_);
  EXPECT_EQ(b_.stops, 1);
  EXPECT_EQ(a_.answers.size(), 1u);
  EXPECT_EQ(OpenNow(&c_, Request(2)), Code::kBadFeature);  // waits its turn
  Gone(&b_);
  EXPECT_EQ(Last(a_), Code::kOk);
  EXPECT_EQ(c_.status(), Code::kOk);
}

TEST_F(OwnershipTest, ALostHolderKeepsItsLease) {
  Open(&a_, Request(1));
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
  OpenRequest first = Request(1);
  first.open.channel_count = 2;
  OpenRequest second = first;
  second.open.channel = 1;
  Open(&a_, first);
  Open(&b_, second);
  Gone(&a_);
  now_ += 2 * kLeaseNs;
  EXPECT_EQ(OpenNow(&c_, Request(2)), Code::kBusy);
  EXPECT_EQ(c_.answers[0].retry_ms, 0u);
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
  OpenRequest first = Request(1);
  first.open.channel_count = 2;
  OpenRequest second = first;
  second.open.channel = 1;
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
  OpenRequest first = Request(1);
  first.open.channel_count = 2;
  OpenRequest second = first;
  second.open.channel = 1;
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
  EXPECT_THAT(disk_.record, testing::Not(HasSubstr("client 1")));
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

TEST_F(OwnershipTest, OpensAreAnsweredInTheirOrder) {
  Open(&a_, Request(1));
  Open(&b_, Request(1, kResume, 1, 2));
  Open(&c_, Request(1, kResume, 1, 3));
  Open(&d_, Request(2));
  Gone(&a_);
  EXPECT_EQ(b_.status(), Code::kOk);
  EXPECT_EQ(b_.stops, 1);
  EXPECT_TRUE(c_.waiting() && d_.waiting());
  Gone(&b_);
  EXPECT_EQ(c_.status(), Code::kOk);
  EXPECT_EQ(d_.status(), Code::kBusy);
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
  ownership_->End(&b_);
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

TEST_F(OwnershipTest, SharersResumeAfterARestart) {
  Open(&a_, Request(1, kShare));
  Open(&b_, Request(2, kShare));
  Restart();
  EXPECT_EQ(OpenNow(&c_, Request(2, kShare | wire::OpenFlag::kResume, 1, 2)), Code::kOk);
  EXPECT_EQ(OpenNow(&d_, Request(1, kShare | wire::OpenFlag::kResume, 1, 2)), Code::kOk);
}

// --- Moving ownership ----------------------------------------------------------------------------

class MigrationTest : public OwnershipTest {
 protected:
  // `a_` was active at epoch 1 and released; `b_`, of the same session, observes.
  MigrationTest() {
    Open(&a_, Request(1));
    Open(&b_, Request(1, kObserve, 5));
    EXPECT_EQ(ownership_->Release(&a_, {Id(42), 1}).status, Code::kOk);
  }
};

TEST_F(MigrationTest, WhatIsReleasedIsActiveForNobody) {
  EXPECT_FALSE(a_.active());
  EXPECT_FALSE(b_.active());
  now_ += 100 * kLeaseNs;
  EXPECT_EQ(OpenNow(&c_, Request(2)), Code::kBusy);
  EXPECT_EQ(ownership_->Release(&a_, {Id(43), 1}).status, Code::kNotActive);
}

TEST_F(MigrationTest, TheDestinationClaimsAndTheSourceIsFenced) {
  ownership_->Claim(&b_, {Id(42), 2});
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
  ownership_->Claim(&a_, {Id(42), 2});
  EXPECT_EQ(Last(a_), Code::kOk);
  EXPECT_TRUE(a_.active());
  ownership_->Claim(&b_, {Id(42), 3});
  EXPECT_EQ(Last(b_), Code::kBadToken);
  EXPECT_FALSE(b_.active());
  EXPECT_TRUE(a_.active());
}

TEST_F(MigrationTest, AClaimNeedsTheTokenAndAHigherEpoch) {
  ownership_->Claim(&b_, {Id(41), 2});
  EXPECT_EQ(Last(b_), Code::kBadToken);
  ownership_->Claim(&b_, {Id(42), 1});
  EXPECT_EQ(Last(b_), Code::kInvalid);
  EXPECT_FALSE(b_.active());
}

TEST_F(MigrationTest, ASpentTokenIsSaidToBeSpentWhoeverHoldsTheVolume) {
  ownership_->Claim(&a_, {Id(42), 2});
  ASSERT_EQ(Last(a_), Code::kOk);
  OpenRequest request = Request(2, kActive, 3);
  request.open.token = Id(42);
  EXPECT_EQ(OpenNow(&c_, request), Code::kBadToken);
  EXPECT_TRUE(a_.active());
}

TEST_F(MigrationTest, AnActiveOpenWithTheTokenClaims) {
  OpenRequest request = Request(1, kActive, 2);
  request.open.token = Id(42);
  Open(&c_, request);
  EXPECT_EQ(a_.stops, 1);
  Gone(&a_);
  EXPECT_EQ(c_.status(), Code::kOk);
  EXPECT_TRUE(c_.active());
  request.open.epoch = 3;
  EXPECT_EQ(OpenNow(&d_, request), Code::kBadToken);
}

TEST_F(MigrationTest, AnotherSessionMayClaimAndTheOldOneIsFenced) {
  Open(&c_, Request(2, kObserve));
  ownership_->Claim(&c_, {Id(42), 2});
  Gone(&a_);
  EXPECT_EQ(Last(c_), Code::kOk);
  EXPECT_EQ(OpenNow(&d_, Request(1, kResume, 1, 2)), Code::kFenced);
}

TEST_F(MigrationTest, AllChannelsOfTheClaimantBecomeActive) {
  OpenRequest first = Request(2, kObserve);
  first.open.channel_count = 2;
  OpenRequest second = first;
  second.open.channel = 1;
  Open(&c_, first);
  Open(&d_, second);
  ownership_->Claim(&d_, {Id(42), 2});
  Gone(&a_);
  EXPECT_TRUE(c_.active());
  EXPECT_TRUE(d_.active());
}

// A session may be active and observe, by different connections. The former have its older epoch.
TEST_F(OwnershipTest, AClaimStopsTheConnectionsThatTheClaimantHasAlready) {
  Open(&a_, Request(1, kShare));
  Open(&b_, Request(2, kShare, 5));
  Open(&c_, Request(2, wire::OpenFlag::kShareRw, 7));
  ASSERT_EQ(ownership_->Release(&a_, {Id(42), 1}).status, Code::kOk);
  ownership_->Claim(&c_, {Id(42), 5});
  EXPECT_EQ(Last(c_), Code::kStale);
  EXPECT_TRUE(b_.active());
  ownership_->Claim(&c_, {Id(42), 6});
  EXPECT_EQ(b_.stops, 1);
  EXPECT_FALSE(b_.active());
  Gone(&a_);
  EXPECT_FALSE(c_.active());
  Gone(&b_);
  EXPECT_EQ(Last(c_), Code::kOk);
  EXPECT_TRUE(c_.active());
}

TEST_F(MigrationTest, AReservationOutlivesTheSourceAndTheProxy) {
  ownership_->End(&a_);
  Gone(&a_);
  Restart();
  now_ += 100 * kLeaseNs;
  EXPECT_EQ(OpenNow(&c_, Request(2)), Code::kBusy);
  OpenRequest request = Request(1, kActive, 2);
  request.open.token = Id(42);
  EXPECT_EQ(OpenNow(&d_, request), Code::kOk);
}

TEST_F(MigrationTest, ATakeoverEndsAReservation) {
  Open(&c_, Request(2, kTakeover));
  Gone(&a_);
  EXPECT_EQ(c_.status(), Code::kOk);
  ownership_->Claim(&b_, {Id(42), 2});
  EXPECT_EQ(Last(b_), Code::kBadToken);
}

TEST(OwnerRecordTest, KeepsNoPartOfACharacter) {
  OwnerRecord record;
  wire::Uuid uuid;
  uuid.bytes.fill(0xab);
  std::string name;
  // 3 bytes each
  for (int i = 0; i < 40; ++i) name += "\u4eee";
  record.holders.push_back({uuid, 7, true, false, std::nullopt, {}, name});
  const std::string kept = ParseOwnerRecord(Format(record)).holders.at(0).client_name;
  EXPECT_EQ(kept, name.substr(0, 63));
}

TEST(OwnerRecordTest, SurvivesItsText) {
  OwnerRecord record;
  wire::Uuid uuid;
  uuid.bytes.fill(0xab);
  record.holders.push_back({uuid, 7, true, false, std::nullopt, {}, "a host, process 3"});
  wire::Uuid other;
  other.bytes.fill(0xcd);
  record.holders.push_back({other, 8, false, true, uuid, uuid, ""});
  record.last.push_back(uuid);
  EXPECT_EQ(ParseOwnerRecord(Format(record)), record);
  EXPECT_EQ(ParseOwnerRecord("nonsense\nholder x\nholder\nlast 12\n"), OwnerRecord{});
  EXPECT_EQ(Format(OwnerRecord{}), "");
}

}  // namespace
}  // namespace cloudblk::proxy
