// SPDX-License-Identifier: GPL-2.0-or-later
//
// One loop of the proxy with the connections that live on it. No connection ever moves, and nothing
// here takes a lock on the path of a request.
#ifndef CLOUDBLK_PROXY_LOOP_THREAD_H_
#define CLOUDBLK_PROXY_LOOP_THREAD_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "base/epoll_loop.h"
#include "base/socket.h"
#include "base/status.h"
#include "proxy/job.h"
#include "proxy/loop_context.h"
#include "proxy/volume.h"

namespace cloudblk::proxy {

class Connection;

// What connections need of the server; constant while it runs.
struct ServerInfo {
  const VolumeMap* volumes = nullptr;
  Uuid uuid;  // of this run
};

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
  void PostAdopt(UniqueFd fd, std::string address);
  // Connections that are told to go: they answer what is in flight and close.
  void PostGoAway();
  size_t connections() const { return connection_count_.load(std::memory_order_acquire); }

  // --- On the loop's thread.

  EpollLoop& loop() { return *loop_; }
  LoopContext& context() { return *context_; }
  JobPool& jobs() { return jobs_; }
  // Room for decoding one frame at a time.
  std::span<wire::Request> scratch() { return scratch_; }

  void Adopt(UniqueFd fd, const std::string& address);
  // Null if it is gone.
  Connection* Find(uint64_t id);
  // The connection is destroyed at the end of the turn.
  void Remove(Connection* connection);
  // Has the connection's Flush called at the end of the turn, after what was submitted went to the
  // storage. So what belongs together goes out together.
  void MarkDirty(Connection* connection);

 private:
  LoopThread(const ServerInfo& info, std::unique_ptr<EpollLoop> loop);
  void WatchEndOfTurn();
  void EndOfTurn();

  const ServerInfo info_;
  const std::unique_ptr<EpollLoop> loop_;
  std::unique_ptr<LoopContext> context_;
  std::thread thread_;
  std::atomic<size_t> connection_count_{0};
  // Loop thread only.
  JobPool jobs_;
  std::vector<wire::Request> scratch_ = std::vector<wire::Request>(wire::kMaxFrameEntries);
  std::map<uint64_t, std::unique_ptr<Connection>> connections_;
  std::vector<std::unique_ptr<Connection>> removed_;
  std::vector<Connection*> dirty_;
  std::vector<Connection*> flushing_;
  uint64_t next_id_ = 1;
  bool end_of_turn_due_ = false;
  bool going_away_ = false;
};

}  // namespace cloudblk::proxy

#endif  // CLOUDBLK_PROXY_LOOP_THREAD_H_
