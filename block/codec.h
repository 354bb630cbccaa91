// SPDX-License-Identifier: GPL-2.0-or-later
//
// A wire protocol as a link uses it: one codec for each connection.
#ifndef CLOUDBLK_BLOCK_CODEC_H_
#define CLOUDBLK_BLOCK_CODEC_H_

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/transport.h"
#include "block/outbox.h"
#include "block/request_queue.h"
#include "block/types.h"

namespace cloudblk {

// What a codec has learned beside answers to requests, which it tells the queue.
struct Fact {
  enum class Kind : uint8_t {
    kOpened,     // the handshake is over: volume(), limits() and capabilities() hold; text: what
                 // is to be known of the volume
    kResized,    // value: the volume's new size in bytes
    kGoingAway,  // the server is about to stop
    kAnswered,   // a command; error and text say with what
  };
  Kind kind;
  Command::Kind command = Command::Kind::kPing;  // kAnswered
  int error = 0;                                 // kAnswered: a positive errno, 0: done
  uint64_t value = 0;
  KnownBlock block{};  // kAnswered, kExamine: with its digest
  std::string text{};  // the server's
};

// What a channel's codecs have done so far.
struct CodecStats {
  uint64_t frames_sent = 0;
  uint64_t frames_received = 0;
  uint64_t receive_calls = 0;
  uint64_t bytes_received = 0;
};

// Everything is called on the channel's loop. No call is for one request: virtual calls are per
// batch and per pass.
class Codec {
 public:
  virtual ~Codec() = default;

  // The transport is connected: starts the handshake, of any number of steps. Whatever it has to
  // say goes into the outbox, here and below.
  virtual void Begin(const OpenParams& params, Outbox* outbox) = 0;

  // Encodes pieces that the queue has admitted by limits(): they fit. Data is borrowed from the
  // requests. Sets stream_end of each piece. Returns how many it has encoded: the first ones. The
  // others, moved behind them, have data in memory that cannot be read. Not before kOpened.
  virtual size_t Append(std::span<Piece*> pieces, Outbox* outbox) = 0;

  // One pass: takes what the transport has, up to a bound that keeps others from starving. Stores
  // data through the queue, which is told of each answer; adds to `facts`. False: the connection is
  // over, and failure() says why. Nothing is parsed in a request's memory, where the guest could
  // change it.
  virtual bool Receive(Transport* transport, RequestQueue* queue, Outbox* outbox,
                       std::vector<Fact>* facts) = 0;

  // Precondition: opened, and capabilities() has it; no command of its kind is unanswered, but for
  // kPing. False: there is no room for it just now (kPing only; there always is for the others).
  virtual bool Send(const Command& command, Outbox* outbox) = 0;

  const Failure& failure() const { return failure_; }
  const VolumeInfo& volume() const { return volume_; }
  const Limits& limits() const { return limits_; }
  const Capabilities& capabilities() const { return capabilities_; }

 protected:
  // Sets failure() and returns false.
  bool Fail(Failure failure) {
    failure_ = std::move(failure);
    return false;
  }
  // The server breaks the protocol.
  bool Violation(std::string text) { return Fail({.error = EPROTO, .text = std::move(text)}); }

  Failure failure_;
  VolumeInfo volume_;
  Limits limits_;
  Capabilities capabilities_;
};

}  // namespace cloudblk

#endif  // CLOUDBLK_BLOCK_CODEC_H_
