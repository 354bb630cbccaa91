// SPDX-License-Identifier: GPL-2.0-or-later
//
// Servers whose volumes a remote backend serves on: a proxy in this process, and nbdkit.
#ifndef CLOUDBLK_TESTS_UNIT_PROXY_UPSTREAM_H_
#define CLOUDBLK_TESTS_UNIT_PROXY_UPSTREAM_H_

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <spawn.h>
#include <spdlog/spdlog.h>
#include <sys/wait.h>

#include <cstdlib>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/random.h"
#include "base/socket.h"
#include "proxy/server.h"
#include "tests/unit/proxy/support.h"

namespace cloudblk::proxy {

// Serves a volume at a unix socket.
class Upstream {
 public:
  virtual ~Upstream() = default;
  // Ends, and comes back at the same address. Precondition: it runs; it does not.
  virtual void Stop() = 0;
  virtual void Start() = 0;
  virtual std::string uri() const = 0;
};

class ProxyUpstream final : public Upstream {
 public:
  explicit ProxyUpstream(const std::string& backend, uint32_t lease_s = 10) {
    options_.listen.push_back({});
    options_.listen.back().kind = Endpoint::Kind::kUnix;
    options_.listen.back().path = folder_ / "socket";
    options_.volumes = {{"disk", backend}};
    options_.state_dir = folder_.path();
    options_.lease_s = lease_s;
    // Made on its first use, by a library that ThreadSanitizer does not look into: so before there
    // are threads.
    spdlog::default_logger();
    Start();
  }
  ~ProxyUpstream() override {
    if (server_ != nullptr) Stop();
  }

  void Stop() override {
    EXPECT_TRUE(server_->Shutdown(std::chrono::seconds(30)));
    server_.reset();
  }
  void Start() override {
    const Status made = Server::Create(options_, &server_);
    ASSERT_TRUE(made.ok()) << made.message();
    server_->Start();
  }
  std::string uri() const override {
    return "cloudblk+unix:///disk?socket=" + (folder_ / "socket");
  }

 private:
  const TempFolder folder_;
  Options options_;
  std::unique_ptr<Server> server_;
};

// The socket is the test's, so that whoever connects while nbdkit is away waits for it.
class NbdkitUpstream final : public Upstream {
 public:
  // `arguments`: filters, plugin and its parameters.
  explicit NbdkitUpstream(std::vector<std::string> arguments) : arguments_(std::move(arguments)) {
    Endpoint endpoint;
    endpoint.kind = Endpoint::Kind::kUnix;
    endpoint.path = folder_ / "socket";
    Endpoint bound;
    listener_ = std::move(Listen(endpoint, &bound).value().front());
    Start();
  }
  ~NbdkitUpstream() override {
    if (pid_ > 0) Stop();
  }

  // From the next Start on.
  void Use(std::vector<std::string> arguments) { arguments_ = std::move(arguments); }
  void Stop() override {
    kill(pid_, SIGKILL);
    EXPECT_EQ(waitpid(pid_, nullptr, 0), pid_);
    pid_ = 0;
  }
  void Start() override {
    std::string command = "LISTEN_PID=$$ LISTEN_FDS=1 exec nbdkit -f --log=null --exit-with-parent";
    for (const std::string& argument : arguments_) command += " " + argument;
    char* const argv[] = {const_cast<char*>("sh"), const_cast<char*>("-c"), command.data(),
                          nullptr};
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, listener_.get(), 3);
    ASSERT_EQ(posix_spawnp(&pid_, "sh", &actions, nullptr, argv, environ), 0);
    posix_spawn_file_actions_destroy(&actions);
  }
  std::string uri() const override { return "nbd+unix:///?socket=" + (folder_ / "socket"); }

 private:
  const TempFolder folder_;
  std::vector<std::string> arguments_;
  UniqueFd listener_;
  pid_t pid_ = 0;
};

// One of the ways to keep a volume.
struct Kind {
  enum class Where { kMemory, kFile, kProxy, kNbdkit, kCeph };

  const char* name;
  Where where;
  const char* options = "";  // of the URI, or of rbd create

  bool remote() const { return where != Where::kMemory && where != Where::kFile; }
};

// Of a cluster that whoever runs this has started (tests/ceph/test_contract.py), and else none.
inline const char* CephConf() { return getenv("CLOUDBLK_TEST_CEPH_CONF"); }
inline std::vector<Kind> CephKinds() {
  if (CephConf() == nullptr) return {};
  // Of the second, most reads find their data in several pieces.
  return {{"Rbd", Kind::Where::kCeph},
          {"RbdOfSmallObjects", Kind::Where::kCeph, "--object-size 8K"}};
}

inline std::string NameOf(const testing::TestParamInfo<Kind>& info) { return info.param.name; }

// What there has to be for a volume of that kind.
class Provided {
 public:
  // A file's is at `path`.
  Provided(const Kind& kind, const std::string& path, uint64_t size) {
    const std::string bytes = std::to_string(size);
    switch (kind.where) {
      case Kind::Where::kMemory:
        uri_ = "memory:?size=" + bytes;
        break;
      case Kind::Where::kFile:
        uri_ = "file://" + path + "?size=" + bytes + "&create=on" + kind.options;
        break;
      case Kind::Where::kProxy:
        upstream_ = std::make_unique<ProxyUpstream>("memory:?size=" + bytes);
        break;
      case Kind::Where::kNbdkit:
        upstream_ =
            std::make_unique<NbdkitUpstream>(std::vector<std::string>{"memory", "size=" + bytes});
        break;
      case Kind::Where::kCeph:
        uri_ = "rbd:///rbd/" + MakeImage(bytes, kind.options) + "?conf=" + CephConf();
        break;
    }
    if (upstream_ != nullptr) uri_ = upstream_->uri() + kind.options;
  }

  const std::string& uri() const { return uri_; }
  // Null: none is needed.
  Upstream* upstream() { return upstream_.get(); }

 private:
  static std::string MakeImage(const std::string& bytes, const std::string& options) {
    const Uuid name = RandomUuid();
    const std::string command = std::string("exec rbd --conf ") + CephConf() + " create --size " +
                                bytes + "B " + options + " rbd/" + ToString(name);
    EXPECT_EQ(std::system(command.c_str()), 0);
    return ToString(name);
  }

  std::string uri_;
  std::unique_ptr<Upstream> upstream_;
};

}  // namespace cloudblk::proxy

#endif  // CLOUDBLK_TESTS_UNIT_PROXY_UPSTREAM_H_
