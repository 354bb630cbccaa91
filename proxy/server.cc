// SPDX-License-Identifier: GPL-2.0-or-later
#include "proxy/server.h"

#include <spdlog/spdlog.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <future>
#include <iterator>
#include <system_error>
#include <thread>
#include <utility>

#include "base/clock.h"
#include "base/uuid.h"

namespace cloudblk::proxy {
namespace {

constexpr uint64_t kReservedDescriptors = 16;
constexpr uint64_t kDescriptorsOfALoop = 8;
// What a predecessor that is dying may take, and a bit.
constexpr std::chrono::milliseconds kOpenPatience{5000};

uint64_t FreeDescriptors() {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return uint64_t{kMostConnections} * 2;
  std::error_code none;
  const std::filesystem::directory_iterator open("/proc/self/fd", none);
  const auto used = static_cast<uint64_t>(std::distance(begin(open), end(open)));
  return limit.rlim_cur > used ? limit.rlim_cur - used : 0;
}

}  // namespace

Status Server::Create(const Options& options, std::unique_ptr<Server>* server) {
  server->reset(new Server);
  for (const auto step : {&Server::SetTls, &Server::CheckListeners, &Server::OpenVolumes,
                          &Server::SetLimits, &Server::MakeLoops, &Server::MakeListeners}) {
    const Status status = (server->get()->*step)(options);
    if (!status.ok()) return status;
  }
  return Status::Ok();
}

Server::~Server() {
  listeners_.clear();
  loops_.clear();
}

Status Server::SetTls(const Options& options) {
  if (options.tls.dir.empty()) return Status::Ok();
  TlsSettings settings = options.tls;
  const Result<TlsSettings::Kind> kind =
      options.tls_kind.has_value() ? *options.tls_kind : KindOfTlsFolder(settings.dir);
  if (!kind.ok()) return kind.status();
  settings.kind = kind.value();
  auto loaded = TlsCredentials::Load(settings);
  if (!loaded.ok()) return loaded.status();
  const std::lock_guard lock(tls_mutex_);
  tls_ = std::move(*loaded);
  return Status::Ok();
}

// Nobody opens a disk to a whole network without knowing it.
Status Server::CheckListeners(const Options& options) {
  if (options.insecure) return Status::Ok();
  for (const Endpoint& endpoint : options.listen) {
    if (endpoint.tls) continue;
    const Result<std::vector<SocketAddress>> addresses = Resolve(endpoint);
    if (!addresses.ok()) return addresses.status();
    if (std::ranges::all_of(addresses.value(), &SocketAddress::IsLocal)) continue;
    Endpoint secure = endpoint;
    secure.tls = true;
    return Status(EPERM, endpoint.ToString() +
                             " would serve other hosts in clear text; use TLS (--listen " +
                             secure.ToString() +
                             " --tls-dir DIR), or say --insecure where the network is trusted");
  }
  return Status::Ok();
}

Status Server::OpenVolumes(const Options& options) {
  Status opened = opener_.Open(options, kOpenPatience);
  if (!opened.ok()) return opened;
  info_.volumes = &volumes_;
  info_.uuid = RandomUuid();
  access_.Replace(std::make_shared<AccessRules>(options.access));
  info_.access = &access_;
  return Status::Ok();
}

Status Server::SetLimits(const Options& options) {
  Limits::Settings settings;
  settings.max_connections = options.max_connections;
  settings.max_memory = options.max_memory;
  settings.loops = options.threads;
  // A connection that is accepted has to find a descriptor, and so has what the volumes open now
  // and then.
  const uint64_t room = FreeDescriptors();
  const uint64_t reserve = kReservedDescriptors + uint64_t{options.threads} * kDescriptorsOfALoop;
  const uint64_t most = room > reserve ? (room - reserve) * 4 / 5 : 0;
  if (most < settings.max_connections) {
    if (most == 0) return Status(EMFILE, "too few open files are allowed; raise ulimit -n");
    spdlog::warn(
        "open files are limited (ulimit -n): {} connections may have a volume open, not {}", most,
        settings.max_connections);
    settings.max_connections = static_cast<uint32_t>(most);
  }
  limits_ = std::make_unique<Limits>(settings);
  info_.limits = limits_.get();
  return Status::Ok();
}

Status Server::MakeLoops(const Options& options) {
  for (uint32_t i = 0; i < options.threads; ++i) {
    Result<std::unique_ptr<LoopThread>> loop = LoopThread::Create(info_);
    if (!loop.ok()) return loop.status();
    loops_.push_back(std::move(*loop));
    const Status attached = loops_.back()->host().Attach();
    if (!attached.ok()) return attached;
  }
  return Status::Ok();
}

Status Server::MakeListeners(const Options& options) {
  for (const Endpoint& endpoint : options.listen) {
    const Status status = Listen(endpoint, false);
    if (!status.ok()) return status;
  }
  for (const Endpoint& endpoint : options.admin) {
    // Its file is its owner's alone from the first moment.
    const mode_t before = umask(0177);
    const Status status = Listen(endpoint, true);
    umask(before);
    if (!status.ok()) return status;
  }
  return Status::Ok();
}

Status Server::Listen(const Endpoint& endpoint, bool is_admin) {
  Result<std::unique_ptr<Listener>> listener = Listener::Create(
      endpoint, &loops_.front()->loop(),
      [this, is_admin, tls = endpoint.tls](UniqueFd fd, ClientIdentity client) {
        client.is_admin = is_admin;
        HandOut(std::move(fd), std::move(client), tls);
      },
      [this] { MakeRoom(); });
  if (!listener.ok()) return listener.status();
  listeners_.push_back(std::move(*listener));
  return Status::Ok();
}

void Server::SetAccess(std::vector<AccessRule> rules) {
  access_.Replace(std::make_shared<AccessRules>(std::move(rules)));
  for (const auto& loop : loops_) loop->PostCheckRights();
}

void Server::HandOut(UniqueFd fd, ClientIdentity client, bool tls) {
  std::shared_ptr<const TlsCredentials> credentials;
  if (tls) {
    const std::lock_guard lock(tls_mutex_);
    credentials = tls_;
  }
  LoopThread& loop = *loops_[next_loop_];
  next_loop_ = (next_loop_ + 1) % loops_.size();
  loop.PostAdopt(std::move(fd), std::move(client), std::move(credentials));
}

void Server::MakeRoom() {
  for (const auto& loop : loops_) loop->PostMakeRoom();
}

void Server::Start() {
  for (const auto& listener : listeners_) listener->Start();
  for (const auto& loop : loops_) loop->Start();
}

std::vector<std::string> Server::Addresses() const {
  std::vector<std::string> addresses;
  addresses.reserve(listeners_.size());
  for (const auto& listener : listeners_) addresses.push_back(listener->endpoint().ToString());
  return addresses;
}

bool Server::Shutdown(std::chrono::milliseconds patience) {
  const auto deadline = std::chrono::steady_clock::now() + patience;
  // Waits for the first loop, so that a connection that was accepted before is handed out before.
  std::promise<void> stopped;
  loops_.front()->Post([this, &stopped] {
    for (const auto& listener : listeners_) listener->Close();
    stopped.set_value();
  });
  stopped.get_future().wait();
  for (const auto& loop : loops_) loop->PostGoAway();
  for (const auto& [name, slot] : volumes_) {
    if (Volume* volume = slot.get()) volume->ownership.Leave();
  }
  const auto connected = [](const auto& loop) { return loop->connections() != 0; };
  // An executor may still work for a client that has gone, and the volume's destructor would wait.
  const auto busy = [](const auto& entry) {
    const Volume* volume = entry.second.get();
    return volume != nullptr && !volume->idle();
  };
  while (std::ranges::any_of(loops_, connected) || std::ranges::any_of(volumes_, busy)) {
    if (std::chrono::steady_clock::now() >= deadline) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  for (const auto& loop : loops_) loop->Stop();
  return true;
}

}  // namespace cloudblk::proxy
