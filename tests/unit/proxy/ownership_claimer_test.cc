// SPDX-License-Identifier: GPL-2.0-or-later
//
// Clients that resume one saved state, with one session, token and epoch (SPEC.md 11.9).
#include "proxy/owner_record.h"
#include "tests/unit/proxy/ownership_fixture.h"

namespace cloudblk::proxy {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

class ClaimerTest : public OwnershipTest {
 protected:
  // `a_` was active at epoch 1, released and ended.
  ClaimerTest() {
    Open(&a_, Request(1));
    Release(&a_, {Id(42), 1});
    End(&a_);
    Gone(&a_);
  }
  // What each client sends that resumes the state that `a_` left.
  OpenRequest Resume(uint64_t incarnation = 2) {
    OpenRequest request = WithToken(42, Request(1, kResume, 3, incarnation));
    request.client_name = "resumer " + std::to_string(incarnation);
    return request;
  }
  // An OPEN of the epoch that the claim has reached, from a client that knows it was granted.
  OpenRequest Again(uint64_t incarnation) { return Request(1, kResume, 3, incarnation); }
  Code OpenAnew(const OpenRequest& request) {
    peers_.emplace_back();
    return OpenNow(&peers_.back(), request);
  }
  const std::string& Text() const { return peers_.back().answers.back().text; }
  void LoseAll() {
    for (FakePeer& peer : peers_) Gone(&peer);
  }

