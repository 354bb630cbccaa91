// SPDX-License-Identifier: GPL-2.0-or-later
//
// A session that moves from a source to a destination, each with a connection of its own to one
// volume, and what becomes of it when a connection ends in the middle (SPEC.md 11).
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cerrno>
#include <cstring>
#include <mutex>
#include <optional>

#include "base/epoll_loop.h"
#include "block/session.h"
#include "tests/support/cpp/channel_fixture.h"
#include "tests/support/cpp/tcp_fake_server.h"

namespace cloudblk::testing {
namespace {

using ::testing::HasSubstr;
using Code = wire::StatusCode;
using Lose = FakeServer::Lose;

constexpr int64_t kSecond = 1'000'000'000;

// Who may open the volume, as SPEC.md 11 has it. Both servers ask it, each on its thread.
class Owner {
 public:
  Code Open(const wire::Open& open) {
    const std::lock_guard guard(mutex_);
    if ((open.flags & wire::OpenFlag::kActive) == 0) return Code::kOk;
    const uint64_t before = epoch_;
    if (open.epoch == before && claimer_ && *claimer_ != open.claimer) return Code::kFenced;
    const Code code = Judge(open);
    if (code == Code::kOk && (open.epoch != before || !claimer_)) claimer_ = open.claimer;
    return code;
  }
  // The server is replaced by one that knows of claimers.
  void ForgetClaimer() {
    const std::lock_guard guard(mutex_);
    claimer_.reset();
  }
  Code Release(const wire::TokenMessage& message) {
    const std::lock_guard guard(mutex_);
    if (token_ || message.epoch != epoch_) return Code::kNotActive;
    token_ = message.token;
    return Code::kOk;
  }
  uint64_t epoch() const {
    const std::lock_guard guard(mutex_);
    return epoch_;
  }
  bool released() const {
    const std::lock_guard guard(mutex_);
    return token_.has_value();
  }

 private:
  Code Judge(const wire::Open& open) {
    if (!open.token.IsNil() && open.token == spent_ && open.epoch == epoch_) return Code::kOk;
    if (open.epoch < epoch_) return Code::kStale;
    if (!open.token.IsNil()) {
      if (!token_ || *token_ != open.token || open.epoch == epoch_) return Code::kBadToken;
      spent_ = open.token;
      token_.reset();
      epoch_ = open.epoch;
      return Code::kOk;
    }
    if (token_) return Code::kBusy;
    epoch_ = open.epoch;
    return Code::kOk;
  }

  mutable std::mutex mutex_;
  uint64_t epoch_ = 0;
  std::optional<Uuid> token_;
  Uuid spent_;
  std::optional<Uuid> claimer_;  // of the epoch
};

// One QEMU's side.
class Client {
 public:
  Client(Owner* owner, bool observe, uint64_t generation = 1) {
    server.Do([&](FakeServer* fake) {
      fake->open.generation = generation;
      fake->judge_open = [owner](const wire::Open& open) { return owner->Open(open); };
      fake->judge_release = [owner](const wire::TokenMessage& m) { return owner->Release(m); };
    });
    SessionConfig config;
    config.uuid = RandomUuid();
    config.observe = observe;
    session = std::move(Session::Open(server.uri(), config, 10 * kSecond).value());
  }
  ~Client() {
    Park();
    session->Close(10 * kSecond);
  }

