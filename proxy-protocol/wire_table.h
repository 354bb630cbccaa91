// SPDX-License-Identifier: GPL-2.0-or-later
//
// The one table of every number that appears on the wire and has a name. The enums in wire.h are
// generated from it, the log's names too, and a unit test holds the tables of SPEC.md to it.
//
// X(Name, value, "words for SPEC.md and for logs")
#ifndef CLOUDBLK_PROXY_PROTOCOL_WIRE_TABLE_H_
#define CLOUDBLK_PROXY_PROTOCOL_WIRE_TABLE_H_

#define CLOUDBLK_FRAME_TYPES(X)        \
  X(Hello, 1, "HELLO")                 \
  X(HelloReply, 2, "HELLO_REPLY")      \
  X(Open, 3, "OPEN")                   \
  X(OpenReply, 4, "OPEN_REPLY")        \
  X(Request, 5, "REQUEST")             \
  X(Reply, 6, "REPLY")                 \
  X(Ping, 7, "PING")                   \
  X(Pong, 8, "PONG")                   \
  X(Release, 9, "RELEASE")             \
  X(ReleaseReply, 10, "RELEASE_REPLY") \
  X(Claim, 11, "CLAIM")                \
  X(ClaimReply, 12, "CLAIM_REPLY")     \
  X(Event, 13, "EVENT")                \
  X(Close, 14, "CLOSE")                \
  X(CloseReply, 15, "CLOSE_REPLY")     \
  X(Error, 16, "ERROR")                \
  X(Resize, 17, "RESIZE")              \
  X(ResizeReply, 18, "RESIZE_REPLY")

#define CLOUDBLK_OPERATIONS(X)      \
  X(Read, 1, "READ")                \
  X(Write, 2, "WRITE")              \
  X(Flush, 3, "FLUSH")              \
  X(Discard, 4, "DISCARD")          \
  X(WriteZeroes, 5, "WRITE_ZEROES") \
  X(BlockStatus, 6, "BLOCK_STATUS")

#define CLOUDBLK_STATUSES(X)             \
  X(Ok, 0, "OK")                         \
  X(IoError, 1, "IO_ERROR")              \
  X(NoSpace, 2, "NO_SPACE")              \
  X(Invalid, 3, "INVALID")               \
  X(NotSupported, 4, "NOT_SUPPORTED")    \
  X(ReadOnly, 5, "READ_ONLY")            \
  X(OutOfRange, 6, "OUT_OF_RANGE")       \
  X(NoMemory, 7, "NO_MEMORY")            \
  X(NotActive, 8, "NOT_ACTIVE")          \
  X(NoSuchVolume, 9, "NO_SUCH_VOLUME")   \
  X(Busy, 10, "BUSY")                    \
  X(Stale, 11, "STALE")                  \
  X(Fenced, 12, "FENCED")                \
  X(VolumeChanged, 13, "VOLUME_CHANGED") \
  X(BadToken, 14, "BAD_TOKEN")           \
  X(BadVersion, 15, "BAD_VERSION")       \
  X(BadFeature, 16, "BAD_FEATURE")       \
  X(Protocol, 17, "PROTOCOL")            \
  X(ShuttingDown, 18, "SHUTTING_DOWN")   \
  X(TooMany, 19, "TOO_MANY")             \
  X(Denied, 20, "DENIED")

#define CLOUDBLK_EVENTS(X)      \
  X(Resized, 1, "RESIZED")      \
  X(GoingAway, 2, "GOING_AWAY") \
  X(Revoked, 3, "REVOKED")

// Bits. X(Name, bit number, "words")
#define CLOUDBLK_FEATURES(X)              \
  X(PayloadCrc, 0, "PAYLOAD_CRC")         \
  X(HoleReply, 1, "HOLE_REPLY")           \
  X(Claimer, 2, "CLAIMER")                \
  X(EndReservation, 3, "END_RESERVATION") \
  X(BlockStatus, 4, "BLOCK_STATUS")       \
  X(Denied, 5, "DENIED")

#define CLOUDBLK_REQUEST_FLAGS(X) X(Fua, 0, "FUA")

#define CLOUDBLK_RANGE_FLAGS(X) X(Unmap, 0, "UNMAP")

#define CLOUDBLK_REPLY_FLAGS(X) X(Hole, 0, "HOLE")

#define CLOUDBLK_EXTENT_FLAGS(X) \
  X(Hole, 0, "HOLE")             \
  X(Zero, 1, "ZERO")

#define CLOUDBLK_OPEN_FLAGS(X) \
  X(Active, 0, "ACTIVE")       \
  X(ReadOnly, 1, "READ_ONLY")  \
  X(ShareRw, 2, "SHARE_RW")    \
  X(Takeover, 3, "TAKEOVER")   \
  X(Resume, 4, "RESUME")       \
  X(EndReservation, 5, "END_RESERVATION")

#define CLOUDBLK_VOLUME_FLAGS(X)    \
  X(ReadOnly, 0, "READ_ONLY")       \
  X(Discard, 1, "DISCARD")          \
  X(WriteZeroes, 2, "WRITE_ZEROES") \
  X(WriteCache, 3, "WRITE_CACHE")   \
  X(Rotational, 4, "ROTATIONAL")

#define CLOUDBLK_CLOSE_FLAGS(X) X(EndSession, 0, "END_SESSION")

#define CLOUDBLK_RESIZE_FLAGS(X) X(Force, 0, "FORCE")

#endif  // CLOUDBLK_PROXY_PROTOCOL_WIRE_TABLE_H_
