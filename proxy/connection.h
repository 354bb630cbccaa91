// SPDX-License-Identifier: GPL-2.0-or-later
//
// One client's connection: the states of SPEC.md 4, its requests and their answers.
#ifndef CLOUDBLK_PROXY_CONNECTION_H_
#define CLOUDBLK_PROXY_CONNECTION_H_

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/event_loop.h"
#include "base/transport.h"
#include "proxy-protocol/wire.h"
#include "proxy/access.h"
#include "proxy/connection_host.h"
#include "proxy/frame_reader.h"
#include "proxy/ownership.h"
#include "proxy/reply_writer.h"
#include "proxy/request_stream.h"
#include "proxy/resizer.h"
#include "proxy/volume.h"
#include "proxy/volume_gate.h"

namespace cloudblk::proxy {

inline constexpr char kStops[] = "the proxy stops";

// Whether something that is under way gets on.
class Progress {
 public:
  // Looks at it now and then. `unit` counts what was begun, `bytes` what was moved of all units.
  // True: for stall_ns it was neither moved by Limits::kStallBytes nor brought to its end.
  bool Stalls(bool under_way, uint64_t unit, uint64_t bytes, int64_t now_ns, int64_t stall_ns);

 private:
  bool under_way_ = false;
  uint64_t unit_ = 0;
  uint64_t bytes_ = 0;
  int64_t since_ns_ = 0;
};

// Bytes of events, answers to PINGs and the like that a client may leave unread.
inline constexpr size_t kMaxControl = 64 << 10;

// Lives on one loop, and all its functions but Peer's, GateMember's and ResizeAsker's run there.
class Connection final : public FdHandler,
                         public Peer,
                         public GateMember,
                         public ResizeAsker,
                         private FrameSink,
                         private RequestOwner {
 public:
  Connection(ConnectionHost* host, const ServerInfo& info, uint64_t id,
             std::unique_ptr<Transport> transport, ClientIdentity client);
  ~Connection();

  uint64_t id() const { return id_; }
  void Start();
  // Sends what is ready. At the end of a turn.
  void Flush();
  // Says goodbye, answers what is in flight, and closes.
  void GoAway();
  // Ends it at once.
  void Drop(const std::string& why) { BeginStop(why); }
  // Ends it if the rules in force do not give its client what it has any more.
  void CheckRights();
  // Ends it if its client has stopped in the middle of something. Whether to ask again.
  bool CheckProgress();

  // FdHandler
  void OnReadable() override;
  void OnWritable() override;

  // Peer: any thread.
  void Stop(const std::string& why, bool revoked) override;
  void Answer(const OwnershipAnswer& answer) override;
  void Probe() override;

  // GateMember: any thread.
  void Pause() override;
  void Resume() override;
  void Resized(uint64_t size) override;

  // ResizeAsker: any thread.
  void AnswerResize(const ResizeAnswer& answer) override;

 private:
  enum class State {
    kHello,    // waits for HELLO
    kOpen,     // waits for OPEN
    kOpening,  // has an OPEN, which ownership has not answered
    kReady,
    kClosing,   // has a CLOSE: answers what is in flight, then says CLOSE_REPLY
    kLeaving,   // sends what is ready, then stops: after a refusal, or because the proxy stops
    kStopping,  // socket closed; waits for the storage
  };
  struct Interest {
    bool readable = false;
    bool writable = false;
    bool operator==(const Interest&) const = default;
  };
  enum class Call { kNone, kRelease, kClaim, kEnd };

  // FrameSink
  bool OnMessage(const wire::FrameHeader& header, std::span<const uint8_t> section,
                 std::span<const uint8_t> payload) override;
  Next OnBatch(const wire::FrameHeader& header, std::span<const uint8_t> section,
               std::vector<iovec>* pieces) override;
  Next OnPieces(size_t filled, bool complete) override;
  void OnBadFrame(wire::DecodeError error) override;
  // RequestOwner
  bool Violation(std::string_view text) override;
  void OutOfMemory() override;
  void OnStorageLost() override;
  void OnWork() override { MarkDirty(); }
  void OnStorageIdle() override;

  // Messages, by type. False: the reader is to stop.
  bool OnHello(std::span<const uint8_t> section);
  bool OnOpen(std::span<const uint8_t> section, std::span<const uint8_t> payload);
  bool OnReadyMessage(wire::FrameType type, std::span<const uint8_t> section);
  bool OnPing(std::span<const uint8_t> section);
  bool OnRelease(std::span<const uint8_t> section);
  bool OnClaim(std::span<const uint8_t> section);
  bool OnClose(std::span<const uint8_t> section);
  bool OnResize(std::span<const uint8_t> section);
  void OnAnswer(const OwnershipAnswer& answer);
  // Why its client may not open that volume with these flags of an OPEN; empty: it may.
  std::string WhyDenied(const std::string& volume, uint32_t flags) const;
  // DENIED, or what stands for it where the client does not know that.
  wire::StatusCode Denial(wire::StatusCode otherwise) const;
  bool MayResize();
  // Asks the storage how it is, for who observes.
  void FindTrouble(const OwnershipAnswer& answer);
  void SendOpenReply(const OwnershipAnswer& answer);
  void SendStatusMessage(wire::FrameType type, const OwnershipAnswer& answer);

  // Pause, Resume, Resized and AnswerResize, on the loop.
  void OnPause();
  void OnResume();
  void OnResized(uint64_t size);
  void OnResizeAnswer(const ResizeAnswer& answer);

  // Goes on with what has waited for memory, or for others. False: the connection was stopped.
  bool GoOn();
  void OnOutcome(FrameReader::Outcome outcome);
  void OnLost(int error);
  void SetState(State next);
  void StopReading();
  // Sends an ERROR, and stops; `kind` as of LogLimited.
  void EndWithError(wire::StatusCode status, const std::string& kind, std::string_view text);
  // SPEC.md 7.1; `why` is for the log and may be empty.
  void BeginStop(std::string_view why);
  void FinishStop();
  void OnProbe();
  void OnProbeTimer();
  void OnStopRequested(const std::string& why, bool revoked);
  void OnHandshakeTimer();
  void OnGoodbyeTimer();
  // All answers are out: does what the state waited for.
  void OnDrained();
  // A line that others can cause at will: `kind` is one of few.
  void LogLimited(spdlog::level::level_enum level, const std::string& kind, std::string_view text,
                  uint32_t at_once = LogLimit::kAtOnce) const;
  void MarkDirty();
  // Of a layered transport: goes on with what a handshake kept, and reads what the loop does not
  // know of.
  void AfterRead();
  void ReadOn();
  Interest LayeredInterest() const;
  bool may_read() const { return reading_ && !paused_ && !reader_.waiting(); }
  void UpdateWatch();
  std::string Who() const;

  // Constant after construction.
  ConnectionHost* const host_;
  const ServerInfo& info_;
  const uint64_t id_;
  // Loop thread only.
  ClientIdentity client_;
  std::unique_ptr<Transport> transport_;
  const bool is_layered_;
  State state_ = State::kHello;
  FrameReader reader_;
  RequestStream requests_;
  ReplyWriter writer_;
  std::unique_ptr<Timer> timer_;  // for the handshake or the goodbye
  std::unique_ptr<Timer> probe_;  // while it is to be found out whether the client is there
  bool reading_ = true;
  bool want_write_ = false;
  bool reads_on_ = false;  // it is going to
  Interest watched_;       // what the loop was asked for last
  Progress arrives_;
  Progress leaves_;
  bool counted_ = false;  // as one that has a volume open
  bool dirty_ = false;
  bool known_to_ownership_ = false;
  bool finding_trouble_ = false;
  bool finished_ = false;
  // Negotiated.
  RequestStream::Terms terms_;
  // Features in force.
  bool claimer_ = false;
  bool end_reservation_ = false;
  bool knows_denied_ = false;
  // Of the session.
  Volume* volume_ = nullptr;
  std::string client_name_;
  uint32_t open_flags_ = 0;
  Call call_ = Call::kNone;  // not yet answered by ownership
  bool end_session_ = false;
  bool joined_ = false;    // takes part in the volume's gate
  bool paused_ = false;    // hands nothing to the storage
  bool resizing_ = false;  // has a RESIZE that is not answered
};

}  // namespace cloudblk::proxy

#endif  // CLOUDBLK_PROXY_CONNECTION_H_
