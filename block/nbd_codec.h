// SPDX-License-Identifier: GPL-2.0-or-later
//
// The client's side of NBD: what servers other than ours speak.
#ifndef CLOUDBLK_BLOCK_NBD_CODEC_H_
#define CLOUDBLK_BLOCK_NBD_CODEC_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "block/codec.h"
#include "block/nbd_negotiation.h"
#include "block/nbd_receiver.h"

namespace cloudblk {

class NbdCodec final : public Codec, private NbdSink {
 public:
  explicit NbdCodec(CodecStats* stats) : stats_(stats), receiver_(this, stats, &failure_) {}

  static std::unique_ptr<Codec> New(CodecStats* stats) { return std::make_unique<NbdCodec>(stats); }

  void Begin(const OpenParams& params, Outbox* outbox) override;
  size_t Append(std::span<Piece*> pieces, Outbox* outbox) override;
  bool Receive(Transport* transport, RequestQueue* queue, Outbox* outbox,
               std::vector<Fact>* facts) override;
  // A RELEASE is a FLUSH and the end of the connection: nobody keeps a reservation.
  bool Send(const Command& command, Outbox* outbox) override;

 private:
  size_t HandshakeNeeds() const override;
  bool OnHandshake(std::span<const uint8_t> message) override;
  bool OnOwn(int error) override;
  bool OnOwnRead(int error) override;
  bool OnForcedDone(Piece* piece, int error) override;
  bool OnEnd() override;

  bool StartTls();
  bool OnOpened();
  bool has(uint16_t flag) const { return (negotiation_.export_info().flags & flag) != 0; }
  bool Opened();
  void Examine(const KnownBlock& block);
  void SendRequest(const nbd::Request& request);
  void SendDisconnect();

  CodecStats* const stats_;
  NbdNegotiation negotiation_;
  NbdReceiver receiver_;
  bool fua_ = false;
  // Writes that are done and are to be durable, where the server knows no FUA: a FLUSH was sent
  // under their cookies.
  std::vector<uint64_t> syncing_;
  // What the volume has to hold. Looked for before the volume counts as opened.
  std::optional<KnownBlock> known_;
  // A READ of our own.
  KnownBlock examined_;
  std::vector<uint8_t> content_;
  Request examination_;
  Piece examination_piece_;
  bool disconnecting_ = false;  // the server is to close the connection
  Command::Kind ends_for_ = Command::Kind::kClose;
  // Of the pass under way.
  Transport* transport_ = nullptr;
  Outbox* outbox_ = nullptr;
  std::vector<Fact>* facts_ = nullptr;
};

}  // namespace cloudblk

#endif  // CLOUDBLK_BLOCK_NBD_CODEC_H_
