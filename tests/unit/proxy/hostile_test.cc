// SPDX-License-Identifier: GPL-2.0-or-later
//
// The server's side of the protocol, with clients that break it. Each must be dropped with an ERROR
// that says why, and none must harm another.
#include <gmock/gmock.h>

#include "proxy/connection.h"
#include "tests/unit/proxy/test_server.h"

namespace cloudblk::proxy {
namespace {

using Code = wire::StatusCode;
using testing::HasSubstr;

class HostileTest : public testing::Test {
 protected:
  // Sends bytes on a fresh connection and expects to be dropped.
  std::string Dropped(const Bytes& bytes) {
    const auto client = server_.Connect();
    client->Send(bytes);
    EXPECT_TRUE(client->Ended());
    return client->text;
  }
  // The same, once the volume is open.
  std::string DroppedWhenReady(const Bytes& bytes, uint64_t features = 0) {
    const auto client = server_.Connect();
    EXPECT_EQ(client->Open(Fresh(), "disk", features), Code::kOk) << client->text;
    client->Send(bytes);
    EXPECT_TRUE(client->Ended());
    return client->text;
  }
  // Always the same session, reconnecting.
  wire::Open Fresh() { return OpenOf(1, wire::OpenFlag::kActive, ++incarnation_); }
  Bytes Contents(uint64_t offset, uint32_t length) {
    const auto client = server_.Connect();
    EXPECT_EQ(client->Open(Fresh()), Code::kOk);
    client->Send(RequestFrame({ReadOf(1, offset, length)}));
    return client->ReplyTo(1).data;
  }

  TestServer server_{{{"disk", "memory:?size=64M"}}};

