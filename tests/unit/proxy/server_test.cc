// SPDX-License-Identifier: GPL-2.0-or-later
//
// The server's side of the protocol, with well-behaved clients.
#include <gmock/gmock.h>

#include "proxy/connection.h"
#include "tests/unit/proxy/test_server.h"

namespace cloudblk::proxy {
namespace {

using Code = wire::StatusCode;
using testing::HasSubstr;

constexpr uint32_t kResume = wire::OpenFlag::kActive | wire::OpenFlag::kResume;

class ServerTest : public testing::Test {
 protected:
  std::unique_ptr<RawClient> Opened(const wire::Open& open, std::string_view volume = "disk",
                                    uint64_t features = 0) {
    std::unique_ptr<RawClient> client = server_.Connect();
    EXPECT_EQ(client->Open(open, volume, features), Code::kOk) << client->text;
    return client;
  }
  wire::Open Resume(uint8_t session, uint64_t incarnation, std::string_view volume = "disk") {
    wire::Open open = OpenOf(session, kResume, incarnation);
    open.volume = server_.volume(std::string(volume)).backend->uuid();
    return open;
  }

  TempFolder folder_;
  TestServer server_{{{"disk", "memory:?size=8M"},
                      {"file", "file://" + (folder_ / "f.img") + "?size=8M&create=on"},
                      {"reader", "memory:?size=1M&logical-block-size=4096"}}};
};

TEST_F(ServerTest, TellsWhatTheVolumeIs) {
  const auto client = Opened(OpenOf(1));
  EXPECT_EQ(client->info.size, 8u << 20);
  EXPECT_EQ(client->info.logical_block_size, 512u);
  EXPECT_EQ(client->info.lease_ms, 10'000u);
  EXPECT_EQ(client->info.volume, server_.volume("disk").backend->uuid());
  EXPECT_EQ(client->info.generation, server_.volume("disk").backend->generation());
  EXPECT_GE(client->info.credit_bytes, wire::kMaxFramePayload);
}

TEST_F(ServerTest, CarriesOutABatchAndAnswersEachOnce) {
  for (const char* volume : {"disk", "file"}) {
    const auto client = Opened(OpenOf(1), volume);
    std::vector<wire::Request> writes;
    std::vector<wire::Request> reads;
    Bytes data;
    for (uint64_t i = 0; i < 100; ++i) {
      const auto length = static_cast<uint32_t>(512 * (1 + i % 9));
      writes.push_back(WriteOf(i, i * 8192, length));
      reads.push_back(ReadOf(1000 + i, i * 8192, length));
      data = data + Pattern(length, static_cast<uint32_t>(i));
    }
    ASSERT_TRUE(client->Send(RequestFrame(writes, data)));
    for (uint64_t i = 0; i < 100; ++i) EXPECT_EQ(client->ReplyTo(i).reply.status, Code::kOk);
    ASSERT_TRUE(client->Send(RequestFrame(reads)));
    for (uint64_t i = 0; i < 100; ++i) {
      EXPECT_EQ(client->ReplyTo(1000 + i).data, Pattern(reads[i].length, static_cast<uint32_t>(i)));
    }
    EXPECT_TRUE(client->replies.empty());
  }
}

TEST_F(ServerTest, BytesMayArriveOneByOne) {
  const auto client = server_.Connect();
  const Bytes data = Pattern(1536, 1);
  const Bytes stream = HelloFrame() + OpenFrame(OpenOf(1)) +
                       RequestFrame({WriteOf(1, 0, 1024), WriteOf(2, 4096, 512)}, data) +
                       RequestFrame({ReadOf(3, 8192, 512)});
  for (const uint8_t& byte : stream) {
    // Not before the answer: what follows an OPEN may come with it only if it is a HELLO's.
    if (&byte - stream.data() ==
        static_cast<ptrdiff_t>((HelloFrame() + OpenFrame(OpenOf(1))).size())) {
      ASSERT_EQ(client->Opened(), Code::kOk);
    }
    ASSERT_TRUE(client->Send({&byte, 1}));
  }
  EXPECT_EQ(client->ReplyTo(1).reply.status, Code::kOk);
  EXPECT_EQ(client->ReplyTo(2).reply.status, Code::kOk);
  EXPECT_EQ(client->ReplyTo(3).reply.status, Code::kOk);
  ASSERT_TRUE(client->Send(RequestFrame({ReadOf(4, 0, 1024), ReadOf(5, 4096, 512)})));
  EXPECT_EQ(client->ReplyTo(4).data + client->ReplyTo(5).data, data);
}

TEST_F(ServerTest, WhatPrecedesAPayloadDoesNotWaitForIt) {
  const auto client = Opened(OpenOf(1));
  const Bytes data = Pattern(1024, 7);
  const Bytes frame = RequestFrame(
      {ReadOf(1, 0, 512), WriteOf(2, 8192, 512), ReadOf(3, 4096, 512), WriteOf(4, 16384, 512)},
      data);
  const std::span stream(frame);
  const size_t before_data = frame.size() - data.size();
  ASSERT_TRUE(client->Send(stream.first(before_data)));
  EXPECT_EQ(client->ReplyTo(1).reply.status, Code::kOk);
  ASSERT_TRUE(client->Send(stream.subspan(before_data, 512)));
  EXPECT_EQ(client->ReplyTo(2).reply.status, Code::kOk);
  EXPECT_EQ(client->ReplyTo(3).reply.status, Code::kOk);
  ASSERT_TRUE(client->Send(stream.subspan(before_data + 512)));
  EXPECT_EQ(client->ReplyTo(4).reply.status, Code::kOk);
}

TEST_F(ServerTest, LargestFramesPass) {
  const auto client = Opened(OpenOf(1));
  const Bytes data = Pattern(1 << 20, 2);
  std::vector<wire::Request> many;
  for (uint64_t i = 0; i < kCreditRequests; ++i) many.push_back(WriteOf(i, i * 2048, 2048));
  ASSERT_TRUE(client->Send(RequestFrame(many, data)));
  for (uint64_t i = 0; i < kCreditRequests; ++i)
    EXPECT_EQ(client->ReplyTo(i).reply.status, Code::kOk);
  ASSERT_TRUE(client->Send(RequestFrame({ReadOf(7, 0, 1 << 20)})));
  EXPECT_EQ(client->ReplyTo(7).data, data);
}

TEST_F(ServerTest, AClientMayBeSlowToRead) {
  const auto client = Opened(OpenOf(1), "file");
  const Bytes data = Pattern(1 << 20, 3);
  ASSERT_EQ(client->Do(WriteOf(1, 0, 1 << 20), data), Code::kOk);
  std::vector<wire::Request> reads;
  for (uint64_t i = 0; i < 32; ++i) reads.push_back(ReadOf(100 + i, 0, 1 << 20));
  ASSERT_TRUE(client->Send(RequestFrame(reads)));
  for (uint64_t i = 0; i < 32; ++i) ASSERT_EQ(client->ReplyTo(100 + i).data, data);
}

TEST_F(ServerTest, WhatCannotBeDoneIsRefusedAndTheRestDone) {
  const auto client = Opened(OpenOf(1));
  const uint64_t size = client->info.size;
  EXPECT_EQ(client->Do(ReadOf(1, size, 512)), Code::kOutOfRange);
  EXPECT_EQ(client->Do(ReadOf(2, size - 512, 1024)), Code::kOutOfRange);
  EXPECT_EQ(client->Do(WriteOf(3, size, 512), Bytes(512)), Code::kOutOfRange);
  EXPECT_EQ(client->Do(ReadOf(4, 100, 512)), Code::kInvalid);
  EXPECT_EQ(client->Do(ReadOf(5, 0, 100)), Code::kInvalid);
  wire::Request discard;
  discard.tag = 6;
  discard.operation = wire::Operation::kDiscard;
  discard.range_count = 1;
  discard.length = wire::kRangeSize;
  EXPECT_EQ(client->Do(discard, Encoded(wire::Range{size, 512, 0})), Code::kOutOfRange);
  EXPECT_EQ(client->Do(discard, Encoded(wire::Range{0, 100, 0})), Code::kInvalid);
  EXPECT_EQ(client->Do(discard, Encoded(wire::Range{0, 4096, 0})), Code::kOk);
  discard.operation = wire::Operation::kWriteZeroes;
  EXPECT_EQ(client->Do(discard, Encoded(wire::Range{0, 4096, wire::RangeFlag::kUnmap})), Code::kOk);
  EXPECT_EQ(client->Do(FlushOf(7)), Code::kOk);
}

TEST_F(ServerTest, MoreRangesThanOfferedAreRefused) {
  const auto client = Opened(OpenOf(1));
  wire::Request discard;
  discard.operation = wire::Operation::kDiscard;
  for (const uint32_t count : {Geometry().max_ranges, Geometry().max_ranges + 1}) {
    Bytes ranges;
    for (uint32_t i = 0; i < count; ++i) ranges = ranges + Encoded(wire::Range{i * 512, 512, 0});
    discard.tag = count;
    discard.range_count = static_cast<uint16_t>(count);
    discard.length = static_cast<uint32_t>(ranges.size());
    EXPECT_EQ(client->Do(discard, ranges),
              count > Geometry().max_ranges ? Code::kInvalid : Code::kOk);
  }
}

TEST_F(ServerTest, ReadersDoNotWriteAndObserversDoNothing) {
  const auto reader = Opened(OpenOf(1, wire::OpenFlag::kActive | wire::OpenFlag::kReadOnly));
  EXPECT_NE(reader->info.volume_flags & wire::VolumeFlag::kReadOnly, 0u);
  EXPECT_EQ(reader->Do(WriteOf(1, 0, 512), Bytes(512)), Code::kReadOnly);
  EXPECT_EQ(reader->Do(ReadOf(2, 0, 512)), Code::kOk);
  const auto observer = Opened(OpenOf(2, 0));
  EXPECT_EQ(observer->Do(ReadOf(1, 0, 512)), Code::kNotActive);
  EXPECT_EQ(observer->Do(WriteOf(2, 0, 512), Bytes(512)), Code::kNotActive);
}

TEST_F(ServerTest, PayloadsHaveChecksumsWhenNegotiated) {
  const auto client = Opened(OpenOf(1), "disk", wire::Feature::kPayloadCrc);
  const Bytes data = Pattern(wire::kCrcBlock + 512, 4);
  const std::vector<uint32_t> crcs = {
      wire::Crc32c(0, {data.data(), wire::kCrcBlock}),
      wire::Crc32c(0, {data.data() + wire::kCrcBlock, 512}),
  };
  const auto length = static_cast<uint32_t>(data.size());
  ASSERT_TRUE(client->Send(RequestFrame({WriteOf(1, 0, length)}, data, crcs)));
  EXPECT_EQ(client->ReplyTo(1).reply.status, Code::kOk);
  ASSERT_TRUE(client->Send(RequestFrame({ReadOf(2, 0, length), ReadOf(3, 0, 512)})));
  EXPECT_EQ(client->ReplyTo(2).data, data);
  EXPECT_EQ(client->ReplyTo(3).data, Bytes(data.begin(), data.begin() + 512));
}

TEST_F(ServerTest, HolesAreAFlagWhenNegotiated) {
  const auto client = Opened(OpenOf(1), "disk", wire::Feature::kHoleReply);
  ASSERT_EQ(client->Do(WriteOf(1, 1 << 20, 512), Pattern(512, 5)), Code::kOk);
  ASSERT_TRUE(client->Send(RequestFrame({ReadOf(2, 0, 4096), ReadOf(3, 1 << 20, 512)})));
  const ReceivedReply hole = client->ReplyTo(2);
  EXPECT_EQ(hole.reply.flags, wire::ReplyFlag::kHole);
  EXPECT_EQ(hole.reply.length, 0u);
  EXPECT_EQ(client->ReplyTo(3).data, Pattern(512, 5));
  const auto plain = Opened(OpenOf(2, wire::OpenFlag::kActive | wire::OpenFlag::kTakeover));
  ASSERT_TRUE(plain->Send(RequestFrame({ReadOf(2, 0, 4096)})));
  EXPECT_EQ(plain->ReplyTo(2).data, Bytes(4096));
}

TEST_F(ServerTest, PingIsAnsweredWithItsCookie) {
  const auto client = Opened(OpenOf(1));
  ASSERT_TRUE(client->Send(Frame(wire::FrameType::kPing, Encoded(wire::Ping{77}))));
  const auto pong = client->ReceiveOf(wire::FrameType::kPong);
  ASSERT_TRUE(pong);
  EXPECT_EQ(Load64(pong->section.data()), 77u);
}

TEST_F(ServerTest, CloseIsAnsweredAfterTheRequestsAndFreesTheVolume) {
  const auto client = Opened(OpenOf(1), "gated");
  ASSERT_TRUE(client->Send(
      RequestFrame({WriteOf(1, 0, 512)}, Bytes(512)) +
      Frame(wire::FrameType::kClose, Encoded(wire::Close{wire::CloseFlag::kEndSession}))));
  server_.gated->WaitUntilHeld(1);
  server_.gated->Let();
  EXPECT_EQ(client->ReplyTo(1).reply.status, Code::kOk);
  EXPECT_EQ(RawClient::StatusOf(client->ReceiveOf(wire::FrameType::kCloseReply)), Code::kOk);
  EXPECT_TRUE(client->Ended());
  Opened(OpenOf(2), "gated");
}

TEST_F(ServerTest, StorageErrorsReachTheClient) {
  const auto client = Opened(OpenOf(1), "gated");
  for (const auto& [error, status] : {std::pair{-ENOSPC, Code::kNoSpace},
                                      {-EIO, Code::kIoError},
                                      {-ENOMEM, Code::kNoMemory},
                                      {-EINVAL, Code::kIoError}}) {
    ASSERT_TRUE(client->Send(RequestFrame({WriteOf(1, 0, 512)}, Bytes(512))));
    server_.gated->WaitUntilHeld(1);
    server_.gated->Let(error);
    EXPECT_EQ(client->ReplyTo(1).reply.status, status);
  }
}

// SPEC.md 10.3: what it was not told of it cannot have flushed.
TEST_F(ServerTest, AConnectionKeepsTheGenerationThatItWasToldOf) {
  const auto client = Opened(OpenOf(1), "gated");
  const uint64_t told = client->info.generation;
  server_.gated->NewGeneration();
  ASSERT_TRUE(client->Send(RequestFrame({FlushOf(1)})));
  server_.gated->WaitUntilHeld(1);
  EXPECT_TRUE(server_.gated->HeldAreOf(told));
  server_.gated->Let();
  EXPECT_EQ(client->ReplyTo(1).reply.status, Code::kOk);
  const auto again = Opened(Resume(1, 2, "gated"), "gated");
  EXPECT_NE(again->info.generation, told);
  ASSERT_TRUE(again->Send(RequestFrame({FlushOf(1)})));
  server_.gated->WaitUntilHeld(1);
  EXPECT_TRUE(server_.gated->HeldAreOf(again->info.generation));
  server_.gated->Let();
  EXPECT_EQ(again->ReplyTo(1).reply.status, Code::kOk);
}

// SPEC.md 7.2: the loops of the two connections are different ones.
TEST_F(ServerTest, ANewIncarnationWaitsForTheOldOnesWrites) {
  const auto old = Opened(OpenOf(1), "gated");
  ASSERT_TRUE(old->Send(RequestFrame({WriteOf(1, 0, 512)}, Bytes(512))));
  server_.gated->WaitUntilHeld(1);
  // The rest of this one never comes: it must not reach the storage.
  const Bytes half = RequestFrame({WriteOf(2, 512, 512)}, Bytes(512));
  ASSERT_TRUE(old->Send(std::span(half).first(half.size() - 1)));
  const auto fresh = server_.Connect();
  ASSERT_TRUE(fresh->Send(HelloFrame() + OpenFrame(Resume(1, 2, "gated"), "gated")));
  ASSERT_TRUE(fresh->ReceiveOf(wire::FrameType::kHelloReply));
  EXPECT_TRUE(old->Ended());
  // Both loops have done all they had to do once they serve somebody new.
  Opened(OpenOf(2, 0));
  Opened(OpenOf(3, 0));
  EXPECT_FALSE(fresh->HasData());
  server_.gated->WaitUntilHeld(1);
  server_.gated->Let();
  EXPECT_EQ(fresh->Opened(), Code::kOk);
  ASSERT_TRUE(fresh->Send(RequestFrame({WriteOf(1, 0, 512)}, Bytes(512))));
  server_.gated->WaitUntilHeld(1);
  server_.gated->Let();
  EXPECT_EQ(fresh->ReplyTo(1).reply.status, Code::kOk);
}

TEST_F(ServerTest, ACutConnectionWaitsForItsWritesToo) {
  auto old = Opened(OpenOf(1), "gated");
  ASSERT_TRUE(old->Send(RequestFrame({WriteOf(1, 0, 512)}, Bytes(512))));
  server_.gated->WaitUntilHeld(1);
  old->Close();
  const auto fresh = server_.Connect();
  ASSERT_TRUE(fresh->Send(HelloFrame() + OpenFrame(Resume(1, 2, "gated"), "gated")));
  ASSERT_TRUE(fresh->ReceiveOf(wire::FrameType::kHelloReply));
  server_.gated->Let();
  EXPECT_EQ(fresh->Opened(), Code::kOk);
}

TEST_F(ServerTest, ATakeoverTellsTheHolder) {
  const auto holder = Opened(OpenOf(1));
  const auto busy = server_.Connect();
  EXPECT_EQ(busy->Open(OpenOf(2)), Code::kBusy);
  EXPECT_THAT(busy->text, HasSubstr("raw client"));
  EXPECT_TRUE(busy->Ended());
  const auto winner = Opened(OpenOf(2, wire::OpenFlag::kActive | wire::OpenFlag::kTakeover));
  const auto event = holder->ReceiveOf(wire::FrameType::kEvent);
  ASSERT_TRUE(event);
  EXPECT_EQ(static_cast<wire::EventKind>(Load32(event->section.data())), wire::EventKind::kRevoked);
  EXPECT_TRUE(holder->Ended());
  const auto loser = server_.Connect();
  EXPECT_EQ(loser->Open(Resume(1, 2)), Code::kFenced);
  EXPECT_EQ(winner->Do(ReadOf(1, 0, 512)), Code::kOk);
}

TEST_F(ServerTest, OwnershipMovesByReleaseAndClaim) {
  const auto source = Opened(OpenOf(1));
  wire::Open observe = OpenOf(1, 0);
  const auto destination = Opened(observe);
  ASSERT_EQ(source->Do(WriteOf(1, 0, 512), Pattern(512, 6)), Code::kOk);
  ASSERT_TRUE(
      source->Send(Frame(wire::FrameType::kRelease, Encoded(wire::TokenMessage{SessionId(9), 1}))));
  EXPECT_EQ(RawClient::StatusOf(source->ReceiveOf(wire::FrameType::kReleaseReply)), Code::kOk);
  EXPECT_EQ(source->Do(ReadOf(2, 0, 512)), Code::kNotActive);
  EXPECT_EQ(destination->Do(ReadOf(1, 0, 512)), Code::kNotActive);
  ASSERT_TRUE(destination->Send(
      Frame(wire::FrameType::kClaim, Encoded(wire::TokenMessage{SessionId(9), 2}))));
  EXPECT_EQ(RawClient::StatusOf(destination->ReceiveOf(wire::FrameType::kClaimReply)), Code::kOk);
  EXPECT_EQ(destination->Do(WriteOf(2, 0, 512), Pattern(512, 7)), Code::kOk);
  EXPECT_TRUE(source->Ended());
}

// Else a write of the source could land after the destination's first one.
TEST_F(ServerTest, NothingIsReleasedWithRequestsUnanswered) {
  const auto source = Opened(OpenOf(1), "gated");
  ASSERT_TRUE(source->Send(RequestFrame({WriteOf(1, 0, 512)}, Bytes(512))));
  server_.gated->WaitUntilHeld(1);
  ASSERT_TRUE(
      source->Send(Frame(wire::FrameType::kRelease, Encoded(wire::TokenMessage{SessionId(9), 1}))));
  EXPECT_TRUE(source->Ended());
  EXPECT_THAT(source->text, HasSubstr("RELEASE with requests unanswered"));
  server_.gated->Let();
}

TEST_F(ServerTest, OneCallAtATime) {
  const Bytes release =
      Frame(wire::FrameType::kRelease, Encoded(wire::TokenMessage{SessionId(9), 1}));
  const Bytes claim = Frame(wire::FrameType::kClaim, Encoded(wire::TokenMessage{SessionId(9), 2}));
  const Bytes close = Frame(wire::FrameType::kClose, Encoded(wire::Close{}));
  uint64_t incarnation = 0;
  for (const Bytes& second : {release, claim, close}) {
    server_.gated->KeepOwners(true);
    // The reservation of the time before is no more.
    const auto client = Opened(
        OpenOf(1, wire::OpenFlag::kActive | wire::OpenFlag::kTakeover, ++incarnation), "gated");
    server_.gated->KeepOwners(false);
    ASSERT_TRUE(client->Send(release + second));
    EXPECT_TRUE(client->Ended());
    EXPECT_THAT(client->text, HasSubstr("while another call is under way"));
  }
  server_.gated->KeepOwners(true);
}

TEST(OneLoop, DoesNotWaitForAStorageThatKeepsAnOwner) {
  TestServer server({{"disk", "memory:?size=8M"}}, 1);
  const auto other = server.Connect();
  ASSERT_EQ(other->Open(OpenOf(2)), Code::kOk);
  server.gated->KeepOwners(false);
  const auto client = server.Connect();
  ASSERT_TRUE(client->Send(HelloFrame() + OpenFrame(OpenOf(1), "gated")));
  ASSERT_EQ(RawClient::StatusOf(client->ReceiveOf(wire::FrameType::kHelloReply)), Code::kOk);
  EXPECT_EQ(other->Do(WriteOf(1, 0, 512), Pattern(512, 6)), Code::kOk);
  const auto visitor = server.Connect();
  ASSERT_TRUE(visitor->Send(HelloFrame() + OpenFrame(OpenOf(3), "gated")));
  ASSERT_EQ(RawClient::StatusOf(visitor->ReceiveOf(wire::FrameType::kHelloReply)), Code::kOk);
  EXPECT_EQ(other->Do(ReadOf(2, 0, 512)), Code::kOk);
  EXPECT_FALSE(client->HasData());
  server.gated->KeepOwners(true);
  EXPECT_EQ(client->Opened(), Code::kOk);
  EXPECT_EQ(visitor->Opened(), Code::kBusy);

  server.gated->KeepOwners(false);
  const Bytes release =
      Frame(wire::FrameType::kRelease, Encoded(wire::TokenMessage{SessionId(9), 1}));
  ASSERT_TRUE(client->Send(release + RequestFrame({ReadOf(1, 0, 512)})));
  EXPECT_EQ(client->ReplyTo(1).reply.status, Code::kNotActive);
  EXPECT_EQ(other->Do(ReadOf(3, 0, 512)), Code::kOk);
  EXPECT_FALSE(client->HasData());
  server.gated->KeepOwners(true);
  EXPECT_EQ(RawClient::StatusOf(client->ReceiveOf(wire::FrameType::kReleaseReply)), Code::kOk);
}

TEST_F(ServerTest, WhoObservesIsToldWhatTheStorageWaitsFor) {
  server_.gated->BecomeTroubled();
  const auto observer = server_.Connect();
  observer->Send(HelloFrame(0) + OpenFrame(OpenOf(1, 0), "gated"));
  server_.gated->WaitUntilAsked();
  // Who needs the volume is not kept waiting.
  const auto holder = Opened(OpenOf(2), "gated");
  EXPECT_EQ(holder->text, "");
  server_.gated->TellTrouble("it rains");
  EXPECT_EQ(observer->Opened(), Code::kOk);
  EXPECT_EQ(observer->text, "it rains");
}

TEST_F(ServerTest, WhoIsGoneIsToldNothing) {
  server_.gated->BecomeTroubled();
  const auto observer = server_.Connect();
  observer->Send(HelloFrame(0) + OpenFrame(OpenOf(1, 0), "gated"));
  server_.gated->WaitUntilAsked();
  observer->Close();
  server_.GoAway();
  // It waits for what knows it.
  EXPECT_EQ(server_.connections(), 1u);
  server_.gated->TellTrouble("it rains");
  server_.WaitUntilNobodyIsConnected();
  EXPECT_EQ(server_.connections(), 0u);
}

TEST_F(ServerTest, GoingAwayAnswersWhatIsInFlight) {
  const auto client = Opened(OpenOf(1), "gated");
  ASSERT_TRUE(client->Send(RequestFrame({WriteOf(1, 0, 512)}, Bytes(512))));
  server_.gated->WaitUntilHeld(1);
  server_.GoAway();
  const auto event = client->ReceiveOf(wire::FrameType::kEvent);
  ASSERT_TRUE(event);
  EXPECT_EQ(static_cast<wire::EventKind>(Load32(event->section.data())),
            wire::EventKind::kGoingAway);
  server_.gated->Let();
  EXPECT_EQ(client->ReplyTo(1).reply.status, Code::kOk);
  EXPECT_TRUE(client->Ended());
  server_.WaitUntilNobodyIsConnected();
}

TEST_F(ServerTest, GoingAwayTakesNothingMore) {
  const auto client = Opened(OpenOf(1), "gated");
  ASSERT_TRUE(client->Send(RequestFrame({WriteOf(1, 0, 512)}, Bytes(512))));
  server_.gated->WaitUntilHeld(1);
  server_.GoAway();
  ASSERT_TRUE(client->ReceiveOf(wire::FrameType::kEvent));
  // It may not know yet.
  ASSERT_TRUE(client->Send(RequestFrame({WriteOf(2, 512, 512)}, Bytes(512))));
  server_.gated->Let();
  EXPECT_EQ(client->ReplyTo(1).reply.status, Code::kOk);
  EXPECT_TRUE(client->Ended());
  EXPECT_TRUE(client->replies.empty());
}

TEST_F(ServerTest, GoingAwayDoesNotWaitForAClientThatDoesNotRead) {
  const auto client = Opened(OpenOf(1));
  std::vector<wire::Request> reads;
  for (uint64_t tag = 1; tag <= 16; ++tag) reads.push_back(ReadOf(tag, 0, 1 << 20));
  ASSERT_TRUE(client->Send(RequestFrame(reads)));
  while (!client->HasData()) std::this_thread::yield();
  server_.GoAway();
  // Of the 16 MiB a socket takes little.
  server_.WaitUntilNobodyIsConnected();
}

TEST_F(ServerTest, WhoIsGoneWaitsForNothing) {
  const auto client = Opened(OpenOf(1), "gated");
  ASSERT_TRUE(client->Send(RequestFrame({WriteOf(1, 0, 512)}, Bytes(512))));
  server_.gated->WaitUntilHeld(1);
  EXPECT_FALSE(server_.gated->GivenUp());
  client->Close();
  while (!server_.gated->GivenUp()) std::this_thread::yield();
  server_.gated->Let();
  server_.WaitUntilNobodyIsConnected();
}

}  // namespace
}  // namespace cloudblk::proxy
