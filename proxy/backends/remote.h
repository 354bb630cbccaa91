// SPDX-License-Identifier: GPL-2.0-or-later
//
// cloudblk://, nbd:// and their forms for unix sockets: a volume of another server, over the engine
// (block/), which has quarantine, replay and failover.
#ifndef CLOUDBLK_PROXY_BACKENDS_REMOTE_H_
#define CLOUDBLK_PROXY_BACKENDS_REMOTE_H_

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "base/socket.h"
#include "base/tls_credentials.h"
#include "base/worker_pool.h"
#include "block/session.h"
#include "block/uri.h"
#include "proxy/backend.h"
#include "proxy/backends/file_attributes.h"

namespace cloudblk::proxy {

class RemoteQueue;

struct RemoteOptions {
  std::string volume;  // here, for the log
  std::string server;  // URI, as the engine takes it
  ServerUri uri;       // the same
  bool read_only = false;
  bool payload_crc = false;
  std::optional<TlsSettings> tls;
  std::string tls_hostname;
  uint32_t loops = 1;
  std::string state_dir;  // where is kept what the server cannot keep for us
};

// The server is observed as long as the object lives, where that takes part of what happens to the
// volume (its size, its generation). While somebody here may write, there is a second session,
// which is active and has a channel for each loop. Both outlast the server: requests wait for it.
class Remote final : public Backend {
 public:
  explicit Remote(RemoteOptions options);
  ~Remote() override;
  // Once, before all else. Waits for a server that cannot be reached; the error, which waiting does
  // not cure, is one line for the user.
  Status Open();

  Result<std::unique_ptr<BackendQueue>> Attach(LoopContext& context) override;
  // With the lock (AcquireExclusive).
  Status Resize(uint64_t size) override;
  void LookAtSize() override;
  void FindTrouble(const TroubleFn& done) override;
  Status AcquireExclusive(bool takeover) override;
  void ReleaseExclusive() override;
  Status StoreOwner(const std::string& text, bool lasting) override;
  Status SyncAll() override;
  Result<std::string> LoadOwner() override;

  // --- For its queues.

  // The active session may have learned of a loss. On the loop of one of its channels, before any
  // FLUSH is told that was answered.
  void NoteLosses(const SessionState& state) {
    if (state.generation() != seen_generation_.load() || state.losses() != seen_losses_.load()) {
      FollowActive(state);
    }
  }
  // A FLUSH of a connection that was opened at `generation` was answered.
  void NoteFlushed() { unflushed_before_.store(false, std::memory_order_relaxed); }
  void NoteFlushFailed(uint64_t generation);
  // Whether it has a channel of the active session, or is about to. On its loop.
  bool WillServe(RemoteQueue* queue) {
    std::lock_guard lock(mutex_);
    return serving_.contains(queue);
  }
  // Its channel of the active session was taken off its loop.
  void NoteLeft(RemoteQueue* queue);
  // It is about to go.
  void Forget(RemoteQueue* queue);

 private:
  Result<std::unique_ptr<Session>> OpenSession(bool observe, bool takeover, int64_t timeout_ns);
  Status Describe();
  // What the sessions learn of; on their loops, or where a blocking call is.
  static void OnObserved(void* opaque, CloudblkEventKind kind, uint64_t value, const char* text);
  static void OnActive(void* opaque, CloudblkEventKind kind, uint64_t value, const char* text);
  // Takes the active session off all loops; gives it to them.
  void TakeOff();
  void PutOn();  // with mutex_ held

  // What may have been lost at the server, as the sessions were told.
  void FollowActive(const SessionState& state);
  void FollowObserver();
  // With generation_mutex_ held:
  // The server tells this generation. `lost`: writes of the active session may be.
  void Follow(uint64_t upstream, bool lost);
  void Change(uint64_t proposed);  // 0: any other
  void Keep();
  uint64_t LoadGeneration() const;

  // For a server that does not fence: what this host knows of others here.
  Status LockHere();
  void UnlockHere();

  // Constant after Open.
  const RemoteOptions options_;
  bool fences_ = true;
  bool tells_losses_ = true;
  uint64_t fixed_generation_ = 0;  // of a server that tells none
  std::unique_ptr<Session> observer_;
  std::optional<FileAttributes> attributes_;
  std::string lock_path_;

  // One blocking call at a time: Acquire, Release, SyncAll, Resize.
  std::mutex calls_mutex_;
  // Under calls_mutex_.
  UniqueFd lock_;
  int64_t not_before_ns_ = 0;  // until then what an earlier session has sent may land
  bool told_of_state_dir_ = false;

  std::mutex mutex_;
  std::condition_variable changed_;
  // Under mutex_.
  std::unique_ptr<Session> active_;   // changed under calls_mutex_ too
  std::vector<RemoteQueue*> queues_;  // by channel; null: none yet
  std::set<RemoteQueue*> serving_;    // that have a channel of active_, or are about to

  std::mutex generation_mutex_;
  // Changed under generation_mutex_.
  std::atomic<uint64_t> seen_generation_{0};  // of the active session
  std::atomic<uint64_t> seen_losses_{0};      // likewise
  uint64_t observed_generation_ = 0;
  uint64_t upstream_ = 0;  // the server's generation, that generation() goes with
  // Writes may be unflushed that another session did, of this process or an earlier one.
  std::atomic<bool> unflushed_before_{true};
  WorkerPool writer_{1};  // last: ends before what it uses
};

}  // namespace cloudblk::proxy

#endif  // CLOUDBLK_PROXY_BACKENDS_REMOTE_H_
