// SPDX-License-Identifier: GPL-2.0-or-later
//
// One loop of the proxy with a thread of its own.
#ifndef CLOUDBLK_PROXY_LOOP_THREAD_H_
#define CLOUDBLK_PROXY_LOOP_THREAD_H_

#include <functional>
#include <memory>
#include <string>
#include <thread>

#include "base/epoll_loop.h"
#include "base/socket.h"
#include "base/status.h"
#include "base/tls_credentials.h"
#include "proxy/connection_host.h"

namespace cloudblk::proxy {

class LoopThread {
 public:
  static Result<std::unique_ptr<LoopThread>> Create(const ServerInfo& info);
  // Every connection must be gone and the thread ended.
  ~LoopThread();
  LoopThread(const LoopThread&) = delete;
  LoopThread& operator=(const LoopThread&) = delete;

  // Runs the loop on a thread of its own, until Stop (which waits for its end).
  void Start();
  void Stop();

  // Any thread.
  void Post(std::function<void()> fn) { loop_->Post(std::move(fn)); }
  // `credentials`: of TLS; null: it is clear text.
  void PostAdopt(UniqueFd fd, ClientIdentity client,
                 std::shared_ptr<const TlsCredentials> credentials);
  void PostGoAway();
  void PostMakeRoom();
  void PostCheckRights();
  size_t connections() const { return host_.connections(); }

  // On the loop's thread, or before it runs.
  EpollLoop& loop() { return *loop_; }
  ConnectionHost& host() { return host_; }

 private:
  LoopThread(const ServerInfo& info, std::unique_ptr<EpollLoop> loop);

  const std::unique_ptr<EpollLoop> loop_;
  ConnectionHost host_;
  std::thread thread_;
};

}  // namespace cloudblk::proxy

#endif  // CLOUDBLK_PROXY_LOOP_THREAD_H_
