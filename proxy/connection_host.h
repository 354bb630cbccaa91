// SPDX-License-Identifier: GPL-2.0-or-later
//
// The connections that live on one loop, and what that loop lends them. No connection ever moves,
// and nothing here takes a lock on the path of a request.
#ifndef CLOUDBLK_PROXY_CONNECTION_HOST_H_
#define CLOUDBLK_PROXY_CONNECTION_HOST_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "base/event_loop.h"
#include "base/status.h"
#include "base/transport.h"
#include "base/uuid.h"
#include "proxy-protocol/wire.h"
#include "proxy/access.h"
#include "proxy/backend.h"
#include "proxy/job.h"
#include "proxy/limits.h"
#include "proxy/log_limit.h"
#include "proxy/loop_context.h"
#include "proxy/volume.h"

namespace cloudblk::proxy {

class Connection;

// What connections need of the server; constant while it runs.
struct ServerInfo {
  const VolumeMap* volumes = nullptr;
  Uuid uuid;  // of this run
  Limits* limits = nullptr;
  const Access* access = nullptr;
};

// On the loop's thread, but for what says otherwise.
class ConnectionHost {
 public:
  // `loop` outlives the object.
  ConnectionHost(EventLoop* loop, const ServerInfo& info);
  // Every connection must be gone.
  ~ConnectionHost();
  ConnectionHost(const ConnectionHost&) = delete;
  ConnectionHost& operator=(const ConnectionHost&) = delete;

  void Adopt(std::unique_ptr<Transport> transport, const ClientIdentity& client);
  // Makes every volume that is there usable on this loop. Before anything is adopted.
  Status Attach();
  // Connections are told to go: they answer what is in flight and close. Nothing is adopted any
  // more.
  void GoAway();
  bool going_away() const { return going_away_; }
  // The rules in force are others now: who has no right any more is told so and dropped.
  void CheckRights();
  // Drops connections that have not asked for a volume: the oldest quarter of them.
  void MakeRoom();
  // Any thread.
  size_t connections() const { return connection_count_.load(std::memory_order_acquire); }

  // --- For the connections.

  EventLoop& loop() { return *loop_; }
  LoopContext& context() { return context_; }
  JobPool& jobs() { return jobs_; }
  Limits& limits() { return *info_.limits; }
  LogLimit& log_limit() { return log_limit_; }
  // kMostFramePayload bytes that anything may be read into, and nothing from.
  uint8_t* DiscardTo();
  // Room for decoding one frame at a time.
  std::span<wire::Request> scratch() { return scratch_; }
  // Lives as long as this object.
  Result<BackendQueue*> QueueOf(Volume* volume);
  // Has the queue's Kick called at the end of the turn.
  void NoteSubmitted(BackendQueue* queue) {
    if (submitted_.empty() || submitted_.back() != queue) submitted_.push_back(queue);
  }
  // Runs fn on the loop, unless the connection is gone by then. Any thread.
  void Post(uint64_t id, std::function<void(Connection*)> fn);
  // Likewise at the end of the turn, on the loop's thread.
  void Defer(uint64_t id, std::function<void(Connection*)> fn);
  // The connection has asked for a volume, or is about to be removed.
  void NoStranger(uint64_t id) { strangers_.erase(id); }
  // Has each connection's CheckProgress called from time to time, until none wants it any more.
  void WatchProgress();
  // The connection is destroyed at the end of the turn.
  void Remove(Connection* connection);
  // Has the connection's Flush called at the end of the turn, after what was submitted went to the
  // storage. So what belongs together goes out together.
  void MarkDirty(Connection* connection);

 private:
  void WatchEndOfTurn();
  void EndOfTurn();
  void DropOldestStranger();
  // They live until the end of the turn, also those that are removed meanwhile.
  std::vector<Connection*> All() const;
  void OnProgressTimer();

  EventLoop* const loop_;
  const ServerInfo info_;
  LoopContext context_;
  std::atomic<size_t> connection_count_{0};
  std::map<const Volume*, std::unique_ptr<BackendQueue>> queues_;
  std::vector<BackendQueue*> submitted_;
  JobPool jobs_;
  std::vector<wire::Request> scratch_ = std::vector<wire::Request>(wire::kMaxFrameEntries);
  std::unique_ptr<uint8_t[]> discard_to_;
  LogLimit log_limit_;
  std::unique_ptr<Timer> progress_timer_;
  bool progress_armed_ = false;
  std::map<uint64_t, std::unique_ptr<Connection>> connections_;
  std::set<uint64_t> strangers_;  // those that have not asked for a volume; the oldest is first
  std::vector<std::unique_ptr<Connection>> removed_;
  std::vector<Connection*> dirty_;
  std::vector<Connection*> flushing_;
  uint64_t next_id_ = 1;
  bool end_of_turn_due_ = false;
  bool going_away_ = false;
};

}  // namespace cloudblk::proxy

#endif  // CLOUDBLK_PROXY_CONNECTION_HOST_H_
