// SPDX-License-Identifier: GPL-2.0-or-later
//
// One client's connection: the states of SPEC.md 4, its requests and their answers.
#ifndef CLOUDBLK_PROXY_CONNECTION_H_
#define CLOUDBLK_PROXY_CONNECTION_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/event_loop.h"
#include "base/socket.h"
#include "proxy-protocol/wire.h"
#include "proxy/frame_reader.h"
#include "proxy/job.h"
#include "proxy/loop_thread.h"
#include "proxy/ownership.h"
#include "proxy/reply_writer.h"
#include "proxy/resizer.h"
#include "proxy/volume.h"

namespace cloudblk::proxy {

// What a channel is granted, and limits of one request (SPEC.md 6.3).
inline constexpr uint32_t kCreditRequests = 512;
inline constexpr uint64_t kCreditBytes = 32u << 20;
inline constexpr uint32_t kMaxRangesOffered = 64;
inline constexpr uint64_t kMaxDiscardLength = uint64_t{1} << 30;
inline constexpr uint64_t kMaxWriteZeroesLength = uint64_t{64} << 20;
// Bytes of events, answers to PINGs and the like that a client may leave unread.
inline constexpr size_t kMaxControl = 64 << 10;

// Lives on one loop, and all its functions but Peer's and ResizeMember's run there.
class Connection final : public FdHandler,
                         public Peer,
                         public ResizeMember,
                         private IoSink,
                         private FrameSink,
                         private JobOwner {
 public:
  Connection(LoopThread* thread, const ServerInfo& info, uint64_t id, UniqueFd fd,
             std::string address);
  ~Connection();

  uint64_t id() const { return id_; }
  void Start();
  // Sends what is ready. At the end of a turn.
  void Flush();
  // Says goodbye, answers what is in flight, and closes.
  void GoAway();

  // FdHandler
  void OnReadable() override;
  void OnWritable() override;

  // Peer: any thread.
  void Stop(const std::string& revoked) override;
  void Answer(const OwnershipAnswer& answer) override;

  // ResizeMember: any thread.
  void Pause() override;
  void Resume(uint64_t size) override;
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
  enum class Call { kNone, kRelease, kClaim, kEnd };

  // FrameSink
  bool OnMessage(const wire::FrameHeader& header, std::span<const uint8_t> section,
                 std::span<const uint8_t> payload) override;
  bool OnBatch(const wire::FrameHeader& header, std::span<const uint8_t> section,
               std::vector<iovec>* pieces) override;
  bool OnPieces(size_t filled, bool complete) override;
  void OnBadFrame(wire::DecodeError error) override;
  // IoSink
  void OnIoDone(IoOp* op) override;
  // JobOwner
  void ReleaseJob(Job* job) override;

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
  void SendOpenReply(const OwnershipAnswer& answer);
  void SendStatus(wire::FrameType type, const OwnershipAnswer& answer);

  // Resizing, when it is their turn on the loop.
  void OnPause();
  void OnResume(uint64_t size);
  void OnResizeAnswer(const ResizeAnswer& answer);

  // Requests.
  Job* NewJob(const wire::Request& request);
  bool DecodeRanges(Job* job);
  // Whether the payloads of the whole batch have the CRCs that came with it.
  bool CheckPayload() const;
  wire::StatusCode Judge(const Job& job) const;
  wire::StatusCode JudgeRanges(const Job& job) const;
  bool SubmitJob(Job* job);
  void FinishJob(Job* job);

  void SetState(State next);
  // Logs and tells the client what it did wrong, then stops. Always false.
  bool Violation(std::string_view text);
  void StopReading();
  void DropUnsubmitted();
  // SPEC.md 7.1; `why` is for the log and may be empty.
  void BeginStop(std::string_view why);
  void FinishStop();
  void OnStopRequested(const std::string& revoked);
  void OnHandshakeTimer();
  void OnGoodbyeTimer();
  // All answers are out: does what the state waited for.
  void OnDrained();
  void MarkDirty();
  void UpdateWatch();
  std::string Who() const;

  // Constant after construction.
  LoopThread* const thread_;
  const ServerInfo& info_;
  const uint64_t id_;
  const std::string address_;
  // Loop thread only.
  UniqueFd fd_;
  State state_ = State::kHello;
  FrameReader reader_;
  ReplyWriter writer_;
  std::unique_ptr<Timer> timer_;  // for the handshake or the goodbye
  bool reading_ = true;
  bool want_write_ = false;
  bool dirty_ = false;
  bool known_to_ownership_ = false;
  bool finished_ = false;
  // Negotiated.
  wire::FrameLimits limits_;
  bool hole_reply_ = false;
  bool claimer_ = false;
  // Of the session.
  Volume* volume_ = nullptr;
  std::string client_name_;
  uint32_t open_flags_ = 0;
  uint64_t generation_ = 0;  // as the client was told
  Call call_ = Call::kNone;  // under way at ownership
  bool end_session_ = false;
  bool joined_ = false;    // takes part in resizes of the volume
  bool paused_ = false;    // hands nothing to the storage
  bool resizing_ = false;  // has a RESIZE that is not answered
  // The frame that is being received.
  JobQueue batch_;           // not submitted yet, in order
  size_t batch_pieces_ = 0;  // payloads of those that are
  std::vector<uint8_t> batch_crcs_;
  // In flight: received and not answered.
  uint32_t jobs_in_flight_ = 0;
  uint64_t bytes_in_flight_ = 0;
  uint32_t at_backend_ = 0;
  // Set once: nothing of this connection is answered any more. The backend's threads look at it.
  std::atomic<bool> abandoned_{false};
};

}  // namespace cloudblk::proxy

#endif  // CLOUDBLK_PROXY_CONNECTION_H_
