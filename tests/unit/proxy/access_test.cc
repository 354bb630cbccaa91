// SPDX-License-Identifier: GPL-2.0-or-later
//
// Who may do what: the rules by themselves, and every operation tried by every role.
#include "proxy/access.h"

#include <gmock/gmock.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <map>
#include <set>

#include "tests/unit/proxy/test_server.h"

namespace cloudblk::proxy {
namespace {

using Code = wire::StatusCode;
using testing::HasSubstr;

constexpr uint32_t kObserve = 0;
constexpr uint32_t kReadOnly = wire::OpenFlag::kActive | wire::OpenFlag::kReadOnly;
constexpr uint32_t kTakeover = wire::OpenFlag::kActive | wire::OpenFlag::kTakeover;
constexpr uint32_t kEndReservation = wire::OpenFlag::kActive | wire::OpenFlag::kEndReservation;
constexpr uint64_t kFeatures = wire::Feature::kDenied | wire::Feature::kEndReservation;
constexpr std::array kAll = {Right::kObserve, Right::kRead,     Right::kWrite,
                             Right::kResize,  Right::kTakeover, Right::kAdminister};

AccessRule RuleFor(uint32_t uid, const std::vector<Right>& rights,
                   const std::vector<std::string>& volumes = {"*"}) {
  AccessRule rule;
  rule.uid = uid;
  rule.volumes = volumes;
  for (const Right right : rights) rule.rights.Add(right);
  return rule;
}

ClientIdentity User(uint32_t uid) {
  ClientIdentity client;
  client.address = "test";
  client.uid = uid;
  client.gids = {uid};
  return client;
}

std::set<Right> All(const Rights& rights) {
  std::set<Right> all;
  for (const Right right : kAll) {
    if (rights.has(right)) all.insert(right);
  }
  return all;
}

TEST(Rights, BringAlongWhatTheyNeed) {
  const std::map<Right, std::set<Right>> brought{
      {Right::kObserve, {Right::kObserve}},
      {Right::kRead, {Right::kObserve, Right::kRead}},
      {Right::kWrite, {Right::kObserve, Right::kRead, Right::kWrite}},
      {Right::kResize, {Right::kObserve, Right::kResize}},
      {Right::kTakeover, {Right::kObserve, Right::kTakeover}},
      {Right::kAdminister, {kAll.begin(), kAll.end()}}};
  for (const Right right : kAll) {
    Rights rights;
    rights.Add(right);
    EXPECT_EQ(All(rights), brought.at(right)) << Name(right);
  }
}

TEST(AccessRules, WithoutAnyEverybodyMayDoEverything) {
  EXPECT_TRUE(AccessRules().Of({}, "disk").has(Right::kAdminister));
}

TEST(AccessRules, WithOneWhatNoneAllowsIsDenied) {
  const AccessRules rules({RuleFor(7, {Right::kRead}, {"web-?", "db*"})});
  EXPECT_EQ(All(rules.Of(User(7), "web-1")), (std::set{Right::kObserve, Right::kRead}));
  EXPECT_EQ(All(rules.Of(User(7), "db/1")), (std::set{Right::kObserve, Right::kRead}));
  EXPECT_TRUE(All(rules.Of(User(7), "web-10")).empty());
  EXPECT_TRUE(All(rules.Of(User(8), "web-1")).empty());
  EXPECT_TRUE(All(rules.Of({}, "web-1")).empty());
}

TEST(AccessRules, AddUp) {
  const AccessRules rules({RuleFor(7, {Right::kRead}), RuleFor(7, {Right::kResize}, {"a"})});
  EXPECT_EQ(All(rules.Of(User(7), "a")), (std::set{Right::kObserve, Right::kRead, Right::kResize}));
  EXPECT_EQ(All(rules.Of(User(7), "b")), (std::set{Right::kObserve, Right::kRead}));
}

TEST(AccessRules, KnowWhoItIsByAnyProof) {
  AccessRule rule = RuleFor(0, {Right::kWrite});
  rule.uid.reset();
  const auto may = [](const AccessRule& one, const ClientIdentity& client) {
    return AccessRules({one}).Of(client, "disk").has(Right::kWrite);
  };
  AccessRule group = rule;
  group.gid = 5;
  ClientIdentity member = User(1);
  EXPECT_FALSE(may(group, member));
  member.gids = {1, 5};
  EXPECT_TRUE(may(group, member));

  AccessRule certificate = rule;
  certificate.certificate = "*.example.org";
  ClientIdentity known;
  known.names = {"CN=host", "host.example.org"};
  EXPECT_TRUE(may(certificate, known));
  known.names = {"host.example.org.evil"};
  EXPECT_FALSE(may(certificate, known));
  known.names = {std::string("host.example.org\0.evil", 22)};
  EXPECT_FALSE(may(certificate, known));

  AccessRule psk = rule;
  psk.psk = "host1";
  ClientIdentity keyed;
  keyed.psk = "host1";
  EXPECT_TRUE(may(psk, keyed));
  EXPECT_FALSE(may(certificate, keyed));
  keyed.psk = "host10";
  EXPECT_FALSE(may(psk, keyed));

  AccessRule anyone = rule;
  anyone.anyone = true;
  EXPECT_TRUE(may(anyone, {}));

  ClientIdentity admin;
  admin.is_admin = true;
  EXPECT_TRUE(may(psk, admin));
}

TEST(ClientIdentity, IsThatOfTheProcessAtTheOtherEnd) {
  int fds[2];
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
  const UniqueFd one(fds[0]);
  const UniqueFd other(fds[1]);
  const ClientIdentity client = IdentityOf(one.get());
  EXPECT_EQ(client.uid, geteuid());
  EXPECT_THAT(client.gids, testing::Contains(getegid()));
  EXPECT_EQ(client.ToString(), "uid " + std::to_string(geteuid()));
  const UniqueFd tcp(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  EXPECT_FALSE(IdentityOf(tcp.get()).uid);
}

class AccessTest : public testing::Test {
 protected:
  Code Open(const wire::Open& open, uint32_t uid, uint64_t features = kFeatures,
            const char* volume = "disk") {
    client_ = server_.Connect(User(uid));
    return client_->Open(open, volume, features);
  }
  Code Resize(uint64_t size) {
    client_->Send(Frame(wire::FrameType::kResize, Encoded(wire::Resize{size, 0})));
    const std::optional<Received> reply = client_->ReceiveOf(wire::FrameType::kResizeReply);
    text_ = reply ? reply->text() : "";
    return RawClient::StatusOf(reply);
  }

  TestServer server_{{{"disk", "memory:?size=1M"}}, 1};
  std::unique_ptr<RawClient> client_;
  std::string text_;
};

// Each role is a user who has that right alone; the last one has none.
TEST_F(AccessTest, EveryOperationByEveryRole) {
  struct Operation {
    const char* name;
    std::set<Right> needs;  // one of these
    std::function<Code(uint32_t uid, uint8_t session)> run;
  };
  const auto open = [this](uint32_t flags) {
    return [this, flags](uint32_t uid, uint8_t session) {
      const Code code = Open(OpenOf(session, flags), uid);
      if (code == Code::kOk) client_->Send(Frame(wire::FrameType::kClose, Encoded(wire::Close{1})));
      if (code == Code::kOk) client_->ReceiveOf(wire::FrameType::kCloseReply);
      // Nobody has released it, which only who may ask is told.
      return code == Code::kBadToken || code == Code::kInvalid ? Code::kOk : code;
    };
  };
  const std::vector<Operation> operations{
      {"observe", {kAll.begin(), kAll.end()}, open(kObserve)},
      {"open to read", {Right::kRead, Right::kWrite, Right::kAdminister}, open(kReadOnly)},
      {"open to write", {Right::kWrite, Right::kAdminister}, open(wire::OpenFlag::kActive)},
      {"take over", {Right::kAdminister}, open(kTakeover)},
      {"end a reservation", {Right::kAdminister}, open(kEndReservation)},
      {"resize", {Right::kResize, Right::kAdminister}, [this](uint32_t uid, uint8_t session) {
         const Code code = Open(OpenOf(session, kObserve), uid);
         return code == Code::kOk ? Resize(1 << 20) : code;
       }}};
  std::vector<AccessRule> rules;
  for (const Right right : kAll) {
    rules.push_back(RuleFor(100 + static_cast<uint32_t>(right), {right}));
  }
  server_.SetAccess(rules);
  uint8_t session = 1;
  for (uint32_t uid = 100; uid <= 100 + kAll.size(); ++uid) {
    const bool has_one = uid < 100 + kAll.size();
    for (const Operation& operation : operations) {
      const bool may = has_one && operation.needs.contains(static_cast<Right>(uid - 100));
      EXPECT_EQ(operation.run(uid, session++), may ? Code::kOk : Code::kDenied)
          << operation.name << " by who may "
          << (has_one ? Name(static_cast<Right>(uid - 100)) : "nothing") << ": " << client_->text;
    }
  }
}

TEST_F(AccessTest, WhoMayWriteAndTakeOverTakesOver) {
  server_.SetAccess({RuleFor(1, {Right::kWrite}), RuleFor(2, {Right::kWrite, Right::kTakeover})});
  ASSERT_EQ(Open(OpenOf(1), 1), Code::kOk);
  const auto holder = std::move(client_);
  EXPECT_EQ(Open(OpenOf(2, kTakeover), 1), Code::kDenied);
  EXPECT_THAT(client_->text, HasSubstr("uid 1 does not have the right 'takeover' for volume 'dis"));
  EXPECT_EQ(holder->Do(FlushOf(1)), Code::kOk);
  EXPECT_EQ(Open(OpenOf(2, kTakeover), 2), Code::kOk);
}

TEST_F(AccessTest, WhoMayOnlyReadIsToldHow) {
  server_.SetAccess({RuleFor(1, {Right::kRead})});
  EXPECT_EQ(Open(OpenOf(1), 1), Code::kDenied);
  EXPECT_THAT(client_->text, HasSubstr("read-only=on"));
  ASSERT_EQ(Open(OpenOf(1, kReadOnly), 1), Code::kOk);
  EXPECT_EQ(client_->Do(WriteOf(1, 0, 512), Bytes(512)), Code::kReadOnly);
  EXPECT_EQ(client_->Do(ReadOf(2, 0, 512)), Code::kOk);
}

TEST_F(AccessTest, WhetherThereIsAVolumeOnlyWhoMaySeeItIsTold) {
  server_.SetAccess({RuleFor(1, {Right::kWrite}, {"disk", "none"})});
  EXPECT_EQ(Open(OpenOf(1), 1, kFeatures, "none"), Code::kNoSuchVolume);
  EXPECT_EQ(Open(OpenOf(1), 2, kFeatures, "none"), Code::kDenied);
  EXPECT_EQ(Open(OpenOf(1), 2), Code::kDenied);
}

// An older client does not know the status.
TEST_F(AccessTest, WhoDoesNotKnowDeniedIsToldSomethingElse) {
  server_.SetAccess({RuleFor(1, {Right::kObserve})});
  EXPECT_EQ(Open(OpenOf(1), 2, 0), Code::kNoSuchVolume);
  EXPECT_THAT(client_->text, HasSubstr("does not have the right"));
  ASSERT_EQ(Open(OpenOf(1, kObserve), 1, 0), Code::kOk);
  EXPECT_EQ(Resize(2 << 20), Code::kNotSupported);
  EXPECT_THAT(text_, HasSubstr("'resize'"));
}

TEST_F(AccessTest, WhatIsTakenAwayEndsTheSessionWithAText) {
  server_.SetAccess({RuleFor(1, {Right::kWrite}), RuleFor(2, {Right::kObserve})});
  ASSERT_EQ(Open(OpenOf(1), 1), Code::kOk);
  const auto writer = std::move(client_);
  ASSERT_EQ(Open(OpenOf(2, kObserve), 2), Code::kOk);
  const auto observer = std::move(client_);
  server_.SetAccess({RuleFor(1, {Right::kRead}), RuleFor(2, {Right::kObserve})});
  const std::optional<Received> error = writer->ReceiveOf(wire::FrameType::kError);
  EXPECT_EQ(RawClient::StatusOf(error), Code::kDenied);
  EXPECT_THAT(error->text(), HasSubstr("uid 1 does not have the right 'write'"));
  EXPECT_TRUE(writer->Ended());
  // Who has kept what it needs goes on.
  observer->Send(Frame(wire::FrameType::kPing, Encoded(wire::Ping{})));
  EXPECT_TRUE(observer->ReceiveOf(wire::FrameType::kPong));
  // It comes back when the right does.
  EXPECT_EQ(Open(OpenOf(1, wire::OpenFlag::kActive, 2), 1), Code::kDenied);
  server_.SetAccess({RuleFor(1, {Right::kWrite})});
  EXPECT_EQ(Open(OpenOf(1, wire::OpenFlag::kActive, 3), 1), Code::kOk);
}

// Only to take it is the right needed, and not to keep it.
TEST_F(AccessTest, WhoHasTakenOverKeepsTheVolumeWithoutThatRight) {
  server_.SetAccess({RuleFor(1, {Right::kWrite, Right::kTakeover})});
  ASSERT_EQ(Open(OpenOf(1, kTakeover), 1), Code::kOk);
  server_.SetAccess({RuleFor(1, {Right::kWrite})});
  EXPECT_EQ(client_->Do(FlushOf(1)), Code::kOk);
}

}  // namespace
}  // namespace cloudblk::proxy
