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
#include <vector>

#include "base/transport.h"
#include "block/request.h"
#include "block/sg_list.h"
#include "proxy-protocol/wire.h"

namespace cloudblk {

// What the receiver found. Of the receiver and its transport these may change nothing but, in
// OnControl, the limits.
class ReceiverSink {
 public:
  // A frame that is not a REPLY. 0, or an error that ends the pass and is its result.
  virtual int OnControl(const wire::FrameHeader& header, std::span<const uint8_t> section,
                        std::span<const uint8_t> payload) = 0;
  // Whether a REPLY may come now.
  virtual bool AcceptsReplies() const = 0;
  // One entry of a REPLY, before anything of the frame is stored. Returns the piece that it
  // answers, which must not be found again, or null for a violation, described in *why.
  virtual Piece* CheckReply(const wire::Reply& reply, const char** why) = 0;
  // The entry's data, if any, is where it belongs.
  virtual void OnReply(Piece* piece, const wire::Reply& reply) = 0;

 protected:
  ~ReceiverSink() = default;
};

class NativeReceiver {
 public:
  NativeReceiver();

  // A new connection.
  void Reset();
  void SetLimits(const wire::FrameLimits& limits);

  // One pass: takes what the transport has, up to a bound that keeps others from starving. 0, or
  // -errno: the connection is to be dropped; error() says why.
  int Run(Transport* transport, ReceiverSink* sink);

  // One line for people, after an error that was not the sink's.
  const std::string& error() const { return error_; }
  uint64_t calls() const { return calls_; }        // Readv, since the start
  uint64_t frames() const { return frames_; }      // since the start
  uint64_t received() const { return received_; }  // bytes, since the start

 private:
  enum class Phase { kHeader, kControl, kReplies, kPayload };
  struct Entry {
    Piece* piece;
    wire::Reply reply;
  };

  size_t available() const { return tail_ - head_; }
  std::span<const uint8_t> Staged(size_t bytes) const { return {&staging_[head_], bytes}; }
  int Fail(int error, std::string text);
  // Fills iov_ with where the next bytes of data belong; returns their number.
  uint64_t DescribeDestinations();
  // Adds what is to be read ahead.
  void DescribeStaging();

  int Parse(ReceiverSink* sink);
  // Each leaves the phase unless bytes are missing.
  int ParseHeader(ReceiverSink* sink);
  int ParseControl(ReceiverSink* sink);
  int ParseReplies(ReceiverSink* sink);
  // The next `direct` bytes of data are where DescribeDestinations said; then come staged ones.
  int StorePayload(uint64_t direct, ReceiverSink* sink);
  uint64_t StorePlain(bool direct, uint64_t bytes);
  uint64_t FillBlock(bool direct, uint64_t bytes);
  int FinishBlock();
  void StartEntry();
  void StartBlock();
  void NoteStored(uint64_t bytes);

  wire::FrameLimits limits_;
  std::string error_;
  uint64_t calls_ = 0;
  uint64_t frames_ = 0;
  uint64_t received_ = 0;

  // Bytes received and not used: [head_, tail_) of staging_.
  std::unique_ptr<uint8_t[]> staging_;
  size_t head_ = 0;
  size_t tail_ = 0;

  Phase phase_ = Phase::kHeader;
  wire::FrameHeader header_;
  std::vector<Entry> entries_;
  std::vector<wire::Reply> replies_;
  size_t next_entry_ = 0;    // of the frame: the first whose data is not complete
  SgCursor cursor_;          // where its next byte belongs
  uint32_t entry_left_ = 0;  // bytes of its data still to be stored

  // PAYLOAD_CRC: data is gathered here and stored when its sum was checked, because what is in a
  // guest's memory need not be what was put there.
  std::vector<uint8_t> crcs_;
  size_t next_crc_ = 0;  // bytes into crcs_
  std::vector<uint8_t> block_;
  uint32_t block_size_ = 0;
  uint32_t block_filled_ = 0;

  std::vector<iovec> iov_;
};

}  // namespace cloudblk

#endif  // CLOUDBLK_BLOCK_NATIVE_RECEIVER_H_
