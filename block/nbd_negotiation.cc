// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/nbd_negotiation.h"

#include <cerrno>
#include <utility>

namespace cloudblk {
namespace {

// No server has a reason to say more of an export.
constexpr uint32_t kMostInfos = 64;

bool Violation(std::string text, Failure* failure) {
  *failure = {.error = EPROTO, .text = std::move(text)};
  return false;
}

bool Refused(int error, std::string text, Failure* failure) {
  *failure = {.error = error, .text = std::move(text), .refusal = Refusal::kOther};
  return false;
}

bool Refuse(std::string text, Failure* failure) {
  *failure = {.error = ENOTSUP, .text = std::move(text), .refusal = Refusal::kOther};
  return false;
}

std::string_view TextOf(std::span<const uint8_t> data) {
  return {reinterpret_cast<const char*>(data.data()), data.size()};
}

}  // namespace

size_t NbdNegotiation::needed() const {
  switch (step_) {
    case Step::kMagic:
    case Step::kStyle:
      return nbd::kMagicSize;
    case Step::kFlags:
      return nbd::kFlagsSize;
    case Step::kReply:
      return nbd::kOptionReplySize;
    case Step::kReplyData:
      return reply_.length;
    case Step::kDone:
      break;
  }
  return 0;
}

bool NbdNegotiation::OnMessage(std::span<const uint8_t> message, Outbox* outbox, Failure* failure) {
  switch (step_) {
    case Step::kMagic:
      if (nbd::Load64(message.data()) != nbd::kGreetingMagic) {
        return Violation("it does not greet as one", failure);
      }
      step_ = Step::kStyle;
      return true;
    case Step::kStyle:
      return OnStyle(nbd::Load64(message.data()), failure);
    case Step::kFlags:
      return OnFlags(nbd::Load16(message.data()), outbox, failure);
    case Step::kReply:
      return OnReply(message, outbox, failure);
    case Step::kReplyData:
      return OnReplyData(message, outbox, failure);
    case Step::kDone:
      break;
  }
  return Violation("a message after the end of the negotiation", failure);
}

bool NbdNegotiation::OnStyle(uint64_t magic, Failure* failure) {
  if (magic == nbd::kOldstyleMagic) {
    return Refused(
        ENOTSUP,
        "it speaks the oldstyle negotiation, which names no export; start it with newstyle "
        "(nbdkit: without --oldstyle; qemu-nbd: with --export-name)",
        failure);
  }
  if (magic != nbd::kOptionMagic) return Violation("it does not greet as one", failure);
  step_ = Step::kFlags;
  return true;
}

bool NbdNegotiation::OnFlags(uint16_t flags, Outbox* outbox, Failure* failure) {
  if ((flags & nbd::HandshakeFlag::kFixedNewstyle) == 0) {
    return Refused(ENOTSUP, "it does not speak fixed newstyle negotiation; use a newer server",
                   failure);
  }
  uint8_t* const out = outbox->Reserve(nbd::kClientFlagsSize);
  nbd::Store32(out, flags & (nbd::HandshakeFlag::kFixedNewstyle | nbd::HandshakeFlag::kNoZeroes));
  outbox->Append(out, nbd::kClientFlagsSize);
  SendOption(tls_ ? nbd::Option::kStartTls : nbd::Option::kStructuredReply, outbox);
  return true;
}

bool NbdNegotiation::OnStartTls(bool refused, std::string_view text, Failure* failure) {
  if (!refused) {
    starts_tls_ = true;
    return true;
  }
  const std::string said = text.empty() ? std::string() : ": " + std::string(text);
  if (reply_.type == nbd::OptionReply::kShutdown) {
    return Refused(ECONNREFUSED, "it is about to stop" + said, failure);
  }
  return Refused(
      EACCES,
      "it does not offer TLS, which nbds:// asks for; start it with TLS (nbdkit: --tls=on; "
      "qemu-nbd: --tls-creds), or say nbd://" +
          said,
      failure);
}

void NbdNegotiation::OnTls(Outbox* outbox) {
  starts_tls_ = false;
  SendOption(nbd::Option::kStructuredReply, outbox);
}

void NbdNegotiation::SendOption(nbd::Option option, Outbox* outbox) {
  const bool go = option == nbd::Option::kGo;
  const bool context = option == nbd::Option::kSetMetaContext;
  const size_t length = go ? nbd::GoSize(name_) : context ? nbd::SetMetaContextSize(name_) : 0;
  uint8_t* const out = outbox->Reserve(nbd::kOptionSize + length);
  nbd::EncodeOption(option, static_cast<uint32_t>(length), out);
  if (go) nbd::EncodeGo(name_, out + nbd::kOptionSize);
  if (context) nbd::EncodeSetMetaContext(name_, out + nbd::kOptionSize);
  outbox->Append(out, nbd::kOptionSize + length);
  option_ = option;
  step_ = Step::kReply;
}

bool NbdNegotiation::OnReply(std::span<const uint8_t> message, Outbox* outbox, Failure* failure) {
  if (!nbd::Decode(message.data(), &reply_)) {
    return Violation("a reply to an option with a wrong magic", failure);
  }
  if (reply_.option != static_cast<uint32_t>(option_)) {
    return Violation("a reply to an option that was not asked for", failure);
  }
  if (reply_.length > kMaxMessage) return Violation("a reply to an option is too long", failure);
  if (reply_.length == 0) return OnReplyData({}, outbox, failure);
  step_ = Step::kReplyData;
  return true;
}

bool NbdNegotiation::OnReplyData(std::span<const uint8_t> data, Outbox* outbox, Failure* failure) {
  step_ = Step::kReply;
  const bool goes = option_ == nbd::Option::kGo;
  if (reply_.type == nbd::OptionReply::kAck) {
    if (!data.empty()) return Violation("an ACK with data", failure);
    if (option_ == nbd::Option::kStartTls) return OnStartTls(false, {}, failure);
    if (!goes) return OnChosen(false, outbox);
    if (!has_export_) return Violation("GO without the export's size", failure);
    step_ = Step::kDone;
    return true;
  }
  if ((reply_.type & nbd::OptionReply::kError) != 0) {
    if (option_ == nbd::Option::kStartTls) return OnStartTls(true, TextOf(data), failure);
    return goes ? OnRefused(TextOf(data), failure) : OnChosen(true, outbox);
  }
  if (goes && reply_.type == nbd::OptionReply::kInfo) return OnInfo(data, failure);
  if (option_ == nbd::Option::kSetMetaContext && reply_.type == nbd::OptionReply::kMetaContext) {
    return OnMetaContext(data, failure);
  }
  return Violation("an unknown reply to an option", failure);
}

// Whatever is wrong with structured replies, simple ones do, and who does not tell where there is
// data is not asked; a server that wants TLS says so again.
bool NbdNegotiation::OnChosen(bool refused, Outbox* outbox) {
  if (option_ == nbd::Option::kStructuredReply && !refused) {
    structured_ = true;
    SendOption(nbd::Option::kSetMetaContext, outbox);
    return true;
  }
  // What it has said of a context before it refused does not hold.
  if (refused) allocation_.reset();
  SendOption(nbd::Option::kGo, outbox);
  return true;
}

bool NbdNegotiation::OnMetaContext(std::span<const uint8_t> data, Failure* failure) {
  if (data.size() < nbd::kContextIdSize) return Violation("a context without its id", failure);
  if (TextOf(data.subspan(nbd::kContextIdSize)) != nbd::kAllocation) {
    return Violation("a context that was not asked for", failure);
  }
  if (allocation_.has_value()) return Violation("a context that came before", failure);
  allocation_ = nbd::Load32(data.data());
  return true;
}

bool NbdNegotiation::OnInfo(std::span<const uint8_t> data, Failure* failure) {
  if (++infos_ > kMostInfos) return Violation("more INFO than there is to say", failure);
  if (data.size() < 2) return Violation("an INFO without its type", failure);
  const uint16_t type = nbd::Load16(data.data());
  if (type == nbd::InfoType::kExport) {
    if (data.size() != nbd::kExportInfoSize) return Violation("a bad INFO_EXPORT", failure);
    export_ = nbd::DecodeExport(&data[2]);
    has_export_ = true;
    if ((export_.flags & nbd::ExportFlag::kHasFlags) == 0) {
      return Violation("an export without flags", failure);
    }
    if (export_.size > uint64_t{INT64_MAX}) {
      return Refuse("its export has " + std::to_string(export_.size) + " bytes, which is too much",
                    failure);
    }
  } else if (type == nbd::InfoType::kBlockSize) {
    if (data.size() != nbd::kBlockSizeInfoSize) return Violation("a bad INFO_BLOCK_SIZE", failure);
    sizes_ = nbd::DecodeBlockSizes(&data[2]);
    if (!nbd::AreValid(sizes_)) {
      return Refuse("its export has block sizes that cannot be: " + std::to_string(sizes_.minimum) +
                        " to " + std::to_string(sizes_.max_payload) + ", best " +
                        std::to_string(sizes_.preferred),
                    failure);
    }
  }
  return true;
}

bool NbdNegotiation::OnRefused(std::string_view text, Failure* failure) {
  const std::string said = text.empty() ? std::string() : ": " + std::string(text);
  switch (reply_.type) {
    case nbd::OptionReply::kUnsupported:
      return Refused(ENOTSUP, "it does not know NBD_OPT_GO; use a newer server", failure);
    case nbd::OptionReply::kUnknown:
      return Refused(ENOENT, "there is no export " + Quoted() + " there; check the name" + said,
                     failure);
    case nbd::OptionReply::kTlsRequired:
      return Refused(EACCES, "it wants TLS; give credentials, and say nbds:// in the server URI",
                     failure);
    case nbd::OptionReply::kPolicy:
      return Refused(EACCES, "its policy forbids export " + Quoted() + said, failure);
    case nbd::OptionReply::kShutdown:
      // The next one comes.
      return Refused(ECONNREFUSED, "it is about to stop" + said, failure);
    default:
      return Refused(EIO, "it does not open export " + Quoted() + said, failure);
  }
}

}  // namespace cloudblk
