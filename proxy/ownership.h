// SPDX-License-Identifier: GPL-2.0-or-later
//
// Who may write to a volume: sessions, epochs, incarnations, leases, fencing (SPEC.md 6 to 8, 11).
#ifndef CLOUDBLK_PROXY_OWNERSHIP_H_
#define CLOUDBLK_PROXY_OWNERSHIP_H_

#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "base/executor.h"
#include "proxy-protocol/wire.h"
#include "proxy/backend.h"
#include "proxy/owner_record.h"
#include "proxy/owner_store.h"

namespace cloudblk::proxy {

struct OwnershipAnswer {
  wire::StatusCode status = wire::StatusCode::kOk;
  std::string text;  // for people, unless kOk
  uint64_t epoch = 0;
  uint32_t retry_ms = 0;
};

// A connection as ownership sees it. Its functions are called with the volume's lock held, from any
// thread, and return at once.
class Peer {
 public:
  // Stop this connection (SPEC.md 7.1), then call Ownership::Gone. `revoked`, unless empty, says
  // why its session lost the volume.
  virtual void Stop(const std::string& revoked) = 0;
  // What became of this connection's Open, Release, Claim or End.
  virtual void Answer(const OwnershipAnswer& answer) = 0;

  // Whether its requests are to be carried out. Any thread.
  bool active() const { return active_.load(std::memory_order_acquire); }

 protected:
  ~Peer() = default;

 private:
  friend class Ownership;
  std::atomic<bool> active_{false};
};

struct OpenRequest {
  wire::Open open;
  std::string client_name;
  std::string address;  // where the client connects from
};

// One volume's. All methods may be called from any thread; none waits for a connection or for the
// storage. What has to is queued, one after the other.
class Ownership {
 public:
  static constexpr uint32_t kMaxChannels = 64;
  // What became of a Hold. Called with the volume's lock held; returns at once.
  using HoldFn = std::function<void(const OwnershipAnswer&)>;

  // `clock` is monotonic, in nanoseconds. `executor` does one thing after the other, in order; it
  // is where the storage is asked. What was given to it must be done before the object goes, and
  // `backend` outlives it.
  Ownership(std::string volume, Backend* backend, int64_t lease_ns, std::function<int64_t()> clock,
            Executor* executor);

  // Finds out who held the volume before this process started; their lease starts now. At start-up:
  // waits for the storage.
  void Restore();

  // Each is followed by Peer::Answer, unless Gone comes first. A peer has one of them under way.
  void Open(Peer* peer, const OpenRequest& request);
  void Release(Peer* peer, const wire::TokenMessage& message);
  void Claim(Peer* peer, const wire::TokenMessage& message);
  void End(Peer* peer);  // CLOSE with END_SESSION

  // Holds the storage's lock for an act that needs nobody to be active, until Unhold. Answered with
  // another status than OK: another server has it, and there is nothing to be given back.
  void Hold(HoldFn held);
  void Unhold();

  // The peer is stopped: nothing of it can reach the storage any more, and no more calls to it are
  // made. Also for peers that never got an answer, or are not known.
  void Gone(Peer* peer);

 private:
  struct Channel {
    uint64_t incarnation = 0;
    Peer* peer = nullptr;  // null: the connection was lost
  };
  // An active session, or one that was and may come back.
  struct Session {
    Uuid uuid;
    uint64_t epoch = 0;
    uint32_t channel_count = 0;  // 0: not known yet
    bool share_rw = false;
    bool read_only = false;
    std::string client_name;
    std::string address;
    std::string since;
    std::map<uint32_t, Channel> channels;
    int64_t lost_ns = 0;        // when the last connection was lost; valid while there is none
    std::optional<Uuid> token;  // released: not active, reserved for who has the token
    Uuid spent;                 // the token that made this epoch active; nil: none did
    // Who claimed this epoch (SPEC.md 11.9); nil: who has no id. Nothing: the record does not tell,
    // and the first who resumes is taken for it.
    std::optional<Uuid> claimer;

    bool connected() const;
  };
  struct Operation {
    enum class Kind { kOpen, kRelease, kClaim, kEnd, kHold };
    Kind kind{};
    Peer* peer = nullptr;          // null: gone since it was committed, or kHold
    HoldFn held{};                 // kHold
    OpenRequest request{};         // kOpen, and see by_observer
    wire::TokenMessage message{};  // kRelease and kClaim
    bool started = false;
    std::set<Peer*> waiting_for{};  // being stopped
    std::set<Peer*> to_stop{};      // found by Judge
    std::string revoked{};          // why, for those of other sessions
    std::set<Peer*> revoke{};       // of to_stop: whom to tell
    std::vector<Uuid> losers{};     // sessions that lose the volume when it is committed
    // Set by Commit, for Finish, which comes when the record is kept.
    std::optional<Uuid> activate{};  // the session that is active then
    bool by_observer = false;        // kClaim: `request` is that by which it observes
    OwnershipAnswer answer{};
  };

