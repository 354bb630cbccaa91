// SPDX-License-Identifier: GPL-2.0-or-later
//
// What the channels of a session share.
#ifndef CLOUDBLK_BLOCK_SESSION_STATE_H_
#define CLOUDBLK_BLOCK_SESSION_STATE_H_

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "base/tls_credentials.h"
#include "base/uuid.h"
#include "block/include/cloudblk.h"
#include "block/outage.h"
#include "block/quarantine.h"
#include "block/types.h"
#include "block/witness.h"

namespace cloudblk {

class Codec;
struct CodecStats;
// Makes the codec of a new connection. `stats` outlives it.
using NewCodec = std::unique_ptr<Codec> (*)(CodecStats* stats);

// Constant after construction.
struct SessionConfig {
  NewCodec new_codec = nullptr;       // of the protocol that the server speaks
  std::string protocol = "cloudblk";  // its name, for people
  std::string server_program = "cloudblk-proxy";
  std::string silence_hint{};  // why a server may not answer, beside what any may have
  // What the server does not tell (Capabilities).
  bool accept_no_flush = false;    // a disk is wanted whose writes are never known to be durable
  bool unfenced_failover = false;  // another address may be gone on to while the last one may live
  bool restart_loses = false;      // a server that was started anew has lost what was not flushed
  int64_t quarantine_ns = 0;       // of Quarantine
  Uuid uuid;
  uint64_t epoch = 1;
  std::string volume;
  std::string client_name;
  uint32_t channels = 1;
  bool observe = false;
  bool read_only = false;
  bool share_rw = false;
  bool takeover = false;
  bool end_reservation = false;
  bool payload_crc = false;
  std::optional<TlsSettings> tls{};  // whose files are read when the session is opened
  std::string tls_hostname{};        // empty: the host of the server URI
  int64_t connect_timeout_ns = 5'000'000'000;
  // A server that is silent for so long, though requests wait, is left.
  int64_t answer_timeout_ns = 8'000'000'000;
  int64_t open_answer_timeout_ns = 30'000'000'000;  // of one address, until the volume was opened
  uint64_t jitter_seed = 1;
  CloudblkEventFn* event = nullptr;
  void (*log)(CloudblkLogLevel level, const char* message) = nullptr;  // while opening
  void* event_opaque = nullptr;

  // Of the volume. An NBD server's default export has none of its own.
  std::string NameForPeople() const { return volume.empty() ? "default export" : volume; }
};

// How the next OPEN of an active session claims the volume (SPEC.md 11.4).
enum class ClaimMode {
  kNone,      // it does not: the session holds the volume
  kToken,     // by its token, at a higher epoch
  kTryToken,  // as kToken, after a RELEASE whose answer was lost
  kTryNone,   // as kNone, after such a RELEASE: the server may never have seen it
};

inline bool ClaimsWithToken(ClaimMode mode) {
  return mode == ClaimMode::kToken || mode == ClaimMode::kTryToken;
}

// How far above the epoch of the RELEASE the source claims the volume back, and the destination
// claims it. They differ so that an OPEN that is repeated, as its answer was lost, is not taken for
// the other's (SPEC.md 11.6).
inline constexpr uint64_t kReclaimEpochStep = 1;
inline constexpr uint64_t kClaimEpochStep = 2;

// A moment in a session's life, for what a FLUSH that is submitted then has to tell
// (SessionState::FlushFails).
struct Since {
  uint64_t told = 0;  // how many losses flushes had told of
  uint64_t mark = 0;  // SessionState::FlushMark()
};
inline Since Earlier(const Since& a, const Since& b) {
  return {std::min(a.told, b.told), std::min(a.mark, b.mark)};
}

class SessionState {
 public:
  explicit SessionState(SessionConfig config)
      : config_(std::move(config)),
        heard_(std::make_unique<Heard[]>(config_.channels)),
        quarantine_(config_.quarantine_ns),
        witness_(config_.channels) {
    uuid_ = config_.uuid;
    epoch_ = config_.epoch;
    observe_ = config_.observe;
  }

  const SessionConfig& config() const { return config_; }

  // --- Who the session is (session_move.cc). ---------------------------------------------------
  // Changes only while every channel is idle; but which way to claim succeeded, any channel may
  // learn.

