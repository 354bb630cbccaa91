// SPDX-License-Identifier: GPL-2.0-or-later
#ifndef CLOUDBLK_PROXY_LISTENER_H_
#define CLOUDBLK_PROXY_LISTENER_H_

#include <sys/stat.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/event_loop.h"
#include "base/socket.h"
#include "base/status.h"
#include "proxy/access.h"
#include "proxy/log_limit.h"

namespace cloudblk::proxy {

// Accepts connections at one endpoint, all its addresses, on the loop's thread.
class Listener final : public FdHandler {
 public:
  using AcceptFn = std::function<void(UniqueFd fd, ClientIdentity client)>;
  // A connection waits and there is no descriptor for it.
  using FullFn = std::function<void()>;

  // Listens at once, accepts after Start.
  static Result<std::unique_ptr<Listener>> Create(const Endpoint& endpoint, EventLoop* loop,
                                                  AcceptFn accept, FullFn full);
  // Removes a unix socket's file.
  ~Listener();

  // With the real port.
  const Endpoint& endpoint() const { return endpoint_; }

  // On the loop's thread, or before it runs.
  void Start();
  void Stop();
  // For good: another process can listen there from now on.
  void Close();

  void OnReadable() override;
  void OnWritable() override {}

 private:
  Listener(const Endpoint& endpoint, std::vector<UniqueFd> fds, EventLoop* loop, AcceptFn accept,
           FullFn full);

  void RemoveFile();
  // Until there are no more, or others are to have their turn, or none can be taken. Then false.
  bool AcceptAll(int listener);

  const Endpoint endpoint_;
  EventLoop* const loop_;
  const AcceptFn accept_;
  const FullFn full_;
  LogLimit log_;
  std::vector<UniqueFd> fds_;
  std::unique_ptr<Timer> pause_;
  struct stat file_{};  // of a unix socket
};

}  // namespace cloudblk::proxy

#endif  // CLOUDBLK_PROXY_LISTENER_H_
