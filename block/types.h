// SPDX-License-Identifier: GPL-2.0-or-later
//
// What the engine knows of a volume, of a connection and of what went wrong, in no protocol's
// terms.
#ifndef CLOUDBLK_BLOCK_TYPES_H_
#define CLOUDBLK_BLOCK_TYPES_H_

#include <cerrno>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "base/uuid.h"
#include "block/witness.h"

namespace cloudblk {

// A volume as a connection found it.
struct VolumeInfo {
  Uuid uuid;  // nil: the protocol has none
  // Changes exactly when the server may have lost writes that were done and not flushed.
  uint64_t generation = 0;
  uint64_t size = 0;                     // bytes
  uint32_t logical_block_size = 0;       // bytes, a power of two; all requests are multiples of it
  uint32_t physical_block_size = 0;      // bytes
  uint32_t optimal_io_size = 0;          // bytes, 0 unknown
  uint32_t discard_granularity = 0;      // bytes
  uint32_t max_ranges = 0;               // of one DISCARD or WRITE_ZEROES
  uint64_t max_discard_length = 0;       // bytes of one range; 0: there is no DISCARD
  uint64_t max_write_zeroes_length = 0;  // likewise
  bool read_only = false;
  bool write_cache = false;  // what is done is durable only after a FLUSH
  bool rotational = false;
};

// What one connection carries. Plain numbers: requests are cut and admitted by them without asking
// the codec.
struct Limits {
  // One piece of a request.
  uint32_t max_data = 0;            // bytes of READ or WRITE, a multiple of the block size
  uint32_t max_ranges = 0;          // of DISCARD or WRITE_ZEROES
  uint64_t max_discard_length = 0;  // bytes of one range, a multiple of the block size
  uint64_t max_write_zeroes_length = 0;
  // Sent and not answered.
  uint32_t credit_requests = 0;
  uint64_t credit_bytes = 0;  // of READ and WRITE data
  // What the codec takes at a time.
  uint32_t batch_pieces = 0;
  uint64_t batch_payload = 0;  // bytes of WRITE data, and range_size of each range
  uint32_t range_size = 0;
  // What it needs of the outbox's own memory, in bytes: for a batch, for each piece of it, for each
  // byte of payload (ranges are always copied, WRITE data if copies_data).
  uint32_t batch_overhead = 0;
  uint32_t piece_overhead = 0;
  bool copies_data = false;
  bool flush = true;          // a FLUSH may be sent
  bool block_status = false;  // a BLOCK_STATUS may be sent
};

// What a protocol can do for a session beside requests. Nobody asks which protocol it is.
struct Capabilities {
  bool several_channels = false;  // connections of one session see each other's writes
  bool move = false;              // RELEASE and a claim by token: live migration
  bool resize = false;            // a client may ask for another size
  bool ping = false;              // a sign of life can be asked for while a request takes long
  bool block_status = false;      // BLOCK_STATUS, by which it is known where there is data
  bool flush = true;              // FLUSH, without which nothing is known to be durable
  // Nothing that was sent over a connection of the channel takes effect once the next one is open.
  bool fences = true;
  // The server tells what it may have lost (VolumeInfo::generation), of another size and by whom a
  // volume is held.
  bool generation = true;
};

// Why a server does not let a session in, where it matters to the session.
enum class Refusal : uint8_t {
  kNone,
  kBusy,         // somebody else has the volume
  kStale,        // a newer life of this session or channel is known
  kBadToken,     // the volume is not reserved for the token
  kLost,         // somebody else was given the volume meanwhile
  kOtherVolume,  // the name stands for another volume now
  kOther,
};

// Why a connection is over, as its codec (Codec::failure) or the link found. Only Link::Cut acts on
// it.
struct Failure {
  int error = 0;  // a positive errno; 0: there is none
  std::string text;
  Refusal refusal = Refusal::kNone;  // what the server answered, if that is why
  uint32_t retry_ms = 0;             // kBusy: when to ask again
  bool elsewhere = false;            // kBusy: not this server, another one knows who has the volume
  bool final = false;                // a session that was open before is over

  bool refused() const { return refusal != Refusal::kNone; }
  // Whether asking again soon may end otherwise. A server that refuses says so itself;
  // ECONNREFUSED: it is about to stop, and the next one comes.
  bool may_pass() const {
    if (refused()) return retry_ms > 0 || error == ECONNREFUSED;
    return error == ETIMEDOUT || error == ECONNRESET || error == ECONNABORTED || error == EPIPE ||
           error == EAGAIN;
  }
};

// What a session asks its server for, over one channel.
struct Command {
  enum class Kind : uint8_t { kPing, kRelease, kClose, kResize, kExamine };
  Kind kind = Kind::kPing;
  Uuid token{};              // kRelease
  uint64_t epoch = 0;        // kRelease
  bool end_session = false;  // kClose: not this connection alone
  uint64_t size = 0;         // kResize: bytes
  bool force = false;        // kResize: may cut data off
  KnownBlock block{};        // kExamine: which is to be read and digested
};

// How a session introduces itself. The views are valid during the call only.
struct OpenParams {
  Uuid session;
  uint64_t epoch = 0;
  Uuid token;    // nil, or that by which the volume is claimed
  Uuid claimer;  // nil, or who claimed the epoch
  uint32_t channel = 0;
  uint32_t channel_count = 1;
  uint64_t incarnation = 0;  // counted up with each connection of the channel
  bool active = true;        // else it observes
  bool read_only = false;
  bool share_rw = false;
  bool takeover = false;
  bool end_reservation = false;
  bool payload_crc = false;
  bool tls = false;     // where the protocol is to agree on it (NBD)
  bool resume = false;  // the channel was open before: `volume` and `generation` are what it knows
  Uuid volume;
  uint64_t generation = 0;
  std::optional<KnownBlock> known{};  // what the volume has to hold, if its server does not tell
  std::string_view volume_name;
  std::string_view client_name;
};

}  // namespace cloudblk

#endif  // CLOUDBLK_BLOCK_TYPES_H_