 private:
  uint64_t incarnation_ = 0;
};

TEST_F(HostileTest, EveryFlippedByteOfAHeaderIsNoticed) {
  const Bytes good = HelloFrame();
  for (size_t i = 0; i < good.size(); ++i) {
    Bytes bad = good;
    bad[i] ^= 0x40;
    EXPECT_NE(Dropped(bad), "") << "byte " << i;
  }
  EXPECT_THAT(Dropped(Text("GET / HTTP/1.1\r\nHost: example\r\n\r\n")),
              HasSubstr("not a cloudblk peer"));
}

TEST_F(HostileTest, VersionsAndFeaturesAreNegotiated) {
  constexpr uint64_t kUnknown = uint64_t{1} << 40;
  for (const auto& [lowest, highest, offered, required, status] :
       {std::tuple<uint16_t, uint16_t, uint64_t, uint64_t, Code>{2, 3, 0, 0, Code::kBadVersion},
        {1, 9, 0, 0, Code::kOk},
        {1, 1, kUnknown, kUnknown, Code::kBadFeature},
        {1, 1, wire::Feature::kPayloadCrc, wire::Feature::kPayloadCrc, Code::kOk},
        {1, 1, 0, wire::Feature::kPayloadCrc, Code::kBadFeature}}) {
    const auto client = server_.Connect();
    wire::Hello hello;
    hello.version_min = lowest;
    hello.version_max = highest;
    hello.max_frame_payload = 4096;
    hello.max_frame_entries = 1;
    hello.features = offered;
    hello.required_features = required;
    client->Send(Frame(wire::FrameType::kHello, Encoded(hello)));
    EXPECT_EQ(RawClient::StatusOf(client->Receive()), status);
    if (status != Code::kOk) {
      EXPECT_TRUE(client->Ended());
    }
  }
}

TEST_F(HostileTest, AVolumeThatIsNotThereIsNamed) {
  const auto client = server_.Connect();
  EXPECT_EQ(client->Open(OpenOf(1), "other"), Code::kNoSuchVolume);
  EXPECT_THAT(client->text, HasSubstr("no volume 'other'"));
  EXPECT_TRUE(client->Ended());
}

TEST_F(HostileTest, FramesOutOfPlaceAreRefused) {
  EXPECT_THAT(Dropped(OpenFrame(OpenOf(1))), HasSubstr("OPEN is out of place"));
  EXPECT_THAT(Dropped(HelloFrame() + HelloFrame()), HasSubstr("HELLO is out of place"));
  EXPECT_THAT(Dropped(RequestFrame({FlushOf(1)})), HasSubstr("REQUEST is out of place"));
  EXPECT_THAT(Dropped(HelloFrame() + RequestFrame({FlushOf(1)})), HasSubstr("out of place"));
  EXPECT_THAT(DroppedWhenReady(HelloFrame()), HasSubstr("out of place"));
  EXPECT_THAT(DroppedWhenReady(OpenFrame(OpenOf(1))), HasSubstr("out of place"));
  const Bytes reply =
      Frame(wire::FrameType::kReply, Encoded(wire::Reply{1, Code::kOk, 0, 0}), {}, 1);
  EXPECT_THAT(DroppedWhenReady(reply), HasSubstr("REPLY is out of place"));
}

TEST_F(HostileTest, MoreThanWasGrantedIsRefused) {
  std::vector<wire::Request> many;
  for (uint64_t i = 0; i <= kCreditRequests; ++i) many.push_back(ReadOf(i, 0, 512));
  EXPECT_THAT(DroppedWhenReady(RequestFrame(many)), HasSubstr("more is in flight than granted"));
  std::vector<wire::Request> large;
  for (uint64_t i = 0; i <= kCreditBytes >> 20; ++i) large.push_back(ReadOf(i, 0, 1 << 20));
  EXPECT_THAT(DroppedWhenReady(RequestFrame(large)), HasSubstr("more is in flight than granted"));
}

TEST_F(HostileTest, LengthsThatLieAreRefused) {
  // A frame larger than negotiated, announced with good CRCs and never sent.
  Bytes huge = RequestFrame({WriteOf(1, 0, 512)}, Bytes(512));
  wire::FrameHeader header;
  header.type = wire::FrameType::kRequest;
  header.count = 1;
  header.header_length = wire::kRequestHeaderSize;
  header.payload_length = 2 << 20;
  wire::SealFrame(header, huge);
  EXPECT_THAT(DroppedWhenReady(huge), HasSubstr("length"));
  header.payload_length = 1024;
  wire::SealFrame(header, huge);
  EXPECT_THAT(DroppedWhenReady(huge), HasSubstr("length"));
  header.payload_length = 512;
  header.count = 2;
  wire::SealFrame(header, huge);
  EXPECT_THAT(DroppedWhenReady(huge), HasSubstr("length"));
  EXPECT_THAT(DroppedWhenReady(RequestFrame({ReadOf(1, 0, 2 << 20)})), HasSubstr("length"));
  EXPECT_THAT(DroppedWhenReady(RequestFrame({ReadOf(1, uint64_t{1} << 63, 512)})),
              HasSubstr("length"));
}

TEST_F(HostileTest, ReservedBitsAndBadTextsAreRefused) {
  wire::Request request = ReadOf(1, 0, 512);
  request.flags = 1;
  EXPECT_THAT(DroppedWhenReady(RequestFrame({request})), HasSubstr("reserved"));
  wire::Request discard;
  discard.operation = wire::Operation::kDiscard;
  discard.range_count = 1;
  discard.length = wire::kRangeSize;
  EXPECT_THAT(DroppedWhenReady(
                  RequestFrame({discard}, Encoded(wire::Range{0, 512, wire::RangeFlag::kUnmap}))),
              HasSubstr("reserved"));
  Bytes range = Encoded(wire::Range{0, 512, 0});
  range.back() = 1;
  EXPECT_THAT(DroppedWhenReady(RequestFrame({discard}, range)), HasSubstr("reserved"));
  EXPECT_THAT(Dropped(HelloFrame() + OpenFrame(OpenOf(1), "di\xffsk")), HasSubstr("UTF-8"));
  wire::Open open = OpenOf(1);
  open.claimer.bytes[15] = 1;  // which is there only where CLAIMER was agreed on
  EXPECT_THAT(Dropped(HelloFrame(wire::Feature::kHoleReply) + OpenFrame(open)),
              HasSubstr("reserved"));
  open = OpenOf(1);
  open.flags |= wire::OpenFlag::kEndReservation;
  EXPECT_THAT(Dropped(HelloFrame(wire::Feature::kHoleReply) + OpenFrame(open)),
              HasSubstr("reserved"));
  open = OpenOf(1);
  open.volume_name_length = 4;
  EXPECT_THAT(Dropped(HelloFrame() + Frame(wire::FrameType::kOpen, Encoded(open), Text("dis"))),
              HasSubstr("names"));
}

TEST_F(HostileTest, NothingOfAFrameWithABadChecksumIsCarriedOut) {
  const Bytes data = Pattern(1024, 1);
  const uint32_t good = wire::Crc32c(0, {data.data(), 512});
  const Bytes frame = RequestFrame({WriteOf(1, 0, 512), WriteOf(2, 512, 512)}, data, {good, good});
  // In one go, and with the good payload there before the bad one.
  for (const size_t first : {frame.size(), frame.size() - 256}) {
    const auto client = server_.Connect();
    ASSERT_EQ(client->Open(Fresh(), "disk", wire::Feature::kPayloadCrc), Code::kOk);
    ASSERT_TRUE(client->Send(std::span(frame).first(first)));
    // Each loop has read what was there once it has served somebody new.
    for (int loop = 0; loop < 2; ++loop) {
      EXPECT_EQ(server_.Connect()->Open(OpenOf(9, 0)), Code::kOk);
    }
    client->Send(std::span(frame).subspan(first));
    EXPECT_TRUE(client->Ended());
    EXPECT_THAT(client->text, HasSubstr("CRC of a payload"));
    EXPECT_EQ(Contents(0, 1024), Bytes(1024));
  }
}

TEST_F(HostileTest, RequestsBeforeABadFrameAreCarriedOut) {
  const Bytes data = Pattern(512, 2);
  DroppedWhenReady(RequestFrame({WriteOf(1, 0, 512)}, data) + Text(std::string(64, 'x')));
  EXPECT_EQ(Contents(0, 512), data);
}

// A connection that ends at any byte leaves whole requests or none, and the volume usable.
TEST_F(HostileTest, ACutAtEveryByteAppliesWholeWritesOnly) {
  const Bytes first = Pattern(512, 3);
  const Bytes second = Pattern(512, 4);
  const Bytes frame = RequestFrame({WriteOf(1, 0, 512), WriteOf(2, 4096, 512)}, first + second);
  for (size_t cut = 0; cut < frame.size(); ++cut) {
    {
      const auto client = server_.Connect();
      ASSERT_EQ(client->Open(Fresh()), Code::kOk);
      // The very first bytes of the volume change from round to round.
      ASSERT_EQ(client->Do(WriteOf(1, 0, 512), Bytes(512)), Code::kOk);
      ASSERT_EQ(client->Do(WriteOf(1, 4096, 512), Bytes(512)), Code::kOk);
      ASSERT_TRUE(client->Send(std::span(frame).first(cut)));
    }
    const Bytes found = Contents(0, 512);
    ASSERT_TRUE(found == Bytes(512) || (found == first && cut + 512 >= frame.size())) << cut;
    ASSERT_EQ(Contents(4096, 512), Bytes(512)) << cut;
  }
}

TEST_F(HostileTest, ACutInTheHandshakeIsHarmless) {
  const Bytes stream = HelloFrame() + OpenFrame(OpenOf(2, 0));
  for (size_t cut = 0; cut < stream.size(); ++cut) {
    const auto client = server_.Connect();
    client->Send(std::span(stream).first(cut));
    client->Close();
  }
  EXPECT_EQ(Contents(0, 512), Bytes(512));
}

TEST_F(HostileTest, AFloodOfPingsThatReadsNoAnswersIsDropped) {
  const auto client = server_.Connect();
  ASSERT_EQ(client->Open(Fresh()), Code::kOk);
  const Bytes ping = Frame(wire::FrameType::kPing, Encoded(wire::Ping{1}));
  Bytes many;
  for (int i = 0; i < 4096; ++i) many.insert(many.end(), ping.begin(), ping.end());
  int rounds = 0;
  while (client->Send(many) && rounds < 1000) ++rounds;
  EXPECT_LT(rounds, 1000);
}

TEST_F(HostileTest, AnErrorOfTheClientEndsItsConnection) {
  const auto client = server_.Connect();
  ASSERT_EQ(client->Open(Fresh()), Code::kOk);
  client->Send(Frame(wire::FrameType::kError, Encoded(wire::StatusMessage{Code::kProtocol, 0}),
                     Text("the server is at fault")));
  EXPECT_FALSE(client->Receive());
}

}  // namespace
}  // namespace cloudblk::proxy
