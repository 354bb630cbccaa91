// SPDX-License-Identifier: GPL-2.0-or-later
//
// One opened volume as the commands use it: a session with one channel on a loop of this thread.
#ifndef CLOUDBLK_TOOLS_CLIENT_H_
#define CLOUDBLK_TOOLS_CLIENT_H_

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/epoll_loop.h"
#include "base/status.h"
#include "block/include/cloudblk.h"
#include "tools/tls.h"

namespace cloudblk {

struct ClientOptions {
  std::string server;
  bool read_only = false;
  bool share_rw = false;
  bool takeover = false;
  bool end_reservation = false;
  bool payload_crc = false;
  uint32_t open_timeout_ms = 0;
  uint32_t server_timeout = 0;  // seconds; 0: the engine's default
  TlsOptions tls;
  std::string client_name;  // what others who want the volume see
};

// What an errno means here, where the system's text would not tell.
std::string DescribeErrno(int error);

// Who gets the result of a request. Must live until then.
class Waiter {
 public:
  // result: 0 or -errno. May submit.
  virtual void OnDone(int result) = 0;

 protected:
  ~Waiter() = default;
};

// An active session can be interrupted (interrupt.h): what is in flight completes with -ECANCELED
// then, and what is submitted later is refused with it.
class Client : private FdHandler {
 public:
  // Opens the volume to observe, which disturbs nobody who has it.
  static Result<std::unique_ptr<Client>> Open(const ClientOptions& options);
  // Makes the session active, with the options that Open had. The last thing before requests: it
  // may take the volume from its holder, so that all that can be wrong is to be judged before.
  Status Activate();
  // Gives up what is in flight and tells the server that the session is over.
  ~Client();
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  CloudblkInfo info() const;
  CloudblkStats stats() const;
  int64_t NowNs() const { return loop_->NowNs(); }

  // 0 or -errno, as cloudblk_channel_submit. Data must live until the waiter was told.
  int Read(uint64_t offset, std::span<uint8_t> data, Waiter* waiter);
  int Write(uint64_t offset, std::span<const uint8_t> data, Waiter* waiter);
  int WriteZeroes(const CloudblkRange* range, Waiter* waiter);
  int Submit(const CloudblkRequest& request);
  // Sends what was submitted.
  void Kick();
  // Waits for something to happen and lets it happen; at most timeout_ns where that is >= 0.
  void Turn(int64_t timeout_ns = -1) { loop_->RunOnce(timeout_ns); }
  // Waits until a file, which may be a pipe, can be read from, or written to. The server is
  // answered meanwhile, who else takes the client for gone. False: interrupted.
  bool AwaitFile(int fd, bool output);

  // One request without data, waited for. 0 or -errno.
  int Flush();
  int Discard(uint64_t offset, uint64_t length);
  // The same: what the bytes from `offset` on are, of whole blocks. Fills the front of `extents`;
  // the others stay as they are. Needs no active session.
  int BlockStatus(uint64_t offset, uint64_t length, std::span<CloudblkExtent> extents);

  // Gives the volume another size. Nothing may be in flight.
  Status Resize(uint64_t size, bool force);

 private:
  Client(std::unique_ptr<EpollLoop> loop, const ClientOptions& options);
  Status OpenSession(bool observe);
  void CloseSession();
  int Await(CloudblkRequest request);
  Status Attach();
  void OnReadable() override;
  void OnWritable() override {}
  static void OnComplete(void* opaque, const CloudblkCompletion* done, uint32_t count);

  std::unique_ptr<EpollLoop> loop_;
  const ClientOptions options_;
  UniqueFd interrupt_;  // of an active session; readable: interrupted
  CloudblkSession* session_ = nullptr;
  CloudblkChannel* channel_ = nullptr;
};

}  // namespace cloudblk

#endif  // CLOUDBLK_TOOLS_CLIENT_H_
