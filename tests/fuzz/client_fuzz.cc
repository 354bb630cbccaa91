// SPDX-License-Identifier: GPL-2.0-or-later
//
// A hostile server of either protocol against the real engine: a channel with its queue, link and
// codec, on links in memory with a manual clock. The input is what the host asks for, what the
// server says, in valid frames with any content or in any bytes, and in what pieces it comes. Each
// element of a buffer is memory of its own, and is freed as soon as its request has ended.

#include <algorithm>
#include <cstring>
#include <vector>

#include "tests/fuzz/check.h"
#include "tests/support/cpp/channel_fixture.h"

namespace cloudblk::testing {
namespace {

constexpr uint64_t kSize = 1 << 20;
constexpr uint32_t kBlock = 512;

// A request as the server has received it.
struct Asked {
  uint64_t tag = 0;
  uint32_t length = 0;  // of the data of its answer
  bool read = false;
  bool status = false;  // BLOCK_STATUS, about `length` bytes
  uint64_t offset = 0;
};

uint64_t BigEndian(std::string_view bytes, size_t at, size_t size) {
  uint64_t value = 0;
  for (size_t i = 0; i < size; ++i) value = value << 8 | static_cast<uint8_t>(bytes[at + i]);
  return value;
}

std::string Number(uint64_t value, size_t size) {
  std::string bytes;
  for (size_t i = size; i > 0; --i) bytes += static_cast<char>(value >> (8 * (i - 1)) & 0xff);
  return bytes;
}

// The server's end. It holds the client to its protocol, however the server behaves: what it sends
// decodes.
class Liar {
 public:
  explicit Liar(FuzzedDataProvider* in) : in_(in) {}
  virtual ~Liar() = default;

  void Accept(std::shared_ptr<MemoryLink> link) {
    constexpr size_t kPieces[] = {SIZE_MAX, 1, 13, 4096};
    link_ = std::move(link);
    input_.clear();
    asked_.clear();
    // What was said is whole messages.
    clean = true;
    const auto habits = in_->ConsumeIntegral<uint8_t>();
    link_->habits.read_chunk = kPieces[habits & 3];
    link_->habits.write_chunk = kPieces[habits >> 2 & 3];
    link_->habits.record_size = (habits & 16) != 0 ? 700 : 0;
    link_->habits.scatters = (habits & 32) == 0;
    link_->habits.wants_other = (habits & 64) != 0;
    polite_ = (habits & 128) == 0;
    OnAccepted();
  }

  bool Step() {
    if (link_ == nullptr || link_->server_closed || link_->to_server.empty()) return false;
    input_ += link_->TakeForServer();
    while (Parse()) {
    }
    return true;
  }

  void Send(std::string_view bytes) {
    if (link_ != nullptr && !link_->server_closed) link_->to_client += bytes;
  }
  void Cut() {
    if (link_ != nullptr) link_->server_closed = true;
  }
  // Of what is on its way to the client.
  void Damage() {
    if (link_ == nullptr || link_->to_client.empty()) return;
    const size_t at = in_->ConsumeIntegral<uint16_t>() % link_->to_client.size();
    link_->to_client[at] = static_cast<char>(in_->ConsumeIntegral<uint8_t>());
    clean = false;
  }

  virtual void Answer() = 0;
  // Something that is not an answer to a request.
  virtual void Speak() = 0;
  // A message that no server may send now.
  virtual std::string Wrong() = 0;

  std::shared_ptr<MemoryLink> link() const { return link_; }
  // The connection is there, and all was received that was said.
  bool quiet() const {
    return link_ != nullptr && !link_->server_closed && !link_->client_closed &&
           link_->to_client.empty();
  }

  bool clean = true;

 protected:
  virtual void OnAccepted() {}
  // Takes a whole message off input_, if there is one.
  virtual bool Parse() = 0;

