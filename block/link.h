// SPDX-License-Identifier: GPL-2.0-or-later
//
// A channel's way to its server: one connection after the other.
#ifndef CLOUDBLK_BLOCK_LINK_H_
#define CLOUDBLK_BLOCK_LINK_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/event_loop.h"
#include "base/transport.h"
#include "block/backoff.h"
#include "block/codec.h"
#include "block/include/cloudblk.h"
#include "block/outbox.h"
#include "block/poll_gate.h"
#include "block/request_queue.h"
#include "block/session_state.h"
#include "block/types.h"

namespace cloudblk {

enum class LinkState {
  kIdle,        // no connection, and none wanted
  kConnecting,  // waiting for the transport
  kHandshake,   // the codec and the server get to know each other
  kReady,
  kBackoff,  // waiting to connect again
  kClosing,  // the server was told, and is to answer
  kEnded,    // the session is over
};
std::string_view Name(LinkState state);

// Who opens and closes links. Called from the loop; must not detach or destroy the link.
class LinkObserver {
 public:
  virtual void OnReady() = 0;
  // The link tries again by itself, unless it is in kEnded now.
  virtual void OnFailure(const Failure& failure) = 0;
  // After Close.
  virtual void OnClosed() = 0;
  // After Release and Resize. `error`: a positive errno, 0: done.
  virtual void OnAnswered(Command::Kind kind, int error, const std::string& text) = 0;

 protected:
  ~LinkObserver() = default;
};

// Everything is called on the thread of the loop that it is attached to, or of the session while
// it is not.
class Link final : public FdHandler {
 public:
  using LogFn = void (*)(CloudblkLogLevel level, const char* message);

  // All outlive the link.
  Link(SessionState* session, uint32_t index, Connector* connector, RequestQueue* queue,
       LinkObserver* observer);
  // Precondition: detached.
  ~Link();
  Link(const Link&) = delete;
  Link& operator=(const Link&) = delete;

  LinkState state() const { return state_; }
  uint32_t index() const { return index_; }
  const Connector& connector() const { return *connector_; }
  // Which of the connector's addresses it uses or tried last, and its name for people.
  size_t address() const { return address_; }
  const std::string& server_name() const { return server_name_; }
  // What the server of the last connection can do.
  const Capabilities& capabilities() const { return capabilities_; }

  void Attach(EventLoop* loop, LogFn log);
  void Detach();
  bool attached() const { return loop_ != nullptr; }

  // Connects, again and again until it is ready or the session is over. The OPEN claims the volume
  // if SessionState::claim() says so.
  // Preconditions: idle, attached.
  void Start();
  // As Start, whatever it was before, for a session that was renewed. Preconditions: attached,
  // nothing in flight.
  void Reopen();
  // Tells the server as soon as it is connected, then is idle. Preconditions: attached, nothing in
  // flight.
  void Close(bool end_session);
  // Sends one RELEASE, as soon as it is connected. Preconditions: attached, nothing in
  // flight, capabilities().move.
  void Release();
  // Asks for another size of the volume. Preconditions: ready, capabilities().resize, and no such
  // question is unanswered.
  void Resize(uint64_t size, bool force);
  // Connects anew if an answer to Resize is still to come, which would be taken for the next one's.
  void ForgetResize();
  // Gives up the connection, without a word to the server. Precondition: nothing in flight.
  void Abandon();
  // Requests in flight are about to be given up (RequestQueue::FailAll, FailOld), for that reason.
  // If the server may still be working on some, ends the connection: the next one fences them
  // (SPEC.md 8.15).
  void GiveUp(const Failure& why);
  // Requests fail with ETIMEDOUT that have no answer after so long, or up to a tenth longer. 0:
  // they wait.
  void SetRequestTimeout(int64_t ns);

  // Sends what waits, as far as it may be sent.
  void Pump();
  // Has Deliver called at the end of the loop's turn.
  void ScheduleTurn();
  // Tells the host what has happened, and sends what it submits meanwhile. Anything may have
  // changed when it returns.
  void Deliver();
  void FillStats(CloudblkStats* stats) const;

  void OnReadable() override;
  void OnWritable() override;
  bool Poll() override;

 private:
  // Work put off to the end of the loop's turn. The loop cannot take it back; once `link` is null
  // it does nothing.
  struct Turn {
    Link* link;
  };
  // What the host is told at the end of a pass.
  struct Event {
    CloudblkEventKind kind;
    uint64_t value;
    std::string text;
  };

  // --- link.cc: one state machine from connect over handshake to loss and back. ------------------
  void SetState(LinkState next);
  void Connect();
  void FinishConnect();
  void Begin();
  void Cut(const Failure& failure);
  void NoteLost(const Failure& failure, int64_t now);
  bool IsSilentAgain(const Failure& failure);
  void NoteFailed(const std::string& why);
  void DropConnection();
  void EndSession(const Failure& failure);
  void Settle();
  void ArmForState();
  int64_t OpeningEnds() const;
  void ArmAttempt(int64_t now, int64_t timeout);
  void OnSlow();
  void OnTimer();
  bool StayThoughSilent();
  void TryNextAddress();
  void QueueEvent(CloudblkEventKind kind, uint64_t value, std::string_view text);
  void Log(CloudblkLogLevel level, const std::string& text) const;
  void Tell(CloudblkLogLevel level, const std::string& line) const;

