// SPDX-License-Identifier: GPL-2.0-or-later
#include "proxy/backends/rbd_lock.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "base/text.h"

namespace cloudblk::proxy {
namespace {

constexpr const char* kHolder = "cloudblk.holder";
constexpr std::string_view kContent = "cloudblk";
// How long a proxy may take to stop its clients and to give the lock back.
constexpr uint64_t kLetGoMs = 8000;
// What whoever asked for the lock has to take it.
constexpr int64_t kPrecedenceNs = 5 * kNsPerS;
// How long the cluster refuses one whose lock was broken: whoever stands still must find that out
// when it goes on.
constexpr uint32_t kBlocklistS = 7 * 24 * 3600;
constexpr size_t kMaxOwners = 8;
constexpr size_t kManyWatchers = 64;

std::string FirstWord(const char* path) {
  std::string word;
  std::ifstream(path) >> word;
  return word;
}

// When the process began, in the kernel's count; empty: there is none.
std::string StartOf(const std::string& pid) {
  std::ifstream stat("/proc/" + pid + "/stat");
  std::string text;
  std::getline(stat, text);
  // Behind the name, which may hold anything, the state is the third field, and this the 22nd.
  const size_t name_end = text.rfind(')');
  if (name_end == std::string::npos) return {};
  std::istringstream rest(text.substr(name_end + 1));
  std::string field;
  for (int i = 3; i <= 22; ++i) rest >> field;
  return field;
}

// Where process numbers mean the same.
std::string PidSpace() {
  std::error_code none;
  return FirstWord("/proc/sys/kernel/random/boot_id") + "/" +
         std::filesystem::read_symlink("/proc/self/ns/pid", none).string();
}

std::string HostName() {
  std::array<char, 256> name{};
  return gethostname(name.data(), name.size() - 1) == 0 ? name.data() : "?";
}

}  // namespace

RbdLock::RbdLock(std::string volume, std::string path, Host* host)
    : volume_(std::move(volume)), path_(std::move(path)), host_(host) {}

Status RbdLock::Failed(int error, const std::string& what) const {
  return Status(error, fmt::format("cannot {} {}: {}", what, path_, strerror(error)));
}

Status RbdLock::Acquire(RbdImage* image, bool takeover) {
  std::lock_guard lock(mutex_);
  image_ = image;
  object_ = "cloudblk." + image->id();
  Status status = AcquireNow(takeover);
  if (!status.ok()) image_ = nullptr;
  return status;
}

Status RbdLock::AcquireNow(bool takeover) {
  if (MonotonicNs() < not_before_ns_) {
    return Status(EBUSY, fmt::format("{} is being taken over by another proxy", path_));
  }
  const Result<std::optional<Owner>> owner = FindOwner();
  if (!owner.ok()) return owner.status();
  if (owner.value()) {
    Status freed = Free(*owner.value(), takeover);
    if (!freed.ok()) return freed;
  }
  const int error = -rbd_lock_acquire(image_->handle(), RBD_LOCK_MODE_EXCLUSIVE);
  if (error == EROFS || error == EAGAIN || error == EBUSY) {
    const Result<std::optional<Owner>> now = FindOwner();
    if (!now.ok()) return now.status();
    return Busy(now.value().value_or(Owner{}));
  }
  if (error != 0) return Failed(error, "lock");
  Status status = SayWho();
  if (status.ok()) status = Watch();
  if (!status.ok()) ReleaseNow();
  return status;
}

void RbdLock::Release() {
  std::lock_guard lock(mutex_);
  ReleaseNow();
}

void RbdLock::ReleaseNow() {
  if (image_ == nullptr) return;
  const int error = -rbd_lock_release(image_->handle());
  // EINVAL: librbd knows by itself that it has lost it.
  if (error != 0 && error != ESHUTDOWN && error != EINVAL) {
    spdlog::warn("volume '{}': {}", volume_, Failed(error, "give back the lock of").message());
  }
  // By its end whoever asked for the lock knows that it is free.
  Unwatch();
  image_ = nullptr;
}

Result<std::optional<RbdLock::Owner>> RbdLock::FindOwner() const {
  std::array<char*, kMaxOwners> owners{};
  size_t count = owners.size();
  rbd_lock_mode_t mode{};
  const int error = -rbd_lock_get_owners(image_->handle(), &mode, owners.data(), &count);
  if (error == ENOENT || (error == 0 && count == 0)) return std::optional<Owner>();
  if (error == EBUSY) return DescribeLockers();
  if (error != 0) return Failed(error, "find who has locked");
  Owner owner;
  owner.address = owner.client = owners[0];
  rbd_lock_get_owners_cleanup(owners.data(), count);
  std::vector<rbd_image_watcher_t> watchers(kManyWatchers);
  size_t watching = watchers.size();
  int listed = rbd_watchers_list(image_->handle(), watchers.data(), &watching);
  if (listed == -ERANGE) {
    watchers.resize(watching);
    listed = rbd_watchers_list(image_->handle(), watchers.data(), &watching);
  }
  if (listed < 0) return Failed(-listed, "find who uses");
  for (size_t i = 0; i < watching; ++i) {
    if (owner.address != watchers[i].addr) continue;
    owner.is_there = true;
    owner.client = fmt::format("client.{} at {}", watchers[i].id, owner.address);
  }
  rbd_watchers_list_cleanup(watchers.data(), watching);
  DescribeProcess(&owner);
  return std::optional<Owner>(std::move(owner));
}

// What the proxy that has the lock has said of itself.
void RbdLock::DescribeProcess(Owner* owner) const {
  const Result<std::string> text = image_->Get(kHolder);
  if (!text.ok()) return;
  std::istringstream words(text.value());
  std::string address;
  std::string space;
  std::string pid;
  std::string start;
  std::string host;
  words >> address >> space >> pid >> start >> host;
  if (address != owner->address) return;
  owner->is_proxy = true;
  owner->process = Printable(fmt::format("the cloudblk-proxy with pid {} on {}", pid, host));
  const bool is_here = space == PidSpace();
  owner->is_at_end = is_here && StartOf(pid) != start;
  owner->is_this = is_here && pid == std::to_string(getpid());
}

// So that others know whom they meet.
Status RbdLock::SayWho() {
  const Result<std::optional<Owner>> self = FindOwner();
  if (!self.ok()) return self.status();
  if (!self.value()) return Status(EBUSY, fmt::format("the lock of {} was lost at once", path_));
  own_address_ = self.value()->address;
  own_client_ = image_->cluster().name();
  const std::string pid = std::to_string(getpid());
  return image_->Set(kHolder, fmt::format("{} {} {} {} {}", self.value()->address, PidSpace(), pid,
                                          StartOf(pid), HostName()));
}

// A lock that librbd does not know how to hand over: "rbd lock add".
Status RbdLock::DescribeLockers() const {
  int exclusive = 0;
  std::array<char, 256> tag{};
  std::array<char, 1024> clients{};
  std::array<char, 1024> cookies{};
  std::array<char, 1024> addresses{};
  size_t tag_length = tag.size();
  size_t clients_length = clients.size();
  size_t cookies_length = cookies.size();
  size_t addresses_length = addresses.size();
  const ssize_t count = rbd_list_lockers(image_->handle(), &exclusive, tag.data(), &tag_length,
                                         clients.data(), &clients_length, cookies.data(),
                                         &cookies_length, addresses.data(), &addresses_length);
  std::string who = "a client that is not known";
  if (count > 0) who = fmt::format("{} at {}", clients.data(), addresses.data());
  return Status(EBUSY, fmt::format("{} is locked as '{}' by {}; end that, or remove its lock "
                                   "(rbd lock ls {})",
                                   path_, count > 0 ? cookies.data() : "?", Printable(who), path_));
}

Status RbdLock::Busy(const Owner& owner) const {
  if (owner.is_this) {
    return Status(EBUSY, fmt::format("{} is locked by another volume of this proxy", path_));
  }
  if (owner.is_proxy) {
    return Status(EBUSY,
                  fmt::format("{} is locked by {} ({})", path_, owner.process, owner.client));
  }
  return Status(EBUSY, fmt::format("{} is locked by {}, which is no cloudblk-proxy (a "
                                   "QEMU with librbd, or a kernel): end that first (rbd lock ls "
                                   "{})",
                                   path_, owner.client, path_));
}

Status RbdLock::Free(const Owner& owner, bool takeover) {
  // Its own, from before the cluster put the client that it was on the blocklist.
  const bool was_ours = owner.address == own_address_;
  if (was_ours && image_->cluster().name() != own_client_) return Break(owner, "was this proxy");
  if (owner.is_this) return Busy(owner);
  if (owner.is_at_end) return Break(owner, "has ended");
  if (!owner.is_there) return Break(owner, "is not heard of any more");
  if (!owner.is_proxy || !takeover) return Busy(owner);
  AskForIt();
  const Result<std::optional<Owner>> left = FindOwner();
  if (!left.ok()) return left.status();
  if (!left.value()) return Status::Ok();
  if (left.value()->address != owner.address) return Busy(*left.value());
  return Break(owner, fmt::format("did not let go within {} s", kLetGoMs / 1000));
}

// Returns when whoever watches has given the lock back, or after kLetGoMs.
void RbdLock::AskForIt() const {
  char* answers = nullptr;
  size_t length = 0;
  rados_notify2(image_->pool(), object_.c_str(), kContent.data(), static_cast<int>(kContent.size()),
                kLetGoMs, &answers, &length);
  if (answers != nullptr) rados_buffer_free(answers);
}

Status RbdLock::Break(const Owner& owner, const std::string& why) const {
  const std::string who =
      owner.is_proxy ? fmt::format("{} ({})", owner.process, owner.client) : owner.client;
  spdlog::warn(
      "volume '{}': {}, which has locked {}, {}: its lock is broken, and the cluster refuses what "
      "may still come from it",
      volume_, who, path_, why);
  const int error =
      -rbd_lock_break(image_->handle(), RBD_LOCK_MODE_EXCLUSIVE, owner.address.c_str());
  if (error == ENOENT) return Status::Ok();
  if (error != 0) return Failed(error, "break the lock of");
  if (image_->cluster().Setting("rbd_blocklist_on_break_lock") == "false") return Status::Ok();
  // The library has put it on the blocklist, for an hour. rbd_blocklist_expire_seconds is not to be
  // relied on: with it librbd 16 breaks no lock.
  std::string address = owner.address;
  const int kept = -rados_blocklist_add(image_->cluster().handle(), address.data(), kBlocklistS);
  if (kept != 0) {
    spdlog::warn("volume '{}': {} stays on the blocklist for an hour only: {}", volume_,
                 owner.client, strerror(kept));
  }
  return Status::Ok();
}

Status RbdLock::Watch() {
  int error = -rados_write_full(image_->pool(), object_.c_str(), kContent.data(), kContent.size());
  if (error != 0) return Failed(error, "make " + object_ + " for");
  uint64_t cookie = 0;
  error = -rados_watch3(image_->pool(), object_.c_str(), &cookie, OnNotify, OnWatchError, 0, this);
  if (error != 0) return Failed(error, "watch " + object_ + " of");
  cookie_ = cookie;
  return Status::Ok();
}

void RbdLock::Unwatch() {
  if (!cookie_) return;
  rados_unwatch2(image_->pool(), *std::exchange(cookie_, std::nullopt));
  // What it has called may be under way.
  rados_watch_flush(image_->cluster().handle());
}

void RbdLock::OnNotify(void* arg, uint64_t notify_id, uint64_t handle, uint64_t /*notifier_id*/,
                       void* /*data*/, size_t /*length*/) {
  auto* const self = static_cast<RbdLock*>(arg);
  rados_ioctx_t const pool = self->image_->pool();
  const std::string object = self->object_;
  self->host_->LetGo([self, pool, object, notify_id, handle] {
    self->not_before_ns_ = MonotonicNs() + kPrecedenceNs;
    rados_notify_ack(pool, object.c_str(), notify_id, handle, nullptr, 0);
  });
}

// The cluster was not heard of for a while; the lock may be held nevertheless.
void RbdLock::OnWatchError(void* arg, uint64_t cookie, int /*error*/) {
  auto* const self = static_cast<RbdLock*>(arg);
  self->host_->RunOnThread([self, cookie] { self->WatchAgain(cookie); });
}

void RbdLock::WatchAgain(uint64_t cookie) {
  bool is_blocklisted = false;
  {
    std::lock_guard lock(mutex_);
    if (cookie_ != cookie) return;
    Unwatch();
    const Status status = Watch();
    is_blocklisted = status.error() == ESHUTDOWN;
    if (!status.ok() && !is_blocklisted) {
      spdlog::warn("volume '{}': another proxy that takes over cannot ask for it: {}", volume_,
                   status.message());
    }
  }
  if (is_blocklisted) host_->OnBlocklisted();
}

}  // namespace cloudblk::proxy
