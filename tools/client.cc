// SPDX-License-Identifier: GPL-2.0-or-later
#include "tools/client.h"

#include <poll.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "block/epoll_ops.h"
#include "tools/interrupt.h"

namespace cloudblk {
namespace {

constexpr uint32_t kCloseTimeoutMs = 5000;
// The server first waits for the requests that are at its storage.
constexpr uint32_t kResizeTimeoutMs = 60'000;

struct OneResult final : Waiter {
  void OnDone(int r) override {
    result = r;
    done = true;
  }
  int result = 0;
  bool done = false;
};

// What the session that observes has said, the one that is active says again.
void LogOnce(CloudblkLogLevel level, const char* message) {
  static std::string last;
  if (std::exchange(last, message) != message) EpollLoopOps()->log(level, message);
}

}  // namespace

std::string DescribeErrno(int error) {
  if (error == ERANGE) return "beyond the end of the volume, which has become smaller";
  return strerror(error);
}

Client::Client(std::unique_ptr<EpollLoop> loop, const ClientOptions& options)
    : loop_(std::move(loop)), options_(options) {}

Result<std::unique_ptr<Client>> Client::Open(const ClientOptions& options) {
  auto loop = EpollLoop::Create();
  if (!loop.ok()) return loop.status();
  std::unique_ptr<Client> client(new Client(std::move(*loop), options));
  Status opened = client->OpenSession(true);
  if (!opened.ok()) return opened;
  return client;
}

Status Client::Activate() {
  CloseSession();
  Status opened = OpenSession(false);
  if (!opened.ok()) return opened;
  auto interrupt = CatchInterrupt();
  if (!interrupt.ok()) return interrupt.status();
  interrupt_ = std::move(*interrupt);
  loop_->Watch(interrupt_.get(), true, false, this);
  return Status::Ok();
}

Status Client::OpenSession(bool observe) {
  CloudblkOptions open{};
  open.size = sizeof(open);
  open.abi_version = CLOUDBLK_ABI_VERSION;
  open.server = options_.server.c_str();
  open.channels = 1;
  open.observe = observe;
  open.read_only = options_.read_only;
  open.share_rw = options_.share_rw;
  open.takeover = options_.takeover;
  open.end_reservation = options_.end_reservation;
  open.payload_crc = options_.payload_crc;
  open.open_timeout_ms = options_.open_timeout_ms;
  open.answer_timeout_ms = options_.server_timeout * 1000;
  open.client_name = options_.client_name.c_str();
  open.log = LogOnce;
  CloudblkTls tls{};
  if (!options_.tls.dir.empty()) {
    const Result<CloudblkTls> found = options_.tls.ForEngine();
    if (!found.ok()) return found.status();
    tls = found.value();
    open.tls = &tls;
  }
  char error[512];
  const int result = cloudblk_session_open(&open, &session_, error, sizeof(error));
  if (result < 0) return Status(-result, error);
  channel_ = cloudblk_session_channel(session_, 0);
  return Attach();
}

Status Client::Attach() {
  const int result =
      cloudblk_channel_attach(channel_, EpollLoopOps(), loop_.get(), OnComplete, nullptr);
  return result < 0 ? Status(-result, "cannot attach to the loop") : Status::Ok();
}

Client::~Client() {
  loop_->Unwatch(interrupt_.get());
  CloseSession();
}

void Client::CloseSession() {
  if (session_ == nullptr) return;
  if (cloudblk_channel_in_flight(channel_) > 0) cloudblk_channel_revoke(channel_);
  cloudblk_channel_detach(channel_);
  cloudblk_session_close(std::exchange(session_, nullptr), kCloseTimeoutMs);
}

void Client::OnComplete(void*, const CloudblkCompletion* done, uint32_t count) {
  for (uint32_t i = 0; i < count; ++i) static_cast<Waiter*>(done[i].opaque)->OnDone(done[i].result);
}

CloudblkInfo Client::info() const {
  CloudblkInfo info{};
  info.size = sizeof(info);
  cloudblk_session_info(session_, &info);
  return info;
}

CloudblkStats Client::stats() const {
  CloudblkStats stats{};
  stats.size = sizeof(stats);
  cloudblk_channel_stats(channel_, &stats);
  return stats;
}

void Client::OnReadable() {
  loop_->Unwatch(interrupt_.get());
  cloudblk_channel_revoke(channel_);
}

bool Client::AwaitFile(int fd, bool output) {
  struct Ready final : FdHandler {
    void OnReadable() override { is = true; }
    void OnWritable() override { is = true; }
    bool is = false;
  } ready;
  // A regular file always is, and epoll knows no such.
  pollfd now{fd, static_cast<short>(output ? POLLOUT : POLLIN), 0};
  if (poll(&now, 1, 0) == 0) {
    loop_->Watch(fd, !output, output, &ready);
    while (!ready.is && InterruptSignal() == 0) Turn();
    loop_->Unwatch(fd);
  }
  return InterruptSignal() == 0;
}

int Client::Submit(const CloudblkRequest& request) {
  if (InterruptSignal() != 0) return -ECANCELED;
  return cloudblk_channel_submit(channel_, &request);
}

int Client::Read(uint64_t offset, std::span<uint8_t> data, Waiter* waiter) {
  const iovec iov{data.data(), data.size()};
  CloudblkRequest request{};
  request.operation = CLOUDBLK_OP_READ;
  request.offset = offset;
  request.iov = &iov;
  request.iov_count = 1;
  request.opaque = waiter;
  return Submit(request);
}

int Client::Write(uint64_t offset, std::span<const uint8_t> data, Waiter* waiter) {
  const iovec iov{const_cast<uint8_t*>(data.data()), data.size()};
  CloudblkRequest request{};
  request.operation = CLOUDBLK_OP_WRITE;
  request.offset = offset;
  request.iov = &iov;
  request.iov_count = 1;
  request.opaque = waiter;
  return Submit(request);
}

int Client::WriteZeroes(const CloudblkRange* range, Waiter* waiter) {
  CloudblkRequest request{};
  request.operation = CLOUDBLK_OP_WRITE_ZEROES;
  request.range_count = 1;
  request.ranges = range;
  request.opaque = waiter;
  return Submit(request);
}

void Client::Kick() { cloudblk_channel_kick(channel_); }

int Client::Await(CloudblkRequest request) {
  OneResult waiter;
  request.opaque = static_cast<Waiter*>(&waiter);
  const int accepted = Submit(request);
  if (accepted < 0) return accepted;
  Kick();
  while (!waiter.done) Turn();
  return waiter.result;
}

int Client::Flush() {
  CloudblkRequest request{};
  request.operation = CLOUDBLK_OP_FLUSH;
  return Await(request);
}

Status Client::Resize(uint64_t size, bool force) {
  char error[512];
  cloudblk_channel_detach(channel_);
  const int result =
      cloudblk_session_resize(session_, size, force, kResizeTimeoutMs, error, sizeof(error));
  const Status attached = Attach();
  return result < 0 ? Status(-result, error) : attached;
}

int Client::Discard(uint64_t offset, uint64_t length) {
  const CloudblkRange range{offset, length, 0};
  CloudblkRequest request{};
  request.operation = CLOUDBLK_OP_DISCARD;
  request.range_count = 1;
  request.ranges = &range;
  return Await(request);
}

int Client::BlockStatus(uint64_t offset, uint64_t length, std::span<CloudblkExtent> extents) {
  const CloudblkRange range{offset, length, 0};
  const iovec iov{extents.data(), extents.size_bytes()};
  CloudblkRequest request{};
  request.operation = CLOUDBLK_OP_BLOCK_STATUS;
  request.iov = &iov;
  request.iov_count = 1;
  request.range_count = 1;
  request.ranges = &range;
  return Await(request);
}

}  // namespace cloudblk
