// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/session.h"

#include <algorithm>
#include <cerrno>
#include <utility>

#include "base/clock.h"
#include "base/epoll_loop.h"
#include "base/text.h"
#include "base/tls_connector.h"
#include "block/native_codec.h"
#include "block/nbd_codec.h"
#include "block/outage.h"
#include "block/session_steps.h"
#include "block/uri.h"

namespace cloudblk {
namespace {

// After that long the kernel gives up a connection without requests whose peer is gone. While
// requests wait, Link::CheckLiveness is sooner.
constexpr int64_t kDeadPeerNs = 30 * kNsPerS;
// Who waits for a volume to be opened wonders after that long.
constexpr int64_t kTellWaiting = kNsPerS;

Result<std::vector<SocketAddress>> ResolveAll(const std::vector<Endpoint>& endpoints) {
  std::vector<SocketAddress> all;
  Status failed;
  for (const Endpoint& endpoint : endpoints) {
    Result<std::vector<SocketAddress>> found = Resolve(endpoint);
    if (found.ok()) {
      all.insert(all.end(), found->begin(), found->end());
    } else {
      failed = found.status();
    }
  }
  // One that cannot be resolved does no harm while there are others.
  if (all.empty()) return failed;
  return all;
}

// Finds servers again that moved. Empty: none of them has a name.
SocketConnector::Lookup AnotherLookup(const std::vector<Endpoint>& endpoints) {
  if (!std::ranges::any_of(endpoints, HasName)) return {};
  return [endpoints] { return ResolveAll(endpoints); };
}

// Tells what a step waits for, when that takes long and when it changes.
class WaitingLines {
 public:
  using Log = void (*)(CloudblkLogLevel level, const char* message);

  WaitingLines(Log log, int64_t timeout_ns) : log_(log), timeout_ns_(timeout_ns) {}

  // Once every kTellWaiting.
  void Tell(const SessionStep& step) {
    const std::string reason = step.WaitsFor();
    if (log_ == nullptr || reason.empty()) return;
    if (WithoutNumbers(reason) == told_) return;
    told_ = WithoutNumbers(reason);
    const std::string line =
        "waiting (" + std::to_string(timeout_ns_ / kNsPerMs) + " ms at most): " + reason;
    log_(CLOUDBLK_LOG_WARNING, Printable(line).c_str());
  }

