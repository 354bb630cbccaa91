// SPDX-License-Identifier: GPL-2.0-or-later
//
// RESIZE at the server (SPEC.md 14).
#include <gmock/gmock.h>

#include <atomic>
#include <thread>

#include "proxy/connection.h"
#include "tests/unit/proxy/test_server.h"

namespace cloudblk::proxy {
namespace {

using Code = wire::StatusCode;
using testing::HasSubstr;

constexpr uint32_t kObserve = 0;

Bytes ResizeFrame(uint64_t size, uint32_t flags = 0) {
  return Frame(wire::FrameType::kResize, Encoded(wire::Resize{size, flags}));
}

class ServerResizeTest : public testing::Test {
 protected:
  std::unique_ptr<RawClient> Opened(const wire::Open& open, std::string_view volume) {
    std::unique_ptr<RawClient> client = server_.Connect();
    EXPECT_EQ(client->Open(open, volume), Code::kOk) << client->text;
    return client;
  }
  // The answer to a RESIZE of this client; its text in text_.
  Code Answer(RawClient* client) {
    const std::optional<Received> reply = client->ReceiveOf(wire::FrameType::kResizeReply);
    text_ = reply ? reply->text() : "";
    return RawClient::StatusOf(reply);
  }
  Code Resize(RawClient* client, uint64_t size, uint32_t flags = 0) {
    EXPECT_TRUE(client->Send(ResizeFrame(size, flags)));
    return Answer(client);
  }
  // Returns when all connections of the volume were told to pause. They are once each loop has
  // served somebody new.
  void BeginResize(const std::string& volume, RawClient* client, uint64_t size,
                   uint32_t flags = 0) {
    class Member final : public GateMember {
     public:
      void Pause() override { paused = true; }
      void Resume() override {}
      void Resized(uint64_t) override {}
      std::atomic<bool> paused{false};
    } member;
    VolumeGate& gate = server_.volume(volume).gate;
    gate.Join(&member);
    ASSERT_TRUE(client->Send(ResizeFrame(size, flags)));
    while (!member.paused) std::this_thread::yield();
    gate.Leave(&member);
  }
  // The size in the next EVENT RESIZED.
  uint64_t Told(RawClient* client) {
    const std::optional<Received> frame = client->ReceiveOf(wire::FrameType::kEvent);
    wire::Event event;
    if (!frame || wire::Decode(frame->section, &event) != wire::DecodeError::kOk) return 0;
    return event.kind == wire::EventKind::kResized ? event.value : 0;
  }

