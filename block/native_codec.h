// SPDX-License-Identifier: GPL-2.0-or-later
//
// The client's side of the native protocol (proxy-protocol/SPEC.md).
#ifndef CLOUDBLK_BLOCK_NATIVE_CODEC_H_
#define CLOUDBLK_BLOCK_NATIVE_CODEC_H_

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "block/codec.h"
#include "block/copy_batch.h"
#include "block/native_receiver.h"
#include "proxy-protocol/wire.h"

namespace cloudblk {

class NativeCodec final : public Codec, private ControlSink {
 public:
  explicit NativeCodec(CodecStats* stats) : stats_(stats), receiver_(this, stats, &failure_) {}

  static std::unique_ptr<Codec> New(CodecStats* stats) {
    return std::make_unique<NativeCodec>(stats);
  }

  void Begin(const OpenParams& params, Outbox* outbox) override;
  size_t Append(std::span<Piece*> pieces, Outbox* outbox) override;
  bool Receive(Transport* transport, RequestQueue* queue, Outbox* outbox,
               std::vector<Fact>* facts) override;
  bool Send(const Command& command, Outbox* outbox) override;

 private:
  // The states of SPEC.md 4, as far as the client has them.
  enum class State {
    kHello,  // HELLO sent, and OPEN if it depends on nothing; waits for HELLO_REPLY
    kOpen,   // waits for OPEN_REPLY
    kReady,
    kClosing,  // CLOSE sent
  };

  void AppendOpen();
  bool OnControl(const wire::FrameHeader& header, std::span<const uint8_t> section,
                 std::string_view text) override;
  bool OnHelloReply(std::span<const uint8_t> section, std::string_view text);
  bool OnOpenReply(std::span<const uint8_t> section, std::string_view text);
  bool OnEvent(std::span<const uint8_t> section, std::string_view text);
  bool OnPing(std::span<const uint8_t> section);
  // RELEASE_REPLY and RESIZE_REPLY.
  bool OnAnswer(const wire::FrameHeader& header, std::span<const uint8_t> section,
                std::string_view text);
  // `epoch`: of the OPEN_REPLY.
  bool Refused(wire::StatusCode status, std::string_view text, uint32_t retry_ms, uint64_t epoch);
  bool BadMessage(wire::FrameType type, wire::DecodeError error);

  CodecStats* const stats_;
  NativeReceiver receiver_;
  State state_ = State::kHello;
  bool wants_crc_ = false;
  wire::Open open_;          // as it was, or will be, sent
  std::string names_;        // its payload
  bool open_waits_ = false;  // for the HELLO_REPLY
  wire::HelloReply hello_;
  CopyBatch copies_;
  bool release_sent_ = false;  // and not answered
  bool resize_sent_ = false;
  // Of the pass under way.
  Outbox* outbox_ = nullptr;
  std::vector<Fact>* facts_ = nullptr;
};

}  // namespace cloudblk

#endif  // CLOUDBLK_BLOCK_NATIVE_CODEC_H_
