// SPDX-License-Identifier: GPL-2.0-or-later
//
// The receiving half of the native protocol (proxy-protocol/SPEC.md): bytes into replies, whose
// data goes straight to where it belongs.
#ifndef CLOUDBLK_BLOCK_NATIVE_RECEIVER_H_
#define CLOUDBLK_BLOCK_NATIVE_RECEIVER_H_

#include <sys/uio.h>

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/bounce.h"
#include "base/transport.h"
#include "block/copy_batch.h"
#include "block/outbox.h"
#include "block/request_queue.h"
#include "block/sg_list.h"
#include "block/types.h"
#include "proxy-protocol/wire.h"

namespace cloudblk {

struct CodecStats;

// Who understands the frames that are no REPLY.
class ControlSink {
 public:
  // False: the connection is over, and the Failure that the receiver was given says why. Of the
  // receiver it may call Open only.
  virtual bool OnControl(const wire::FrameHeader& header, std::span<const uint8_t> section,
                         std::string_view payload) = 0;

 protected:
  ~ControlSink() = default;
};

class NativeReceiver {
 public:
  // What ends the connection is written to *failure.
  NativeReceiver(ControlSink* sink, CodecStats* stats, Failure* failure);

  // The session is open: REPLY frames may come, and all are held to these.
  void Open(const wire::FrameLimits& limits, bool hole_reply);

  // One pass, as Codec::Receive.
  bool Run(Transport* transport, RequestQueue* queue, const Outbox& outbox);

 private:
  enum class Phase { kHeader, kControl, kReplies, kPayload };
  struct Entry {
    Piece* piece;
    wire::Reply reply;
  };

  size_t available() const { return tail_ - head_; }
  std::span<const uint8_t> Staged(size_t bytes) const { return {staging_->data() + head_, bytes}; }
  bool Fail(int error, std::string text);
  bool WantsTls() const;
  // Appends to iov_ where the next bytes of data belong; returns their number. Precondition:
  // kPayload.
  uint64_t DescribeDestinations();
  // Appends to iov_ the part of staging_ that the bytes behind these are read into. `all`: as much
  // of it as there is.
  void DescribeStaging(bool all);
  size_t ReadAhead() const;
  void OnFault(RequestQueue* queue);

  // Uses what is staged, as far as it goes. False, here and below: the connection is over.
  bool Parse(RequestQueue* queue, const Outbox& outbox);
  // Each changes phase_, unless bytes are missing.
  bool ParseHeader();
  bool ParseControl();
  bool ParseReplies(RequestQueue* queue, const Outbox& outbox);
  // The piece that the entry answers, before anything of the frame is stored. Null: a violation,
  // described in *why. Extents are not stored as they come: stages_rest_.
  Piece* CheckReply(const wire::Reply& reply, RequestQueue* queue, const Outbox& outbox,
                    const char** why);
  // The next `direct` bytes of data are where DescribeDestinations said; then come staged ones.
  bool StorePayload(uint64_t direct, RequestQueue* queue);
  void StorePlain(bool direct, uint64_t bytes, RequestQueue* queue);
  // The staged extents of the present entry.
  bool StoreExtents(RequestQueue* queue);
  bool CheckBlock(uint32_t size);
  void FinishEntry(RequestQueue* queue);
  void StartEntry();
  void FinishCopies(RequestQueue* queue);

  ControlSink* const sink_;
  CodecStats* const stats_;
  Failure* const failure_;
  wire::FrameLimits limits_;
  bool open_ = false;
  bool hole_reply_ = false;

  // Bytes received and not used: [head_, tail_) of staging_.
  std::unique_ptr<Bounce> staging_;
  size_t head_ = 0;
  size_t tail_ = 0;

  Phase phase_ = Phase::kHeader;
  wire::FrameHeader header_;
  std::vector<Entry> entries_;
  std::vector<wire::Reply> replies_;
  size_t next_entry_ = 0;    // of the frame: the first whose data is not complete
  SgCursor cursor_;          // where its next byte belongs
  uint32_t entry_left_ = 0;  // bytes of its data still to be stored

  // The rest of the frame's data is staged: some is for memory that cannot be touched, or is a list
  // of extents.
  bool stages_rest_ = false;

  // Of staged data, what goes to requests' memory at the end of Parse, and the pieces that are
  // answered then, with their errors.
  CopyBatch copies_;
  std::vector<std::pair<Piece*, int>> answered_;

  // PAYLOAD_CRC: all data is staged until its sum was checked, because what is in a guest's memory
  // need not be what was put there.
  std::vector<uint8_t> crcs_;
  size_t next_crc_ = 0;  // bytes into crcs_

  std::vector<iovec> iov_;
};

}  // namespace cloudblk

#endif  // CLOUDBLK_BLOCK_NATIVE_RECEIVER_H_
