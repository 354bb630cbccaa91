// SPDX-License-Identifier: GPL-2.0-or-later
//
// A volume's ownership with peers, a clock and a storage that the test has in hand.
#ifndef CLOUDBLK_TESTS_UNIT_PROXY_OWNERSHIP_FIXTURE_H_
#define CLOUDBLK_TESTS_UNIT_PROXY_OWNERSHIP_FIXTURE_H_

#include <gmock/gmock.h>

#include <memory>
#include <string>
#include <vector>

#include "proxy/backends/backends.h"
#include "proxy/ownership.h"
#include "tests/support/cpp/manual_executor.h"
#include "tests/unit/proxy/manual_alarm_clock.h"

namespace cloudblk::proxy {

using Code = wire::StatusCode;

inline constexpr int64_t kLeaseNs = 10'000'000'000;

// A storage that keeps the owner's record for as long as the test likes, and may be locked by
// others.
struct Disk {
  std::string record;
  bool lasting = false;  // it outlives the host
  bool keeps_record = true;
  bool full = false;  // a record can be removed, but none be kept
  bool readable = true;
  bool locked_elsewhere = false;
  int locks = 0;
  int takeovers = 0;  // locks that were asked for by one
  int syncs = 0;
  bool loses_writes = false;  // a sync fails
  uint64_t size = 1 << 20;    // bytes
};

class FakeBackend final : public Backend {
 public:
  explicit FakeBackend(Disk* disk) : disk_(disk) {
    size_ = disk->size;
    uuid_.bytes.fill(7);
  }
  Result<std::unique_ptr<BackendQueue>> Attach(LoopContext&) override {
    return Status(ENOTSUP, "takes no operations");
  }
  Status AcquireExclusive(bool takeover) override {
    disk_->takeovers += takeover ? 1 : 0;
    if (disk_->locked_elsewhere) return Status(EBUSY, "locked elsewhere");
    ++disk_->locks;
    return Status::Ok();
  }
  void ReleaseExclusive() override { --disk_->locks; }
  Status StoreOwner(const std::string& text, bool lasting) override {
    if (!disk_->keeps_record) return Status(EOPNOTSUPP, "no attributes");
    if (disk_->full && !text.empty()) return Status(ENOSPC, "no room for attributes");
    disk_->record = text;
    disk_->lasting = lasting;
    return Status::Ok();
  }
  Status SyncAll() override {
    ++disk_->syncs;
    return disk_->loses_writes ? Status(EIO, "writes were lost") : Status::Ok();
  }
  Result<std::string> LoadOwner() override {
    if (!disk_->readable) return Status(EIO, "the attribute cannot be read");
    return disk_->record;
  }
  void LookAtSize() override { size_ = disk_->size; }
  void MakeReadOnly() { geometry_.read_only = true; }

 private:
  Disk* const disk_;
};

class FakePeer final : public Peer {
 public:
  void Stop(const std::string& why, bool is_revoked) override {
    ++stops;
    stop_reason = why;
    revoked = is_revoked ? why : std::string();
  }
  void Answer(const OwnershipAnswer& answer) override { answers.push_back(answer); }
  void Probe() override { ++probes; }
  using Peer::NoteAsked;
  using Peer::NoteHeard;

  // The status of its only answer so far; BAD_FEATURE if there is none.
  Code status() const { return answers.size() == 1 ? answers[0].status : Code::kBadFeature; }
  bool waiting() const { return answers.empty(); }

  int stops = 0;
  int probes = 0;
  std::string stop_reason;
  std::string revoked;
  std::vector<OwnershipAnswer> answers;
};

class OwnershipTest : public ::testing::Test {
 protected:
  OwnershipTest() { Restart(); }

  // The proxy dies and comes back: only what the storage keeps is left.
  void Restart() {
    disk_.locks = 0;
    blocking_.Clear();
    backend_ = std::make_unique<FakeBackend>(&disk_);
    ownership_ = std::make_unique<Ownership>(
        "disk", backend_.get(), kLeaseNs, [this] { return now_; }, &alarm_, &blocking_);
    ownership_->Restore();
  }

  static Uuid Id(uint8_t number) {
    Uuid uuid;
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
  static OpenRequest WithToken(uint8_t token, OpenRequest request) {
    request.open.token = Id(token);
    return request;
  }
  static OpenRequest ClaimedBy(uint8_t claimer, OpenRequest request) {
    request.open.claimer = Id(claimer);
    return request;
  }
  // Of one of the session's two connections.
  static OpenRequest OneOfTwo(uint16_t channel, OpenRequest request) {
    request.open.channel_count = 2;
    request.open.channel = channel;
    return request;
  }
  void Open(FakePeer* peer, const OpenRequest& request) {
    ownership_->Open(peer, request);
    Store();
  }
  void Release(FakePeer* peer, const wire::TokenMessage& message) {
    ownership_->Release(peer, message);
    Store();
  }
  void Claim(FakePeer* peer, const wire::TokenMessage& message) {
    ownership_->Claim(peer, message);
    Store();
  }
  void End(FakePeer* peer) {
    ownership_->End(peer);
    Store();
  }
  Code OpenNow(FakePeer* peer, const OpenRequest& request) {
    Open(peer, request);
    return peer->status();
  }
  // BAD_FEATURE: not answered.
  Code Hold() {
    Code held = Code::kBadFeature;
    ownership_->Hold([&held](const OwnershipAnswer& answer) { held = answer.status; });
    Store();
    return held;
  }
  // Time goes by, and what is due is done.
  void Pass(int64_t ns) {
    now_ += ns;
    alarm_.Ring(now_);
    Store();
  }
  void Unhold() {
    ownership_->Unhold();
    Store();
  }
  void Gone(FakePeer* peer) {
    ownership_->Gone(peer);
    Store();
  }
  // Runs what blocks, unless the storage hangs.
  void Store() {
    while (!hangs_ && blocking_.Step()) {
    }
  }
  // The status of a peer's last answer: where it opened first, that of what it did then.
  static Code Last(const FakePeer& peer) { return peer.answers.back().status; }

  static constexpr uint32_t kActive = wire::OpenFlag::kActive;
  static constexpr uint32_t kShare = wire::OpenFlag::kActive | wire::OpenFlag::kShareRw;
  static constexpr uint32_t kReader = wire::OpenFlag::kActive | wire::OpenFlag::kReadOnly;
  static constexpr uint32_t kResume = wire::OpenFlag::kActive | wire::OpenFlag::kResume;
  static constexpr uint32_t kTakeover = wire::OpenFlag::kActive | wire::OpenFlag::kTakeover;
  static constexpr uint32_t kEndReservation =
      wire::OpenFlag::kActive | wire::OpenFlag::kEndReservation;
  static constexpr uint32_t kObserve = 0;

  int64_t now_ = 1'000'000'000;
  Disk disk_;
  bool hangs_ = false;
  cloudblk::testing::ManualExecutor blocking_;
  ManualAlarmClock alarm_;
  std::unique_ptr<FakeBackend> backend_;
  std::unique_ptr<Ownership> ownership_;
  FakePeer a_, b_, c_, d_;
};

}  // namespace cloudblk::proxy

#endif  // CLOUDBLK_TESTS_UNIT_PROXY_OWNERSHIP_FIXTURE_H_