  void Park() {
    session->channel(0)->Revoke();
    session->channel(0)->Detach();
  }
  // Claims, and runs until it is known who has the volume. True: we.
  bool Claim() {
    Channel* channel = session->channel(0);
    if (!channel->attached()) channel->Attach({loop.get(), Complete, this, nullptr});
    if (!session->Claim().ok()) return false;
    while (!Decided(channel)) loop->RunOnce(-1);
    return channel->state() == Channel::State::kReady;
  }
  int Do(CloudblkOperation operation, uint32_t flags = 0) {
    std::string data(512, 'd');
    const iovec iov{data.data(), data.size()};
    CloudblkRequest request{};
    request.operation = operation;
    request.flags = flags;
    if (operation != CLOUDBLK_OP_FLUSH) {
      request.iov = &iov;
      request.iov_count = 1;
    }
    result.reset();
    const int error = session->channel(0)->Submit(request);
    if (error != 0) return error;
    while (!result) loop->RunOnce(-1);
    return *result;
  }
  CloudblkIdentity Identity() const {
    CloudblkIdentity identity{};
    session->Export(&identity);
    return identity;
  }
  wire::Open LastOpen() {
    wire::Open open;
    server.Do([&](FakeServer* fake) { open = fake->opens.back(); });
    return open;
  }
  uint32_t Opens() {
    uint32_t count = 0;
    server.Do([&](FakeServer* fake) { count = static_cast<uint32_t>(fake->opens.size()); });
    return count;
  }
  // The connection ends, and there is another. Precondition: it is ready.
  void CutAndWait() {
    const Channel* channel = session->channel(0);
    server.Do([](FakeServer* fake) { fake->Cut(); });
    while (channel->state() == Channel::State::kReady) loop->RunOnce(-1);
    while (!Decided(channel)) loop->RunOnce(-1);
    EXPECT_EQ(channel->state(), Channel::State::kReady);
  }
  // It is known whether we have the volume.
  static bool Decided(const Channel* channel) {
    return channel->state() == Channel::State::kReady || channel->state() == Channel::State::kEnded;
  }
  static void Complete(void* opaque, const CloudblkCompletion* done, uint32_t) {
    static_cast<Client*>(opaque)->result = done[0].result;
  }

  TcpFakeServer server{1 << 20};
  std::unique_ptr<EpollLoop> loop = std::move(EpollLoop::Create().value());
  std::unique_ptr<Session> session;
  std::optional<int> result;
};

class SessionMoveTest : public ::testing::Test {
 protected:
  Status Release(int64_t timeout = 10 * kSecond) { return source.session->Release(timeout); }
  Status Adopt() { return destination.session->Adopt(source.Identity()); }