  // Empty: it cannot be said without the storage's lock.
  using Judgement = std::optional<OwnershipAnswer>;

  void Enqueue(Operation operation);

  // Below: with mutex_ held.

  // Takes the first of the queue as far as it goes now. It is judged (if need be once the storage's
  // lock is acquired), those in its way are stopped, it is committed, the storage keeps the record,
  // and only then is it finished, which answers it: so whoever was told that it holds the volume is
  // on record after a crash.
  void Advance();
  // False: the first of the queue was refused, or has to wait for the storage's lock.
  bool JudgeFirst();
  void StartAcquiring();
  void Start(Operation* operation);
  void Finish(Operation* operation);
  // Whether the operation may be carried out, and what has to be stopped before.
  Judgement Judge(Operation* operation);
  Judgement JudgeOpen(Operation* operation);
  OwnershipAnswer JudgeOwnSession(const wire::Open& open, const Session* own);
  OwnershipAnswer JudgeOthers(Operation* operation, const OpenRequest& request, bool takeover);
  OwnershipAnswer JudgeRelease(Operation* operation);
  OwnershipAnswer JudgeClaim(Operation* operation);
  OwnershipAnswer JudgeEnd(Operation* operation);
  OwnershipAnswer Commit(Operation* operation);
  OwnershipAnswer CommitOpen(Operation* operation);
  OwnershipAnswer CommitRelease(const Operation& operation);
  OwnershipAnswer CommitClaim(Operation* operation);
  OwnershipAnswer CommitEnd(const Operation& operation);
  void DropLosers(const Operation& operation);
  void StopAll(Operation* operation, const Session& session, const std::string& revoked);
  static void Answer(const Operation& operation, const OwnershipAnswer& answer);
  void Activate(Session* session, uint32_t channel, uint64_t incarnation, Peer* peer);
  void ActivateObservers(Session* session, const Operation& claim);

  static bool SharesRw(const wire::Open& open);
  bool OnlyReads(const wire::Open& open) const;
  Session* FindSession(const Uuid& uuid);
  Session* FindToken(const Uuid& token);
  // The OPEN's token was spent by this very epoch (SPEC.md 11.6).
  static bool Repeats(const wire::Open& open, const Session* own);
  Session* SessionOf(const Peer* peer);
  bool Expired(const Session& session) const;
  OwnershipAnswer Busy(const Session& holder) const;
  // For people: who goes on with the state that another client comes to resume.
  static std::string Resumer(const Session& session);
  // The storage's lock is held from before a session is active until none is.
  bool NobodyNeedsLock() const { return holds_ == 0 && sessions_.empty(); }
  void UnlockIfFree();
  void TakeRecord(OwnerRecord record);
  void Recall(const OwnerRecord::Holder& holder, Session* session) const;
  // What the storage is to keep.
  OwnerRecord Record() const;
  // Both on the executor, without mutex_.
  void OnAcquired(const Result<OwnerRecord>& record);
  // The storage was to keep the record of the first of the queue. `wrong`: what it kept before
  // contradicts that.
  void OnStored(const OwnerRecord& record, bool wrong, const OwnerStore::Kept& kept);
  // Undoes what Commit has done and refuses the operation, as the storage goes on naming the former
  // holder. With mutex_ held.
  void TakeBack(Operation* operation, const Status& why);

  const std::string volume_;
  Backend* const backend_;
  OwnerStore store_;  // on the executor
  const int64_t lease_ns_;
  const std::function<int64_t()> clock_;
  Executor* const executor_;

  std::mutex mutex_;
  std::map<std::string, Session> sessions_;  // by UUID, as text
  std::map<Peer*, OpenRequest> observers_;   // and the OPEN of each
  std::set<std::string> fenced_;             // UUIDs that lost the volume to another session
  std::deque<std::string> fenced_order_;
  OwnerRecord stored_;      // what the storage keeps
  std::vector<Uuid> last_;  // who held the volume last
  std::deque<Operation> queue_;
  bool storing_ = false;                   // for the first of the queue, which is committed
  bool acquiring_ = false;                 // the storage's lock
  std::optional<OwnershipAnswer> denied_;  // why it was not had, for the first of the queue
  bool locked_ = false;
  int holds_ = 0;
  bool record_kept_ = false;  // the storage keeps records: it had one, or has kept one
  bool record_warned_ = false;
};

}  // namespace cloudblk::proxy

#endif  // CLOUDBLK_PROXY_OWNERSHIP_H_