  // One of those that wait, or one that never was.
  Asked Choose() {
    if (asked_.empty()) return {.tag = in_->ConsumeIntegral<uint64_t>(), .length = kBlock};
    const size_t index = in_->ConsumeIntegral<uint8_t>() % asked_.size();
    Asked asked = asked_[index];
    const auto choice = in_->ConsumeIntegral<uint8_t>();
    if (choice < 224) asked_.erase(asked_.begin() + static_cast<ptrdiff_t>(index));
    if (choice >= 240) asked.tag ^= uint64_t{1} << (choice * 4 & 63);
    return asked;
  }
  std::string Data(size_t length) { return std::string(length, in_->ConsumeIntegral<char>()); }

  FuzzedDataProvider* const in_;
  std::shared_ptr<MemoryLink> link_;
  std::string input_;
  std::vector<Asked> asked_;
  bool polite_ = true;
};

class NativeLiar final : public Liar {
 public:
  using Liar::Liar;

  void Answer() override {
    std::vector<wire::Reply> replies;
    std::string payload;
    const int count = in_->ConsumeIntegralInRange(1, 3);
    for (int i = 0; i < count; ++i) {
      const Asked asked = Choose();
      Fields fields(in_);
      wire::Reply reply;
      reply.tag = asked.tag;
      reply.status = static_cast<wire::StatusCode>(fields.Small(0));
      const bool ok = reply.status == wire::StatusCode::kOk;
      reply.flags = asked.read && in_->ConsumeIntegral<uint8_t>() > 224 ? 1 : fields.Small(0);
      const bool hole = (reply.flags & 1) != 0;
      reply.length = fields.Small(ok && !hole ? asked.length : 0);
      std::string data;
      if (asked.status && ok) {
        const size_t extents = in_->ConsumeIntegralInRange(1, 4);
        for (size_t n = 0; n < extents; ++n) data += Extent(asked);
        reply.length = fields.Small(static_cast<uint32_t>(data.size()));
      }
      data.resize(reply.length, in_->ConsumeIntegral<char>());
      payload += data;
      replies.push_back(reply);
    }
    if (in_->ConsumeIntegral<uint8_t>() > 240) payload += SomeBytes(in_);
    std::string frame = FakeServer::ReplyFrame(replies, payload, crc_);
    if (in_->ConsumeIntegral<uint8_t>() > 240 && frame.size() > wire::kFrameHeaderSize) {
      frame.back() = static_cast<char>(frame.back() ^ 1);
    }
    Send(frame);
  }

  void Speak() override {
    const std::string text = SomeBytes(in_);
    switch (in_->ConsumeIntegralInRange(0, 6)) {
      case 0:
        return Send(FakeServer::Frame(wire::FrameType::kPing, wire::Ping{Maybe<uint64_t>(in_, 1)},
                                      wire::kPingSize, ""));
      case 1:
        return Send(FakeServer::Frame(wire::FrameType::kPong, wire::Ping{Maybe<uint64_t>(in_, 1)},
                                      wire::kPingSize, ""));
      case 2: {
        const auto kind = static_cast<wire::EventKind>(in_->ConsumeIntegralInRange(0, 4));
        return Send(FakeServer::Frame(wire::FrameType::kEvent,
                                      wire::Event{kind, Maybe(in_, 2 * kSize)}, wire::kEventSize,
                                      text));
      }
      case 3: {
        constexpr wire::FrameType kTypes[] = {wire::FrameType::kReleaseReply,
                                              wire::FrameType::kCloseReply, wire::FrameType::kError,
                                              wire::FrameType::kResizeReply};
        const wire::StatusMessage message{static_cast<wire::StatusCode>(Small(in_, 0)),
                                          Maybe<uint64_t>(in_, 1)};
        return Send(FakeServer::Frame(kTypes[in_->ConsumeIntegralInRange(0, 3)], message,
                                      wire::kStatusMessageSize, text));
      }
      case 4:
        return Hello();
      case 5:
        return Open();
      default: {  // any header section under right sums
        wire::FrameHeader header;
        header.type = static_cast<wire::FrameType>(in_->ConsumeIntegral<uint8_t>() % 20);
        header.flags = static_cast<uint16_t>(Small(in_, 0));
        header.count = Small(in_, 1);
        header.header_length = static_cast<uint32_t>(text.size());
        header.payload_length = Maybe<uint32_t>(in_, 0);
        std::string frame = std::string(wire::kFrameHeaderSize, '\0') + text;
        wire::SealFrame(header, {reinterpret_cast<uint8_t*>(frame.data()), frame.size()});
        clean = clean && header.payload_length == 0;
        return Send(frame);
      }
    }
  }