 private:
  const Log log_;
  const int64_t timeout_ns_;
  std::string told_;
};

// Carries the step out on a loop of this thread, and waits for it at most timeout_ns.
Status Run(SessionStep* step, EpollLoop* loop, int64_t timeout_ns,
           WaitingLines::Log log = nullptr) {
  WaitingLines lines(log, timeout_ns);
  const int64_t deadline = loop->NowNs() + timeout_ns;
  int64_t tell = loop->NowNs() + kTellWaiting;
  step->Start({loop, nullptr, nullptr, nullptr});
  while (!step->done()) {
    const int64_t now = loop->NowNs();
    if (now >= deadline) {
      step->GiveUp(timeout_ns);
    } else if (now >= tell) {
      lines.Tell(*step);
      tell = now + kTellWaiting;
    } else {
      loop->RunOnce(std::min(deadline, tell) - now);
    }
  }
  step->Finish();
  return step->status();
}

Status Run(SessionStep* step, int64_t timeout_ns) {
  Result<std::unique_ptr<EpollLoop>> loop = EpollLoop::Create();
  if (!loop.ok()) return loop.status();
  return Run(step, loop->get(), timeout_ns);
}

// What NBD cannot do, and what it can do only if somebody answers for it.
Status CheckNbd(const ServerUri& uri, const SessionConfig& config) {
  const char* lacking = config.takeover          ? "takeover"
                        : config.share_rw        ? "share-rw"
                        : config.payload_crc     ? "payload-crc"
                        : config.end_reservation ? "the release of a reservation"
                                                 : nullptr;
  if (lacking != nullptr) {
    return Status(EINVAL, std::string("NBD has nothing for ") + lacking +
                              ": leave it out, or serve the volume by cloudblk-proxy");
  }
  if (uri.endpoints.size() > 1 && !config.read_only && !uri.nbd.unfenced_failover) {
    return Status(
        EINVAL,
        "several NBD servers and a disk that is written: nothing keeps the first one from "
        "writing what it still has when another one goes on; name one, open the disk read-only, or "
        "say ?failover=unfenced");
  }
  if (uri.endpoints.size() > 1 && config.channels > 1 && !config.read_only) {
    return Status(EINVAL,
                  "several NBD servers and several IOThreads: nobody promises that connections to "
                  "two servers see each other's writes; use one of either");
  }
  return Status::Ok();
}

// TLS over the connector's connections where it is asked for.
Result<std::unique_ptr<Connector>> Secure(const ServerUri& uri, const SessionConfig& config,
                                          std::unique_ptr<Connector> connector) {
  const std::string scheme = uri.protocol == Protocol::kNbd ? "nbd" : "cloudblk";
  if (!uri.tls && !config.tls.has_value()) return connector;
  if (!uri.tls) {
    return Status(EINVAL,
                  "there are TLS credentials, and the server URI asks for clear text; write " +
                      scheme + "s:// for TLS, or leave the credentials out");
  }
  if (!config.tls.has_value()) {
    return Status(EINVAL,
                  "a server URI with " + scheme +
                      "s:// needs TLS credentials (the device: tls-creds=, with the ID of a "
                      "tls-creds-x509 or tls-creds-psk object; the tools: --tls-dir; a "
                      "volume of the proxy: ?tls-dir=)");
  }
  const bool x509 = config.tls->kind == TlsSettings::Kind::kX509;
  const bool nameless = std::ranges::any_of(uri.endpoints, [](const Endpoint& endpoint) {
    return endpoint.kind == Endpoint::Kind::kUnix;
  });
  if (x509 && nameless && config.tls->verify_peer && config.tls_hostname.empty()) {
    return Status(EINVAL,
                  "a unix socket has no name that the server's certificate could be compared with; "
                  "give that by tls-hostname");
  }
  auto credentials = TlsCredentials::Load(*config.tls);
  if (!credentials.ok()) return credentials.status();
  // NBD begins without, and agrees on it.
  return std::unique_ptr<Connector>(
      std::make_unique<TlsConnector>(std::move(connector), std::move(*credentials),
                                     config.tls_hostname, uri.protocol == Protocol::kNbd));
}

Uuid UuidOf(const uint8_t (&bytes)[16]) {
  Uuid uuid;
  std::ranges::copy(bytes, uuid.bytes.begin());
  return uuid;
}

Status Lost() { return Status(EIO, "the volume was lost to another client"); }

Status CannotMove() {
  return Status(EOPNOTSUPP, "this server cannot hand a volume over from one client to another");
}

}  // namespace

Session::Session(SessionConfig config, std::unique_ptr<Connector> connector)
    : connector_(std::move(connector)), state_(std::move(config)) {
  for (uint32_t i = 0; i < state_.config().channels; ++i) {
    channels_.push_back(std::make_unique<Channel>(&state_, i, connector_.get()));
    all_.push_back(channels_.back().get());
  }
}

Session::~Session() = default;

Result<std::unique_ptr<Session>> Session::Open(std::string_view server, SessionConfig config,
                                               int64_t timeout_ns) {
  Result<ServerUri> uri = ParseServerUri(server);
  if (!uri.ok()) return uri.status();
  Result<std::unique_ptr<EpollLoop>> loop = EpollLoop::Create();
  if (!loop.ok()) return loop.status();
  // Before the time begins to run: what the name service takes is not taken from the servers.
  Result<std::vector<SocketAddress>> addresses = ResolveAll(uri->endpoints);
  if (!addresses.ok()) return addresses.status();

  // A server that is silent leaves the others their share.
  const int64_t share = timeout_ns / static_cast<int64_t>(addresses->size());
  config.open_answer_timeout_ns = share;
  config.volume = uri->volume;
  config.new_codec = NativeCodec::New;
  if (uri->protocol == Protocol::kNbd) {
    config.new_codec = NbdCodec::New;
    config.protocol = "NBD";
    config.server_program = "the NBD server";
    config.silence_hint =
        "; if it serves one client only and has one (qemu-nbd without --shared), it never will";
    config.accept_no_flush = uri->nbd.accept_no_flush;
    config.restart_loses = uri->nbd.loses_unflushed;
    config.unfenced_failover = uri->nbd.unfenced_failover;
    config.quarantine_ns = uri->nbd.quarantine_s * kNsPerS;
    const Status fit = CheckNbd(*uri, config);
    if (!fit.ok()) return fit;
  }
  SocketSettings settings;
  settings.dead_peer_ms =
      static_cast<uint32_t>(std::max(kDeadPeerNs, config.answer_timeout_ns) / kNsPerMs);
  Result<std::unique_ptr<Connector>> connector =
      Secure(*uri, config,
             std::make_unique<SocketConnector>(std::move(*addresses), settings,
                                               AnotherLookup(uri->endpoints)));
  if (!connector.ok()) return connector.status();
  std::unique_ptr<Session> session(new Session(std::move(config), std::move(*connector)));
  OpenStep step(&session->state_, session->all_);
  const Status status = Run(&step, loop->get(), timeout_ns, session->state_.config().log);
  if (!status.ok()) return status;
  const SessionState& state = session->state_;
  if (state.config().log != nullptr && !state.note().empty()) {
    const std::string line = state.config().NameForPeople() + ": " + state.note();
    state.config().log(CLOUDBLK_LOG_WARNING, Printable(line).c_str());
  }
  return session;
}

void Session::AbandonAll() {
  for (Channel* channel : all_) channel->Abandon();
}

Status Session::Resize(uint64_t size, bool force, int64_t timeout_ns) {
  if (state_.revoked()) return Lost();
  if (state_.released()) return Status(EPERM, "the session has given the volume up");
  if (!all_.front()->link().capabilities().resize) {
    return Status(EOPNOTSUPP, "this server cannot be asked for another size of the volume");
  }
  ResizeStep step(&state_, all_, size, force);
  return Run(&step, timeout_ns);
}

Status Session::MayRelease() {
  if (state_.revoked()) return Lost();
  if (state_.observe()) return Status(EPERM, "the session only observes the volume");
  if (!all_.front()->link().capabilities().move) return CannotMove();
  for (const Channel* channel : all_) {
    if (channel->in_flight() != 0) return Status(EBUSY, "requests are in flight");
  }
  if (state_.quarantine().HoldsAnything(MonotonicNs())) {
    return Status(
        EBUSY,
        "a connection was lost, and writes that it took along may still land: try again in "
        "some seconds");
  }
  return Status::Ok();
}

std::vector<Status> Session::Release(const std::vector<Session*>& sessions, int64_t timeout_ns) {
  Result<std::unique_ptr<EpollLoop>> loop = EpollLoop::Create();
  if (!loop.ok()) return std::vector<Status>(sessions.size(), loop.status());
  std::vector<Status> results;
  std::vector<std::unique_ptr<ReleaseStep>> steps;  // null: it may not
  for (Session* session : sessions) {
    results.push_back(session->MayRelease());
    steps.push_back(results.back().ok()
                        ? std::make_unique<ReleaseStep>(&session->state_, session->all_)
                        : nullptr);
    if (steps.back() != nullptr) steps.back()->Start({loop->get(), nullptr, nullptr, nullptr});
  }
  const int64_t deadline = (*loop)->NowNs() + timeout_ns;
  const auto done = [](const auto& step) { return step == nullptr || step->done(); };
  while (!std::ranges::all_of(steps, done)) {
    const int64_t left = deadline - (*loop)->NowNs();
    if (left <= 0) break;
    (*loop)->RunOnce(left);
  }
  for (size_t i = 0; i < steps.size(); ++i) {
    if (steps[i] == nullptr) continue;
    if (!steps[i]->done()) steps[i]->GiveUp(timeout_ns);
    steps[i]->Finish();
    results[i] = steps[i]->status();
  }
  return results;
}

Status Session::Release(int64_t timeout_ns) { return Release({this}, timeout_ns).front(); }

Status Session::Adopt(const CloudblkIdentity& identity) {
  if (!state_.observe()) return Status(EPERM, "the session does not observe");
  if (!all_.front()->link().capabilities().move) return CannotMove();
  if (!state_.promises().flush && !state_.read_only() && !state_.config().accept_no_flush) {
    return Status(ENOTSUP, "the server announces no FLUSH; say ?noflush=accept here too");
  }
  if (UuidOf(identity.volume_uuid) != state_.volume().uuid) {
    return Status(ESTALE, "the volume here is not the one that the source released; check server=");
  }
  AbandonAll();
  state_.Adopt(UuidOf(identity.session_uuid), identity.epoch, UuidOf(identity.token),
               identity.generation, identity.unflushed, identity.lost);
  return Status::Ok();
}

void Session::Export(CloudblkIdentity* identity) const {
  std::ranges::copy(state_.uuid().bytes, identity->session_uuid);
  std::ranges::copy(state_.volume().uuid.bytes, identity->volume_uuid);
  std::ranges::copy(state_.token().bytes, identity->token);
  identity->epoch = state_.epoch();
  identity->generation = state_.generation();
  identity->unflushed = state_.unflushed();
  identity->lost = state_.LostSince(state_.Now());
  // Another flush may have told of the loss after one that was given up had been submitted: that
  // one comes again at the destination, and has to fail too.
  for (const Channel* channel : all_) {
    if (channel->given_up_flush_fails()) identity->lost = true;
  }
}

Status Session::Claim() {
  if (state_.revoked() && state_.moved()) {
    return Status(ESTALE, "another client has continued the session");
  }
  if (state_.revoked()) return Lost();
  if (!state_.released()) {
    return state_.observe() ? Status(EPERM, "no migration stream brought the session")
                            : Status::Ok();
  }
  AbandonAll();
  state_.BeginClaim();
  for (Channel* channel : all_) channel->Start();
  return Status::Ok();
}

void Session::Reopen() {
  if (!state_.revoked()) return;
  state_.Renew();
  for (Channel* channel : all_) channel->Reopen();
}

void Session::Close(int64_t timeout_ns) {
  const bool idle = all_.front()->state() == Channel::State::kIdle;
  if (!state_.revoked() && !state_.released() && !idle) {
    CloseStep step(&state_, all_);
    // Whether it was told or not: without a word the lease ends it.
    static_cast<void>(Run(&step, timeout_ns));
  }
  // The server stopped the others' connections when it ended the session.
  AbandonAll();
}

}  // namespace cloudblk
