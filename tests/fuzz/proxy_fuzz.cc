// SPDX-License-Identifier: GPL-2.0-or-later
//
// Hostile clients against the real server: its connections, requests, ownership and rights, with
// volumes in memory, on links in memory with a manual clock. The input is who connects, what they
// say, in valid frames with any content or in any bytes, in what pieces, and whether they read what
// they are told. Beside them an honest client writes to a volume of which they may only know that
// it is there: it has to stay connected and to find its data. What the server says has to decode,
// and to answer what was asked, once.
#include <spdlog/spdlog.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <set>
#include <utility>
#include <vector>

#include "proxy/backends/backends.h"
#include "proxy/connection_host.h"
#include "tests/fuzz/check.h"
#include "tests/sim/server_end.h"
#include "tests/support/cpp/channel_fixture.h"
#include "tests/support/cpp/loop_alarm_clock.h"
#include "tests/support/cpp/manual_executor.h"
#include "tests/unit/proxy/raw_client.h"

namespace cloudblk::testing {
namespace {

using proxy::Bytes;
using proxy::Right;
using proxy::operator+;

constexpr uint32_t kHonest = 7;  // its uid
constexpr int64_t kSecond = 1'000'000'000;

// The server, as World has it, with storage that is not a simulation's.
class Proxy {
 public:
  Proxy() : alarm_(&loop) {
    Add("disk", "memory:?size=64K");
    Add("open", "memory:?size=96K");
    Allow(0);
    loop.AddStep([this] { return Step(); });
    host = std::make_unique<proxy::ConnectionHost>(
        &loop, proxy::ServerInfo{&volumes_, {}, &limits_, &access_});
    Check(host->Attach().ok());
  }

  // Rules for the volume "open": without the bits of `less`.
  void Allow(uint8_t less) {
    std::vector<proxy::AccessRule> rules;
    const auto allow = [&](std::optional<uint32_t> uid, const std::string& volume, Right right) {
      proxy::AccessRule rule;
      rule.anyone = !uid;
      rule.uid = uid;
      rule.volumes = {volume};
      rule.rights.Add(right);
      rules.push_back(rule);
    };
    allow(kHonest, "disk", Right::kAdminister);
    allow(std::nullopt, "d*", Right::kObserve);
    constexpr Right kRights[] = {Right::kAdminister, Right::kWrite, Right::kRead, Right::kObserve};
    for (uint32_t uid = 0; uid < 4; ++uid) {
      if ((less >> uid & 1) == 0) allow(uid, "o?en", kRights[uid]);
    }
    access_.Replace(std::make_shared<proxy::AccessRules>(std::move(rules)));
    if (host != nullptr) host->CheckRights();
  }

  void Adopt(std::shared_ptr<MemoryLink> link, uint32_t uid) {
    host->Adopt(ServerEnd(&loop, std::move(link), &crc_), {.uid = uid});
  }

  ManualLoop loop;
  std::unique_ptr<proxy::ConnectionHost> host;

 private:
  void Add(const std::string& name, const std::string& uri) {
    proxy::StartUp start_up;
    Result<std::unique_ptr<proxy::Backend>> backend = proxy::OpenBackend(name, uri, &start_up);
    Check(backend.ok());
    const proxy::VolumeTools tools{[this] { return loop.NowNs(); }, &alarm_,
                                   [this]() -> std::unique_ptr<Executor> {
                                     auto executor = std::make_unique<ManualExecutor>();
                                     executors_.push_back(executor.get());
                                     return executor;
                                   }};
    auto volume = std::make_unique<proxy::Volume>(name, std::move(*backend), 10'000, tools);
    volume->ownership.Restore();
    volumes_.emplace(name, std::move(volume));
  }
  bool Step() {
    bool any = false;
    for (ManualExecutor* executor : executors_) any |= executor->Step();
    return any;
  }

  LoopAlarmClock alarm_;
  std::vector<ManualExecutor*> executors_;
  proxy::Limits limits_{{.max_connections = 16, .max_memory = 1 << 20}};
  proxy::Access access_;
  proxy::VolumeMap volumes_;
  uint32_t crc_ = 0;
};

// One that may say anything.
class Guest {
 public:
  Guest(FuzzedDataProvider* in, Proxy* proxy) : in_(in), link_(std::make_shared<MemoryLink>()) {
    constexpr size_t kPieces[] = {SIZE_MAX, 1, 31, 4096};
    constexpr size_t kRoom[] = {SIZE_MAX, SIZE_MAX, 100, 65536};
    const auto habits = in->ConsumeIntegral<uint8_t>();
    link_->habits.write_chunk = kPieces[habits & 3];
    link_->habits.receive_buffer = kRoom[habits >> 2 & 3];
    proxy->Adopt(link_, habits >> 4 & 3);
    if ((habits & 64) == 0) {
      Hello();
      Open();
    }
  }
  ~Guest() { Leave(); }