  std::string Wrong() override {
    if (in_->ConsumeBool()) return std::string(wire::kFrameHeaderSize, 'x');
    return FakeServer::ReplyFrame({wire::Reply{uint64_t{0xdead} << 40}}, "", crc_);
  }

 private:
  std::string Extent(const Asked& asked) {
    std::string bytes(wire::kExtentSize, '\0');
    const wire::Extent extent{Maybe<uint64_t>(in_, asked.length / kBlock / 2 * kBlock),
                              Small(in_, 1)};
    wire::Encode(extent, {reinterpret_cast<uint8_t*>(bytes.data()), bytes.size()});
    return bytes;
  }

  void Hello() {
    Fields fields(in_);
    wire::HelloReply hello;
    hello.status = static_cast<wire::StatusCode>(fields.Small(0));
    hello.version = static_cast<uint16_t>(fields.Small(1));
    hello.features = fields.Any<uint64_t>(offered_.features);
    hello.max_frame_payload = fields.Any<uint32_t>(std::min(offered_.max_frame_payload, 65536u));
    hello.max_frame_entries = fields.Small(std::min(offered_.max_frame_entries, 64u));
    crc_ = (hello.features & wire::Feature::kPayloadCrc) != 0;
    Send(FakeServer::Frame(wire::FrameType::kHelloReply, hello, wire::kHelloReplySize, ""));
  }

  void Open() {
    Fields fields(in_);
    wire::OpenReply open;
    open.status = static_cast<wire::StatusCode>(fields.Small(0));
    open.volume_flags = fields.Small(0xe);
    open.volume.bytes[0] = static_cast<uint8_t>(fields.Small(7));
    open.generation = fields.Small(1);
    open.size = fields.Any(kSize);
    open.logical_block_size = fields.Small(kBlock);
    open.physical_block_size = fields.Small(kBlock);
    open.max_discard_length = fields.Any(kSize);
    open.max_write_zeroes_length = fields.Any(kSize);
    open.max_ranges = fields.Small(4);
    open.max_channels = fields.Small(4);
    open.credit_requests = fields.Small(8);
    open.credit_bytes = fields.Any<uint64_t>(4 << 20);
    open.lease_ms = 10'000;
    open.epoch = fields.Small(1);
    open.retry_ms = fields.Small(0);
    Send(FakeServer::Frame(wire::FrameType::kOpenReply, open, wire::kOpenReplySize, ""));
  }

  bool Parse() override {
    if (input_.size() < wire::kFrameHeaderSize) return false;
    const std::span<const uint8_t> bytes(reinterpret_cast<const uint8_t*>(input_.data()),
                                         input_.size());
    const wire::FrameLimits limits{.payload_crc = crc_};
    wire::FrameHeader header;
    Check(wire::DecodeFrameHeader(bytes, limits, &header) == wire::DecodeError::kOk);
    const size_t head = wire::kFrameHeaderSize + header.header_length;
    if (input_.size() < head + header.payload_length) return false;
    const auto section = bytes.subspan(wire::kFrameHeaderSize, header.header_length);
    Check(wire::CheckHeaderSection(header, section) == wire::DecodeError::kOk);
    OnFrame(header, section, limits);
    input_.erase(0, head + header.payload_length);
    return true;
  }