  std::deque<FakePeer> peers_;
};

TEST_F(ClaimerTest, ASecondClientIsToldThatTheStateIsResumed) {
  ASSERT_EQ(OpenAnew(ClaimedBy(7, Resume(2))), Code::kOk);
  FakePeer& first = peers_.back();
  // Lower than the first one's, the same and higher, as the attempts that it took have it.
  for (uint64_t incarnation = 1; incarnation < 4; ++incarnation) {
    EXPECT_EQ(OpenAnew(ClaimedBy(8, Resume(incarnation))), Code::kFenced);
    EXPECT_THAT(Text(), HasSubstr("resumed as 'resumer 2' (tcp://host:1) since"));
    EXPECT_THAT(Text(), HasSubstr("once only"));
  }
  EXPECT_EQ(first.stops, 0);
  EXPECT_TRUE(first.active());
}

TEST_F(ClaimerTest, SoItIsWithoutTheTokenAndByATakeover) {
  ASSERT_EQ(OpenAnew(ClaimedBy(7, Resume())), Code::kOk);
  EXPECT_EQ(OpenAnew(ClaimedBy(8, Again(9))), Code::kFenced);
  EXPECT_EQ(OpenAnew(ClaimedBy(8, Request(1, kTakeover, 3, 9))), Code::kFenced);
  EXPECT_EQ(OpenAnew(Resume(9)), Code::kFenced);
  EXPECT_TRUE(peers_[0].active());
}

// Old memory on a disk that has changed.
TEST_F(ClaimerTest, ItIsStillResumedWhenTheFirstClientAndTheProxyAreGone) {
  ASSERT_EQ(OpenAnew(ClaimedBy(7, Resume())), Code::kOk);
  Restart();
  EXPECT_EQ(OpenAnew(ClaimedBy(8, Resume())), Code::kFenced);
  EXPECT_THAT(Text(), HasSubstr("resumed as 'resumer 2'"));
  now_ += 2 * kLeaseNs;
  EXPECT_EQ(OpenAnew(ClaimedBy(8, Resume())), Code::kFenced);
  Restart();
  EXPECT_EQ(OpenAnew(ClaimedBy(8, Resume())), Code::kFenced);
}

TEST_F(ClaimerTest, AnAnswerThatWasLostIsAskedForAgain) {
  ASSERT_EQ(OpenAnew(ClaimedBy(7, Resume(2))), Code::kOk);
  LoseAll();
  EXPECT_EQ(OpenAnew(ClaimedBy(7, Resume(3))), Code::kOk);
  Restart();
  EXPECT_EQ(OpenAnew(ClaimedBy(7, Resume(4))), Code::kOk);
  Restart();
  EXPECT_EQ(OpenAnew(ClaimedBy(7, Again(5))), Code::kOk);
}

TEST_F(ClaimerTest, EachChannelBringsIt) {
  ASSERT_EQ(OpenAnew(ClaimedBy(7, OneOfTwo(0, Resume()))), Code::kOk);
  EXPECT_EQ(OpenAnew(ClaimedBy(8, OneOfTwo(1, Resume()))), Code::kFenced);
  EXPECT_EQ(OpenAnew(ClaimedBy(7, OneOfTwo(1, Resume()))), Code::kOk);
}

TEST_F(ClaimerTest, ASecondClientComesTooLateForWhatWentOn) {
  ASSERT_EQ(OpenAnew(ClaimedBy(7, Resume())), Code::kOk);
  FakePeer& first = peers_.back();
  Release(&first, {Id(43), 3});
  ASSERT_EQ(Last(first), Code::kOk);
  EXPECT_EQ(OpenAnew(ClaimedBy(8, Resume(9))), Code::kFenced);
  // The next state is as good for one resume.
  ASSERT_EQ(OpenAnew(ClaimedBy(9, WithToken(43, Request(1, kResume, 5)))), Code::kBadFeature);
  FakePeer& next = peers_.back();
  Gone(&first);
  EXPECT_EQ(next.status(), Code::kOk);
  EXPECT_EQ(OpenAnew(ClaimedBy(7, WithToken(43, Request(1, kResume, 5, 9)))), Code::kFenced);
  EXPECT_EQ(OpenAnew(ClaimedBy(8, Resume(9))), Code::kStale);
  EXPECT_THAT(Text(), HasSubstr("epoch 5 already"));
  EXPECT_THAT(Text(), HasSubstr("goes on as 'client 1'"));
  End(&next);
  Gone(&next);
  EXPECT_EQ(OpenAnew(ClaimedBy(8, Resume(9))), Code::kBadToken);
  EXPECT_THAT(Text(), HasSubstr("resumed already"));
}

// Not to take the disk away from the machine that lives.
TEST_F(ClaimerTest, ASourceThatIsContinuedTooLateIsToldToEnd) {
  ASSERT_EQ(OpenAnew(ClaimedBy(7, Resume(2))), Code::kOk);
  EXPECT_EQ(OpenAnew(ClaimedBy(9, WithToken(42, Request(1, kResume, 2, 2)))), Code::kStale);
  EXPECT_THAT(Text(), HasSubstr("goes on as 'resumer 2' (tcp://host:1) since"));
  EXPECT_THAT(Text(), HasSubstr("end this one"));
  EXPECT_THAT(Text(), Not(HasSubstr("from its disk")));
}

// Else the token would work again after a restart, and the claimant would not be known.
TEST_F(ClaimerTest, NothingIsGivenThatTheStorageGoesOnDenying) {
  const std::string reserved = disk_.record;
  disk_.keeps_record = false;
  EXPECT_EQ(OpenAnew(ClaimedBy(7, Resume(2))), Code::kBusy);
  EXPECT_THAT(Text(), HasSubstr("no attributes"));
  EXPECT_FALSE(peers_.back().active());
  EXPECT_EQ(OpenAnew(Request(2, kTakeover)), Code::kBusy);
  // As before: it is reserved, and for the token only.
  EXPECT_EQ(OpenAnew(Again(3)), Code::kBusy);
  EXPECT_EQ(OpenAnew(Request(3)), Code::kBusy);
  EXPECT_EQ(disk_.record, reserved);
  disk_.keeps_record = true;
  EXPECT_EQ(OpenAnew(ClaimedBy(7, Resume(4))), Code::kOk);
  EXPECT_TRUE(peers_.back().active());
  EXPECT_EQ(OpenAnew(ClaimedBy(8, Resume(5))), Code::kFenced);
}

TEST_F(ClaimerTest, AClaimThatTheStorageDeniesMayBeRepeated) {
  Open(&b_, ClaimedBy(7, Request(1, kObserve, 5)));
  disk_.keeps_record = false;
  Claim(&b_, {Id(42), 3});
  EXPECT_EQ(Last(b_), Code::kBusy);
  EXPECT_FALSE(b_.active());
  disk_.keeps_record = true;
  Claim(&b_, {Id(42), 3});
  EXPECT_EQ(Last(b_), Code::kOk);
  EXPECT_TRUE(b_.active());
}

// A holder whose lease has run out is found after a restart as well.
TEST_F(OwnershipTest, ALoserThatTheStorageGoesOnNamingIsNone) {
  Open(&a_, Request(1));
  Gone(&a_);
  now_ += 2 * kLeaseNs;
  disk_.keeps_record = false;
  EXPECT_EQ(OpenNow(&b_, Request(2)), Code::kBusy);
  EXPECT_FALSE(b_.active());
  EXPECT_EQ(OpenNow(&c_, Request(1, kResume, 1, 2)), Code::kOk);
  EXPECT_TRUE(c_.active());
}

// With room for the record that is there and for none that is longer.
TEST_F(ClaimerTest, ARecordThatIsRightStaysWhenABetterOneFindsNoRoom) {
  ASSERT_EQ(OpenAnew(Resume()), Code::kOk);
  Restart();
  disk_.full = true;
  const std::string kept = disk_.record;
  ASSERT_EQ(OpenAnew(ClaimedBy(7, Resume(3))), Code::kOk);
  EXPECT_EQ(disk_.record, kept);
  Restart();
  EXPECT_EQ(OpenAnew(Request(5)), Code::kBusy);
  EXPECT_EQ(OpenAnew(ClaimedBy(7, Resume(4))), Code::kOk);
}

// A name that is cut in the record is no reason to write it again: a release that does not know of
// claimers would lose them by that.
TEST_F(OwnershipTest, ALongNameIsKeptOnce) {
  OpenRequest request = Request(1);
  request.client_name = std::string(100, 'n');
  ASSERT_EQ(OpenNow(&a_, request), Code::kOk);
  Restart();
  disk_.record += "spent " + std::string(36, '0') + "\n";  // were it written, this would be gone
  const std::string kept = disk_.record;
  request.open.incarnation = 2;
  ASSERT_EQ(OpenNow(&b_, request), Code::kOk);
  EXPECT_EQ(disk_.record, kept);
}

// The record of a proxy that did not know of it yet.
TEST_F(ClaimerTest, ARecordWithoutItIsBoundByWhoResumesFirst) {
  ASSERT_EQ(OpenAnew(Resume()), Code::kOk);
  Restart();
  ASSERT_EQ(OpenAnew(ClaimedBy(7, Resume(3))), Code::kOk);
  EXPECT_EQ(OpenAnew(ClaimedBy(8, Resume(4))), Code::kFenced);
  Restart();
  EXPECT_EQ(OpenAnew(ClaimedBy(8, Resume(4))), Code::kFenced);
  EXPECT_EQ(OpenAnew(Resume(5)), Code::kFenced);
  EXPECT_EQ(OpenAnew(ClaimedBy(7, Resume(5))), Code::kOk);
}

TEST_F(ClaimerTest, AClientWithoutItIsToldFromOneThatHasIt) {
  ASSERT_EQ(OpenAnew(Resume(2)), Code::kOk);
  EXPECT_EQ(OpenAnew(ClaimedBy(8, Resume(9))), Code::kFenced);
  LoseAll();
  EXPECT_EQ(OpenAnew(ClaimedBy(8, Resume(9))), Code::kFenced);
  EXPECT_EQ(OpenAnew(Resume(3)), Code::kOk);
}

TEST_F(ClaimerTest, AClaimBindsToTheOpenOfItsConnection) {
  Open(&b_, ClaimedBy(7, Request(1, kObserve, 5)));
  Claim(&b_, {Id(42), 3});
  ASSERT_EQ(Last(b_), Code::kOk);
  EXPECT_EQ(OpenAnew(ClaimedBy(8, Resume(9))), Code::kFenced);
  EXPECT_TRUE(b_.active());
  Gone(&b_);
  EXPECT_EQ(OpenAnew(ClaimedBy(7, Resume(9))), Code::kOk);
  Restart();
  EXPECT_EQ(OpenAnew(ClaimedBy(8, Resume(9))), Code::kFenced);
}

TEST_F(ClaimerTest, WhoObservesAsAnotherDoesNotBecomeActiveWithTheClaimant) {
  Open(&b_, ClaimedBy(7, OneOfTwo(0, Request(1, kObserve, 5))));
  Open(&c_, ClaimedBy(8, OneOfTwo(1, Request(1, kObserve, 5))));
  Claim(&b_, {Id(42), 3});
  ASSERT_EQ(Last(b_), Code::kOk);
  EXPECT_TRUE(b_.active());
  EXPECT_FALSE(c_.active());
}

// An epoch that a claim has not reached has no claimer, and never gets one.
TEST_F(OwnershipTest, TheSourceThatTakesItBackHasTheClaimerOfItsConnection) {
  Open(&a_, Request(1));
  EXPECT_EQ(OpenNow(&b_, ClaimedBy(7, Request(1, kResume, 1, 2))), Code::kFenced);
  Release(&a_, {Id(42), 1});
  Claim(&a_, {Id(42), 2});
  ASSERT_EQ(Last(a_), Code::kOk);
  EXPECT_EQ(OpenNow(&c_, ClaimedBy(7, WithToken(42, Request(1, kResume, 2, 2)))), Code::kFenced);
  Open(&d_, WithToken(42, Request(1, kResume, 2, 2)));
  Gone(&a_);
  EXPECT_EQ(d_.status(), Code::kOk);
}

constexpr char kSession[] = "01010101-0101-0101-0101-010101010101";
constexpr char kToken[] = "2a2a2a2a-2a2a-2a2a-2a2a-2a2a2a2a2a2a";
constexpr char kClaimer[] = "07070707-0707-0707-0707-070707070707";
constexpr char kNil[] = "00000000-0000-0000-0000-000000000000";

// As the releases before it wrote it, byte for byte: they are to read it.
TEST_F(ClaimerTest, TheRecordChangesOnlyWhereThereIsAClaimer) {
  ASSERT_EQ(OpenAnew(Resume()), Code::kOk);
  const std::string holder = std::string("holder ") + kSession + " 3 exclusive - resumer 2\n";
  const std::string spent = std::string("spent ") + kSession + " " + kToken;
  EXPECT_EQ(disk_.record, holder + spent + "\n");
  Restart();
  ASSERT_EQ(OpenAnew(ClaimedBy(7, Resume(3))), Code::kOk);
  // They read the line up to the token.
  EXPECT_EQ(disk_.record, "holder " + std::string(kSession) + " 3 exclusive - resumer 3\n" + spent +
                              " " + kClaimer + "\n");
}

// A volume whose record was lost, and a client that goes on.
TEST_F(OwnershipTest, AClaimerIsKeptThoughItsTokenIsNotKnown) {
  ASSERT_EQ(OpenNow(&a_, ClaimedBy(7, Request(1, kResume, 3, 2))), Code::kOk);
  EXPECT_THAT(disk_.record,
              HasSubstr(std::string("spent ") + kSession + " " + kNil + " " + kClaimer + "\n"));
  Restart();
  EXPECT_EQ(OpenNow(&b_, ClaimedBy(8, Request(1, kResume, 3, 9))), Code::kFenced);
  EXPECT_EQ(OpenNow(&c_, ClaimedBy(7, Request(1, kResume, 3, 9))), Code::kOk);
}

TEST(OwnerRecordTest, ADamagedClaimerIsNotTakenForNone) {
  const std::string holder = std::string("holder ") + kSession + " 3 exclusive - name\n";
  const std::string spent = std::string("spent ") + kSession + " " + kToken;
  for (const char* claimer : {"07070707", "-", "07070707-0707-0707-0707-07070707070g"}) {
    EXPECT_FALSE(ParseOwnerRecord(holder + spent + " " + claimer + "\n").ok()) << claimer;
  }
  Result<OwnerRecord> record = ParseOwnerRecord(holder + spent + " " + kClaimer + "\n");
  ASSERT_TRUE(record.ok());
  EXPECT_EQ(ToString(record->holders[0].claimer), kClaimer);
}

}  // namespace
}  // namespace cloudblk::proxy