  void Leave() { link_->client_closed = true; }
  bool gone() const { return link_->client_closed || link_->server_closed; }

  // Takes what it was told, and holds the server to its protocol.
  void Listen() {
    said_ += std::exchange(link_->to_client, {});
    while (Parse()) {
    }
  }

  void Speak() {
    switch (in_->ConsumeIntegralInRange(0, 15)) {
      case 0:
        return Hello();
      case 1:
      case 2:
        return Open();
      case 3:
        return Say(proxy::Frame(wire::FrameType::kPing,
                                proxy::Encoded(wire::Ping{in_->ConsumeIntegral<uint8_t>()})));
      case 4:
        return Say(proxy::Frame(wire::FrameType::kPong, proxy::Encoded(wire::Ping{Small(in_, 0)})));
      case 5:
      case 6: {
        const wire::TokenMessage message{Id(), Small(in_, 1)};
        return Say(
            proxy::Frame(in_->ConsumeBool() ? wire::FrameType::kRelease : wire::FrameType::kClaim,
                         proxy::Encoded(message)));
      }
      case 7:
        return Say(
            proxy::Frame(wire::FrameType::kClose, proxy::Encoded(wire::Close{Small(in_, 1)})));
      case 8: {
        const wire::Resize resize{Maybe<uint64_t>(in_, in_->ConsumeIntegral<uint8_t>() * 4096),
                                  Small(in_, 1)};
        return Say(proxy::Frame(wire::FrameType::kResize, proxy::Encoded(resize)));
      }
      case 9: {  // any header section under right sums
        const Bytes section = proxy::Text(SomeBytes(in_));
        wild_ = true;
        return Say(proxy::Frame(static_cast<wire::FrameType>(in_->ConsumeIntegral<uint8_t>() % 20),
                                section, proxy::Text(SomeBytes(in_)), Small(in_, 0)));
      }
      case 10:
        wild_ = true;
        link_->to_server += SomeBytes(in_);
        return;
      default:
        return Request();
    }
  }

 private:
  void Say(const Bytes& bytes) {
    link_->to_server.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  }

  // One of few, so that they meet. Never the honest client's: who knows that is that client.
  Uuid Id() {
    Uuid id;
    id.bytes[0] = in_->ConsumeIntegral<uint8_t>() & 3;
    return id;
  }

  void Hello() {
    Fields fields(in_);
    wire::Hello hello;
    hello.version_max = static_cast<uint16_t>(fields.Small(1));
    hello.max_frame_payload = fields.Any<uint32_t>(65536);
    hello.max_frame_entries = fields.Small(64);
    hello.features = in_->ConsumeIntegral<uint8_t>();
    hello.required_features = fields.Small(0);
    Say(proxy::Frame(wire::FrameType::kHello, proxy::Encoded(hello)));
  }