  void OnFrame(const wire::FrameHeader& header, std::span<const uint8_t> section,
               const wire::FrameLimits& limits) {
    switch (header.type) {
      case wire::FrameType::kHello: {
        Check(wire::Decode(section, &offered_) == wire::DecodeError::kOk);
        return polite_ ? Hello() : void();
      }
      case wire::FrameType::kOpen:
        return polite_ ? Open() : void();
      case wire::FrameType::kClose:
        if (polite_) {
          Send(FakeServer::Frame(wire::FrameType::kCloseReply, wire::StatusMessage{},
                                 wire::kStatusMessageSize, ""));
        }
        return;
      case wire::FrameType::kRequest: {
        std::vector<wire::Request> requests(header.count);
        std::span<const uint8_t> crcs;
        Check(wire::DecodeRequests(header, section, limits, requests, &crcs) ==
              wire::DecodeError::kOk);
        for (const wire::Request& request : requests) {
          const bool status = request.operation == wire::Operation::kBlockStatus;
          const bool read = request.operation == wire::Operation::kRead;
          const auto extent = static_cast<uint32_t>(request.extent);
          asked_.push_back({request.tag,
                            status ? extent
                            : read ? request.length
                                   : 0,
                            read, status, request.offset});
        }
        return;
      }
      default:
        return;
    }
  }

  bool crc_ = false;
  wire::Hello offered_;
};

class NbdLiar final : public Liar {
 public:
  using Liar::Liar;

  void Answer() override {
    const Asked asked = Choose();
    const auto kind = in_->ConsumeIntegral<uint8_t>();
    const uint32_t error = Small(in_, 0);
    if (!structured_ || kind < 16) {
      std::string reply = NbdFakeServer::SimpleReply(error, asked.tag);
      if (error == 0 && asked.read) {
        const uint32_t length = Small(in_, asked.length);
        clean = clean && length == asked.length;
        reply += Data(length);
      }
      return Send(reply);
    }
    const auto flags = static_cast<uint16_t>(Small(in_, kind & 1));
    const uint64_t offset = asked.offset + Small(in_, (kind & 2) != 0 ? asked.length / 2 : 0);
    switch (kind >> 2 & 7) {
      case 0:
      case 1:
      case 2:
        return Send(
            NbdFakeServer::DataChunk(flags, asked.tag, offset, Data(Small(in_, asked.length / 2))));
      case 3:
        return Send(
            NbdFakeServer::HoleChunk(flags, asked.tag, offset, Small(in_, asked.length / 2)));
      case 4:
        return Send(NbdFakeServer::ErrorChunk(flags, asked.tag, Small(in_, 5), SomeBytes(in_)));
      case 5:
        return Send(NbdFakeServer::StatusChunk(
            flags, asked.tag,
            {{Small(in_, asked.length / 2), Small(in_, 1)}, {Small(in_, 512), 0}}));
      default:
        return Send(NbdFakeServer::Chunk(flags, static_cast<uint16_t>(Small(in_, 0)), asked.tag,
                                         SomeBytes(in_)));
    }
  }

  void Speak() override {
    const auto option = static_cast<nbd::Option>(Small(in_, 7));
    clean = false;  // there is no such thing as a message of the server's own
    Send(NbdFakeServer::OptionReply(option, Small(in_, 1), SomeBytes(in_)));
  }

  std::string Wrong() override {
    if (in_->ConsumeBool()) return std::string(nbd::kChunkSize, 'x');
    return NbdFakeServer::SimpleReply(0, uint64_t{0xdead} << 40) + std::string(16, '\0');
  }

 private:
  void OnAccepted() override {
    began_ = structured_ = false;
    Send(Number(nbd::kGreetingMagic, 8) + Number(nbd::kOptionMagic, 8) +
         Number(Small(in_, 3) & 0xffff, 2));
  }

  bool Parse() override {
    if (!began_) {
      if (input_.size() < nbd::kClientFlagsSize) return false;
      began_ = true;
      input_.erase(0, nbd::kClientFlagsSize);
    }
    if (input_.size() < 8) return false;
    return BigEndian(input_, 0, 8) == nbd::kOptionMagic ? ParseOption() : ParseRequest();
  }

  bool ParseOption() {
    if (input_.size() < nbd::kOptionSize) return false;
    const size_t length = BigEndian(input_, 12, 4);
    if (input_.size() < nbd::kOptionSize + length) return false;
    const auto option = static_cast<nbd::Option>(BigEndian(input_, 8, 4));
    input_.erase(0, nbd::kOptionSize + length);
    if (polite_) OnOption(option);
    return true;
  }

