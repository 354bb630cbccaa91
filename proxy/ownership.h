// SPDX-License-Identifier: GPL-2.0-or-later
//
// Who may write to a volume, step by step: what is asked is judged, who is in the way is stopped,
// the storage keeps what was granted, and only then is it answered. The rules are OwnerTable's.
#ifndef CLOUDBLK_PROXY_OWNERSHIP_H_
#define CLOUDBLK_PROXY_OWNERSHIP_H_

#include <cstdint>
#include <functional>
#include <list>
#include <mutex>
#include <optional>
#include <set>
#include <string>

#include "base/executor.h"
#include "proxy-protocol/wire.h"
#include "proxy/alarm_clock.h"
#include "proxy/backend.h"
#include "proxy/log_limit.h"
#include "proxy/owner_record.h"
#include "proxy/owner_store.h"
#include "proxy/owner_table.h"
#include "proxy/peer.h"

namespace cloudblk::proxy {

// One volume's. All methods may be called from any thread; none waits for a connection or for the
// storage.
class Ownership {
 public:
  static constexpr uint32_t kMaxChannels = OwnerTable::kMaxChannels;
  // What became of a Hold. Called with the volume's lock held; returns at once.
  using HoldFn = std::function<void(const OwnershipAnswer&)>;

  // `clock` is monotonic, in nanoseconds, and `alarm` goes by it. `executor` does one thing after
  // the other, in order; it is where the storage is asked. What was given to it must be done before
  // the object goes. All outlive the object.
  Ownership(std::string volume, Backend* backend, int64_t lease_ns, std::function<int64_t()> clock,
            AlarmClock* alarm, Executor* executor);
  ~Ownership();

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

  // The storage's lock is wanted elsewhere, or was lost: who has the volume is stopped without
  // being told that it lost it, which only the record says that another may write then. `done` is
  // called on the executor when the lock is given back, or was not held.
  void Yield(std::function<void()> done);

  // The process ends: the storage's lock is given back as soon as nobody is connected, whose leases
  // the successor finds in the record.
  void Leave();

 private:
  struct Operation {
    OwnershipCall call{};
    HoldFn held{};                  // kHold
    std::function<void()> done{};   // kYield
    bool wants_lock = false;        // and waits for it
    bool is_storing = false;        // committed; the storage is to keep the record
    std::set<Peer*> waiting_for{};  // being stopped
  };
  using Operations = std::list<Operation>;

  void Enqueue(Operation operation);
  void OnAlarm();

  // Below: with mutex_ held.

  // Takes every operation as far as it goes now. One that waits, for connections that end or for
  // the storage, does not hold up the others, but for those that only its end can decide: each is
  // judged again after it has waited. One at a time changes the record, and is answered when the
  // storage keeps it: whoever was told that it holds the volume is on record after a crash.
  void Advance();
  // False: it has to wait, and nothing has changed.
  bool Step(Operations::iterator operation);
  bool HasToWaitForAnother(Operations::iterator operation) const;
  bool AcquireFor(Operation* operation);
  void Refuse(Operations::iterator operation, const OwnershipAnswer& answer);
  void Stop(Operation* operation);
  void Commit(Operations::iterator operation);
  void CommitYield(Operations::iterator operation);
  void Finish(Operations::iterator operation);
  static void Answer(const Operation& operation, const OwnershipAnswer& answer);
  // Whether nobody needs the storage's lock: it is held from before a session is active until none
  // is and none may come back.
  bool MayUnlock() const;
  void Unlock();  // but for the storage itself
  void UnlockIfFree();
  void SetAlarm();

  // On the executor, without mutex_.
  void OnAcquired(const Result<OwnerRecord>& record);
  // The storage was to keep the record of the operation that stores. `wrong`: what it kept before
  // contradicts that.
  void OnStored(const OwnerRecord& record, bool wrong, const OwnerStore::Kept& kept);
  void NoteKept(const OwnerRecord& record, const OwnerStore::Kept& kept);

  const std::string volume_;
  OwnerStore store_;  // on the executor
  const std::function<int64_t()> clock_;
  AlarmClock* const alarm_;
  Executor* const executor_;

  LogLimit log_;

  std::mutex mutex_;
  OwnerTable table_;
  OwnerRecord stored_;  // what the storage keeps
  Operations operations_;
  bool storing_ = false;    // for one of them
  bool acquiring_ = false;  // the storage's lock
  bool locked_ = false;
  bool leaving_ = false;
  int holds_ = 0;
  std::optional<int64_t> alarm_ns_;  // when it is due, if it is set
  bool record_warned_ = false;
};

}  // namespace cloudblk::proxy

#endif  // CLOUDBLK_PROXY_OWNERSHIP_H_
