// SPDX-License-Identifier: GPL-2.0-or-later
#include "proxy/backends/rbd_cluster.h"

#include <fmt/format.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <map>
#include <mutex>
#include <nlohmann/json.hpp>
#include <utility>

#include "base/text.h"

namespace cloudblk::proxy {
namespace {

// What is set whatever the configuration says, and why.
constexpr std::array<std::pair<const char*, const char*>, 7> kSettings{{
    // Done is durable: nothing is lost with this process.
    {"rbd_cache", "false"},
    // A buffer does not change while it is being written, so that it need not be copied.
    {"rbd_disable_zero_copy_writes", "false"},
    // A limit here would make the loop wait, and with it every volume; what clients may have under
    // way is limited already.
    {"objecter_inflight_ops", "0"},
    {"objecter_inflight_op_bytes", "0"},
    // A monitor that is asked for something, which no read or write is, does not keep us for ever.
    {"rados_mon_op_timeout", "5"},
    // What goes wrong is told in one line, by who asked.
    {"err_to_stderr", "false"},
    {"log_to_stderr", "false"},
}};

// The client for one conf and id, as long as somebody uses it.
struct Shared {
  std::mutex mutex;  // held while it connects
  std::weak_ptr<RbdCluster> cluster;
};

std::shared_ptr<Shared> SharedFor(const std::string& conf, const std::string& id) {
  static std::mutex mutex;
  static std::map<std::pair<std::string, std::string>, std::shared_ptr<Shared>> all;
  std::lock_guard lock(mutex);
  std::shared_ptr<Shared>& shared = all[{conf, id}];
  if (shared == nullptr) shared = std::make_shared<Shared>();
  return shared;
}

Status CannotConnect(const RbdCluster& cluster, int error, const std::string& conf,
                     const std::string& user) {
  const std::string where = conf.empty() ? "the Ceph configuration" : conf;
  std::string text;
  switch (error) {
    case ENOENT:
      text = cluster.Setting("mon_host").empty()
                 ? fmt::format("{} names no monitors (mon_host)", where)
                 : fmt::format(
                       "there is no key for {} in {}; name another user with id=, or the "
                       "file with its key as 'keyring' in {}",
                       user, cluster.Setting("keyring"), where);
      break;
    case EACCES:
    case EPERM:
      text = fmt::format("the cluster refuses {}: its key, or what it may do, is wrong", user);
      break;
    case ETIMEDOUT:
      text = fmt::format("none of the monitors that {} names answers ({})", where,
                         cluster.Setting("mon_host"));
      break;
    default:
      text = fmt::format("cannot connect to the cluster of {}: {}", where, strerror(error));
  }
  return Status(error, text);
}

}  // namespace

RbdCluster::~RbdCluster() { rados_shutdown(handle_); }

std::string RbdCluster::Setting(const char* name) const {
  std::array<char, 4096> value{};
  return rados_conf_get(handle_, name, value.data(), value.size()) == 0 ? value.data() : "";
}

std::string RbdCluster::FindTrouble() const {
  const char* command = R"({"prefix": "health", "format": "json"})";
  char* out = nullptr;
  size_t length = 0;
  const int error =
      -rados_mon_command(handle_, &command, 1, nullptr, 0, &out, &length, nullptr, nullptr);
  if (error == ETIMEDOUT) {
    return fmt::format("none of the cluster's monitors answers ({})", Setting("mon_host"));
  }
  std::string text = "its OSD does not answer";
  // Who may only use images may not ask for this.
  if (error != 0) return text;
  const auto health = nlohmann::json::parse(std::string_view(out, length), nullptr, false);
  rados_buffer_free(out);
  const nlohmann::json checks = health.is_object()
                                    ? health.value("checks", nlohmann::json::object())
                                    : nlohmann::json::object();
  std::string separator = ": ";
  for (const auto& check : checks) {
    const std::string message =
        check.value(nlohmann::json::json_pointer("/summary/message"), std::string());
    if (message.empty()) continue;
    text += std::exchange(separator, "; ") + Printable(message);
  }
  return text;
}

Status RbdCluster::Configure(const std::string& conf) {
  const int error = -rados_conf_read_file(handle_, conf.empty() ? nullptr : conf.c_str());
  if (error > 0 && conf.empty()) {
    return Status(error,
                  "there is no /etc/ceph/ceph.conf; name the cluster's configuration with "
                  "conf=");
  }
  if (error > 0) {
    return Status(error,
                  fmt::format("cannot read conf={}: {}", conf,
                              error == EINVAL ? "it is no Ceph configuration" : strerror(error)));
  }
  for (const auto& [name, value] : kSettings) {
    const int refused = -rados_conf_set(handle_, name, value);
    if (refused == 0) continue;
    return Status(refused, fmt::format("this librados does not take {}={}: {}", name, value,
                                       strerror(refused)));
  }
  return Status::Ok();
}

Status RbdCluster::LogIn(const std::string& conf, const std::string& user) {
  const int error = -rados_connect(handle_);
  if (error != 0) return CannotConnect(*this, error, conf, user);
  std::array<char, 64> fsid{};
  const int length = rados_cluster_fsid(handle_, fsid.data(), fsid.size());
  if (length < 0) {
    return Status(-length, fmt::format("cannot ask for the cluster's id: {}", strerror(-length)));
  }
  fsid_ = fsid.data();
  name_ = fmt::format("client.{}", rados_get_instance_id(handle_));
  return Status::Ok();
}

Result<std::shared_ptr<RbdCluster>> RbdCluster::Connect(const std::string& conf,
                                                        const std::string& id) {
  const std::shared_ptr<Shared> shared = SharedFor(conf, id);
  std::lock_guard lock(shared->mutex);
  std::shared_ptr<RbdCluster> there = shared->cluster.lock();
  if (there != nullptr && !there->given_up_) return there;
  const std::string user = "client." + (id.empty() ? std::string("admin") : id);
  rados_t handle = nullptr;
  const int error = -rados_create2(&handle, "ceph", user.c_str(), 0);
  if (error != 0) {
    return Status(error, fmt::format("cannot be a Ceph client as {}: {}", user, strerror(error)));
  }
  std::shared_ptr<RbdCluster> cluster(new RbdCluster(handle));
  Status status = cluster->Configure(conf);
  if (status.ok()) status = cluster->LogIn(conf, user);
  if (!status.ok()) return status;
  shared->cluster = cluster;
  return cluster;
}

}  // namespace cloudblk::proxy
