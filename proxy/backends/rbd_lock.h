// SPDX-License-Identifier: GPL-2.0-or-later
//
// The exclusive lock of an image, and how it passes from one proxy to another. Whoever has it
// watches an object of its own beside the image; who is to take the volume over asks there, and
// breaks the lock only of one that does not answer: the cluster then refuses all that may still be
// on its way from it.
#ifndef CLOUDBLK_PROXY_BACKENDS_RBD_LOCK_H_
#define CLOUDBLK_PROXY_BACKENDS_RBD_LOCK_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <mutex>
#include <optional>
#include <string>

#include "base/status.h"
#include "proxy/backends/rbd_image.h"

namespace cloudblk::proxy {

class RbdLock {
 public:
  // What it needs of the volume. Called from any thread while the lock is held.
  class Host {
   public:
    // Has the lock given back. `done` is called once it was, or was not held; it may block.
    virtual void LetGo(std::function<void()> done) = 0;
    // Runs `fn`, which may block, on a thread.
    virtual void RunOnThread(std::function<void()> fn) = 0;
    // The cluster has put this client on its blocklist. From RunOnThread's thread.
    virtual void OnBlocklisted() = 0;

   protected:
    ~Host() = default;
  };

  // `path` names the image for people. `host` outlives the object.
  RbdLock(std::string volume, std::string path, Host* host);

  // One of these at a time, where blocking is allowed. EBUSY: another client has the lock.
  // `takeover`: a proxy that has it is made to let go. ESHUTDOWN: the cluster has put this client
  // on its blocklist. `image` outlives the time for which it is held.
  Status Acquire(RbdImage* image, bool takeover);
  void Release();

 private:
  // Who has the lock.
  struct Owner {
    std::string address;     // of its client of the cluster, by which the lock names it
    std::string client;      // what it is called
    bool is_there = false;   // the cluster hears of it
    bool is_proxy = false;   // and of a proxy:
    std::string process;     // what it is called
    bool is_at_end = false;  // it ran on this host, and does not any more
    bool is_this = false;    // it is this process
  };

  static void OnNotify(void* arg, uint64_t notify_id, uint64_t handle, uint64_t notifier_id,
                       void* data, size_t length);
  static void OnWatchError(void* arg, uint64_t cookie, int error);

  Status AcquireNow(bool takeover);
  Result<std::optional<Owner>> FindOwner() const;
  Status DescribeLockers() const;
  void DescribeProcess(Owner* owner) const;
  Status SayWho();
  // The lock is free when it returns OK, or nobody is there any more who has it.
  Status Free(const Owner& owner, bool takeover);
  Status Busy(const Owner& owner) const;
  Status Break(const Owner& owner, const std::string& why) const;
  void AskForIt() const;
  Status Watch();
  void Unwatch();
  void WatchAgain(uint64_t cookie);
  void ReleaseNow();
  Status Failed(int error, const std::string& what) const;

  const std::string volume_;
  const std::string path_;
  Host* const host_;
  std::mutex mutex_;
  // Under mutex_; constant while something is watched.
  RbdImage* image_ = nullptr;       // while it is held, or being asked for
  std::string own_address_;         // by which it was held last
  std::string own_client_;          // and by which client of the cluster
  std::string object_;              // that is watched
  std::optional<uint64_t> cookie_;  // of the watch
  // Whoever asked for the lock has it first.
  std::atomic<int64_t> not_before_ns_{0};
};

}  // namespace cloudblk::proxy

#endif  // CLOUDBLK_PROXY_BACKENDS_RBD_LOCK_H_