  void Open() {
    Fields fields(in_);
    constexpr std::string_view kNames[] = {"open", "open", "disk", "none"};
    wire::Open open;
    open.session = Id();
    open.session.bytes[1] = 1;
    open.epoch = fields.Small(1);
    open.channel_count = fields.Small(1);
    open.channel = fields.Small(0);
    open.incarnation = in_->ConsumeIntegral<uint8_t>();
    using Flag = wire::OpenFlag;
    constexpr uint32_t kFlags[] = {0,
                                   Flag::kActive,
                                   Flag::kActive,
                                   Flag::kActive | Flag::kReadOnly,
                                   Flag::kActive | Flag::kShareRw,
                                   Flag::kActive | Flag::kTakeover,
                                   Flag::kActive | Flag::kResume,
                                   Flag::kActive | Flag::kEndReservation};
    open.flags = fields.Small(kFlags[in_->ConsumeIntegral<uint8_t>() & 7]);
    if ((open.flags & wire::OpenFlag::kResume) != 0) open.generation = fields.Small(1);
    if (in_->ConsumeIntegral<uint8_t>() >= 192) open.token = Id();
    if (in_->ConsumeIntegral<uint8_t>() >= 192) open.claimer = Id();
    const std::string_view name = kNames[in_->ConsumeIntegral<uint8_t>() & 3];
    const std::string client = in_->ConsumeIntegral<uint8_t>() < 224 ? "guest" : SomeBytes(in_);
    open.volume_name_length = static_cast<uint16_t>(fields.Small(name.size()));
    open.client_name_length = static_cast<uint16_t>(fields.Small(client.size()));
    Say(proxy::Frame(wire::FrameType::kOpen, proxy::Encoded(open),
                     proxy::Text(name) + proxy::Text(client)));
  }

  void Request() {
    std::vector<wire::Request> requests(in_->ConsumeIntegralInRange<size_t>(1, 4));
    Bytes payload;
    std::vector<uint32_t> crcs;
    for (wire::Request& request : requests) {
      request.tag = in_->ConsumeIntegral<uint8_t>();
      request.operation = static_cast<wire::Operation>(in_->ConsumeIntegralInRange(1, 6));
      request.offset = Maybe<uint64_t>(in_, in_->ConsumeIntegral<uint8_t>() * 512);
      request.flags = static_cast<uint8_t>(Small(in_, 0));
      const Bytes data = Content(&request);
      for (size_t at = 0; crc_ && at < data.size(); at += wire::kCrcBlock) {
        const size_t block = std::min<size_t>(wire::kCrcBlock, data.size() - at);
        crcs.push_back(wire::Crc32c(0, std::span(data).subspan(at, block)) ^ Small(in_, 0));
      }
      payload = payload + data;
      asked_.insert(request.tag);
    }
    Say(proxy::RequestFrame(requests, payload, crcs));
  }

  // What the request adds to the payload, and its length, which now and then is another one.
  Bytes Content(wire::Request* request) {
    Bytes data;
    switch (request->operation) {
      case wire::Operation::kRead:
        request->length = Maybe<uint32_t>(in_, (in_->ConsumeIntegral<uint8_t>() + 1) * 512);
        return data;
      case wire::Operation::kWrite:
        data.assign((in_->ConsumeIntegral<uint8_t>() % 160 + 1) * 512, 'w');
        request->length = static_cast<uint32_t>(data.size());
        break;
      case wire::Operation::kFlush:
        request->offset = 0;
        return data;
      case wire::Operation::kDiscard:
      case wire::Operation::kWriteZeroes:
        request->offset = 0;
        request->range_count = static_cast<uint16_t>(in_->ConsumeIntegralInRange(1, 8));
        for (int i = 0; i < request->range_count; ++i) {
          const wire::Range range{Maybe<uint64_t>(in_, in_->ConsumeIntegral<uint8_t>() * 512),
                                  Maybe<uint64_t>(in_, in_->ConsumeIntegral<uint8_t>() * 512),
                                  Small(in_, 0)};
          data = data + proxy::Encoded(range);
        }
        request->length = static_cast<uint32_t>(data.size());
        break;
      case wire::Operation::kBlockStatus:
        request->length = Small(in_, 16 * 4);
        request->extent = Maybe<uint64_t>(in_, 65536);
        return data;
    }
    if (in_->ConsumeIntegral<uint8_t>() > 250) request->length = Small(in_, 512);
    return data;
  }

