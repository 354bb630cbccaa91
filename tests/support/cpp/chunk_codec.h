// SPDX-License-Identifier: GPL-2.0-or-later
//
// A protocol of the tests that differs from the native one wherever a codec may: the server speaks
// first, the handshake has three steps, requests go one by one, an answer comes in chunks at
// offsets, with holes, with errors after data, and there is no PING, no RELEASE and no RESIZE. All
// integers are little-endian.
//
//   server: GREETING  magic u64, nonce u64
//   client: HELLO     magic u64, nonce u64, incarnation u64, name length u32, name
//   server: EXPORT    status u32, block u32, size u64, generation u64, credit bytes u64,
//                     most data u32, most requests u32, longest range u32
//   client: START     magic u64
//   server: STARTED   magic u64
//   client: REQUEST   operation u8, FUA u8, 0 u16, length u32, tag u64, offset u64; WRITE: data
//   server: CHUNK     kind u8, 0 u24, length u32, tag u64, value u64; kDataChunk: data
#ifndef CLOUDBLK_TESTS_SUPPORT_CPP_CHUNK_CODEC_H_
#define CLOUDBLK_TESTS_SUPPORT_CPP_CHUNK_CODEC_H_

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/bounce.h"
#include "block/codec.h"
#include "block/copy_batch.h"

namespace cloudblk::testing::chunk {

inline constexpr uint64_t kMagic = 0x4b4e5548435f5443;
inline constexpr size_t kGreetingSize = 16;
inline constexpr size_t kHelloSize = 28;
inline constexpr size_t kExportSize = 44;
inline constexpr size_t kStartSize = 8;
inline constexpr size_t kRequestSize = 24;
inline constexpr size_t kChunkSize = 24;

enum Kind : uint8_t {
  kDataChunk = 1,  // value: where in the request; data follows
  kHoleChunk,      // value: where; zeros
  kErrorChunk,     // value: errno
  kDone,           // the answer is complete
  kResized,        // value: the volume's size
};

class Codec final : public cloudblk::Codec {
 public:
  explicit Codec(CodecStats* stats) : stats_(stats) { zeros_.SetBounce(&bounce_); }
  static std::unique_ptr<cloudblk::Codec> New(CodecStats* stats) {
    return std::make_unique<Codec>(stats);
  }

  void Begin(const OpenParams& params, Outbox* outbox) override;
  size_t Append(std::span<Piece*> pieces, Outbox* outbox) override;
  bool Receive(Transport* transport, RequestQueue* queue, Outbox* outbox,
               std::vector<Fact>* facts) override;
  bool Send(const Command& command, Outbox* outbox) override;

 private:
  enum class Step { kGreeting, kExport, kStarted, kChunk, kData, kClosing };

  size_t needed() const;
  bool OnMessage(RequestQueue* queue, Outbox* outbox, std::vector<Fact>* facts);
  bool OnExport(Outbox* outbox);
  bool OnChunk(RequestQueue* queue, const Outbox& outbox, std::vector<Fact>* facts);
  ssize_t ReadData(Transport* transport, RequestQueue* queue);
  void Store(RequestQueue* queue, uint64_t length);

  CodecStats* const stats_;
  Step step_ = Step::kGreeting;
  uint64_t incarnation_ = 0;
  std::string name_;
  std::array<uint8_t, 48> staging_;  // a message so far
  Bounce bounce_{4096};
  CopyBatch zeros_;
  size_t filled_ = 0;
  // kData: what is left of the chunk.
  Piece* piece_ = nullptr;
  uint64_t at_ = 0;
  uint64_t left_ = 0;
};

}  // namespace cloudblk::testing::chunk

#endif  // CLOUDBLK_TESTS_SUPPORT_CPP_CHUNK_CODEC_H_
