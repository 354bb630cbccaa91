// SPDX-License-Identifier: GPL-2.0-or-later
//
// The sending half of the native protocol (proxy-protocol/SPEC.md): requests and handshakes into
// frames.
#ifndef CLOUDBLK_BLOCK_NATIVE_CODEC_H_
#define CLOUDBLK_BLOCK_NATIVE_CODEC_H_

#include <cstdint>
#include <string_view>
#include <vector>

#include "block/outbox.h"
#include "block/request.h"
#include "proxy-protocol/wire.h"

namespace cloudblk {

// What the server granted for one connection.
struct NativeLimits {
  wire::FrameLimits frame;
  uint32_t data_length = 0;  // bytes of one READ or WRITE, a multiple of the block size
  uint32_t max_ranges = 0;
  uint64_t discard_length = 0;  // bytes of one range, a multiple of the block size
  uint64_t write_zeroes_length = 0;
  uint32_t credit_requests = 0;
  uint64_t credit_bytes = 0;
  bool hole_reply = false;
};

NativeLimits LimitsFrom(const wire::HelloReply& hello, const wire::OpenReply& open);

// How far the bytes [begin, end) of the request fit into one wire request: begin < result <= end,
// or end where begin == end.
uint64_t FittingEnd(const Request& request, uint64_t begin, uint64_t end,
                    const NativeLimits& limits);

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

// One REQUEST frame in the making.
class RequestFrame {
 public:
  // Room in the outbox that requests leave to control frames.
  static constexpr size_t kControlRoom = 2048;
  // Of that, what PONGs leave to frames that the server does not decide on.
  static constexpr size_t kOwnRoom = 512;

  RequestFrame(const NativeLimits& limits, Outbox* outbox, std::vector<Piece*>* scratch)
      : limits_(limits), outbox_(outbox), pieces_(*scratch) {
    pieces_.clear();
  }

  bool empty() const { return pieces_.empty(); }
  // False: the frame is full. Precondition: the piece fits into one wire request.
  bool Fits(const Piece& piece) const { return Grown(piece, nullptr); }
  void Add(Piece* piece);
  // Puts the frame into the outbox; write data is borrowed from the requests. Precondition: not
  // empty, and every piece has its tag.
  void Seal();

 private:
  struct Size {
    uint64_t payload = 0;  // bytes
    uint64_t crcs = 0;
    uint64_t copied = 0;  // bytes of payload in the outbox's own memory
  };
  bool Grown(const Piece& piece, Size* grown) const;
  void AppendPayload(const Piece& piece, uint8_t** crcs);
  void AppendRanges(const Piece& piece, uint8_t** crcs);
  void AppendCopy(const Piece& piece, uint8_t** crcs);

  const NativeLimits& limits_;
  Outbox* const outbox_;
  std::vector<Piece*>& pieces_;
  Size size_;
};

}  // namespace cloudblk

#endif  // CLOUDBLK_BLOCK_NATIVE_CODEC_H_