  bool Parse() {
    if (said_.size() < wire::kFrameHeaderSize) return false;
    const std::span<const uint8_t> bytes(reinterpret_cast<const uint8_t*>(said_.data()),
                                         said_.size());
    const wire::FrameLimits limits{.payload_crc = crc_};
    wire::FrameHeader header;
    Check(wire::DecodeFrameHeader(bytes, limits, &header) == wire::DecodeError::kOk);
    const size_t size = wire::kFrameHeaderSize + header.header_length + header.payload_length;
    if (said_.size() < size) return false;
    const auto section = bytes.subspan(wire::kFrameHeaderSize, header.header_length);
    Check(wire::CheckHeaderSection(header, section) == wire::DecodeError::kOk);
    if (header.type == wire::FrameType::kHelloReply) {
      wire::HelloReply reply;
      Check(wire::Decode(section, &reply) == wire::DecodeError::kOk);
      crc_ = reply.status == wire::StatusCode::kOk &&
             (reply.features & wire::Feature::kPayloadCrc) != 0;
    } else if (header.type == wire::FrameType::kReply) {
      std::vector<wire::Reply> replies(header.count);
      std::span<const uint8_t> crcs;
      Check(wire::DecodeReplies(header, section, limits, replies, &crcs) == wire::DecodeError::kOk);
      for (const wire::Reply& reply : replies) {
        const auto found = asked_.find(reply.tag);
        Check(wild_ || found != asked_.end());
        if (found != asked_.end()) asked_.erase(found);
      }
    }
    said_.erase(0, size);
    return true;
  }

  FuzzedDataProvider* const in_;
  const std::shared_ptr<MemoryLink> link_;
  std::string said_;
  std::multiset<uint64_t> asked_;
  bool wild_ = false;  // it said more than Guest knows
  bool crc_ = false;
};

FixtureOptions Honest(Proxy* proxy) {
  FixtureOptions options;
  options.size = 512;  // of its own server, which is not used
  options.loop = &proxy->loop;
  options.accept = [proxy](std::shared_ptr<MemoryLink> link) {
    proxy->Adopt(std::move(link), kHonest);
  };
  return options;
}

void Act(FuzzedDataProvider* in, Proxy* proxy, std::vector<std::unique_ptr<Guest>>* guests) {
  const auto choice = in->ConsumeIntegral<uint8_t>();
  if (guests->empty() || choice < 24) {
    if (guests->size() < 12) guests->push_back(std::make_unique<Guest>(in, proxy));
    return;
  }
  Guest* guest = (*guests)[in->ConsumeIntegral<uint8_t>() % guests->size()].get();
  if (choice < 160) {
    guest->Speak();
  } else if (choice < 192) {
    proxy->loop.Run();
  } else if (choice < 224) {
    guest->Listen();
  } else if (choice < 232) {
    proxy->loop.Advance(int64_t{1'000'000} << in->ConsumeIntegralInRange(0, 14));
  } else if (choice < 240) {
    guest->Leave();
  } else if (choice < 244) {
    proxy->Allow(in->ConsumeIntegral<uint8_t>());
  } else if (choice < 246) {
    proxy->host->MakeRoom();
  }
  if (guest->gone()) {
    guest->Listen();
    std::erase_if(*guests, [guest](const auto& each) { return each.get() == guest; });
  }
}

void Run(FuzzedDataProvider* in) {
  Proxy proxy;
  const std::string content = Pattern(4096, 3);
  {
    ChannelFixture honest(Honest(&proxy));
    honest.Open();
    Check(honest.ready());
    const Io* written = honest.Write(8192, content);
    honest.Run();
    Check(written->completions == 1 && written->result == 0);
    {
      std::vector<std::unique_ptr<Guest>> guests;
      for (int i = 0; i < 120 && in->remaining_bytes() > 0; ++i) Act(in, &proxy, &guests);
      proxy.loop.Run();
      const Io* read = honest.Read(8192, content.size());
      proxy.loop.Advance(kSecond);
      Check(honest.times_ready == 1 && honest.ready());
      Check(read->completions == 1 && read->result == 0 && read->Data() == content);
      for (const auto& guest : guests) guest->Listen();
    }
    proxy.loop.Run();
  }
  proxy.host->GoAway();
  proxy.loop.Advance(60 * kSecond);
  Check(proxy.host->connections() == 0);
}

}  // namespace
}  // namespace cloudblk::testing

extern "C" int LLVMFuzzerInitialize(int*, char***) {
  spdlog::default_logger_raw()->set_level(spdlog::level::off);
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  FuzzedDataProvider in(data, size);
  cloudblk::testing::Run(&in);
  cloudblk::testing::CheckExpectations();
  return 0;
}
