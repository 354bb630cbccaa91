// SPDX-License-Identifier: GPL-2.0-or-later
//
// cloudblk.h over the engine.
#include <unistd.h>

#include <algorithm>
#include <cassert>
#include <cerrno>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/random.h"
#include "base/text.h"
#include "block/host_loop.h"
#include "block/include/cloudblk.h"
#include "block/session.h"

struct CloudblkChannel {
  cloudblk::Channel* channel;
  std::unique_ptr<cloudblk::HostLoop> loop;
};

struct CloudblkSession {
  std::unique_ptr<cloudblk::Session> session;
  std::vector<CloudblkChannel> channels;
};

namespace cloudblk {
namespace {

// Bytes, in any protocol of ours.
constexpr size_t kMaxClientName = 255;
constexpr uint32_t kDefaultOpenTimeoutMs = 30'000;
constexpr uint32_t kDefaultAnswerTimeoutMs = 8'000;

std::string ClientName(const char* given) {
  std::string name = given != nullptr ? given : "";
  if (name.empty()) {
    char host[256] = "";
    if (gethostname(host, sizeof(host) - 1) != 0) std::strcpy(host, "unknown host");
    name = std::string(host) + " pid " + std::to_string(getpid());
  }
  name.resize(std::min<size_t>(name.size(), kMaxClientName));
  return name;
}

Status Check(const CloudblkOptions& options) {
  if (options.abi_version != CLOUDBLK_ABI_VERSION || options.size < sizeof(CloudblkOptions)) {
    return Status(EINVAL, "the program was built for another version of libcloudblk (" +
                              std::to_string(options.abi_version) + ", this is " +
                              std::to_string(CLOUDBLK_ABI_VERSION) + "); build it anew");
  }
  if (options.server == nullptr) return Status(EINVAL, "no server given; set server=URI");
  if (options.channels == 0) return Status(EINVAL, "0 channels asked for; ask for at least 1");
  const std::string name = ClientName(options.client_name);
  if (!IsText(name)) {
    return Status(EINVAL, "the client name is not UTF-8 of at most 255 bytes; choose another");
  }
  return Status::Ok();
}

std::string TextOr(const char* text, const char* otherwise) {
  return text != nullptr ? text : otherwise;
}

TlsSettings SettingsOf(const CloudblkTls& tls) {
  TlsSettings settings;
  settings.kind = tls.psk ? TlsSettings::Kind::kPsk : TlsSettings::Kind::kX509;
  settings.verify_peer = tls.verify_peer;
  settings.dir = TextOr(tls.dir, "");
  settings.username = TextOr(tls.username, "qemu");
  settings.priority = TextOr(tls.priority, "");
  return settings;
}

Result<std::unique_ptr<Session>> Open(const CloudblkOptions& options) {
  const Status status = Check(options);
  if (!status.ok()) return status;
  SessionConfig config;
  config.uuid = RandomUuid();
  config.jitter_seed = Random64();
  config.client_name = ClientName(options.client_name);
  config.channels = options.channels;
  config.observe = options.observe;
  config.read_only = options.read_only;
  config.share_rw = options.share_rw;
  config.takeover = options.takeover;
  config.end_reservation = options.end_reservation;
  config.payload_crc = options.payload_crc;
  const uint32_t answer_ms =
      options.answer_timeout_ms != 0 ? options.answer_timeout_ms : kDefaultAnswerTimeoutMs;
  const uint32_t open_ms =
      options.open_timeout_ms != 0 ? options.open_timeout_ms : kDefaultOpenTimeoutMs;
  config.answer_timeout_ns = answer_ms * kNsPerMs;
  config.log = options.log;
  if (options.tls != nullptr) {
    config.tls = SettingsOf(*options.tls);
    config.tls_hostname = TextOr(options.tls->hostname, "");
  }
  config.event = options.event;
  config.event_opaque = options.event_opaque;
  return Session::Open(options.server, std::move(config), open_ms * kNsPerMs);
}

int Report(const Status& status, char* error, size_t error_size) {
  if (status.ok()) return 0;
  if (error_size > 0) {
    // A server's text may be in it.
    const std::string text = Printable(status.message());
    error[text.copy(error, error_size - 1)] = '\0';
  }
  return -status.error();
}

}  // namespace
}  // namespace cloudblk

