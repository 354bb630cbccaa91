// SPDX-License-Identifier: GPL-2.0-or-later
//
// An image of a Ceph cluster, apart from its data: how it is named, opened and described.
#ifndef CLOUDBLK_PROXY_BACKENDS_RBD_IMAGE_H_
#define CLOUDBLK_PROXY_BACKENDS_RBD_IMAGE_H_

#include <rados/librados.h>
#include <rbd/librbd.h>

#include <memory>
#include <optional>
#include <rbd/librbd.hpp>
#include <string>

#include "base/status.h"
#include "proxy/backend.h"
#include "proxy/backend_uri.h"
#include "proxy/backends/rbd_cluster.h"

namespace cloudblk::proxy {

struct RbdOptions {
  std::string volume;
  std::string conf;  // empty: where Ceph looks for it
  std::string id;    // empty: admin
  std::string pool;
  std::string space;  // its namespace; empty: none
  std::string image;
  std::string snapshot;  // empty: the image itself
  std::string path;      // of the four, for people: pool/namespace/image@snapshot
  bool read_only = false;
  bool guest_luks = false;  // a LUKS header is the guest's
  uint32_t logical_block_size = 512;
};

// EINVAL with one line for the user.
Result<RbdOptions> ParseRbdOptions(const std::string& volume, BackendUri uri);

// Closed by the destructor, which waits for the cluster, but not for long.
class RbdImage {
 public:
  // The error is one line for the user.
  static Result<std::unique_ptr<RbdImage>> Open(const RbdOptions& options);
  RbdImage(const RbdImage&) = delete;
  RbdImage& operator=(const RbdImage&) = delete;
  ~RbdImage();

  rbd_image_t handle() const { return handle_; }
  // The same in C++, where the library need not copy what it reads.
  librbd::Image& reader() { return image_; }
  rados_ioctx_t pool() const { return pool_; }
  const RbdCluster& cluster() const { return *cluster_; }
  const std::string& id() const { return id_; }

  // Why the cluster does not answer, for people; empty: it does. Takes seconds where it does not.
  std::string FindTrouble() const;

  // Bytes, whole blocks of `block` bytes.
  Result<uint64_t> Size(uint32_t block) const;
  Result<Geometry> Describe(const RbdOptions& options) const;
  // The same for the same disk, by whichever proxy.
  Uuid MakeUuid(const RbdOptions& options) const;

  // Metadata of the image. ENOENT: none under that key. They wait for the cluster.
  Result<std::string> Get(const std::string& key) const;
  Status Set(const std::string& key, const std::string& value) const;
  Status Remove(const std::string& key) const;

 private:
  RbdImage() = default;
  Status OpenPool(const RbdOptions& options);
  Status OpenImage(const RbdOptions& options);
  Status CheckFeatures(const RbdOptions& options) const;
  Status CheckLuks(const RbdOptions& options) const;

  std::shared_ptr<RbdCluster> cluster_;
  rados_ioctx_t pool_ = nullptr;
  librbd::Image image_;
  rbd_image_t handle_ = nullptr;
  std::string id_;
};

}  // namespace cloudblk::proxy

#endif  // CLOUDBLK_PROXY_BACKENDS_RBD_IMAGE_H_
