// SPDX-License-Identifier: GPL-2.0-or-later
#include "proxy/backends/rbd_image.h"

#include <fmt/format.h>
#include <rbd/features.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <future>
#include <string_view>
#include <utility>
#include <vector>

#include "proxy/backends/hash.h"

namespace cloudblk::proxy {
namespace {

constexpr std::chrono::seconds kClosePatience{3};
constexpr std::chrono::seconds kAnswerPatience{2};

Status Failed(const RbdOptions& options, int error, const std::string& what) {
  return Status(error, fmt::format("volume '{}': {}", options.volume, what));
}

Status FailedBecause(const RbdOptions& options, int error, const std::string& what) {
  return Failed(options, error,
                fmt::format("cannot {} {}: {}", what, options.path, strerror(error)));
}

}  // namespace

Result<RbdOptions> ParseRbdOptions(const std::string& volume, BackendUri uri) {
  RbdOptions options;
  options.volume = volume;
  const auto bad = [&](const std::string& what) {
    return Status(EINVAL,
                  fmt::format("volume '{}': backend URI '{}': {}", volume, uri.text(), what));
  };
  const std::string form = "write rbd:///pool/image or rbd:///pool/namespace/image";
  std::string_view path = uri.path();
  if (!path.starts_with('/')) return bad(form + ", with three slashes; conf= names the cluster");
  path.remove_prefix(1);
  options.path = path;
  const size_t at = path.find('@');
  if (at != std::string_view::npos) {
    options.snapshot = path.substr(at + 1);
    path = path.substr(0, at);
    if (options.snapshot.empty()) return bad("no name of a snapshot after '@'");
  }
  std::vector<std::string> names;
  for (size_t begin = 0; begin <= path.size();) {
    const size_t end = std::min(path.find('/', begin), path.size());
    names.emplace_back(path.substr(begin, end - begin));
    begin = end + 1;
  }
  const bool empty = std::ranges::any_of(names, &std::string::empty);
  if (empty || names.size() < 2 || names.size() > 3) return bad(form);
  options.pool = names.front();
  options.image = names.back();
  if (names.size() == 3) options.space = names[1];
  options.conf = uri.Take("conf").value_or("");
  options.id = uri.Take("id").value_or("");
  if (options.id.starts_with("client.")) return bad("write id= without 'client.'");
  Result<bool> read_only = uri.TakeSwitch("read-only", !options.snapshot.empty());
  if (!read_only.ok()) return read_only.status();
  if (!*read_only && !options.snapshot.empty()) return bad("a snapshot can only be read");
  options.read_only = *read_only;
  Result<uint32_t> block = uri.TakeBlockSize(options.logical_block_size);
  if (!block.ok()) return block.status();
  options.logical_block_size = *block;
  const std::string luks = uri.Take("luks").value_or("");
  if (!luks.empty() && luks != "guest") return bad("luks= can only be guest");
  options.guest_luks = luks == "guest";
  const Status status = uri.CheckAllTaken();
  if (!status.ok()) return status;
  return options;
}

Result<std::unique_ptr<RbdImage>> RbdImage::Open(const RbdOptions& options) {
  Result<std::shared_ptr<RbdCluster>> cluster = RbdCluster::Connect(options.conf, options.id);
  if (!cluster.ok()) {
    return Failed(options, cluster.status().error(), cluster.status().message());
  }
  std::unique_ptr<RbdImage> image(new RbdImage);
  image->cluster_ = std::move(*cluster);
  for (const auto step : {&RbdImage::OpenPool, &RbdImage::OpenImage}) {
    const Status status = (image.get()->*step)(options);
    if (!status.ok()) return status;
  }
  for (const auto check : {&RbdImage::CheckFeatures, &RbdImage::CheckLuks}) {
    const Status status = (image.get()->*check)(options);
    if (!status.ok()) return status;
  }
  return image;
}

Status RbdImage::OpenPool(const RbdOptions& options) {
  int error = -rados_ioctx_create(cluster_->handle(), options.pool.c_str(), &pool_);
  if (error == ENOENT) {
    return Failed(options, error,
                  fmt::format("the cluster has no pool '{}' (ceph osd pool ls)", options.pool));
  }
  if (error != 0) return FailedBecause(options, error, "use the pool of");
  if (options.space.empty()) return Status::Ok();
  bool exists = false;
  error = -rbd_namespace_exists(pool_, options.space.c_str(), &exists);
  if (error == 0 && !exists) {
    return Failed(options, ENOENT,
                  fmt::format("pool '{}' has no namespace '{}' (rbd namespace ls {})", options.pool,
                              options.space, options.pool));
  }
  // Who may only use the namespace may not ask for it.
  rados_ioctx_set_namespace(pool_, options.space.c_str());
  return Status::Ok();
}

Status RbdImage::OpenImage(const RbdOptions& options) {
  const char* const snapshot = options.snapshot.empty() ? nullptr : options.snapshot.c_str();
  librados::IoCtx pool;
  librados::IoCtx::from_rados_ioctx_t(pool_, pool);
  librbd::RBD rbd;
  const int error =
      -(options.read_only ? rbd.open_read_only(pool, image_, options.image.c_str(), snapshot)
                          : rbd.open(pool, image_, options.image.c_str(), snapshot));
  const std::string where =
      options.pool + (options.space.empty() ? std::string() : "/" + options.space);
  if (error == ENOENT && snapshot != nullptr) {
    return Failed(options, error,
                  fmt::format("there is no image '{}' with a snapshot '{}' in {} (rbd snap ls)",
                              options.image, options.snapshot, where));
  }
  if (error == ENOENT) {
    return Failed(options, error,
                  fmt::format("there is no image '{}' in {} (rbd ls {}; rbd create makes one)",
                              options.image, where, where));
  }
  if (error == EACCES || error == EPERM) {
    return Failed(options, error,
                  fmt::format("client.{} may not use {}: it needs the capabilities 'profile rbd' "
                              "of the monitors and of the pool",
                              options.id.empty() ? "admin" : options.id, options.path));
  }
  if (error != 0) return FailedBecause(options, error, "open");
  // An image in C++ is nothing but the pointer that is the handle in C.
  static_assert(sizeof image_ == sizeof handle_);
  memcpy(static_cast<void*>(&handle_), static_cast<const void*>(&image_), sizeof handle_);
  std::array<char, 256> id{};
  const int unknown = -rbd_get_id(handle_, id.data(), id.size());
  if (unknown != 0) {
    return Failed(options, unknown,
                  fmt::format("{} has no id: it has the old format 1; copy it into a new image "
                              "(rbd cp)",
                              options.path));
  }
  id_ = id.data();
  return Status::Ok();
}

Status RbdImage::CheckFeatures(const RbdOptions& options) const {
  if (options.read_only) return Status::Ok();
  uint64_t features = 0;
  const int error = -rbd_get_features(handle_, &features);
  if (error != 0) return FailedBecause(options, error, "look at the features of");
  if ((features & RBD_FEATURE_EXCLUSIVE_LOCK) != 0) return Status::Ok();
  return Failed(options, EINVAL,
                fmt::format("{} has no exclusive lock, which keeps two proxies from writing it: "
                            "rbd feature enable {} exclusive-lock",
                            options.path, options.path));
}

// An image that rbd has encrypted begins as one does whose guest encrypts it. One that was served
// before has what the guest has written.
Status RbdImage::CheckLuks(const RbdOptions& options) const {
  constexpr std::string_view kMagic("LUKS\xba\xbe", 6);
  if (options.guest_luks) return Status::Ok();
  std::array<char, kMagic.size()> begin{};
  const ssize_t length = rbd_read(handle_, 0, begin.size(), begin.data());
  if (length < 0) return FailedBecause(options, static_cast<int>(-length), "read");
  if (std::string_view(begin.data(), begin.size()) != kMagic) return Status::Ok();
  if (Get("cloudblk.owner").ok()) return Status::Ok();
  return Failed(options, EINVAL,
                fmt::format("{} begins with a LUKS header; an image that was encrypted by rbd "
                            "cannot be served, and if a guest encrypts it, add luks=guest",
                            options.path));
}

RbdImage::~RbdImage() {
  if (handle_ != nullptr) {
    // A cluster that is away would keep the end of the process waiting.
    auto closed = std::make_shared<std::promise<void>>();
    auto* const held = new std::shared_ptr<std::promise<void>>(closed);
    const auto told = [](librbd::completion_t done, void* arg) {
      const std::unique_ptr<std::shared_ptr<std::promise<void>>> promise(
          static_cast<std::shared_ptr<std::promise<void>>*>(arg));
      static_cast<librbd::RBD::AioCompletion*>(done)->release();
      (*promise)->set_value();
    };
    std::future<void> end = closed->get_future();
    if (image_.aio_close(new librbd::RBD::AioCompletion(held, told)) < 0 ||
        end.wait_for(kClosePatience) != std::future_status::ready) {
      // It is still used: what is left ends with the process.
      static_cast<void>(new std::shared_ptr<RbdCluster>(cluster_));
      spdlog::warn("the Ceph cluster {} does not answer: an image is left open", cluster_->fsid());
      return;
    }
  }
  if (pool_ != nullptr) rados_ioctx_destroy(pool_);
}

std::string RbdImage::FindTrouble() const {
  // What is asked for outlives this function, if it is not answered.
  struct Probe {
    std::promise<void> answered;
    uint64_t size = 0;
    time_t changed = 0;
  };
  auto probe = std::make_shared<Probe>();
  std::future<void> answered = probe->answered.get_future();
  auto* const held = new std::shared_ptr<Probe>(probe);
  const auto told = [](rados_completion_t, void* arg) {
    const std::unique_ptr<std::shared_ptr<Probe>> shared(static_cast<std::shared_ptr<Probe>*>(arg));
    (*shared)->answered.set_value();
  };
  rados_completion_t completion = nullptr;
  if (rados_aio_create_completion2(held, told, &completion) != 0) {
    delete held;
    return {};
  }
  const std::string header = "rbd_header." + id_;
  if (rados_aio_stat(pool_, header.c_str(), completion, &probe->size, &probe->changed) != 0) {
    rados_aio_release(completion);
    delete held;
    return {};
  }
  const bool is_there = answered.wait_for(kAnswerPatience) == std::future_status::ready;
  rados_aio_release(completion);
  return is_there ? std::string() : cluster_->FindTrouble();
}

Result<uint64_t> RbdImage::Size(uint32_t block) const {
  uint64_t size = 0;
  const int error = -rbd_get_size(handle_, &size);
  if (error != 0) return Status(error, fmt::format("cannot find its size: {}", strerror(error)));
  if (size < block) return Status(EINVAL, fmt::format("has {} bytes: too few for a disk", size));
  return size / block * block;
}

Result<Geometry> RbdImage::Describe(const RbdOptions& options) const {
  rbd_image_info_t info{};
  const int error = -rbd_stat(handle_, &info, sizeof info);
  if (error != 0) return FailedBecause(options, error, "look at");
  Geometry geometry;
  geometry.logical_block_size = options.logical_block_size;
  geometry.physical_block_size = 4096;
  geometry.optimal_io_size = static_cast<uint32_t>(std::min<uint64_t>(info.obj_size, 32u << 20));
  // What is smaller the library passes over; what is a whole object is freed at once.
  const std::string granularity = cluster_->Setting("rbd_discard_granularity_bytes");
  const uint64_t least = ParseSize(granularity).value_or(0);
  geometry.discard_granularity =
      static_cast<uint32_t>(std::clamp<uint64_t>(least, 4096, info.obj_size));
  geometry.read_only = options.read_only;
  if (options.read_only) geometry.discard = geometry.write_zeroes = false;
  return geometry;
}

Uuid RbdImage::MakeUuid(const RbdOptions& options) const {
  return HashToUuid(fmt::format("{} {} {} {}@{}", cluster_->fsid(), rados_ioctx_get_id(pool_),
                                options.space, id_, options.snapshot));
}

Result<std::string> RbdImage::Get(const std::string& key) const {
  std::string value(4096, '\0');
  for (;;) {
    size_t length = value.size();
    const int error = -rbd_metadata_get(handle_, key.c_str(), value.data(), &length);
    if (error == ERANGE && length > value.size()) {
      value.resize(length);
      continue;
    }
    if (error != 0) {
      return Status(error, fmt::format("cannot read '{}' of the image: {}", key, strerror(error)));
    }
    value.resize(strnlen(value.data(), length));
    return value;
  }
}

Status RbdImage::Set(const std::string& key, const std::string& value) const {
  const int error = -rbd_metadata_set(handle_, key.c_str(), value.c_str());
  if (error == 0) return Status::Ok();
  return Status(error, fmt::format("cannot set '{}' of the image: {}", key, strerror(error)));
}

Status RbdImage::Remove(const std::string& key) const {
  const int error = -rbd_metadata_remove(handle_, key.c_str());
  if (error == 0 || error == ENOENT) return Status::Ok();
  return Status(error, fmt::format("cannot remove '{}' of the image: {}", key, strerror(error)));
}

}  // namespace cloudblk::proxy
