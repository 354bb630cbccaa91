// SPDX-License-Identifier: GPL-2.0-or-later
//
// NBD's handshake as a client has it: from the server's greeting to the export it has opened.
#ifndef CLOUDBLK_BLOCK_NBD_NEGOTIATION_H_
#define CLOUDBLK_BLOCK_NBD_NEGOTIATION_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "block/outbox.h"
#include "block/types.h"
#include "proxy-protocol/nbd/nbd.h"

namespace cloudblk {

// The server speaks first. Then one option after the other is answered: STARTTLS where TLS is
// wanted, STRUCTURED_REPLY and, where it takes that, SET_META_CONTEXT, both of which it may refuse,
// and GO.
class NbdNegotiation {
 public:
  // The longest message of a server.
  static constexpr size_t kMaxMessage = nbd::kMaxName + 64;

  void Begin(std::string_view name, bool tls) {
    name_ = name;
    tls_ = tls;
  }

  bool done() const { return step_ == Step::kDone; }
  // Bytes of the next message, at most kMaxMessage. Precondition: not done.
  size_t needed() const;
  // That message has come. What is to be said goes into the outbox. False: the connection is over,
  // and *failure says why.
  bool OnMessage(std::span<const uint8_t> message, Outbox* outbox, Failure* failure);

  // The server has agreed to TLS, which is to begin now. Then OnTls goes on.
  bool starts_tls() const { return starts_tls_; }
  void OnTls(Outbox* outbox);

  // Precondition, of all: done.
  bool structured() const { return structured_; }
  // The id of nbd::kAllocation; none: the server does not tell where there is data.
  const std::optional<uint32_t>& allocation() const { return allocation_; }
  const nbd::ExportInfo& export_info() const { return export_; }
  // Where the server names none: those of the NBD protocol.
  const nbd::BlockSizes& block_sizes() const { return sizes_; }

 private:
  enum class Step { kMagic, kStyle, kFlags, kReply, kReplyData, kDone };

  bool OnStyle(uint64_t magic, Failure* failure);
  bool OnFlags(uint16_t flags, Outbox* outbox, Failure* failure);
  bool OnReply(std::span<const uint8_t> message, Outbox* outbox, Failure* failure);
  bool OnReplyData(std::span<const uint8_t> data, Outbox* outbox, Failure* failure);
  // The server has said all, or will not, of an option that is not GO.
  bool OnChosen(bool refused, Outbox* outbox);
  bool OnStartTls(bool refused, std::string_view text, Failure* failure);
  bool OnMetaContext(std::span<const uint8_t> data, Failure* failure);
  bool OnInfo(std::span<const uint8_t> data, Failure* failure);
  bool OnRefused(std::string_view text, Failure* failure);
  void SendOption(nbd::Option option, Outbox* outbox);
  std::string Quoted() const { return "'" + name_ + "'"; }

  std::string name_;
  bool tls_ = false;
  bool starts_tls_ = false;
  Step step_ = Step::kMagic;
  nbd::Option option_{};          // asked for, and not answered
  nbd::OptionReplyHeader reply_;  // whose data is to come
  uint32_t infos_ = 0;
  bool has_export_ = false;
  bool structured_ = false;
  std::optional<uint32_t> allocation_;
  nbd::ExportInfo export_;
  nbd::BlockSizes sizes_{1, 4096, nbd::kDefaultMaxPayload};
};

}  // namespace cloudblk

#endif  // CLOUDBLK_BLOCK_NBD_NEGOTIATION_H_
