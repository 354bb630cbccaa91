// SPDX-License-Identifier: GPL-2.0-or-later
//
// One connection of a session, and the requests that go over it, across reconnects.
#ifndef CLOUDBLK_BLOCK_CHANNEL_H_
#define CLOUDBLK_BLOCK_CHANNEL_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "base/event_loop.h"
#include "base/transport.h"
#include "block/bulk_window.h"
#include "block/include/cloudblk.h"
#include "block/native_codec.h"
#include "block/native_receiver.h"
#include "block/outbox.h"
#include "block/overlap.h"
#include "block/poll_gate.h"
#include "block/request.h"
#include "block/session_state.h"
#include "block/tag_table.h"

namespace cloudblk {

class Channel;

// Why a connection failed or was refused.
struct ConnectionFailure {
  int error = 0;  // positive errno
  std::string text;
  bool refused = false;   // by the server's answer to HELLO or OPEN
  uint32_t retry_ms = 0;  // BUSY: when to ask again
  bool final = false;     // for a session that was open: it is over
};

// Who opens and closes channels. Called from the loop; must not detach or destroy the channel.
class ChannelObserver {
 public:
  virtual void OnReady(Channel* channel) = 0;
  // The channel tries again by itself, unless the failure is final.
  virtual void OnFailure(Channel* channel, const ConnectionFailure& failure) = 0;
  // After Close.
  virtual void OnClosed(Channel* channel) = 0;
  // The answer to Resize.
  virtual void OnResized(Channel*, wire::StatusCode, std::string_view) {}
  // The answer to Release.
  virtual void OnReleased(Channel*, wire::StatusCode, std::string_view) {}

 protected:
  ~ChannelObserver() = default;
};

// Everything is called on the thread of the loop that it is attached to, or of the session while
// it is not.
class Channel final : public FdHandler, private ReceiverSink {
 public:
  enum class State {
    kIdle,        // no connection, and none wanted
    kConnecting,  // waiting for the transport
    kHello,       // HELLO sent, and OPEN if it depends on nothing; waiting for HELLO_REPLY
    kOpen,        // waiting for OPEN_REPLY
    kReady,
    kBackoff,  // waiting to connect again
    kClosing,  // CLOSE sent
    kFailed,   // the session is over
  };

  // What a channel is attached to.
  struct Host {
    EventLoop* loop = nullptr;
    CloudblkCompleteFn* complete = nullptr;
    void* opaque = nullptr;
    void (*log)(CloudblkLogLevel level, const char* message) = nullptr;
  };

  // All outlive the channel.
  Channel(SessionState* session, uint32_t index, Connector* connector);
  // Precondition: detached and nothing in flight.
  ~Channel();
  Channel(const Channel&) = delete;
  Channel& operator=(const Channel&) = delete;

  State state() const { return state_; }
  uint32_t index() const { return index_; }
  void set_observer(ChannelObserver* observer) { observer_ = observer; }
  const Connector& connector() const { return *connector_; }
  // Which of the connector's addresses it uses or tried last, and its name for people.
  size_t address() const { return address_; }
  const std::string& server_name() const { return server_name_; }

  // As cloudblk.h describes them.
  void Attach(const Host& host);
  void Detach();
  bool attached() const { return host_.loop != nullptr; }
  int Submit(const CloudblkRequest& request);
  void Kick();
  uint32_t in_flight() const { return in_flight_.load(std::memory_order_relaxed); }
  void Revoke();
  void FillStats(CloudblkStats* stats) const;

  // Starts to connect, and never stops to until it is ready or its session is over. Claims the
  // volume, if the session does.
  // Preconditions: idle, attached.
  void Start();
  // Says CLOSE as soon as it is connected, then is idle. Preconditions: attached, nothing in
  // flight.
  void Close(bool end_session);
  // Asks for another size of the volume. Precondition: ready, and no such question is unanswered.
  void Resize(const wire::Resize& request);
  // Connects anew if an answer to Resize is still to come.
  void ForgetResize();
  // Says RELEASE as soon as it is connected, once. Preconditions: attached, nothing in flight.
  void Release();
  // A FLUSH that Revoke gave up, and that may be submitted again, is going to fail.
  bool given_up_flush_fails() const {
    return flushes_given_up_ && session_->LostSince(given_up_since_);
  }
  // Gives up the connection, without a word to the server. Precondition: nothing in flight.
  void Abandon();

  void OnReadable() override;
  void OnWritable() override;
  bool Poll() override;

 private:
  // Work put off to the end of the loop's turn. The loop cannot take it back: it is made inert.
  struct Turn {
    Channel* channel;
  };

  // --- channel.cc: requests -------------------------------------------------------------------
  int Check(const CloudblkRequest& request, uint64_t* length) const;
  int CheckData(const CloudblkRequest& request, uint64_t* length) const;
  int CheckRanges(const CloudblkRequest& request, uint64_t* length) const;
  bool Aligned(uint64_t offset, uint64_t length) const;
  void Enqueue(Request* request);
  void Pump();
  bool BuildFrames();
  bool BuildFrame();
  LinkedList<Piece>* NextQueue();
  bool NextPiece(RequestFrame* frame);
  void SendPiece(Piece* piece);
  void Reopen(const char* why);
  void FinishPiece(Piece* piece, int error);
  void CompleteRequest(Request* request);
  void FailAll(int error);
  void NoteFlushesGivenUp();
  void Settle();
  void ScheduleTurn();
  void RunTurn();
  void Deliver();

  Piece* CheckReply(const wire::Reply& reply, const char** why) override;
  void OnReply(Piece* piece, const wire::Reply& reply) override;
  bool AcceptsReplies() const override;

