// SPDX-License-Identifier: GPL-2.0-or-later
//
// The proxy as a whole: volumes, loops, listeners, and their orderly end.
#ifndef CLOUDBLK_PROXY_SERVER_H_
#define CLOUDBLK_PROXY_SERVER_H_

#include <chrono>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "base/status.h"
#include "base/tls_credentials.h"
#include "proxy/listener.h"
#include "proxy/loop_thread.h"
#include "proxy/options.h"
#include "proxy/volume.h"
#include "proxy/volume_opener.h"

namespace cloudblk::proxy {

class Server {
 public:
  // Opens the volumes and listens. Nothing is accepted yet. On failure *server may be left in a
  // state that is to be left alone.
  static Status Create(const Options& options, std::unique_ptr<Server>* server);
  // Precondition: never started, or Shutdown returned true.
  ~Server();

  // Whether a storage has not answered since the start: the process must end without running
  // destructors then.
  bool opening() const { return opener_.pending(); }

  // Starts the threads and accepts.
  void Start();

  // The rules that are in force from now on, for what is connected too. Any thread.
  void SetAccess(std::vector<AccessRule> rules);

  // The credentials of connections with TLS that are accepted from now on, read anew; what is
  // connected stays. An error: those there were stay. Any thread.
  Status SetTls(const Options& options);

  // Where it listens, with real ports, as ParseEndpoint reads them.
  std::vector<std::string> Addresses() const;

  // Stops accepting, says goodbye, answers what is in flight, ends the threads. False if that took
  // longer than `patience`: then the process must end without running destructors.
  bool Shutdown(std::chrono::milliseconds patience);

 private:
  Server() = default;
  Status SetLimits(const Options& options);
  Status CheckListeners(const Options& options);
  Status OpenVolumes(const Options& options);
  Status MakeLoops(const Options& options);
  Status MakeListeners(const Options& options);
  Status Listen(const Endpoint& endpoint, bool is_admin);
  void HandOut(UniqueFd fd, ClientIdentity client, bool tls);
  // There is no descriptor left for a connection.
  void MakeRoom();

  ThreadAlarmClock alarm_;  // outlives the volumes
  std::unique_ptr<Limits> limits_;
  VolumeMap volumes_;
  VolumeOpener opener_{&volumes_, &alarm_};
  Access access_;
  std::mutex tls_mutex_;
  std::shared_ptr<const TlsCredentials> tls_;  // with tls_mutex_; null: no address has it
  ServerInfo info_;
  std::vector<std::unique_ptr<LoopThread>> loops_;
  std::vector<std::unique_ptr<Listener>> listeners_;  // on the first loop
  size_t next_loop_ = 0;                              // first loop's thread only
};

}  // namespace cloudblk::proxy

#endif  // CLOUDBLK_PROXY_SERVER_H_