  TempFolder folder_;
  std::string file_ = folder_ / "f.img";
  TestServer server_{{{"disk", "memory:?size=8M"},
                      {"file", "file://" + file_ + "?size=8M&create=on"},
                      {"blocks", "memory:?size=8M&logical-block-size=4096"}}};
  std::string text_;
};

TEST_F(ServerResizeTest, AnObserverResizesAndEverybodyIsTold) {
  for (const char* volume : {"disk", "file"}) {
    const auto holder = Opened(OpenOf(1), volume);
    const auto observer = Opened(OpenOf(2, kObserve), volume);
    const auto admin = Opened(OpenOf(3, kObserve), volume);
    EXPECT_EQ(holder->Do(WriteOf(1, 8 << 20, 512), Bytes(512)), Code::kOutOfRange);
    ASSERT_TRUE(admin->Send(ResizeFrame(16 << 20)));
    // Its event comes first.
    const auto first = admin->Receive();
    ASSERT_TRUE(first);
    EXPECT_EQ(first->header.type, wire::FrameType::kEvent);
    EXPECT_EQ(Answer(admin.get()), Code::kOk);
    EXPECT_EQ(Told(holder.get()), 16u << 20);
    EXPECT_EQ(Told(observer.get()), 16u << 20);
    const Bytes data = Pattern(4096, 1);
    EXPECT_EQ(holder->Do(WriteOf(2, (16 << 20) - 4096, 4096), data), Code::kOk);
    ASSERT_TRUE(holder->Send(RequestFrame({ReadOf(3, (16 << 20) - 4096, 4096)})));
    EXPECT_EQ(holder->ReplyTo(3).data, data);
    EXPECT_EQ(Opened(OpenOf(4, kObserve), volume)->info.size, 16u << 20);
  }
}

TEST_F(ServerResizeTest, ShrinkingNeedsForce) {
  const auto holder = Opened(OpenOf(1), "disk");
  const auto admin = Opened(OpenOf(2, kObserve), "disk");
  EXPECT_EQ(Resize(admin.get(), 4 << 20), Code::kInvalid);
  EXPECT_THAT(text_, HasSubstr("has 8388608 bytes"));
  EXPECT_THAT(text_, HasSubstr("force"));
  EXPECT_EQ(holder->Do(ReadOf(1, 4 << 20, 512)), Code::kOk);
  EXPECT_EQ(Resize(admin.get(), 4 << 20, wire::ResizeFlag::kForce), Code::kOk);
  EXPECT_EQ(Told(holder.get()), 4u << 20);
  EXPECT_EQ(holder->Do(ReadOf(2, 4 << 20, 512)), Code::kOutOfRange);
  EXPECT_EQ(holder->Do(ReadOf(3, (4 << 20) - 512, 512)), Code::kOk);
}

TEST_F(ServerResizeTest, SizesThatAreNoneAreRefused) {
  const auto admin = Opened(OpenOf(1, kObserve), "blocks");
  for (const uint64_t size : {uint64_t{0}, uint64_t{(16 << 20) + 512}}) {
    EXPECT_EQ(Resize(admin.get(), size, wire::ResizeFlag::kForce), Code::kInvalid);
    EXPECT_THAT(text_, HasSubstr("multiple of 4096"));
  }
  EXPECT_EQ(Resize(admin.get(), uint64_t{1} << 50), Code::kNotSupported);
  EXPECT_EQ(server_.volume("blocks").backend->size(), 8u << 20);
}

TEST_F(ServerResizeTest, AStorageThatAnotherServerHasIsLeftAlone) {
  Storage other("file://" + file_);
  ASSERT_TRUE(other.backend().AcquireExclusive(false).ok());
  const auto admin = Opened(OpenOf(1, kObserve), "file");
  EXPECT_EQ(Resize(admin.get(), 16 << 20), Code::kBusy);
  EXPECT_THAT(text_, HasSubstr("another process"));
  EXPECT_EQ(std::filesystem::file_size(file_), 8u << 20);
  other.backend().ReleaseExclusive();
  EXPECT_EQ(Resize(admin.get(), 16 << 20), Code::kOk);
  // Nobody is active: the lock is free again, once a thread has given it back.
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(10);
  bool is_free = false;
  while (!is_free && std::chrono::steady_clock::now() < deadline) {
    is_free = other.backend().AcquireExclusive(false).ok();
    if (!is_free) std::this_thread::yield();
  }
  EXPECT_TRUE(is_free);
}

// SPEC.md 14.5. The writer's loop is another one than the administrator's.
TEST_F(ServerResizeTest, WaitsForWhatIsAtTheStorageAndHoldsBackTheRest) {
  const auto holder = Opened(OpenOf(1), "gated");
  const auto admin = Opened(OpenOf(2, kObserve), "gated");
  const uint64_t end = holder->info.size;
  ASSERT_TRUE(holder->Send(RequestFrame({WriteOf(1, end - 512, 512)}, Bytes(512))));
  server_.gated->WaitUntilHeld(1);
  BeginResize("gated", admin.get(), end / 2, wire::ResizeFlag::kForce);
  for (uint8_t i = 0; i < 4; ++i) Opened(OpenOf(10 + i, kObserve), "disk");
  const Bytes later = RequestFrame({WriteOf(2, end - 512, 512), WriteOf(3, 0, 512)}, Bytes(1024));
  ASSERT_TRUE(holder->Send(later));
  for (uint8_t i = 0; i < 4; ++i) Opened(OpenOf(20 + i, kObserve), "disk");
  server_.gated->WaitUntilHeld(1);
  EXPECT_FALSE(admin->HasData());
  server_.gated->Let();
  EXPECT_EQ(Answer(admin.get()), Code::kOk);
  EXPECT_EQ(server_.gated->held_at_resize, 0u);
  EXPECT_EQ(holder->ReplyTo(1).reply.status, Code::kOk);
  EXPECT_EQ(holder->ReplyTo(2).reply.status, Code::kOutOfRange);
  server_.gated->WaitUntilHeld(1);
  server_.gated->Let();
  EXPECT_EQ(holder->ReplyTo(3).reply.status, Code::kOk);
}

// A frame whose second half comes while the connection is paused.
TEST_F(ServerResizeTest, AFrameThatIsHalfReceivedIsJudgedByTheNewSize) {
  const auto holder = Opened(OpenOf(1), "gated");
  const auto admin = Opened(OpenOf(2, kObserve), "gated");
  const uint64_t end = holder->info.size;
  const Bytes frame = RequestFrame({WriteOf(1, 0, 512), WriteOf(2, end - 512, 512)}, Bytes(1024));
  ASSERT_TRUE(holder->Send(std::span(frame).first(frame.size() - 512)));
  server_.gated->WaitUntilHeld(1);
  BeginResize("gated", admin.get(), end / 2, wire::ResizeFlag::kForce);
  for (uint8_t i = 0; i < 4; ++i) Opened(OpenOf(10 + i, kObserve), "disk");
  ASSERT_TRUE(holder->Send(std::span(frame).last(512)));
  server_.gated->Let();
  EXPECT_EQ(Answer(admin.get()), Code::kOk);
  EXPECT_EQ(holder->ReplyTo(1).reply.status, Code::kOk);
  EXPECT_EQ(holder->ReplyTo(2).reply.status, Code::kOutOfRange);
}

TEST_F(ServerResizeTest, ACutConnectionIsWaitedForToo) {
  auto holder = Opened(OpenOf(1), "gated");
  const auto admin = Opened(OpenOf(2, kObserve), "gated");
  ASSERT_TRUE(holder->Send(RequestFrame({WriteOf(1, 0, 512)}, Bytes(512))));
  server_.gated->WaitUntilHeld(1);
  holder->Close();
  BeginResize("gated", admin.get(), 2 << 20);
  for (uint8_t i = 0; i < 4; ++i) Opened(OpenOf(10 + i, kObserve), "disk");
  EXPECT_FALSE(admin->HasData());
  server_.gated->Let();
  EXPECT_EQ(Answer(admin.get()), Code::kOk);
  EXPECT_EQ(server_.gated->held_at_resize, 0u);
}

TEST_F(ServerResizeTest, WhoComesMeanwhileIsToldTheNewSize) {
  const auto holder = Opened(OpenOf(1), "gated");
  const auto admin = Opened(OpenOf(2, kObserve), "gated");
  ASSERT_TRUE(holder->Send(RequestFrame({WriteOf(1, 0, 512)}, Bytes(512))));
  server_.gated->WaitUntilHeld(1);
  BeginResize("gated", admin.get(), 2 << 20);
  for (uint8_t i = 0; i < 4; ++i) Opened(OpenOf(10 + i, kObserve), "disk");
  const auto late = Opened(OpenOf(3, kObserve), "gated");
  EXPECT_EQ(late->info.size, 1u << 20);
  server_.gated->Let();
  EXPECT_EQ(Told(late.get()), 2u << 20);
  EXPECT_EQ(Answer(admin.get()), Code::kOk);
}

TEST_F(ServerResizeTest, WhoComesMeanwhileIsHeldBackToo) {
  constexpr uint32_t kShared = wire::OpenFlag::kActive | wire::OpenFlag::kShareRw;
  const auto holder = Opened(OpenOf(1, kShared), "gated");
  const auto admin = Opened(OpenOf(2, kObserve), "gated");
  const uint64_t end = holder->info.size;
  ASSERT_TRUE(holder->Send(RequestFrame({WriteOf(1, 0, 512)}, Bytes(512))));
  server_.gated->WaitUntilHeld(1);
  BeginResize("gated", admin.get(), end / 2, wire::ResizeFlag::kForce);
  for (uint8_t i = 0; i < 4; ++i) Opened(OpenOf(10 + i, kObserve), "disk");
  const auto late = Opened(OpenOf(3, kShared), "gated");
  ASSERT_TRUE(late->Send(RequestFrame({WriteOf(1, end - 512, 512)}, Bytes(512))));
  for (uint8_t i = 0; i < 4; ++i) Opened(OpenOf(20 + i, kObserve), "disk");
  server_.gated->Let();
  EXPECT_EQ(Answer(admin.get()), Code::kOk);
  EXPECT_EQ(late->ReplyTo(1).reply.status, Code::kOutOfRange);
}

TEST_F(ServerResizeTest, ItGoesOnWithoutWhoAskedForIt) {
  const auto holder = Opened(OpenOf(1), "gated");
  auto admin = Opened(OpenOf(2, kObserve), "gated");
  ASSERT_TRUE(holder->Send(RequestFrame({WriteOf(1, 0, 512)}, Bytes(512))));
  server_.gated->WaitUntilHeld(1);
  BeginResize("gated", admin.get(), 2 << 20);
  for (uint8_t i = 0; i < 4; ++i) Opened(OpenOf(10 + i, kObserve), "disk");
  admin->Close();
  server_.gated->Let();
  EXPECT_EQ(Told(holder.get()), 2u << 20);
}

TEST_F(ServerResizeTest, OneAfterTheOther) {
  const auto first = Opened(OpenOf(1, kObserve), "disk");
  const auto second = Opened(OpenOf(2, kObserve), "disk");
  for (uint64_t i = 1; i <= 20; ++i) {
    ASSERT_TRUE(first->Send(ResizeFrame((8 + 2 * i) << 20, wire::ResizeFlag::kForce)));
    ASSERT_TRUE(second->Send(ResizeFrame((9 + 2 * i) << 20, wire::ResizeFlag::kForce)));
    EXPECT_EQ(Answer(first.get()), Code::kOk);
    EXPECT_EQ(Answer(second.get()), Code::kOk);
  }
}

TEST_F(ServerResizeTest, TwoAtATimeOnOneConnectionAreAViolation) {
  const auto holder = Opened(OpenOf(1), "gated");
  const auto admin = Opened(OpenOf(2, kObserve), "gated");
  ASSERT_TRUE(holder->Send(RequestFrame({WriteOf(1, 0, 512)}, Bytes(512))));
  server_.gated->WaitUntilHeld(1);
  ASSERT_TRUE(admin->Send(ResizeFrame(2 << 20) + ResizeFrame(3 << 20)));
  EXPECT_TRUE(admin->Ended());
  EXPECT_THAT(admin->text, HasSubstr("RESIZE while another"));
}

TEST_F(ServerResizeTest, AResumeWithTheOldSizeIsNotRefused) {
  auto holder = Opened(OpenOf(1), "file");
  const auto admin = Opened(OpenOf(2, kObserve), "file");
  holder->Close();
  EXPECT_EQ(Resize(admin.get(), 16 << 20), Code::kOk);
  wire::Open resume = OpenOf(1, wire::OpenFlag::kActive | wire::OpenFlag::kResume, 2);
  resume.volume = server_.volume("file").backend->uuid();
  EXPECT_EQ(Opened(resume, "file")->info.size, 16u << 20);
}

}  // namespace
}  // namespace cloudblk::proxy
