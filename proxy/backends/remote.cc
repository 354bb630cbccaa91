// SPDX-License-Identifier: GPL-2.0-or-later
#include "proxy/backends/remote.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cinttypes>
#include <cstdio>
#include <cstring>
#include <future>
#include <thread>
#include <utility>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/random.h"
#include "base/text.h"
#include "proxy/backends/backends.h"
#include "proxy/backends/file_store.h"
#include "proxy/backends/hash.h"
#include "proxy/backends/remote_queue.h"
#include "proxy/owner_record.h"

namespace cloudblk::proxy {
namespace {

// Of one attempt to observe at start-up, which is repeated.
constexpr int64_t kObserveNs = 10 * kNsPerS;
// A client waits meanwhile, and is told to come again then.
constexpr int64_t kActivateNs = 5 * kNsPerS;
constexpr int64_t kCloseNs = 3 * kNsPerS;
// The server waits for the requests that are at its storage.
constexpr int64_t kResizeNs = 30 * kNsPerS;
constexpr int64_t kAnswerNs = 8 * kNsPerS;
constexpr std::chrono::seconds kRetry{1};

// Whether there may be a server later, at the same address.
bool IsAway(const ServerUri& uri, int error) {
  const Endpoint& first = uri.endpoints.front();
  if (error == ENOENT) {
    return first.kind == Endpoint::Kind::kUnix && access(first.path.c_str(), F_OK) != 0;
  }
  return error == ETIMEDOUT || error == ECONNREFUSED || error == EHOSTUNREACH ||
         error == ENETUNREACH || error == ENETDOWN || error == ECONNRESET || error == EPIPE ||
         error == EAGAIN;
}

std::string ClientName(const std::string& volume) {
  char host[256] = "";
  if (gethostname(host, sizeof(host) - 1) != 0) std::strcpy(host, "unknown host");
  std::string name = fmt::format("cloudblk-proxy on {} pid {}", host, getpid());
  const std::string with_volume = fmt::format("{} for {}", name, volume);
  return with_volume.size() <= 255 ? with_volume : name;
}

constexpr std::array<std::string_view, 5> kOurs = {"read-only", "payload-crc", "tls-dir",
                                                   "tls-username", "tls-hostname"};

// The URI without the options that are the proxy's.
std::string WithoutOurs(const std::string& uri) {
  const size_t question = uri.find('?');
  if (question == std::string::npos) return uri;
  std::string out = uri.substr(0, question);
  std::string_view query = std::string_view(uri).substr(question + 1);
  char before = '?';
  while (!query.empty()) {
    const std::string_view pair = query.substr(0, query.find('&'));
    query.remove_prefix(std::min(query.size(), pair.size() + 1));
    const std::string_view key = pair.substr(0, pair.find('='));
    if (std::ranges::find(kOurs, key) != kOurs.end()) continue;
    out += std::exchange(before, '&');
    out += pair;
  }
  return out;
}

// Of a server that gives its volumes no names of their own.
Uuid NameExport(const ServerUri& uri) {
  std::string text = "NBD export " + uri.volume;
  for (const Endpoint& endpoint : uri.endpoints) text += " " + endpoint.ToString();
  return HashToUuid(text);
}

uint64_t NewGeneration(uint64_t old) {
  uint64_t value = Random64();
  while (value == 0 || value == old) value = Random64();
  return value;
}

}  // namespace

Remote::Remote(RemoteOptions options) : options_(std::move(options)) {}

Remote::~Remote() = default;

Result<std::unique_ptr<Session>> Remote::OpenSession(bool observe, bool takeover,
                                                     int64_t timeout_ns) {
  SessionConfig config;
  config.uuid = RandomUuid();
  config.jitter_seed = Random64();
  config.client_name = ClientName(options_.volume);
  config.channels = observe ? 1 : static_cast<uint32_t>(queues_.size());
  config.observe = observe;
  config.read_only = options_.read_only;
  config.takeover = takeover;
  config.payload_crc = options_.payload_crc;
  config.tls = options_.tls;
  config.tls_hostname = options_.tls_hostname;
  config.answer_timeout_ns = kAnswerNs;
  config.event = observe ? OnObserved : OnActive;
  config.event_opaque = this;
  return Session::Open(options_.server, std::move(config), timeout_ns);
}

Status Remote::Open() {
  std::string told;
  while (observer_ == nullptr) {
    Result<std::unique_ptr<Session>> opened = OpenSession(true, false, kObserveNs);
    if (opened.ok()) {
      observer_ = std::move(*opened);
    } else if (!IsAway(options_.uri, opened.status().error())) {
      return opened.status();
    } else {
      const std::string& why = opened.status().message();
      if (why != told) spdlog::warn("volume '{}': {}; trying on", options_.volume, why);
      told = why;
      std::this_thread::sleep_for(kRetry);
    }
  }
  return Describe();
}

Status Remote::Describe() {
  const SessionState& state = observer_->state();
  const VolumeInfo& volume = state.volume();
  const Capabilities& can = state.promises();
  fences_ = can.fences;
  tells_losses_ = can.generation;
  if (!can.flush && !state.read_only() && !options_.uri.nbd.accept_no_flush) {
    return Status(ENOTSUP,
                  "the server announces no FLUSH, so that nothing is ever known to be durable; say "
                  "?read-only=on, or ?noflush=accept");
  }
  queues_.resize(can.several_channels ? options_.loops : 1);
  geometry_.logical_block_size = volume.logical_block_size;
  geometry_.physical_block_size = volume.physical_block_size;
  geometry_.optimal_io_size = volume.optimal_io_size;
  geometry_.discard_granularity = volume.discard_granularity;
  geometry_.read_only = state.read_only();
  geometry_.discard = volume.max_discard_length != 0 && !state.read_only();
  geometry_.write_zeroes = volume.max_write_zeroes_length != 0 && !state.read_only();
  geometry_.write_cache = state.write_cache();
  geometry_.rotational = volume.rotational;
  geometry_.max_ranges = volume.max_ranges;
  if (geometry_.discard) geometry_.max_discard_length = volume.max_discard_length;
  if (geometry_.write_zeroes) geometry_.max_write_zeroes_length = volume.max_write_zeroes_length;
  size_ = state.size();
  uuid_ = volume.uuid.IsNil() ? NameExport(options_.uri) : volume.uuid;
  // Where a restart of the server loses what was not flushed, it may have had one while we were
  // away.
  fixed_generation_ =
      options_.uri.nbd.loses_unflushed ? NewGeneration(0) : Load64(uuid_.bytes.data());
  attributes_.emplace(-1, options_.state_dir, ToString(uuid_));
  lock_path_ = options_.state_dir + "/" + ToString(uuid_) + ".lock";
  upstream_ = tells_losses_ ? state.generation() : fixed_generation_;
  observed_generation_ = state.generation();
  generation_ = LoadGeneration();
  if (fences_) return Status::Ok();
  const Result<std::string> in_use = attributes_->Get("in-use");
  // The server has just answered, so it runs.
  if (!in_use.ok() || !in_use.value().empty()) {
    not_before_ns_ = MonotonicNs() + state.config().quarantine_ns;
  }
  return Status::Ok();
}

// --- Loops ---------------------------------------------------------------------------------------

Result<std::unique_ptr<BackendQueue>> Remote::Attach(LoopContext& context) {
  std::unique_lock lock(mutex_);
  const auto free = std::ranges::find(queues_, nullptr);
  RemoteQueue* const first = queues_.front();
  RemoteQueue* const carrier = free == queues_.end() ? first : nullptr;
  auto queue = std::make_unique<RemoteQueue>(this, &context, carrier, first);
  if (carrier != nullptr) return std::unique_ptr<BackendQueue>(std::move(queue));
  *free = queue.get();
  const auto index = static_cast<size_t>(free - queues_.begin());
  if (active_ != nullptr) {
    serving_.insert(queue.get());
    queue->PostServe(&active_->state(), active_->channel(index));
  }
  lock.unlock();
  if (index == 0) queue->Observe(observer_->channel(0));
  return std::unique_ptr<BackendQueue>(std::move(queue));
}

void Remote::FindTrouble(const TroubleFn& done) {
  const auto describe = [](const Session& session) {
    const Outage& outage = session.state().outage();
    return outage.away() ? "its server is " + Printable(outage.Describe(MonotonicNs())) : "";
  };
  std::string trouble = describe(*observer_);
  {
    std::lock_guard lock(mutex_);
    if (trouble.empty() && active_ != nullptr) trouble = describe(*active_);
  }
  done(trouble);
}

void Remote::PutOn() {
  for (size_t i = 0; i < queues_.size(); ++i) {
    if (queues_[i] == nullptr) continue;
    serving_.insert(queues_[i]);
    queues_[i]->PostServe(&active_->state(), active_->channel(i));
  }
}

void Remote::TakeOff() {
  std::unique_lock lock(mutex_);
  for (RemoteQueue* queue : serving_) queue->PostLeave();
  changed_.wait(lock, [this] { return serving_.empty(); });
}

void Remote::NoteLeft(RemoteQueue* queue) {
  std::lock_guard lock(mutex_);
  serving_.erase(queue);
  changed_.notify_all();
}

void Remote::Forget(RemoteQueue* queue) {
  NoteLeft(queue);
  std::lock_guard lock(mutex_);
  std::ranges::replace(queues_, queue, nullptr);
}

// --- Ownership -----------------------------------------------------------------------------------

Status Remote::AcquireExclusive(bool takeover) {
  std::lock_guard calls(calls_mutex_);
  const int64_t wait = not_before_ns_ - MonotonicNs();
  if (wait > 0) {
    return Status(EBUSY,
                  fmt::format("what a session that has ended sent to the NBD server may still "
                              "land there, for {} s",
                              wait / kNsPerS + 1));
  }
  if (!fences_ && !options_.read_only) {
    const Status locked = LockHere();
    if (!locked.ok()) return locked;
  }
  Result<std::unique_ptr<Session>> opened = OpenSession(false, takeover && fences_, kActivateNs);
  if (!opened.ok()) {
    UnlockHere();
    const int error = opened.status().error();
    return Status(IsAway(options_.uri, error) ? EAGAIN : error, opened.status().message());
  }
  const SessionState& state = (*opened)->state();
  {
    std::lock_guard lock(generation_mutex_);
    seen_losses_ = state.losses();
    seen_generation_ = state.generation();
    if (tells_losses_) Follow(state.generation(), false);
  }
  std::lock_guard lock(mutex_);
  active_ = std::move(*opened);
  PutOn();
  return Status::Ok();
}

void Remote::ReleaseExclusive() {
  std::lock_guard calls(calls_mutex_);
  if (active_ == nullptr) return;
  TakeOff();
  SessionState& state = active_->state();
  FollowActive(state);
  if (state.unflushed()) unflushed_before_ = true;
  // Others were given the volume: whoever had it here is refused when he comes back.
  if (state.revoked()) {
    OwnerRecord others;
    others.last.emplace_back().session = RandomUuid();
    const Status kept = StoreOwner(Format(others), true);
    if (!kept.ok()) spdlog::error("volume '{}': {}", options_.volume, kept.message());
  }
  const int64_t now = MonotonicNs();
  const bool quarantined = !fences_ && state.quarantine().HoldsAnything(now);
  if (quarantined) not_before_ns_ = now + state.config().quarantine_ns;
  std::unique_ptr<Session> ended;
  {
    std::lock_guard lock(mutex_);
    ended = std::move(active_);
  }
  ended->Close(kCloseNs);
  UnlockHere();
  FollowObserver();
}

Status Remote::LockHere() {
  const auto cannot = [this](const std::string& what, int error) {
    if (!std::exchange(told_of_state_dir_, true)) {
      spdlog::warn(
          "volume '{}': {} ({}): neither is another proxy of this host kept from the export, nor "
          "is what this one has sent waited for after a crash",
          options_.volume, what, strerror(error));
    }
    return Status::Ok();
  };
  const int error = attributes_->Set("in-use", "1");
  if (error != 0) return cannot("cannot write to " + attributes_->Describe("in-use"), error);
  UniqueFd fd(open(lock_path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  if (!fd) return cannot("cannot open " + lock_path_, errno);
  Status locked = LockFile(fd.get(), lock_path_, false);
  if (locked.ok()) lock_ = std::move(fd);
  return locked;
}

void Remote::UnlockHere() {
  if (!lock_) return;
  attributes_->Set("in-use", "");
  lock_.reset();
}

Status Remote::StoreOwner(const std::string& text, bool /*lasting*/) {
  const int error = attributes_->Set("owner", text);
  if (error == 0) return Status::Ok();
  return Status(error, fmt::format("cannot write {}: {}; is --state-dir right?",
                                   attributes_->Describe("owner"), strerror(error)));
}

Result<std::string> Remote::LoadOwner() { return attributes_->Get("owner"); }

Status Remote::SyncAll() {
  struct Sync final : IoOp, IoSink {
    void OnIoDone(IoOp*) override { done.set_value(); }
    std::promise<void> done;
  } sync;
  std::lock_guard calls(calls_mutex_);
  {
    std::lock_guard lock(mutex_);
    if (serving_.empty()) return Status::Ok();
    sync.kind = Operation::kFlush;
    sync.generation = generation();
    sync.sink = &sync;
    (*serving_.begin())->PostSubmit(&sync);
  }
  sync.done.get_future().wait();
  if (sync.result == 0) return Status::Ok();
  const int error = sync.result == IoOp::kLost ? ESTALE : -sync.result;
  return Status(error,
                fmt::format("its server failed to make all writes durable: {}", strerror(error)));
}

Status Remote::Resize(uint64_t size) {
  std::lock_guard calls(calls_mutex_);
  if (active_ == nullptr) return Status(EPERM, "its server is not held");
  TakeOff();
  // A smaller one than it has here, as far as we know: whoever asked for that has said so.
  Status resized = active_->Resize(size, size < this->size(), kResizeNs);
  size_ = active_->state().size();
  std::lock_guard lock(mutex_);
  PutOn();
  return resized;
}

// The active session knows first where requests may go.
void Remote::LookAtSize() {
  std::lock_guard lock(mutex_);
  size_ = (active_ != nullptr ? active_ : observer_)->state().size();
}

// --- Events and generations ----------------------------------------------------------------------

void Remote::OnObserved(void* opaque, CloudblkEventKind kind, uint64_t, const char*) {
  Remote* self = static_cast<Remote*>(opaque);
  if (kind == CLOUDBLK_EVENT_RESTORED) self->FollowObserver();
  if (kind == CLOUDBLK_EVENT_RESIZED) self->NoteOtherSize();
}

void Remote::OnActive(void* opaque, CloudblkEventKind kind, uint64_t, const char*) {
  Remote* self = static_cast<Remote*>(opaque);
  if (kind == CLOUDBLK_EVENT_RESIZED) return self->NoteOtherSize();
  if (kind == CLOUDBLK_EVENT_REVOKED) return self->NoteLetGo([] {});
  if (kind != CLOUDBLK_EVENT_RESTORED) return;
  std::lock_guard lock(self->mutex_);
  if (self->active_ != nullptr) self->NoteLosses(self->active_->state());
}

void Remote::FollowActive(const SessionState& state) {
  std::lock_guard lock(generation_mutex_);
  // In this order: the generation is set before a loss that it tells of is counted.
  const uint64_t losses = state.losses();
  const uint64_t generation = state.generation();
  const bool lost = losses != seen_losses_;
  if (generation == seen_generation_ && !lost) return;
  seen_generation_ = generation;
  seen_losses_ = losses;
  if (tells_losses_) return Follow(generation, lost);
  if (lost || unflushed_before_) Change(upstream_);
}

void Remote::FollowObserver() {
  std::lock_guard lock(mutex_);
  // Whose writes may be lost, the active session knows.
  if (active_ != nullptr || !tells_losses_) return;
  std::lock_guard generation_lock(generation_mutex_);
  const uint64_t generation = observer_->state().generation();
  if (std::exchange(observed_generation_, generation) != generation) Follow(generation, false);
}

void Remote::NoteFlushFailed(uint64_t generation) {
  std::lock_guard lock(generation_mutex_);
  if (generation == generation_) Change(upstream_);
}

void Remote::Follow(uint64_t upstream, bool lost) {
  const bool is_new = std::exchange(upstream_, upstream) != upstream;
  if (lost || (is_new && unflushed_before_)) {
    Change(is_new ? upstream : 0);
  } else if (is_new) {
    Keep();
  }
}

void Remote::Change(uint64_t proposed) {
  spdlog::error("volume '{}': its server may have lost writes that were not flushed",
                options_.volume);
  const uint64_t before = generation_;
  generation_ = proposed != 0 && proposed != before ? proposed : NewGeneration(before);
  Keep();
}

// Only where something has happened, so that until then two proxies before one server agree.
void Remote::Keep() {
  const uint64_t upstream = upstream_;
  const uint64_t value = generation_;
  writer_.Run([this, upstream, value] {
    const std::string text = value == upstream ? "" : fmt::format("{} {}", upstream, value);
    const int error = attributes_->Set("generation", text);
    if (error == 0) return;
    spdlog::error("cannot note in {} what may be lost ({}): a restarted proxy will not know of it",
                  attributes_->Describe("generation"), strerror(error));
  });
}

uint64_t Remote::LoadGeneration() const {
  const Result<std::string> kept = attributes_->Get("generation");
  if (!kept.ok()) {
    spdlog::warn("{}: clients are told that writes which were not flushed may be lost",
                 kept.status().message());
    return NewGeneration(upstream_);
  }
  uint64_t upstream = 0;
  uint64_t value = 0;
  const int found = std::sscanf(kept.value().c_str(), "%" SCNu64 " %" SCNu64, &upstream, &value);
  return found == 2 && upstream == upstream_ && value != 0 ? value : upstream_;
}

Result<std::unique_ptr<Backend>> OpenRemote(const std::string& volume, BackendUri uri,
                                            StartUp* start_up) {
  RemoteOptions options;
  options.volume = volume;
  options.loops = start_up->loops;
  options.state_dir = start_up->state_dir;
  for (const auto& [key, out] : {std::pair{"read-only", &options.read_only},
                                 std::pair{"payload-crc", &options.payload_crc}}) {
    Result<bool> value = uri.TakeSwitch(key, false);
    if (!value.ok()) return value.status();
    *out = *value;
  }
  if (const std::optional<std::string> dir = uri.Take("tls-dir")) {
    const Result<TlsSettings::Kind> kind = KindOfTlsFolder(*dir);
    if (!kind.ok()) return kind.status();
    options.tls = TlsSettings{.kind = kind.value(), .dir = *dir};
    options.tls->username = uri.Take("tls-username").value_or(options.tls->username);
    options.tls_hostname = uri.Take("tls-hostname").value_or("");
  }
  options.server = WithoutOurs(uri.text());
  const auto failed = [&](const Status& status) {
    return Status(status.error(), fmt::format("volume '{}': {}", volume, status.message()));
  };
  Result<ServerUri> parsed = ParseServerUri(options.server);
  if (!parsed.ok()) return failed(parsed.status());
  options.uri = std::move(*parsed);
  auto remote = std::make_unique<Remote>(std::move(options));
  const Status opened = remote->Open();
  if (!opened.ok()) return failed(opened);
  return std::unique_ptr<Backend>(std::move(remote));
}

}  // namespace cloudblk::proxy
