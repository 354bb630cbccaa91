// SPDX-License-Identifier: GPL-2.0-or-later
//
// Who has a volume: sessions, epochs, incarnations, leases, and the rules by which they change
// (SPEC.md 6 to 8, 11). No thread, no storage and no waiting: those are Ownership's.
#ifndef CLOUDBLK_PROXY_OWNER_TABLE_H_
#define CLOUDBLK_PROXY_OWNER_TABLE_H_

#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "base/uuid.h"
#include "proxy-protocol/wire.h"
#include "proxy/backend.h"
#include "proxy/log_limit.h"
#include "proxy/owner_record.h"
#include "proxy/peer.h"

namespace cloudblk::proxy {

// Something that is asked of who has the volume.
struct OwnershipCall {
  enum class Kind {
    kOpen,
    kRelease,
    kClaim,
    kEnd,     // CLOSE with END_SESSION
    kHold,    // the storage's lock is wanted, and nothing else
    kExpire,  // leases have run out
    kYield,   // the storage's lock is to be given back
  };
  Kind kind{};
  Peer* peer = nullptr;          // null: kHold, kExpire, kYield, or gone since it was committed
  OpenRequest request{};         // kOpen; by Commit for kClaim by an observer
  wire::TokenMessage message{};  // kRelease and kClaim

  // Found by Judge.
  std::set<Peer*> to_stop{};   // who is in its way
  std::set<Peer*> revoke{};    // of these: who is to be told why
  std::string revoked{};       // why
  std::vector<Uuid> losers{};  // sessions that lose the volume when it is committed

  // Set by Commit, for Finish.
  std::optional<Uuid> activate{};  // the session that is active then
  bool by_observer = false;        // kClaim: `request` is that by which it observes
  std::optional<Uuid> released{};  // by_observer: the token to which it released the volume before
  bool harmless = false;           // whoever comes back though the storage has forgotten this, may
  OwnershipAnswer answer{};
};

// Not thread-safe. Times are those of one monotonic clock, in nanoseconds.
class OwnerTable {
 public:
  static constexpr uint32_t kMaxChannels = 64;
  // Sessions that only read, of which a record has each by its name. Of more it tells only that
  // there are some: a storage has no room for any number.
  static constexpr size_t kMaxReadersNamed = 8;

  // `backend` and `log` outlive the object; of `backend` only its constants are looked at.
  OwnerTable(std::string volume, const Backend* backend, int64_t lease_ns, LogLimit* log)
      : volume_(std::move(volume)), backend_(backend), lease_ns_(lease_ns), log_(log) {}

  // Whether the call can be judged only by who has the storage's lock, as others may have changed
  // the record since.
  static bool NeedsLock(const OwnershipCall& call);
  // Whether the call is to be carried out whoever has the storage's lock.
  static bool TakesOver(const OwnershipCall& call);
  // Whether the call changes nothing that the storage keeps, whatever becomes of it.
  static bool OnlyObserves(const OwnershipCall& call);
  // Whether `later` can be judged only when `earlier` has ended.
  bool IsBehind(const OwnershipCall& later, const OwnershipCall& earlier) const;

  // Whether the call may be carried out, and who has to be stopped before. May be asked again.
  OwnershipAnswer Judge(OwnershipCall* call, int64_t now) const;
  // Carries it out. Preconditions: judged kOk since anything else was, with nobody left to stop.
  OwnershipAnswer Commit(OwnershipCall* call, int64_t now);
  // Makes active who is active by it: once the storage keeps the record.
  void Finish(const OwnershipCall& call);
  // Undoes what Commit has done, as the storage goes on naming the former holder, and gives the
  // call another answer. `stored` is what the storage keeps.
  void TakeBack(OwnershipCall* call, const OwnerRecord& stored, const Status& why, int64_t now);

  // The peer is stopped.
  void Gone(Peer* peer, int64_t now);

  // What the storage is to keep.
  OwnerRecord Record() const;
  // What the storage had kept. Precondition: nothing is known but by this process's own calls.
  void Take(const OwnerRecord& record, int64_t now);
  // All that Take would bring back is forgotten. Peers stay, as observers. Precondition: nobody
  // needs the lock.
  void Forget();

  // Whether some session has not ended, so that no other server may have the volume. One that
  // released it comes back by a claim, at any server.
  bool HasHolder() const;
  bool IsEmpty() const { return sessions_.empty(); }
  // Whether a session has a connection.
  bool IsConnected() const;
  // When the last lease of those that hold the volume ends, if none of them is connected.
  std::optional<int64_t> LeasesEnd() const;
  // Connections of those that a refused call would have had to put aside.
  std::set<Peer*> InTheWayOf(const OwnershipCall& call) const;

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