  void OnOption(nbd::Option option) {
    Fields fields(in_);
    const auto reply = [&](uint32_t type, const std::string& data) {
      Send(NbdFakeServer::OptionReply(option, type, data));
    };
    uint32_t answer = fields.Small(nbd::OptionReply::kAck);
    if (answer > 100) answer |= nbd::OptionReply::kError;
    switch (option) {
      case nbd::Option::kStructuredReply:
        structured_ = answer == nbd::OptionReply::kAck;
        break;
      case nbd::Option::kSetMetaContext:
        reply(nbd::OptionReply::kMetaContext,
              Number(NbdFakeServer::kContext, 4) + std::string(nbd::kAllocation));
        break;
      case nbd::Option::kGo:
        reply(nbd::OptionReply::kInfo,
              Number(0, 2) + Number(fields.Any(kSize), 8) + Number(fields.Small(0x16d), 2));
        reply(nbd::OptionReply::kInfo, Number(3, 2) + Number(fields.Small(kBlock), 4) +
                                           Number(fields.Small(4096), 4) +
                                           Number(fields.Any<uint32_t>(1 << 20), 4));
        break;
      default:
        break;
    }
    reply(answer, answer == nbd::OptionReply::kAck ? "" : SomeBytes(in_));
  }

  bool ParseRequest() {
    Check(BigEndian(input_, 0, 4) == nbd::kRequestMagic);
    if (input_.size() < nbd::kRequestSize) return false;
    const auto command = static_cast<nbd::Command>(BigEndian(input_, 6, 2));
    const auto length = static_cast<uint32_t>(BigEndian(input_, 24, 4));
    const size_t data = command == nbd::Command::kWrite ? length : 0;
    if (input_.size() < nbd::kRequestSize + data) return false;
    const bool read = command == nbd::Command::kRead;
    const bool status = command == nbd::Command::kBlockStatus;
    asked_.push_back({BigEndian(input_, 8, 8), read || status ? length : 0, read, status,
                      BigEndian(input_, 16, 8)});
    input_.erase(0, nbd::kRequestSize + data);
    return true;
  }