extern "C" {

int cloudblk_session_open(const CloudblkOptions* options, CloudblkSession** session, char* error,
                          size_t error_size) noexcept {
  cloudblk::Result<std::unique_ptr<cloudblk::Session>> opened = cloudblk::Open(*options);
  if (!opened.ok()) return cloudblk::Report(opened.status(), error, error_size);
  auto* result = new CloudblkSession{std::move(*opened), {}};
  for (size_t i = 0; i < result->session->channels(); ++i) {
    result->channels.push_back({result->session->channel(i), nullptr});
  }
  *session = result;
  return 0;
}

void cloudblk_session_info(CloudblkSession* session, CloudblkInfo* info) noexcept {
  const cloudblk::SessionState& state = session->session->state();
  const cloudblk::VolumeInfo& volume = state.volume();
  CloudblkInfo full{};
  full.size = info->size;
  full.logical_block_size = volume.logical_block_size;
  full.size_bytes = state.size();
  full.physical_block_size = volume.physical_block_size;
  full.optimal_io_size = volume.optimal_io_size;
  full.discard_granularity = volume.discard_granularity;
  full.max_ranges = volume.max_ranges;
  full.max_discard_bytes = volume.max_discard_length;
  full.max_write_zeroes_bytes = volume.max_write_zeroes_length;
  full.read_only = state.read_only();
  full.write_cache = state.write_cache();
  full.rotational = volume.rotational;
  full.lost = state.revoked();
  std::ranges::copy(volume.uuid.bytes, full.volume_uuid);
  std::ranges::copy(state.UuidForOthers().bytes, full.session_uuid);
  full.generation = state.generation();
  full.epoch = state.epoch();
  const cloudblk::Capabilities& can = state.promises();
  full.flush = can.flush;
  full.several_channels = can.several_channels;
  full.fences = can.fences;
  full.block_status = can.block_status;
  full.tells_losses = full.moves = can.generation;
  full.protocol[state.config().protocol.copy(full.protocol, sizeof(full.protocol) - 1)] = '\0';
  std::memcpy(info, &full, std::min<size_t>(info->size, sizeof(full)));
}

void cloudblk_session_status(CloudblkSession* session, char* text, size_t size) noexcept {
  const cloudblk::SessionState& state = session->session->state();
  const std::string status =
      state.revoked() ? "lost"
                      : cloudblk::Printable(state.outage().Describe(cloudblk::MonotonicNs()));
  if (size > 0) text[status.copy(text, size - 1)] = '\0';
}

int cloudblk_session_release(CloudblkSession* session, uint32_t timeout_ms, char* error,
                             size_t error_size) noexcept {
  return cloudblk::Report(session->session->Release(timeout_ms * cloudblk::kNsPerMs), error,
                          error_size);
}

void cloudblk_session_release_all(CloudblkRelease* releases, uint32_t count,
                                  uint32_t timeout_ms) noexcept {
  std::vector<cloudblk::Session*> sessions;
  sessions.reserve(count);
  for (uint32_t i = 0; i < count; ++i) sessions.push_back(releases[i].session->session.get());
  const std::vector<cloudblk::Status> results =
      cloudblk::Session::Release(sessions, timeout_ms * cloudblk::kNsPerMs);
  for (uint32_t i = 0; i < count; ++i) {
    releases[i].result = cloudblk::Report(results[i], releases[i].error, sizeof(releases[i].error));
  }
}

void cloudblk_session_export(CloudblkSession* session, CloudblkIdentity* identity) noexcept {
  CloudblkIdentity full{};
  full.size = identity->size;
  session->session->Export(&full);
  std::memcpy(identity, &full, std::min<size_t>(identity->size, sizeof(full)));
}

int cloudblk_session_adopt(CloudblkSession* session, const CloudblkIdentity* identity, char* error,
                           size_t error_size) noexcept {
  if (identity->size < sizeof(CloudblkIdentity)) {
    return cloudblk::Report(
        cloudblk::Status(EINVAL, "the identity is another version's; build the program anew"),
        error, error_size);
  }
  return cloudblk::Report(session->session->Adopt(*identity), error, error_size);
}

int cloudblk_session_claim(CloudblkSession* session, char* error, size_t error_size) noexcept {
  return cloudblk::Report(session->session->Claim(), error, error_size);
}

void cloudblk_session_reopen(CloudblkSession* session) noexcept { session->session->Reopen(); }

CloudblkChannel* cloudblk_session_channel(CloudblkSession* session, uint32_t index) noexcept {
  assert(index < session->channels.size());
  return &session->channels[index];
}

int cloudblk_session_resize(CloudblkSession* session, uint64_t size, bool force,
                            uint32_t timeout_ms, char* error, size_t error_size) noexcept {
  return cloudblk::Report(session->session->Resize(size, force, timeout_ms * cloudblk::kNsPerMs),
                          error, error_size);
}

void cloudblk_session_close(CloudblkSession* session, uint32_t timeout_ms) noexcept {
  session->session->Close(timeout_ms * cloudblk::kNsPerMs);
  delete session;
}

int cloudblk_channel_attach(CloudblkChannel* channel, const CloudblkLoopOps* ops, void* loop,
                            CloudblkCompleteFn* complete, void* opaque) noexcept {
  if (ops->abi_version != CLOUDBLK_ABI_VERSION || ops->size < sizeof(CloudblkLoopOps) ||
      complete == nullptr || channel->loop != nullptr) {
    return -EINVAL;
  }
  channel->loop = std::make_unique<cloudblk::HostLoop>(ops, loop);
  channel->channel->Attach({channel->loop.get(), complete, opaque, ops->log});
  return 0;
}

void cloudblk_channel_detach(CloudblkChannel* channel) noexcept {
  channel->channel->Detach();
  channel->loop.reset();
}

int cloudblk_channel_submit(CloudblkChannel* channel, const CloudblkRequest* request) noexcept {
  return channel->channel->Submit(*request);
}

void cloudblk_channel_kick(CloudblkChannel* channel) noexcept { channel->channel->Kick(); }

uint32_t cloudblk_channel_in_flight(CloudblkChannel* channel) noexcept {
  return channel->channel->in_flight();
}

void cloudblk_channel_revoke(CloudblkChannel* channel) noexcept { channel->channel->Revoke(); }

void cloudblk_channel_set_request_timeout(CloudblkChannel* channel, uint32_t seconds) noexcept {
  channel->channel->SetRequestTimeout(seconds * cloudblk::kNsPerS);
}

void cloudblk_channel_stats(CloudblkChannel* channel, CloudblkStats* stats) noexcept {
  CloudblkStats full{};
  full.size = stats->size;
  channel->channel->FillStats(&full);
  std::memcpy(stats, &full, std::min<size_t>(stats->size, sizeof(full)));
}

}  // extern "C"