  const Uuid& uuid() const { return uuid_; }
  // The same, on any thread and at any time.
  Uuid UuidForOthers() const {
    const std::lock_guard lock(uuid_mutex_);
    return uuid_;
  }
  const Uuid& token() const { return token_; }
  bool observe() const { return observe_; }
  // The volume was given out of our hands, or may have been: nothing is sent until Claim.
  bool released() const { return released_; }
  // As released(), but whether it happened is not known.
  bool release_unconfirmed() const { return released_ && !release_confirmed_; }
  // Whether the session still holds the volume is being found out.
  bool claim_unsure() const {
    return claim() == ClaimMode::kTryToken || claim() == ClaimMode::kTryNone;
  }
  // How the next OPEN claims.
  ClaimMode claim() const { return claim_.load(); }
  uint64_t EpochOf(ClaimMode mode) const { return ClaimsWithToken(mode) ? claim_epoch_ : epoch_; }
  uint64_t epoch() const { return EpochOf(claim()); }
  // Whom an OPEN in that mode names as its claimer; nil where no claim of ours reached the epoch.
  Uuid ClaimerOf(ClaimMode mode) const {
    return ClaimsWithToken(mode) || epoch_claimed_ ? claimer_ : Uuid{};
  }
  // Fixes the epoch that was reached and draws a new token, which is about to be sent in a RELEASE.
  void BeginRelease();
  // `confirmed`: the server said so. Else it may or may not have happened.
  void NoteReleased(bool confirmed);
  // Becomes the session that another client released.
  void Adopt(const Uuid& uuid, uint64_t epoch, const Uuid& token, uint64_t generation,
             bool unflushed, bool lost);
  // Another client may have continued the session, and its VM with it: the volume was released, and
  // no claim of ours was granted since. Any thread.
  bool moved() const { return moved_.load(); }
  // Begins another life, with nothing of the old one but the volume. Precondition: revoked.
  void Renew();
  // Renew was called, and no channel was let in since. Any thread.
  bool renewing() const { return renewing_.load(); }
  void NoteRenewed() { renewing_ = false; }
  // From now on the session wants to be active again.
  void BeginClaim();
  // Undoes BeginClaim, which may follow again. Precondition: every channel is idle.
  void CancelClaim();
  // An OPEN that was sent in that mode was granted.
  void ClaimGranted(ClaimMode mode);
  // It was refused. True: claim() says how to try again.
  bool ClaimRefused(ClaimMode mode, Refusal refusal);
  // Completed writes are not covered by a flush.
  bool unflushed() const { return written_.load() != flushed_.load(); }
  // As FlushFails, but nothing counts as told by it. Of Now(): the next flush is going to fail.
  bool LostSince(const Since& since) const { return since.told != losses_.load(); }
  // How often completed writes may have been lost. Any thread.
  uint64_t losses() const { return losses_.load(); }

  // --- The volume. -----------------------------------------------------------------------------
  // Set by the first channel that is opened, before the host uses any. Constant then, but for the
  // size and the generation, which are below.

  void SetVolume(const VolumeInfo& volume, const Capabilities& promises);
  bool has_volume() const { return has_volume_; }
  // What the server has to say of it at the first OPEN, for people. While the session opens, on its
  // thread.
  void SetNote(const std::string& note) { note_ = note; }
  const std::string& note() const { return note_; }
  const VolumeInfo& volume() const { return volume_; }
  // Of the server that the volume was opened at first.
  const Capabilities& promises() const { return promises_; }
  bool write_cache() const { return volume_.write_cache; }
  bool read_only() const { return config_.read_only || volume_.read_only; }

  // --- Any thread. ---------------------------------------------------------------------------
  uint64_t size() const { return size_.load(std::memory_order_relaxed); }
  // Whether that is a change.
  bool SetSize(uint64_t size) { return size_.exchange(size) != size; }

  // The session is over for good: everything fails with -EIO from here on.
  bool revoked() const { return revoked_.load(std::memory_order_relaxed); }
  // True for the first who says so.
  bool Revoke() { return !revoked_.exchange(true); }

  uint64_t generation() const { return generation_.load(); }
  // A channel was told the volume's generation at its (re)opening. If it is new and writes were
  // completed that no flush covers, these may be lost (SPEC.md 10.4). Returns whether they may.
  bool SetGeneration(uint64_t generation);
  // As SetGeneration, where the server does not tell: channel `index` has a new connection. The one
  // before was lost at lost_ns; 0: it was not lost.
  bool NoteReconnected(uint32_t index, int64_t lost_ns, int64_t now_ns);
  // Likewise: what was written may be lost, as a server's sync has failed.
  bool NoteSyncFailure();
  // A write that is durable only after a flush is about to be completed; `generation` is that of
  // the connection which answered it first.
  void NoteWrite(uint64_t generation);
  // What a FLUSH covers that is sent now: hand it to NoteFlush when it was answered OK.
  uint64_t FlushMark() const { return written_.load(); }
  void NoteFlush(uint64_t mark);
  // Now. A flush keeps it from when it was submitted.
  Since Now() const { return {told_.load(), FlushMark()}; }
  // Whether that flush must fail instead of being sent (again): writes that it was to cover may be
  // lost, or nobody had been told of some that are when it was submitted. Only a flush from after
  // the lost writes were completed tells of all of them.
  bool FlushFails(const Since& since);