  bool began_ = false;
  bool structured_ = false;
};

// Holds the completions to what cloudblk.h says of them.
void CheckCompletions(ChannelFixture* f) {
  for (const auto& io : f->ios) {
    Check(io->completions <= 1);
    if (io->completions == 0 || io->memory.empty()) continue;
    size_t length = 0;
    for (const iovec& element : io->iov) length += element.iov_len;
    Check(io->bytes_stored <= length);
    if (io->operation == CLOUDBLK_OP_READ && io->result == 0) Check(io->bytes_stored == length);
    if (io->operation == CLOUDBLK_OP_BLOCK_STATUS && io->result == 0) {
      Check(io->bytes_stored != 0 && io->bytes_stored % sizeof(CloudblkExtent) == 0);
    }
    io->memory.clear();
    io->iov.clear();
  }
}

void Submit(FuzzedDataProvider* in, ChannelFixture* f) {
  if (f->times_ready == 0 || f->ios.size() > 200) return;
  f->ios.push_back(std::make_unique<Io>());
  Io* io = f->ios.back().get();
  io->operation = static_cast<CloudblkOperation>(in->ConsumeIntegralInRange(1, 6));
  // Few places, so that requests overlap.
  const uint64_t offset = in->ConsumeIntegralInRange<uint64_t>(0, 7) * 4096;
  const uint64_t length = Small(in, 8 * kBlock);
  CloudblkRequest request{io->operation, Small(in, 0), offset, nullptr, 0, 0, nullptr, io};
  const std::vector<CloudblkRange> ranges(in->ConsumeIntegralInRange<size_t>(1, 5),
                                          {offset, length, Small(in, 0)});
  if (io->operation == CLOUDBLK_OP_READ || io->operation == CLOUDBLK_OP_WRITE) {
    const size_t first = in->ConsumeIntegral<uint8_t>();
    io->Allocate(length,
                 first > 0 && first < length ? std::vector<size_t>{first} : std::vector<size_t>{});
  } else if (io->operation == CLOUDBLK_OP_BLOCK_STATUS) {
    io->Allocate(4 * sizeof(CloudblkExtent), {});
    request.range_count = 1;
  } else if (io->operation != CLOUDBLK_OP_FLUSH) {
    request.range_count = static_cast<uint32_t>(ranges.size());
  }
  request.ranges = ranges.data();
  request.iov = io->iov.data();
  request.iov_count = static_cast<uint32_t>(io->iov.size());
  if (f->TrySubmit(request) != 0) f->ios.pop_back();
}

// A broken message in a stream that was whole so far: the connection ends.
void SendWrong(Liar* liar, ChannelFixture* f) {
  f->Run();
  if (!f->ready() || !liar->clean || !liar->quiet()) return;
  const std::shared_ptr<MemoryLink> link = liar->link();
  liar->Send(liar->Wrong());
  f->Run();
  // Maybe there is another one already.
  Check(link->client_closed);
}

void Act(FuzzedDataProvider* in, Liar* liar, ChannelFixture* f) {
  switch (in->ConsumeIntegralInRange(0, 14)) {
    case 0:
    case 1:
    case 2:
      return Submit(in, f);
    case 3:
    case 4:
    case 5:
      return liar->Answer();
    case 6:
      return f->Run();
    case 7:
      return f->channel.Kick();
    case 8:
      return liar->Speak();
    case 9:
      liar->clean = false;
      return liar->Send(SomeBytes(in));
    case 10:
      return liar->Damage();
    case 11:
      if (in->ConsumeIntegral<uint8_t>() < 64) liar->Cut();
      return;
    case 12:
      return f->loop.Advance(int64_t{1'000'000} << in->ConsumeIntegralInRange(0, 15));
    case 13:
      return SendWrong(liar, f);
    default:
      break;
  }
  switch (in->ConsumeIntegralInRange(0, 3)) {
    case 0:
      return f->channel.Revoke();
    case 1:
      return f->channel.SetRequestTimeout(int64_t{1'000'000'000} * in->ConsumeIntegral<uint8_t>());
    case 2:
      if (f->ready() && f->channel.link().capabilities().resize) {
        f->channel.ForgetResize();
        if (f->ready()) f->channel.Resize(Maybe(in, 2 * kSize), in->ConsumeBool());
      }
      return;
    default:
      f->channel.Detach();
      f->loop.Run();
      f->Attach();
  }
}

void Run(FuzzedDataProvider* in) {
  const bool nbd = in->ConsumeBool();
  FixtureOptions options;
  options.size = 512;  // of its own server, which is not used
  options.protocol = nbd ? Speaks::kNbd : Speaks::kNative;
  const auto wishes = in->ConsumeIntegral<uint8_t>();
  options.payload_crc = (wishes & 1) != 0;
  options.addresses = (wishes & 2) != 0 ? 2 : 1;
  options.restart_loses = (wishes & 4) != 0;
  options.quarantine_ns = (wishes & 8) != 0 ? 1'000'000'000 : 0;
  options.read_only = (wishes & 0x70) == 0x10;
  options.observe = (wishes & 0x70) == 0x20;
  options.accept_no_flush = (wishes & 0x80) != 0;
  std::unique_ptr<Liar> liar;
  if (nbd) {
    liar = std::make_unique<NbdLiar>(in);
  } else {
    liar = std::make_unique<NativeLiar>(in);
  }
  options.accept = [&](std::shared_ptr<MemoryLink> link) { liar->Accept(std::move(link)); };
  ChannelFixture f(options);
  f.loop.AddStep([&] { return liar->Step(); });
  f.on_complete = [&] { CheckCompletions(&f); };
  f.Open();
  for (int i = 0; i < 100 && in->remaining_bytes() > 0; ++i) Act(in, liar.get(), &f);
  f.Run();
}

}  // namespace
}  // namespace cloudblk::testing

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  FuzzedDataProvider in(data, size);
  cloudblk::testing::Run(&in);
  cloudblk::testing::CheckExpectations();
  return 0;
}
