// SPDX-License-Identifier: GPL-2.0-or-later
//
// The sending half of the native protocol (proxy-protocol/SPEC.md): messages and requests into
// frames.
#ifndef CLOUDBLK_BLOCK_NATIVE_FRAME_H_
#define CLOUDBLK_BLOCK_NATIVE_FRAME_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "block/copy_batch.h"
#include "block/outbox.h"
#include "block/request.h"
#include "block/types.h"
#include "proxy-protocol/wire.h"

namespace cloudblk {

// Bytes of the outbox that batches of requests leave free for control frames.
inline constexpr size_t kControlRoom = 2048;
// Of these, what PINGs and PONGs leave free for RELEASE, RESIZE and CLOSE: a server that sends many
// PINGs must not take their room.
inline constexpr size_t kOwnRoom = 512;

// What the server granted for one connection.
Limits LimitsFrom(const wire::HelloReply& hello, const wire::OpenReply& open);

// Appends one frame without entries. `payload` is copied.
template <typename Message>
void AppendControl(wire::FrameType type, const Message& message, size_t section_size,
                   std::string_view payload, Outbox* outbox) {
  const size_t head = wire::kFrameHeaderSize + section_size;
  uint8_t* frame = outbox->Reserve(head + payload.size());
  wire::Encode(message, {frame + wire::kFrameHeaderSize, section_size});
  wire::FrameHeader header;
  header.type = type;
  header.header_length = static_cast<uint32_t>(section_size);
  header.payload_length = static_cast<uint32_t>(payload.size());
  wire::SealFrame(header, {frame, head});
  payload.copy(reinterpret_cast<char*>(frame + head), payload.size());
  outbox->Append(frame, head + payload.size());
}

// Appends the pieces as one REQUEST frame; write data is borrowed from the requests. With
// PAYLOAD_CRC it is copied instead, by `copies` (else null): returns as Codec::Append.
// Precondition: not empty, every piece has its tag, and all fit by `limits`.
size_t AppendRequests(std::span<Piece*> pieces, const Limits& limits, CopyBatch* copies,
                      Outbox* outbox);

}  // namespace cloudblk

#endif  // CLOUDBLK_BLOCK_NATIVE_FRAME_H_
