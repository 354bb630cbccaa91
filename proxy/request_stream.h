// SPDX-License-Identifier: GPL-2.0-or-later
//
// The requests of one connection: frames to jobs, jobs to the storage, results to replies.
#ifndef CLOUDBLK_PROXY_REQUEST_STREAM_H_
#define CLOUDBLK_PROXY_REQUEST_STREAM_H_

#include <sys/uio.h>

#include <atomic>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "proxy-protocol/wire.h"
#include "proxy/backend.h"
#include "proxy/frame_reader.h"
#include "proxy/job.h"
#include "proxy/ownership.h"
#include "proxy/reply_writer.h"

namespace cloudblk::proxy {

class ConnectionHost;

// What a channel is granted (SPEC.md 6.3).
inline constexpr uint32_t kCreditRequests = 512;
inline constexpr uint64_t kCreditBytes = 32u << 20;
// The longest frame that is agreed on: what a client that holds a volume may always have here.
inline constexpr uint32_t kMostFramePayload = 1u << 20;
// DISCARDs, WRITE_ZEROES and BLOCK_STATUSes of one connection that the storage works on at a time.
// Each has ranges as long as the volume, which others are not to wait behind.
inline constexpr uint32_t kRangesAtStorage = 4;

// The connection as its requests see it.
class RequestOwner {
 public:
  // The client broke the protocol: the connection stops. Always false.
  virtual bool Violation(std::string_view text) = 0;
  // There is no memory for requests: the connection stops.
  virtual void OutOfMemory() = 0;
  // The storage has lost this process (IoOp::kLost): the connection stops.
  virtual void OnStorageLost() = 0;
  // Something is to be sent, or to be handed to the storage, at the end of the turn.
  virtual void OnWork() = 0;
  // After WatchIdle: nothing of the connection is at the storage any more.
  virtual void OnStorageIdle() = 0;

 protected:
  ~RequestOwner() = default;
};

// Lives on the connection's loop.
class RequestStream final : public JobOwner, private IoSink {
 public:
  // What was negotiated, and what the client was told at its OPEN.
  struct Terms {
    const Backend* backend = nullptr;
    BackendQueue* queue = nullptr;
    wire::FrameLimits limits;
    bool hole_reply = false;
    bool block_status = false;
    bool read_only = false;
    uint64_t generation = 0;
  };

  // All outlive the object. `peer` says whether requests are to be carried out.
  RequestStream(ConnectionHost* host, RequestOwner* owner, const Peer* peer, ReplyWriter* writer)
      : host_(host), owner_(owner), peer_(peer), writer_(writer) {}
  ~RequestStream();

  void Open(const Terms& terms) { terms_ = terms; }

  // As FrameSink has them, for REQUEST frames. kWait: until Advance returns true.
  FrameSink::Next OnBatch(const wire::FrameHeader& header, std::span<const uint8_t> section,
                          std::vector<iovec>* pieces);
  FrameSink::Next OnPieces(size_t filled, bool complete);
  // Hands over what has waited, as far as that is possible now: for memory, or for other ranges. At
  // the end of a turn, unless nothing may be handed over. False: the connection was stopped.
  bool Advance();
  // Whether ranges wait for it. Else it is called for if kWait was returned.
  bool ranges_wait() const { return !ranges_.empty(); }
  // Whether another frame may come.
  bool ready() const { return batch_.empty(); }

  // Received and not answered.
  uint32_t in_flight() const { return jobs_in_flight_; }
  uint32_t at_storage() const { return at_storage_; }
  // The end of a turn: of what comes from now on OnWork tells again.
  void EndTurn() { has_work_ = false; }
  // Whether the owner wants OnStorageIdle.
  void WatchIdle(bool watch) { watch_idle_ = watch; }
  // Drops what was received and not handed to the storage.
  void DropUnsubmitted();
  // From now on nothing is answered any more.
  void Abandon();

  // JobOwner
  void ReleaseJob(Job* job) override;

 private:
  void OnIoDone(IoOp* op) override;

  // Whether this connection may have so much more in buffers.
  bool HasRoomFor(uint64_t bytes) const;
  Job* NewJob(const wire::Request& request);
  FrameSink::Next SubmitReady();
  // Makes what a job with ranges needs. False: the connection was stopped.
  bool PrepareRanges(Job* job);
  bool DecodeRanges(Job* job);
  static void EncodeExtents(Job* job);
  // Whether the payloads of the whole batch have the CRCs that came with it.
  bool CheckPayload() const;
  // Why no request of this session that writes is carried out, whatever it asks for, or kOk.
  wire::StatusCode JudgeWrite() const;
  wire::StatusCode Judge(const Job& job) const;
  wire::StatusCode JudgeRanges(const Job& job) const;
  wire::StatusCode JudgeExtent(uint64_t offset, uint64_t length) const;
  void SubmitJob(Job* job);
  // False: the connection was stopped.
  bool SubmitRanges(Job* job);
  void FinishJob(Job* job);
  void NoteWork();

  ConnectionHost* const host_;
  RequestOwner* const owner_;
  const Peer* const peer_;
  ReplyWriter* const writer_;
  Terms terms_;
  // The frame that is being received.
  JobQueue batch_;           // not submitted yet, in order
  size_t batch_pieces_ = 0;  // pieces of payload that belong to jobs that were
  size_t filled_ = 0;        // pieces that have arrived
  bool complete_ = false;    // all
  // There is not enough memory for all of its READs at once.
  bool metered_ = false;
  uint64_t out_waiting_ = 0;  // bytes of those that have none yet; 0 unless metered
  std::vector<uint8_t> batch_crcs_;
  uint32_t jobs_in_flight_ = 0;
  // Bytes of what is in flight: of payloads, of those that are range lists, and of READs.
  uint64_t in_bytes_ = 0;
  uint64_t range_bytes_ = 0;
  uint64_t out_bytes_ = 0;
  uint32_t at_storage_ = 0;
  uint32_t ranges_at_storage_ = 0;
  JobQueue ranges_;        // that wait for these
  bool has_work_ = false;  // OnWork was called in this turn
  bool watch_idle_ = false;
  // The storage's threads look at it.
  std::atomic<bool> abandoned_{false};
};

}  // namespace cloudblk::proxy

#endif  // CLOUDBLK_PROXY_REQUEST_STREAM_H_
