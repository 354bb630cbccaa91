// SPDX-License-Identifier: GPL-2.0-or-later
#include "proxy/backends/rbd.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string_view>
#include <utility>

#include "base/bytes.h"
#include "base/text.h"
#include "proxy/backends/hash.h"
#include "proxy/backends/module.h"
#include "proxy/backends/rbd_queue.h"
#include "proxy/build_id.h"

namespace cloudblk::proxy {
namespace {

constexpr const char* kOwner = "cloudblk.owner";
constexpr const char* kFailures = "cloudblk.flush-failures";

}  // namespace

Rbd::Rbd(RbdOptions options, std::shared_ptr<RbdImage> image, uint64_t size,
         const Geometry& geometry)
    : options_(std::move(options)),
      image_(std::move(image)),
      current_(image_.get()),
      lock_(options_.volume, options_.path, this) {
  size_ = size;
  geometry_ = geometry;
  uuid_ = image_->MakeUuid(options_);
  LoadFailures();
  WatchSize();
}

Rbd::~Rbd() {
  lock_.Release();
  if (size_watch_) rbd_update_unwatch(image_->handle(), *size_watch_);
}

std::shared_ptr<RbdImage> Rbd::image() const {
  std::lock_guard lock(image_mutex_);
  return image_;
}

std::shared_ptr<RbdImage> Rbd::Join(RbdQueue* queue) {
  std::lock_guard lock(image_mutex_);
  queues_.push_back(queue);
  return image_;
}

void Rbd::Leave(RbdQueue* queue) {
  std::lock_guard lock(image_mutex_);
  std::erase(queues_, queue);
}

void Rbd::Drop(std::shared_ptr<RbdImage> image) {
  thread_.Run([image = std::move(image)] {});
}

Result<std::unique_ptr<BackendQueue>> Rbd::Attach(LoopContext& context) {
  return std::unique_ptr<BackendQueue>(std::make_unique<RbdQueue>(this, &context));
}

void Rbd::OnUpdate(void* arg) { static_cast<Rbd*>(arg)->NoteOtherSize(); }

void Rbd::WatchSize() {
  uint64_t watch = 0;
  if (!options_.read_only && rbd_update_watch(image_->handle(), &watch, OnUpdate, this) == 0) {
    size_watch_ = watch;
  }
}

void Rbd::LookAtSize() {
  const Result<uint64_t> size = image()->Size(geometry_.logical_block_size);
  if (size.ok()) {
    size_ = size.value();
  } else {
    spdlog::warn("volume '{}': {}: {}", options_.volume, options_.path, size.status().message());
  }
}

void Rbd::FindTrouble(const TroubleFn& done) {
  image()->cluster().Ask([image = image(), name = options_.path, done] {
    const std::string trouble = image->FindTrouble();
    done(trouble.empty() ? trouble : fmt::format("{}: {}", name, trouble));
  });
}

Status Rbd::Resize(uint64_t size) {
  // The library calls it, whether there is one or not, where it removes more than a few objects.
  const auto progress = [](uint64_t, uint64_t, void*) { return 0; };
  const int error = -rbd_resize2(image()->handle(), size, true, progress, nullptr);
  if (error == 0) {
    size_ = size;
    return Status::Ok();
  }
  LookAtSize();
  return Status(error, fmt::format("cannot resize {}: {}", options_.path, strerror(error)));
}

Status Rbd::AcquireExclusive(bool takeover) {
  std::unique_lock lock(image_mutex_);
  const bool is_blocklisted = is_blocklisted_;
  lock.unlock();
  if (is_blocklisted) {
    Status opened = OpenAgain();
    if (!opened.ok()) return Status(EAGAIN, opened.message());
  }
  if (geometry_.read_only) return Status::Ok();
  Status status = lock_.Acquire(image().get(), takeover);
  if (status.error() == ESHUTDOWN) {
    MarkBlocklisted(image().get());
    status = OpenAgain();
    if (!status.ok()) return Status(EAGAIN, status.message());
    status = lock_.Acquire(image().get(), takeover);
  }
  if (is_blocklisted && status.error() == EBUSY) {
    spdlog::warn("volume '{}': it was lost: {}", options_.volume, status.message());
  }
  // Who had it before may have failed to flush, or given it another size.
  if (status.ok()) {
    LoadFailures();
    NoteOtherSize();
  }
  return status;
}

void Rbd::ReleaseExclusive() {
  if (!geometry_.read_only) lock_.Release();
}

void Rbd::NoteBlocklisted(const RbdImage* image) {
  if (MarkBlocklisted(image)) NoteLetGo([] {});
}

bool Rbd::MarkBlocklisted(const RbdImage* image) {
  {
    std::lock_guard lock(image_mutex_);
    if (is_blocklisted_ || image != image_.get()) return false;
    is_blocklisted_ = true;
    for (RbdQueue* queue : queues_) queue->PostGiveUp(image);
  }
  image->cluster().GiveUp();
  spdlog::warn(
      "volume '{}': the cluster has put {} on its blocklist, as another took over what it had "
      "locked and it did not let go: its clients come back by a new connection to the cluster",
      options_.volume, image->cluster().name());
  return true;
}

// As another client of the cluster.
Status Rbd::OpenAgain() {
  Result<std::unique_ptr<RbdImage>> opened = RbdImage::Open(options_);
  if (!opened.ok()) return opened.status();
  std::shared_ptr<RbdImage> image(std::move(*opened));
  if (image->MakeUuid(options_) != uuid_) {
    return Status(
        EIO, fmt::format("volume '{}': {} is another image now", options_.volume, options_.path));
  }
  if (size_watch_) rbd_update_unwatch(image_->handle(), *size_watch_);
  size_watch_.reset();
  {
    std::lock_guard lock(image_mutex_);
    image_.swap(image);
    current_.store(image_.get(), std::memory_order_release);
    is_blocklisted_ = false;
  }
  WatchSize();
  NoteOtherSize();
  return Status::Ok();
}

// Copies and clones of an image bring its metadata along, so that these say whose they are.
Status Rbd::StoreOwner(const std::string& text, bool /*lasting*/) {
  if (geometry_.read_only) return Status::Ok();
  const std::shared_ptr<RbdImage> image = this->image();
  return text.empty() ? image->Remove(kOwner) : image->Set(kOwner, image->id() + "\n" + text);
}

Result<std::string> Rbd::LoadOwner() {
  if (geometry_.read_only) return std::string();
  const std::shared_ptr<RbdImage> image = this->image();
  Result<std::string> kept = image->Get(kOwner);
  if (!kept.ok() && kept.status().error() == ENOENT) return std::string();
  if (!kept.ok()) return kept;
  const size_t end = kept->find('\n');
  if (end == std::string::npos) return Status(EIO, fmt::format("'{}' is damaged", kOwner));
  if (std::string_view(*kept).substr(0, end) == image->id()) return kept->substr(end + 1);
  spdlog::info("volume '{}': {} is a copy of an image that somebody had: that is passed over",
               options_.volume, options_.path);
  return std::string();
}

Status Rbd::SyncAll() {
  if (geometry_.read_only) return Status::Ok();
  const int error = -rbd_flush(image()->handle());
  if (error == 0) return Status::Ok();
  if (error != ESHUTDOWN) NoteFlushFailed(-error);
  return Status(error, fmt::format("cannot flush {}: {}", options_.path, strerror(error)));
}

void Rbd::LoadFailures() {
  const std::shared_ptr<RbdImage> image = this->image();
  const Result<std::string> kept = image->Get(kFailures);
  std::lock_guard lock(failures_mutex_);
  if (kept.ok()) {
    const size_t space = kept.value().find(' ');
    const bool own = kept.value().substr(0, space) == image->id();
    const std::optional<uint64_t> count =
        own && space != std::string::npos ? ParseSize(kept.value().substr(space + 1)) : 0;
    failures_ = std::max(failures_, count.value_or(0));
  }
  SetGeneration();
}

void Rbd::SetGeneration() {
  const Uuid hash = HashToUuid(fmt::format("{} {}", ToString(uuid_), failures_));
  generation_.store(Load64(hash.bytes.data()), std::memory_order_release);
}

void Rbd::NoteFlushFailed(int error) {
  {
    std::lock_guard lock(failures_mutex_);
    ++failures_;
    SetGeneration();
  }
  spdlog::error(
      "volume '{}': cannot flush {}: {}; writes since the last flush may be lost, and flushes of "
      "the clients that are connected now fail",
      options_.volume, options_.path, strerror(-error));
  thread_.Run([this] { StoreFailures(); });
}

// Another proxy that has the image next has to know.
void Rbd::StoreFailures() {
  const std::shared_ptr<RbdImage> image = this->image();
  std::unique_lock lock(failures_mutex_);
  const uint64_t failures = failures_;
  lock.unlock();
  const Status kept = image->Set(kFailures, fmt::format("{} {}", image->id(), failures));
  if (kept.ok()) return;
  spdlog::error("volume '{}': that a flush failed does not survive a restart of the proxy: {}",
                options_.volume, kept.message());
}

void Rbd::LogFirst(int error, const IoOp& op) {
  const uint64_t bit = uint64_t{1} << (error & 63);
  if ((errors_logged_.fetch_or(bit, std::memory_order_relaxed) & bit) != 0) return;
  spdlog::error(
      "volume '{}': {} of {} bytes at {} of {} failed: {} (further errors of this kind are not "
      "logged)",
      options_.volume, Name(op.kind), op.length, op.offset, options_.path, strerror(error));
}

void Rbd::LogGivenUp(size_t operations) {
  spdlog::info(
      "volume '{}': {} operations that were under way are left to the clients, which ask "
      "again",
      options_.volume, operations);
}

namespace {

Result<std::unique_ptr<Backend>> OpenRbd(const std::string& volume, BackendUri uri) {
  Result<RbdOptions> options = ParseRbdOptions(volume, std::move(uri));
  if (!options.ok()) return options.status();
  Result<std::unique_ptr<RbdImage>> image = RbdImage::Open(*options);
  if (!image.ok()) return image.status();
  Result<uint64_t> size = (*image)->Size(options->logical_block_size);
  if (!size.ok()) {
    return Status(size.status().error(), fmt::format("volume '{}': {}: {}", volume, options->path,
                                                     size.status().message()));
  }
  Result<Geometry> geometry = (*image)->Describe(*options);
  if (!geometry.ok()) return geometry.status();
  return std::unique_ptr<Backend>(std::make_unique<Rbd>(
      std::move(*options), std::shared_ptr<RbdImage>(std::move(*image)), *size, *geometry));
}

}  // namespace
}  // namespace cloudblk::proxy

const cloudblk::proxy::BackendModule cloudblk_backend_module = {
    .build_id = cloudblk::proxy::kBuildId,
    .open = cloudblk::proxy::OpenRbd,
};
