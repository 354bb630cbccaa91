// SPDX-License-Identifier: GPL-2.0-or-later
//
// The receiving half of a connection: bytes of a stream into frames, with payloads put straight
// where they belong.
#ifndef CLOUDBLK_PROXY_FRAME_READER_H_
#define CLOUDBLK_PROXY_FRAME_READER_H_

#include <sys/uio.h>

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "base/transport.h"
#include "proxy-protocol/wire.h"
#include "proxy/buffer_pool.h"

namespace cloudblk::proxy {

class FrameSink {
 public:
  enum class Next {
    kGo,
    kWait,  // until FrameReader::GoOn
    kStop,  // for good: the reader touches nothing any more
  };

  // A whole frame that is no REQUEST or REPLY. False: stop.
  virtual bool OnMessage(const wire::FrameHeader& header, std::span<const uint8_t> section,
                         std::span<const uint8_t> payload) = 0;
  // The header section of a REQUEST or REPLY. Fills `pieces` (empty before) with the places of its
  // payload, in order, header.payload_length bytes in all. After kWait it is called again.
  virtual Next OnBatch(const wire::FrameHeader& header, std::span<const uint8_t> section,
                       std::vector<iovec>* pieces) = 0;
  // The first `filled` pieces have arrived. May be called as they do, and is when all have
  // (`complete`). After kWait, which is possible then, no other frame comes.
  virtual Next OnPieces(size_t filled, bool complete) = 0;
  virtual void OnBadFrame(wire::DecodeError error) = 0;

 protected:
  ~FrameSink() = default;
};

class FrameReader {
 public:
  enum class Outcome {
    kDrained,  // the stream has no more for now
    kMore,     // it may have
    kWaiting,  // as the sink wants it
    kEnd,      // see error()
    kStopped,  // by the sink, or because of a bad frame
  };

  FrameReader(BufferPool* pool, FrameSink* sink) : pool_(pool), sink_(sink) {}
  FrameReader(const FrameReader&) = delete;
  FrameReader& operator=(const FrameReader&) = delete;
  ~FrameReader() { pool_->Put(&staging_); }

  // Of kEnd: 0 if the peer closed the connection, ENOMEM if there is no memory to read into, else
  // what the connection broke with.
  int error() const { return error_; }
  bool waiting() const { return waiting_; }
  // Goes on after kWait, with what was read already.
  Outcome GoOn();

  // Frames that have begun to be parsed, and bytes that were read: whether a frame gets on.
  bool in_frame() const { return in_payload_ || begin_ != end_; }
  uint64_t frames() const { return frames_; }
  // What is staged, a bad frame included.
  std::span<const uint8_t> unparsed() const { return {staging_.data + begin_, end_ - begin_}; }
  uint64_t bytes() const { return bytes_; }

  // What frames are held to from the next one on.
  void set_limits(const wire::FrameLimits& limits) { limits_ = limits; }

  // One read of the stream, and all frames that it completes.
  Outcome Read(Transport* transport);

 private:
  // Bytes that are read beyond the payload at hand, for the next frame's headers.
  static constexpr uint32_t kStaging = 16384;

  Outcome End(int error);
  Outcome Stop(wire::DecodeError error);
  bool EnsureStaging(uint32_t capacity);
  void TakePayload(size_t bytes);
  bool Report(FrameSink::Next next);
  bool ReportPieces();
  // False: no more is parsed now. WhyNot says why.
  bool Parse();
  Outcome WhyNot() const;
  // One frame's headers, or a whole message, from the staging buffer; *enough is false if they have
  // not arrived yet.
  bool ParseHeaders(bool* enough);
  bool ConsumePayload();

  BufferPool* const pool_;
  FrameSink* const sink_;
  wire::FrameLimits limits_;
  Buffer staging_;
  uint32_t begin_ = 0;  // of what is staged and not parsed
  uint32_t end_ = 0;
  bool stopped_ = false;
  bool waiting_ = false;
  int error_ = 0;
  bool ended_ = false;
  uint64_t frames_ = 0;
  uint64_t bytes_ = 0;
  // The payload under way.
  bool in_payload_ = false;
  std::vector<iovec> pieces_;  // what is left of them; filled ones have length 0
  size_t filled_ = 0;
  size_t reported_ = 0;
  std::vector<iovec> vector_;
};

}  // namespace cloudblk::proxy

#endif  // CLOUDBLK_PROXY_FRAME_READER_H_