  // A channel gave up requests that the server may still be working on. Its next OPEN fences them
  // and so settles that. Until all is settled no channel of the session sends a request
  // (SPEC.md 8.15).
  void NoteGivenUp() { unsettled_.fetch_add(1); }
  void NoteSettled() { unsettled_.fetch_sub(1); }
  bool settled() const { return unsettled_.load() == 0; }

  // Which of the connector's addresses is in use: all channels go to one server.
  size_t address() const { return address_.load(); }
  // Address `address` of `count` failed: the next one is in use now, unless another channel has
  // gone on already. True if that was the last of them.
  bool AddressFailed(size_t address, size_t count) {
    const size_t next = (address + 1) % count;
    return address_.compare_exchange_strong(address, next) && next == 0;
  }

  // True if every channel is ready now.
  bool ChannelReady() { return ready_.fetch_add(1) + 1 == config_.channels; }
  void ChannelNotReady() { ready_.fetch_sub(1); }

  // Where a lost connection may still write.
  Quarantine& quarantine() { return quarantine_; }
  // By what an export is known again.
  Witness& witness() { return witness_; }

  // Channel `index` has a new connection, or received something from its server.
  void NoteConnected(uint32_t index, int64_t now_ns) {
    heard_[index].connected_ns.store(now_ns, std::memory_order_relaxed);
  }
  // What is heard on it from now on is from a server that may be another one.
  void NoteDisconnected(uint32_t index) {
    heard_[index].connected_ns.store(INT64_MAX, std::memory_order_relaxed);
  }
  void NoteHeard(uint32_t index, int64_t now_ns) {
    heard_[index].ns.store(now_ns, std::memory_order_relaxed);
  }
  bool OthersHeardSince(uint32_t index, int64_t ns) const {
    for (uint32_t i = 0; i < config_.channels; ++i) {
      if (i != index && heard_[i].ns.load(std::memory_order_relaxed) > ns) return true;
    }
    return false;
  }
  // A channel that was ready is lost: the host was told.
  void NoteOutage() { event_due_ = true; }
  // Every channel is ready. Whether the host is to be told.
  bool EndOutage() { return event_due_.exchange(false); }
  // What people are told of that.
  Outage& outage() { return outage_; }
  const Outage& outage() const { return outage_; }

 private:
  // Each has a cache line of its own: they are written with every batch.
  struct alignas(64) Heard {
    std::atomic<int64_t> ns{INT64_MIN};
    std::atomic<int64_t> connected_ns{INT64_MAX};
  };

  // Completed writes may be lost. Precondition: loss_mutex_ is held.
  void NoteLoss();
  bool ChangeGeneration(uint64_t generation);

  const SessionConfig config_;
  const std::unique_ptr<Heard[]> heard_;  // by channel; any thread
  Quarantine quarantine_;
  Witness witness_;
  mutable std::mutex uuid_mutex_;  // to change it, and to read it from other threads
  Uuid uuid_;
  std::atomic<uint64_t> epoch_{1};  // that the volume was held at, without a claim under way
  bool epoch_claimed_ = false;      // it was reached by a claim of ours
  std::atomic<uint64_t> claim_epoch_{0};
  // Drawn with the first claim. It tells us from others who resume the same saved state, and so is
  // never part of one.
  Uuid claimer_;
  Uuid token_;
  bool observe_ = false;
  bool released_ = false;
  bool release_confirmed_ = false;
  std::atomic<ClaimMode> claim_{ClaimMode::kNone};
  std::atomic<bool> moved_{false};
  std::atomic<bool> renewing_{false};

  bool has_volume_ = false;
  std::string note_;
  VolumeInfo volume_;
  Capabilities promises_;

  std::atomic<uint64_t> size_{0};
  std::atomic<bool> revoked_{false};
  std::atomic<size_t> address_{0};
  std::atomic<uint32_t> ready_{0};      // channels
  std::atomic<uint32_t> unsettled_{0};  // channels
  std::atomic<bool> event_due_{false};
  Outage outage_;

  // NoteWrite counts and then looks at the generation, SetGeneration sets it and then looks at the
  // count: whichever comes second sees the other. Both rely on sequential consistency.
  std::atomic<uint64_t> generation_{0};
  std::atomic<uint64_t> written_{0};  // completed writes
  std::atomic<uint64_t> flushed_{0};  // how many of them a flush covered
  // A new generation and what follows from it are seen as one: changed with loss_mutex_ held.
  std::mutex loss_mutex_;
  std::atomic<uint64_t> losses_{0};   // how often completed writes may have been lost
  std::atomic<uint64_t> told_{0};     // how many of these a flush has told of
  uint64_t lost_mark_ = 0;            // written_ at the last one; with loss_mutex_ held
  int64_t restarted_ns_ = INT64_MIN;  // when NoteReconnected last found a restart; likewise
};

}  // namespace cloudblk

#endif  // CLOUDBLK_BLOCK_SESSION_STATE_H_