  Owner owner;
  Client source{&owner, false};
  Client destination{&owner, true};
};

TEST_F(SessionMoveTest, TheDestinationGoesOnAsTheSession) {
  ASSERT_TRUE(Release().ok());
  EXPECT_TRUE(owner.released());
  ASSERT_TRUE(Adopt().ok());
  ASSERT_TRUE(destination.Claim());
  EXPECT_EQ(owner.epoch(), 3u);
  EXPECT_EQ(destination.LastOpen().session, source.session->state().uuid());
  EXPECT_EQ(destination.Do(CLOUDBLK_OP_WRITE), 0);
  EXPECT_FALSE(source.Claim());
  EXPECT_TRUE(source.session->state().revoked());
  EXPECT_EQ(source.Do(CLOUDBLK_OP_WRITE), -EIO);
}

TEST_F(SessionMoveTest, NothingIsAcceptedFromTheReleaseToTheClaim) {
  ASSERT_TRUE(Release().ok());
  source.session->channel(0)->Attach({source.loop.get(), Client::Complete, &source, nullptr});
  EXPECT_EQ(source.Do(CLOUDBLK_OP_WRITE), -EINVAL);
}

TEST_F(SessionMoveTest, NothingIsReleasedWithRequestsInFlight) {
  source.server.Do([](FakeServer* fake) { fake->hold = true; });
  Channel* channel = source.session->channel(0);
  channel->Attach({source.loop.get(), Client::Complete, &source, nullptr});
  CloudblkRequest flush{};
  flush.operation = CLOUDBLK_OP_FLUSH;
  ASSERT_EQ(channel->Submit(flush), 0);
  EXPECT_EQ(Release().error(), EBUSY);
  EXPECT_FALSE(owner.released());
}

TEST_F(SessionMoveTest, TheSourceTakesItBack) {
  ASSERT_TRUE(Release().ok());
  ASSERT_TRUE(Adopt().ok());
  ASSERT_TRUE(source.Claim());
  EXPECT_EQ(owner.epoch(), 2u);
  EXPECT_EQ(source.Do(CLOUDBLK_OP_WRITE), 0);
  EXPECT_FALSE(destination.Claim());
  EXPECT_TRUE(destination.session->state().revoked());
}

TEST_F(SessionMoveTest, ItMovesOnAfterItWasTakenBack) {
  ASSERT_TRUE(Release().ok());
  const CloudblkIdentity first = source.Identity();
  ASSERT_TRUE(source.Claim());
  source.Park();
  ASSERT_TRUE(Release().ok());
  EXPECT_NE(std::memcmp(first.token, source.Identity().token, 16), 0);
  ASSERT_TRUE(Adopt().ok());
  EXPECT_TRUE(destination.Claim());
  EXPECT_EQ(owner.epoch(), 4u);
}

TEST_F(SessionMoveTest, ARefusedReleaseChangesNothing) {
  source.server.Do([](FakeServer* fake) {
    fake->judge_release = [](const wire::TokenMessage&) { return Code::kNotActive; };
    fake->refusal = "requests are unanswered";
  });
  const Status released = Release();
  EXPECT_EQ(released.error(), EPERM);
  EXPECT_THAT(released.message(), HasSubstr("requests are unanswered"));
  ASSERT_TRUE(source.Claim());
  EXPECT_EQ(owner.epoch(), 1u);
  EXPECT_EQ(source.Do(CLOUDBLK_OP_WRITE), 0);
}

TEST_F(SessionMoveTest, AReleaseEndsWhenTheVolumeIsLostMeanwhile) {
  source.server.Do([](FakeServer* fake) {
    fake->judge_release = [fake](const wire::TokenMessage&) {
      fake->SendEvent(wire::EventKind::kRevoked, 0, "it was given to another");
      return Code::kNotActive;
    };
  });
  const Status released = Release();
  EXPECT_THAT(released.message(), HasSubstr("it was given to another"));
  EXPECT_TRUE(source.session->state().revoked());
  EXPECT_FALSE(source.Claim());
}

TEST_F(SessionMoveTest, ASilentServerIsWaitedForNoLongerThanTold) {
  source.server.Do([](FakeServer* fake) { fake->silent = true; });
  EXPECT_EQ(Release(20'000'000).error(), ETIMEDOUT);
  source.server.Do([](FakeServer* fake) { fake->silent = false; });
  EXPECT_TRUE(source.Claim());
  EXPECT_EQ(source.Do(CLOUDBLK_OP_WRITE), 0);
}

TEST_F(SessionMoveTest, ASecondReleaseWithoutAServerLeavesItToTheClaim) {
  source.server.Do([](FakeServer* fake) { fake->lose_release = Lose::kRequest; });
  EXPECT_EQ(Release().error(), ETIMEDOUT);
  source.server.Do([](FakeServer* fake) { fake->silent = true; });
  EXPECT_EQ(Release(20'000'000).error(), ETIMEDOUT);
  EXPECT_TRUE(source.session->state().released());
  source.server.Do([](FakeServer* fake) { fake->silent = false; });
  ASSERT_TRUE(source.Claim());
  EXPECT_EQ(source.Do(CLOUDBLK_OP_WRITE), 0);
}

// A server that was started anew may not know it.
TEST_F(SessionMoveTest, TheTokenIsOnlyShownUntilItWasTaken) {
  ASSERT_TRUE(Release().ok());
  ASSERT_TRUE(Adopt().ok());
  ASSERT_TRUE(destination.Claim());
  EXPECT_FALSE(destination.LastOpen().token.IsNil());
  destination.CutAndWait();
  EXPECT_TRUE(destination.LastOpen().token.IsNil());
  EXPECT_EQ(destination.LastOpen().epoch, 3u);
}

TEST_F(SessionMoveTest, AnotherVolumeIsNotAdopted) {
  ASSERT_TRUE(Release().ok());
  CloudblkIdentity identity = source.Identity();
  identity.volume_uuid[3] ^= 1;
  EXPECT_EQ(destination.session->Adopt(identity).error(), ESTALE);
}

TEST_F(SessionMoveTest, WhoWasGivenNothingClaimsNothing) {
  EXPECT_FALSE(destination.Claim());
  EXPECT_EQ(source.session->Adopt(source.Identity()).error(), EPERM);
  EXPECT_EQ(destination.session->Release(kSecond).error(), EPERM);
}

// --- Who claims (SPEC.md 11.9) -------------------------------------------------------------------

TEST_F(SessionMoveTest, WhoClaimsNamesItselfInEveryOpenOfTheEpoch) {
  EXPECT_TRUE(source.LastOpen().claimer.IsNil());
  ASSERT_TRUE(Release().ok());
  ASSERT_TRUE(Adopt().ok());
  ASSERT_TRUE(destination.Claim());
  const Uuid claimer = destination.LastOpen().claimer;
  EXPECT_FALSE(claimer.IsNil());
  destination.CutAndWait();
  EXPECT_TRUE(destination.LastOpen().token.IsNil());
  EXPECT_EQ(destination.LastOpen().claimer, claimer);
}

TEST_F(SessionMoveTest, AnEpochThatNoClaimReachedHasNoClaimer) {
  source.session->channel(0)->Attach({source.loop.get(), Client::Complete, &source, nullptr});
  source.CutAndWait();
  EXPECT_EQ(source.LastOpen().incarnation, 2u);
  EXPECT_TRUE(source.LastOpen().claimer.IsNil());
}

TEST_F(SessionMoveTest, WhoTakesItBackNamesItselfToo) {
  ASSERT_TRUE(Release().ok());
  ASSERT_TRUE(source.Claim());
  const Uuid claimer = source.LastOpen().claimer;
  EXPECT_FALSE(claimer.IsNil());
  // Nor does a RELEASE that fails make the epoch another.
  source.Park();
  source.server.Do([](FakeServer* fake) {
    fake->judge_release = [](const wire::TokenMessage&) { return Code::kNotActive; };
  });
  EXPECT_EQ(Release().error(), EPERM);
  source.session->channel(0)->Attach({source.loop.get(), Client::Complete, &source, nullptr});
  source.CutAndWait();
  EXPECT_EQ(source.LastOpen().epoch, 2u);
  EXPECT_EQ(source.LastOpen().claimer, claimer);
}

// A machine that was saved and is started twice.
TEST_F(SessionMoveTest, TwoThatAdoptOneStateNameThemselvesDifferently) {
  Client second{&owner, true};
  ASSERT_TRUE(Release().ok());
  const CloudblkIdentity state = source.Identity();
  ASSERT_TRUE(destination.session->Adopt(state).ok());
  ASSERT_TRUE(second.session->Adopt(state).ok());
  ASSERT_TRUE(destination.Claim());
  EXPECT_FALSE(second.Claim());
  EXPECT_TRUE(second.session->state().revoked());
  EXPECT_EQ(destination.LastOpen().token, second.LastOpen().token);
  EXPECT_EQ(destination.LastOpen().epoch, second.LastOpen().epoch);
  EXPECT_NE(destination.LastOpen().claimer, second.LastOpen().claimer);
}

// Its part of the OPEN is reserved there, and FakeServer looks.
TEST_F(SessionMoveTest, AServerThatDoesNotKnowOfClaimersIsToldNone) {
  destination.server.Do([](FakeServer* fake) { fake->hello.features = wire::Feature::kHoleReply; });
  ASSERT_TRUE(Release().ok());
  ASSERT_TRUE(Adopt().ok());
  ASSERT_TRUE(destination.Claim());
  EXPECT_FALSE(destination.LastOpen().token.IsNil());
  EXPECT_TRUE(destination.LastOpen().claimer.IsNil());
  EXPECT_EQ(destination.Do(CLOUDBLK_OP_WRITE), 0);
}

TEST_F(SessionMoveTest, AServerThatLearnsOfClaimersIsTold) {
  destination.server.Do([](FakeServer* fake) {
    fake->hello.features = wire::Feature::kHoleReply;
    fake->lose_open = Lose::kAnswer;
  });
  ASSERT_TRUE(Release().ok());
  ASSERT_TRUE(Adopt().ok());
  Channel* channel = destination.session->channel(0);
  channel->Attach({destination.loop.get(), Client::Complete, &destination, nullptr});
  const uint32_t before = destination.Opens();
  ASSERT_TRUE(destination.session->Claim().ok());
  // Whose answer was lost with the server that was replaced.
  while (destination.Opens() == before) destination.loop->RunOnce(10'000'000);
  owner.ForgetClaimer();
  destination.server.Do([](FakeServer* fake) {
    fake->hello.features = wire::Feature::kHoleReply | wire::Feature::kClaimer;
  });
  while (!Client::Decided(channel)) destination.loop->RunOnce(-1);
  EXPECT_EQ(channel->state(), Channel::State::kReady);
  EXPECT_FALSE(destination.LastOpen().token.IsNil());
  EXPECT_FALSE(destination.LastOpen().claimer.IsNil());
}

// The connection ends with the RELEASE or with a claim, before the server has seen it or before it
// has answered.
class SessionMoveCutTest : public SessionMoveTest, public ::testing::WithParamInterface<Lose> {
 protected:
  static void LoseOpen(Client* client) {
    client->server.Do([](FakeServer* fake) { fake->lose_open = GetParam(); });
  }
};

TEST_P(SessionMoveCutTest, AReleaseWithoutAnAnswerIsTakenBack) {
  source.server.Do([](FakeServer* fake) { fake->lose_release = GetParam(); });
  EXPECT_EQ(Release().error(), ETIMEDOUT);
  EXPECT_EQ(owner.released(), GetParam() == Lose::kAnswer);
  ASSERT_TRUE(source.Claim());
  EXPECT_FALSE(owner.released());
  EXPECT_EQ(source.Do(CLOUDBLK_OP_WRITE), 0);
}

TEST_P(SessionMoveCutTest, AReleaseWithoutAnAnswerIsMadeAgain) {
  source.server.Do([](FakeServer* fake) { fake->lose_release = GetParam(); });
  EXPECT_EQ(Release().error(), ETIMEDOUT);
  ASSERT_TRUE(Release().ok());
  ASSERT_TRUE(Adopt().ok());
  EXPECT_TRUE(destination.Claim());
}

TEST_P(SessionMoveCutTest, AReleaseThatIsRefusedTheSecondTimeLeavesAllChannelsToTheClaim) {
  source.server.Do([](FakeServer* fake) { fake->lose_release = GetParam(); });
  EXPECT_EQ(Release().error(), ETIMEDOUT);
  source.server.Do([](FakeServer* fake) {
    fake->judge_release = [](const wire::TokenMessage&) { return Code::kNotActive; };
  });
  EXPECT_EQ(Release().error(), EPERM);
  EXPECT_TRUE(source.session->state().released());
  EXPECT_EQ(source.session->channel(0)->state(), Channel::State::kIdle);
  ASSERT_TRUE(source.Claim());
  EXPECT_EQ(source.Do(CLOUDBLK_OP_WRITE), 0);
}

TEST_P(SessionMoveCutTest, TheDestinationClaimsAgain) {
  ASSERT_TRUE(Release().ok());
  ASSERT_TRUE(Adopt().ok());
  LoseOpen(&destination);
  ASSERT_TRUE(destination.Claim());
  EXPECT_EQ(owner.epoch(), 3u);
  EXPECT_FALSE(source.Claim());
}

TEST_P(SessionMoveCutTest, TheSourceClaimsAgain) {
  ASSERT_TRUE(Release().ok());
  ASSERT_TRUE(Adopt().ok());
  LoseOpen(&source);
  ASSERT_TRUE(source.Claim());
  EXPECT_EQ(owner.epoch(), 2u);
  EXPECT_FALSE(destination.Claim());
}

// The RELEASE may still be in the socket of channel 0: only that channel's OPEN stops it.
TEST(SessionClaim, TheOthersWaitForTheChannelThatReleased) {
  TwoChannels both;
  auto& [loop, a, b] = both;
  a.state.BeginRelease();
  a.state.NoteReleased(false);
  a.channel.Abandon();
  b.channel.Abandon();
  a.state.BeginClaim();
  const size_t before = b.server.connections();
  a.server.silent = true;
  a.channel.Start();
  b.channel.Start();
  loop.Advance(kSecond);
  EXPECT_EQ(b.server.connections(), before);
  a.server.silent = false;
  a.server.Cut();
  loop.Advance(kSecond);
  EXPECT_TRUE(a.ready());
  EXPECT_TRUE(b.ready());
}

INSTANTIATE_TEST_SUITE_P(Lost, SessionMoveCutTest, ::testing::Values(Lose::kRequest, Lose::kAnswer),
                         [](const ::testing::TestParamInfo<Lose>& info) {
                           return info.param == Lose::kRequest ? "Request" : "Answer";
                         });

// --- Writes that were not flushed ----------------------------------------------------------------

class SessionMoveFlushTest : public ::testing::Test {
 protected:
  void Move(CloudblkOperation last, uint64_t generation) {
    source.session->channel(0)->Attach({source.loop.get(), Client::Complete, &source, nullptr});
    ASSERT_EQ(source.Do(CLOUDBLK_OP_WRITE), 0);
    if (last == CLOUDBLK_OP_FLUSH) {
      ASSERT_EQ(source.Do(CLOUDBLK_OP_FLUSH), 0);
    }
    source.Park();
    destination = std::make_unique<Client>(&owner, true, generation);
    ASSERT_TRUE(source.session->Release(10 * kSecond).ok());
    ASSERT_TRUE(destination->session->Adopt(source.Identity()).ok());
    ASSERT_TRUE(destination->Claim());
  }

