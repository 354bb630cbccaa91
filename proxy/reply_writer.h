// SPDX-License-Identifier: GPL-2.0-or-later
//
// The sending half of a connection: what is ready goes into frames, and these into as few vectored
// writes as the stream takes.
#ifndef CLOUDBLK_PROXY_REPLY_WRITER_H_
#define CLOUDBLK_PROXY_REPLY_WRITER_H_

#include <sys/uio.h>

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "base/transport.h"
#include "proxy-protocol/wire.h"
#include "proxy/buffer_pool.h"
#include "proxy/job.h"

namespace cloudblk::proxy {

// Gets a job back once its reply does not need it any more.
class JobOwner {
 public:
  virtual void ReleaseJob(Job* job) = 0;

 protected:
  ~JobOwner() = default;
};

class ReplyWriter {
 public:
  ReplyWriter(BufferPool* pool, JobOwner* owner) : pool_(pool), owner_(owner) {}
  ReplyWriter(const ReplyWriter&) = delete;
  ReplyWriter& operator=(const ReplyWriter&) = delete;
  ~ReplyWriter() { Clear(); }

  // What the replies are held to from here on.
  void set_limits(const wire::FrameLimits& limits) { limits_ = limits; }

  // Queues a frame that is no REPLY: `section` is the message's header section. It goes ahead of
  // replies that are not being sent yet.
  void AddMessage(wire::FrameType type, std::span<const uint8_t> section, std::string_view text);
  // Queues the reply of `job` and keeps the job until its payload is sent.
  void AddReply(Job* job) { replies_.Push(job); }

  // Drops the replies that are not being sent yet: nothing may follow an ERROR.
  void DropReplies();

  // Sends what the stream takes. 0: everything was sent. EAGAIN: more when it is writable again.
  // Any other errno: the connection is broken.
  int Send(Transport* transport);

  // Drops all that was not sent.
  void Clear();

  bool empty() const { return control_.empty() && replies_.empty() && head_ == segments_.size(); }
  size_t control_size() const { return control_.size(); }  // bytes
  uint64_t sent() const { return sent_; }                  // bytes so far

 private:
  // How far frames are built ahead of what the socket has taken: bytes in segments_, and of their
  // own memory. It makes long writes, and bounds what a control message waits for.
  static constexpr size_t kAhead = 2 << 20;
  static constexpr size_t kMostHeld = 256 << 10;
  // A frame is not made longer than this by putting replies together.
  static constexpr uint32_t kFrameGoal = 512 << 10;

  // Segments that were sent and are still in the list, at most.
  static constexpr size_t kSentKept = 1024;

  struct Segment {
    const uint8_t* data = nullptr;
    size_t length = 0;
    Job* job = nullptr;  // to release when it is sent
    Buffer buffer;       // to return when it is sent
  };

  bool BuildSegments();
  bool BuildControl();
  bool BuildReplyFrame();
  uint32_t WriteChecksums(const Job& job, uint8_t* out) const;
  void Sent(size_t bytes);
  void Release(Segment* segment);

  BufferPool* const pool_;
  JobOwner* const owner_;
  wire::FrameLimits limits_;
  std::vector<uint8_t> control_;
  JobQueue replies_;
  std::vector<Segment> segments_;
  size_t head_ = 0;     // the first segment that is not sent
  size_t pending_ = 0;  // bytes in segments
  uint64_t sent_ = 0;
  // Bytes of the segments' own buffers, which are pages: a message of 40 bytes has one to itself if
  // it is all there is at the time.
  size_t held_ = 0;
  std::vector<iovec> vector_;
};

}  // namespace cloudblk::proxy

#endif  // CLOUDBLK_PROXY_REPLY_WRITER_H_