  // A connection that is not active. One that was, until its session released the volume, is one
  // too once the lock was given back.
  struct Observer {
    OpenRequest request;
    std::optional<Uuid> released{};  // the token
  };

  OwnershipAnswer JudgeOpen(OwnershipCall* call, int64_t now) const;
  OwnershipAnswer JudgeOwnSession(const wire::Open& open, const Session* own) const;
  OwnershipAnswer JudgeFormer(const wire::Open& open) const;
  OwnershipAnswer JudgeOthers(OwnershipCall* call, const OpenRequest& request, uint32_t flags,
                              int64_t now) const;
  OwnershipAnswer JudgeReservation(int64_t now) const;
  OwnershipAnswer JudgeRelease(const OwnershipCall& call) const;
  OwnershipAnswer JudgeClaim(OwnershipCall* call, int64_t now) const;
  OwnershipAnswer JudgeEnd(OwnershipCall* call) const;
  void StopReleased(OwnershipCall* call) const;
  OwnershipAnswer Busy(const Session& holder, int64_t now) const;
  // Of a holder that is connected: after how many ms its volume may be free, as far as is known of
  // whether it is still there (0: it is), and for how long it has owed a word.
  static std::pair<uint32_t, int64_t> AskAgainIn(const Session& holder, int64_t now);
  OwnershipAnswer ClaimedByAnother(const std::string& by, uint64_t epoch) const;
  static void StopAll(OwnershipCall* call, const Session& session, const std::string& revoked);

  OwnershipAnswer CommitOpen(OwnershipCall* call, int64_t now);
  OwnershipAnswer CommitRelease(const OwnershipCall& call, int64_t now);
  OwnershipAnswer CommitClaim(OwnershipCall* call, int64_t now);
  OwnershipAnswer CommitEnd(OwnershipCall* call);
  OwnershipAnswer CommitExpire(int64_t now);
  void DropLosers(const OwnershipCall& call);
  static void Activate(Session* session, uint32_t channel, uint64_t incarnation, Peer* peer);
  void ActivateObservers(Session* session, const OwnershipCall& claim);

  // Whether both are connections of one session of one client.
  static bool AreOfOneClient(const Observer& one, const Observer& other);
  static bool SharesRw(const wire::Open& open);
  bool OnlyReads(const wire::Open& open) const;
  const Session* FindSession(const Uuid& uuid) const;
  Session* FindSession(const Uuid& uuid);
  const Session* FindToken(const Uuid& token) const;
  Session* FindToken(const Uuid& token);
  const Session* SessionOf(const Peer* peer) const;
  Session* SessionOf(const Peer* peer);
  // The session that the call is about: that of its OPEN, or of its peer. Nil: none.
  Uuid SubjectOf(const OwnershipCall& call) const;
  // The OPEN's token was spent by this very epoch (SPEC.md 11.6).
  bool Repeats(const wire::Open& open) const;
  int64_t LeaseEnd(const Session& session) const { return session.lost_ns + lease_ns_; }
  bool Expired(const Session& session, int64_t now) const;
  static OwnerRecord::Former FormerOf(const Session& session);
  // Whether it is of no use to know later which session it was: it only reads, beside nobody who
  // writes, and did not come by a token.
  static bool IsPlainReader(const Session& session);
  // For people: who goes on with the state that another client comes to resume.
  static std::string Resumer(const Session& session);
  static void Recall(const OwnerRecord::Holder& holder, int64_t now, Session* session);
  // What became of the volume, as anybody may do it who can open it.
  void Log(const std::string& kind, const std::string& text) const;

  const std::string volume_;
  const Backend* const backend_;
  const int64_t lease_ns_;
  LogLimit* const log_;

  std::map<std::string, Session> sessions_;  // by UUID, as text
  std::map<Peer*, Observer> observers_;
  std::set<std::string> fenced_;  // UUIDs that lost the volume to another session
  std::deque<std::string> fenced_order_;
  // Of the last RELEASE that was granted here, or found in the record: whoever made it may be
  // moving just now. What Forget forgets does not end it.
  Uuid released_token_;
  int64_t released_ns_ = 0;
  std::vector<OwnerRecord::Former> last_;  // who held the volume last
  bool knows_last_ = false;                // by a record, or as it happened here
};

}  // namespace cloudblk::proxy

#endif  // CLOUDBLK_PROXY_OWNER_TABLE_H_
