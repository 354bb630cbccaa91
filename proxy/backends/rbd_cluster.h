// SPDX-License-Identifier: GPL-2.0-or-later
#ifndef CLOUDBLK_PROXY_BACKENDS_RBD_CLUSTER_H_
#define CLOUDBLK_PROXY_BACKENDS_RBD_CLUSTER_H_

#include <rados/librados.h>

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "base/status.h"
#include "base/worker_pool.h"

namespace cloudblk::proxy {

// A client of a Ceph cluster, which all images with the same `conf` and `id` share. Any thread.
class RbdCluster {
 public:
  // `conf`: a path, or empty for where Ceph looks for it. `id`: the user without "client.", or
  // empty for "admin". Waits for the monitors, for as long as that configuration says. The error is
  // for the user, without the volume's name.
  static Result<std::shared_ptr<RbdCluster>> Connect(const std::string& conf,
                                                     const std::string& id);
  RbdCluster(const RbdCluster&) = delete;
  RbdCluster& operator=(const RbdCluster&) = delete;
  ~RbdCluster();

  // The cluster has put this client on its blocklist: whoever connects next is another one.
  void GiveUp() const { given_up_ = true; }

  // Runs `ask`, which waits for the cluster for some seconds at most, on a thread.
  void Ask(std::function<void()> ask) const { asking_.Run(std::move(ask)); }
  // What the cluster says, or who of it does not answer. For people. Waits for some seconds.
  std::string FindTrouble() const;

  // As the configuration has it; empty: unknown.
  std::string Setting(const char* name) const;
  rados_t handle() const { return handle_; }
  const std::string& fsid() const { return fsid_; }
  // How the cluster's locks name this client: "client.4123".
  const std::string& name() const { return name_; }

 private:
  explicit RbdCluster(rados_t handle) : handle_(handle) {}
  Status Configure(const std::string& conf);
  Status LogIn(const std::string& conf, const std::string& user);

  const rados_t handle_;
  mutable std::atomic<bool> given_up_{false};
  std::string fsid_;
  std::string name_;
  mutable WorkerPool asking_{4};
};

}  // namespace cloudblk::proxy

#endif  // CLOUDBLK_PROXY_BACKENDS_RBD_CLUSTER_H_