  // --- link_pass.cc: what one turn of the loop does with a connection. ---------------------------
  bool TakeBytes();
  void Receive();
  // False: the connection is gone.
  bool ApplyFacts();
  bool OnFact(const Fact& fact);
  bool OnOpened(const std::string& note);
  void BecomeReady();
  bool OnAnswered(const Fact& fact);
  bool MustReopen();
  bool FollowFlushes();
  void Examine();
  bool KnownHasChanged() const;
  void SendCommand(const Command& command);
  void SendRelease();
  void SendClose();
  // False: the connection is gone, or waits.
  bool Send();
  void CutUnreadable();
  bool BuildFrames();
  bool BuildFrame();
  void FailUnreadable(size_t first);
  void NoteWaiting();
  void CheckLiveness();
  // Not inlined into what runs for each request.
  [[gnu::cold]] void StartAging();
  void OnAgeTimer();
  void OnHoldTimer();
  int64_t ping_after() const;
  void ArmLiveness(int64_t deadline_ns);
  void RunTurn();
  void UpdateWatch();
  bool write_waits_for_read() const;

  // Constant after construction.
  SessionState* const session_;
  const uint32_t index_;
  Connector* const connector_;
  RequestQueue* const queue_;
  LinkObserver* const observer_;

  EventLoop* loop_ = nullptr;
  LogFn log_ = nullptr;
  std::unique_ptr<Timer> timer_;
  std::unique_ptr<Timer> age_timer_;
  std::unique_ptr<Timer> hold_timer_;
  std::shared_ptr<Turn> turn_;  // null: none is scheduled
  LinkState state_ = LinkState::kIdle;

  // Across connections.
  size_t address_ = 0;
  std::string server_name_;
  uint64_t incarnation_ = 0;
  bool opened_ = false;     // was ready at least once
  int64_t lost_ns_ = 0;     // when its server was lost; 0: it was not, since it was ready
  bool unsettled_ = false;  // what was given up is to be fenced by the next handshake
  bool claimed_ = true;     // was opened since the present claim began: needs no token any more
  bool release_wanted_ = false;
  bool close_wanted_ = false;
  bool close_ends_session_ = false;
  int64_t age_step_ns_ = 0;  // of RequestQueue::Age; 0: requests may wait for ever
  bool aging_ = false;       // age_timer_ is armed
  bool hold_armed_ = false;  // hold_timer_ is
  bool releasing_ = false;   // a RELEASE was sent
  bool examining_ = false;   // a block of the session's Witness is being read
  std::optional<uint64_t>
      timeout_told_at_;  // the queue's answers when it was told that some failed
  Backoff backoff_;
  bool other_volume_told_ = false;  // since it was ready
  bool held_elsewhere_ = false;     // by what a server answered last
  uint32_t silences_ = 0;           // connections in a row that were made and fell silent
  bool stayed_ = false;  // with a server that fell silent, because other channels heard from it
  bool unreadable_told_ = false;          // CutUnreadable has warned
  std::optional<KnownBlock> known_;       // what the present connection was asked for
  std::optional<uint64_t> reopened_for_;  // of MustReopen: the generation of its last time
  Capabilities capabilities_;
  CodecStats codec_stats_;
  uint64_t send_calls_ = 0;
  uint64_t reconnects_ = 0;
  std::vector<Event> events_;

  // The connection.
  std::unique_ptr<Transport> transport_;
  std::unique_ptr<Codec> codec_;
  Outbox outbox_;
  int64_t connect_began_ns_ = 0;
  int64_t handshake_began_ns_ = 0;
  int64_t deadline_ns_ = 0;                  // of connecting or of the handshake
  uint64_t unheard_bytes_ = 0;               // what had been received when the handshake began
  ClaimMode claim_mode_ = ClaimMode::kNone;  // that the handshake was begun in
  uint64_t generation_ = 0;                  // of the volume, as this connection was told
  int64_t ready_since_ns_ = 0;
  int64_t silent_since_ns_ = 0;  // nothing was received since, though requests wait
  bool pinged_ = false;
  bool silence_told_ = false;     // where no sign of life can be asked for
  bool timer_armed_ = false;      // while ready
  bool send_blocked_ = false;     // until the transport is writable
  bool receive_blocked_ = false;  // Readv waits for writability
  bool going_away_ = false;       // the server said so
  bool resize_sent_ = false;      // and not answered
  bool watching_ = false;
  bool watching_read_ = false;
  bool watching_write_ = false;
  PollGate poll_gate_;
  YieldGate yield_gate_;
  // Of a pass: what the codec found, whether it ended the connection, and whether Poll took it, so
  // that Receive still has to act on it.
  std::vector<Fact> facts_;
  bool pass_ended_ = false;
  bool polled_ = false;
  std::vector<Piece*> batch_;
};

}  // namespace cloudblk

#endif  // CLOUDBLK_BLOCK_LINK_H_