  Owner owner;
  Client source{&owner, false};
  std::unique_ptr<Client> destination;
};

TEST_F(SessionMoveFlushTest, ALossMeanwhileFailsTheNextFlush) {
  Move(CLOUDBLK_OP_WRITE, 2);
  EXPECT_EQ(destination->Do(CLOUDBLK_OP_FLUSH), -EIO);
  EXPECT_EQ(destination->Do(CLOUDBLK_OP_FLUSH), 0);
}

// Which of the writes each was to cover, the destination does not know.
TEST_F(SessionMoveFlushTest, FlushesOfTheSourceAllFailAfterALossMeanwhile) {
  Move(CLOUDBLK_OP_WRITE, 2);
  EXPECT_EQ(destination->Do(CLOUDBLK_OP_FLUSH, CLOUDBLK_REQUEST_AGAIN), -EIO);
  EXPECT_EQ(destination->Do(CLOUDBLK_OP_FLUSH, CLOUDBLK_REQUEST_AGAIN), -EIO);
  EXPECT_EQ(destination->Do(CLOUDBLK_OP_FLUSH), -EIO);
  EXPECT_EQ(destination->Do(CLOUDBLK_OP_FLUSH), 0);
}

TEST_F(SessionMoveFlushTest, ALossThatNobodyWasToldOfMovesToo) {
  Channel* channel = source.session->channel(0);
  channel->Attach({source.loop.get(), Client::Complete, &source, nullptr});
  ASSERT_EQ(source.Do(CLOUDBLK_OP_WRITE), 0);
  source.server.Do([](FakeServer* fake) {
    fake->open.generation = 2;
    fake->Cut();
  });
  while (channel->state() == Channel::State::kReady) source.loop->RunOnce(-1);
  while (channel->state() != Channel::State::kReady) source.loop->RunOnce(-1);
  source.Park();
  destination = std::make_unique<Client>(&owner, true, 2);
  ASSERT_TRUE(source.session->Release(10 * kSecond).ok());
  ASSERT_TRUE(destination->session->Adopt(source.Identity()).ok());
  ASSERT_TRUE(destination->Claim());
  // Two that the source had not answered.
  EXPECT_EQ(destination->Do(CLOUDBLK_OP_FLUSH, CLOUDBLK_REQUEST_AGAIN), -EIO);
  EXPECT_EQ(destination->Do(CLOUDBLK_OP_FLUSH, CLOUDBLK_REQUEST_AGAIN), -EIO);
  EXPECT_EQ(destination->Do(CLOUDBLK_OP_FLUSH), 0);
}

// Another channel's flush has told, while the machine's stop gave this one up.
TEST_F(SessionMoveFlushTest, ALossThatAFlushHasToldOfMovesWithAnEarlierFlushThatWaits) {
  Channel* channel = source.session->channel(0);
  channel->Attach({source.loop.get(), Client::Complete, &source, nullptr});
  ASSERT_EQ(source.Do(CLOUDBLK_OP_WRITE), 0);
  CloudblkRequest flush{};
  flush.operation = CLOUDBLK_OP_FLUSH;
  ASSERT_EQ(channel->Submit(flush), 0);
  source.Park();
  EXPECT_FALSE(source.Identity().lost);
  SessionState& state = source.session->state();
  ASSERT_TRUE(state.SetGeneration(2));
  ASSERT_TRUE(state.FlushFails(state.Now()));
  source.server.Do([](FakeServer* fake) { fake->open.generation = 2; });
  destination = std::make_unique<Client>(&owner, true, 2);
  ASSERT_TRUE(source.session->Release(10 * kSecond).ok());
  EXPECT_FALSE(state.LostSince(state.Now()));
  ASSERT_TRUE(destination->session->Adopt(source.Identity()).ok());
  ASSERT_TRUE(destination->Claim());
  EXPECT_EQ(destination->Do(CLOUDBLK_OP_FLUSH, CLOUDBLK_REQUEST_AGAIN), -EIO);
  EXPECT_EQ(destination->Do(CLOUDBLK_OP_FLUSH), 0);
}

TEST_F(SessionMoveFlushTest, AFlushThatWasGivenUpLongAgoTellsNothing) {
  Channel* channel = source.session->channel(0);
  channel->Attach({source.loop.get(), Client::Complete, &source, nullptr});
  CloudblkRequest flush{};
  flush.operation = CLOUDBLK_OP_FLUSH;
  ASSERT_EQ(channel->Submit(flush), 0);
  channel->Revoke();  // a reset: it does not go on
  ASSERT_EQ(source.Do(CLOUDBLK_OP_WRITE), 0);
  SessionState& state = source.session->state();
  ASSERT_TRUE(state.SetGeneration(2));
  ASSERT_TRUE(state.FlushFails(state.Now()));
  EXPECT_FALSE(source.Identity().lost);
  source.Park();
}

TEST_F(SessionMoveFlushTest, NothingWasLostThatWasFlushed) {
  Move(CLOUDBLK_OP_FLUSH, 2);
  EXPECT_EQ(destination->Do(CLOUDBLK_OP_FLUSH), 0);
}

TEST_F(SessionMoveFlushTest, NothingWasLostWithinAGeneration) {
  Move(CLOUDBLK_OP_WRITE, 1);
  EXPECT_EQ(destination->Do(CLOUDBLK_OP_FLUSH), 0);
}

}  // namespace
}  // namespace cloudblk::testing