  // --- channel_connection.cc: the connection --------------------------------------------------
  void SetState(State next);
  void Connect();
  void FinishConnect();
  bool TakeBytes();
  void Receive();
  // False: the connection is gone, or waits.
  bool Send();
  void Cut(const ConnectionFailure& failure);
  void DropConnection();
  void EndSession(const ConnectionFailure& failure);
  int64_t RetryDelay(const ConnectionFailure& failure);
  void UpdateWatch();
  bool write_waits_for_read() const;
  void ArmForState();
  void NoteWaiting();
  void OnTimer();
  void CheckLiveness();
  void QueueEvent(CloudblkEventKind kind, uint64_t value, std::string_view text);
  void Log(CloudblkLogLevel level, const std::string& text) const;
  bool StayThoughSilent();
  void TryNextAddress();

  // --- channel_control.cc: what is said beside requests and replies ---------------------------
  void AppendHello();
  void AppendOpen();
  void SendClose();
  void SendRelease();
  int OnControl(const wire::FrameHeader& header, std::span<const uint8_t> section,
                std::span<const uint8_t> payload) override;
  // Each is 0, or sets failure_ and is an error: then the connection is cut.
  int OnHelloReply(std::span<const uint8_t> section, std::string_view text);
  int OnOpenReply(std::span<const uint8_t> section, std::string_view text);
  int AcceptOpen(const wire::OpenReply& reply);
  int OnEvent(std::span<const uint8_t> section, std::string_view text);
  int OnReleaseReply(std::span<const uint8_t> section, std::string_view text);
  int OnPing(std::span<const uint8_t> section);
  int OnResizeReply(std::span<const uint8_t> section, std::string_view text);
  int Refused(wire::StatusCode status, std::string_view text, uint32_t retry_ms);
  int Violation(std::string text);
  void BecomeReady();

  // Constant after construction.
  SessionState* const session_;
  const uint32_t index_;
  Connector* const connector_;
  ChannelObserver* observer_ = nullptr;

  // Loop's thread only.
  Host host_;
  std::unique_ptr<Timer> timer_;
  std::shared_ptr<Turn> turn_;  // null: none is scheduled
  State state_ = State::kIdle;

  // The connection.
  std::unique_ptr<Transport> transport_;
  size_t address_ = 0;  // where it goes
  std::string server_name_;
  uint64_t incarnation_ = 0;
  bool opened_ = false;     // was ready at least once
  bool unsettled_ = false;  // what was given up is to be fenced by the next OPEN
  wire::HelloReply hello_;
  NativeLimits limits_;
  uint64_t generation_ = 0;  // of the volume, as this connection was told
  NativeReceiver receiver_;
  Outbox outbox_;
  bool send_blocked_ = false;     // until the transport is writable
  bool receive_blocked_ = false;  // Readv waits for writability
  PollGate poll_gate_;
  YieldGate yield_gate_;
  bool polled_ = false;           // TakeBytes found something, which Receive has to go on with
  int receive_error_ = 0;         // of TakeBytes
  bool going_away_ = false;       // the server said so
  const char* reopen_ = nullptr;  // why Receive is to end the connection
  bool watching_ = false;
  bool watching_read_ = false;
  bool watching_write_ = false;
  ConnectionFailure failure_;  // set by what makes OnControl return an error
  uint32_t attempts_ = 0;      // to connect, since the last answer
  int64_t connect_began_ns_ = 0;
  bool stayed_ = false;  // with a server that fell silent, because others heard from it
  int64_t ready_since_ns_ = 0;
  int64_t silent_since_ns_ = 0;           // nothing was received since, though requests wait
  std::optional<uint64_t> reopened_for_;  // the generation that was served then
  bool pinged_ = false;
  bool timer_armed_ = false;
  bool resize_sent_ = false;                // on this connection, and not answered
  bool open_waits_ = false;                 // for the HELLO_REPLY, before it is sent
  ClaimStep open_step_ = ClaimStep::kNone;  // that the connection's OPEN was sent in
  bool claimed_ = true;  // the present claim needs no token from this channel any more
  bool release_wanted_ = false;
  bool release_sent_ = false;
  bool close_wanted_ = false;
  bool close_ends_session_ = false;
  std::minstd_rand jitter_;

  // Requests.
  RequestPool requests_;
  TagTable tags_;
  OverlapGuard overlaps_;
  LinkedList<Piece> queue_;        // to be sent, in order
  LinkedList<Piece> bulk_queue_;   // likewise, of bulk requests, and what is to be sent again
  LinkedList<Piece> sent_;         // not answered, in the order of sending
  Since given_up_since_;           // of the flushes that were given up last, the earliest
  bool flushes_given_up_ = false;  // and nothing was submitted since
  BulkWindow bulk_window_;
  // Of the frames being built: what their bulk pieces are stamped with, 0: no window is in force.
  int64_t bulk_now_ns_ = 0;
  uint32_t bulk_sent_ = 0;  // pieces
  uint32_t credits_used_ = 0;
  uint64_t credit_bytes_used_ = 0;
  std::vector<Piece*> frame_pieces_;

  // What the host is told at the end of a pass.
  struct PendingEvent {
    CloudblkEventKind kind;
    uint64_t value;
    std::string text;
  };
  std::vector<CloudblkCompletion> done_;
  std::vector<CloudblkCompletion> spare_;
  bool completing_ = false;  // the host is told; what it submits is sent when it has been
  std::vector<PendingEvent> events_;

  CloudblkStats stats_{};

  // Written by the loop's thread, read by any.
  std::atomic<uint32_t> in_flight_{0};
};

std::string_view Name(Channel::State state);

}  // namespace cloudblk

#endif  // CLOUDBLK_BLOCK_CHANNEL_H_
