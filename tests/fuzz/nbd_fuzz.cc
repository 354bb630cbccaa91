// SPDX-License-Identifier: GPL-2.0-or-later
//
// Any bytes from an NBD server into the client: its negotiation and its replies, with requests in
// flight. Nothing may be stored outside of a request's memory, a read that is answered without an
// error has all of its data, and a block status extents of what it asks about.
#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "base/event_loop.h"
#include "block/nbd_codec.h"
#include "block/request_queue.h"

namespace cloudblk {
namespace {

void Check(bool holds) {
  if (!holds) abort();
}

class Clock final : public EventLoop {
 public:
  void Watch(int, bool, bool, FdHandler*) override {}
  void Unwatch(int) override {}
  std::unique_ptr<Timer> NewTimer(std::function<void()>) override { return nullptr; }
  void Defer(std::function<void()>) override {}
  void Post(std::function<void()>) override {}
  int64_t NowNs() const override { return 1; }
};

// Gives the bytes of one input, so many at a time, and takes whatever is sent.
class Bytes final : public Transport {
 public:
  Bytes(std::string bytes, size_t most, bool scatters)
      : bytes_(std::move(bytes)), most_(most), scatters_(scatters) {}

  int fd() const override { return -1; }
  int ConnectResult() override { return 0; }
  bool PeerGone() const override { return false; }
  bool scatters() const override { return scatters_; }
  ssize_t Readv(const iovec* iov, int count) override {
    size_t left = std::min(most_, bytes_.size() - at_);
    if (left == 0) return -EAGAIN;
    ssize_t done = 0;
    for (int i = 0; i < (scatters_ ? count : 1) && left > 0; ++i) {
      const size_t n = std::min(left, iov[i].iov_len);
      memcpy(iov[i].iov_base, bytes_.data() + at_, n);
      at_ += n;
      left -= n;
      done += static_cast<ssize_t>(n);
    }
    return done;
  }
  ssize_t Writev(const iovec* iov, int count) override {
    ssize_t done = 0;
    for (int i = 0; i < count; ++i) done += static_cast<ssize_t>(iov[i].iov_len);
    return done;
  }

 private:
  const std::string bytes_;
  const size_t most_;
  const bool scatters_;
  size_t at_ = 0;
};

// Big-endian numbers, each of so many bytes.
std::string Numbers(std::initializer_list<std::pair<uint64_t, size_t>> values) {
  std::string bytes;
  for (const auto& [value, size] : values) {
    for (size_t i = size; i > 0; --i) bytes += static_cast<char>(value >> (8 * (i - 1)) & 0xff);
  }
  return bytes;
}

constexpr uint32_t kContext = 7;

// A whole negotiation, for inputs that begin behind it.
std::string Negotiated(bool structured) {
  using nbd::OptionReply;
  const auto reply = [](nbd::Option option, uint32_t type, const std::string& data) {
    return Numbers({{nbd::kOptionReplyMagic, 8},
                    {static_cast<uint32_t>(option), 4},
                    {type, 4},
                    {data.size(), 4}}) +
           data;
  };
  return Numbers({{nbd::kGreetingMagic, 8}, {nbd::kOptionMagic, 8}, {3, 2}}) +
         reply(nbd::Option::kStructuredReply,
               structured ? OptionReply::kAck : OptionReply::kUnsupported, "") +
         (structured ? reply(nbd::Option::kSetMetaContext, OptionReply::kMetaContext,
                             Numbers({{kContext, 4}}) + std::string(nbd::kAllocation)) +
                           reply(nbd::Option::kSetMetaContext, OptionReply::kAck, "")
                     : "") +
         reply(nbd::Option::kGo, OptionReply::kInfo, Numbers({{0, 2}, {1 << 20, 8}, {0x6d, 2}})) +
         reply(nbd::Option::kGo, OptionReply::kAck, "");
}

struct Io {
  Operation operation;
  uint64_t offset;
  size_t length;
  std::vector<uint8_t> data{};
  int completions = 0;
  int result = 0;
};

// What a BLOCK_STATUS asks about.
constexpr CloudblkRange kRange{4096, 65536, 0};

void CheckExtents(const Io& io, uint64_t bytes) {
  Check(bytes != 0 && bytes % sizeof(CloudblkExtent) == 0);
  uint64_t left = kRange.length;
  for (uint64_t at = 0; at < bytes; at += sizeof(CloudblkExtent)) {
    CloudblkExtent extent;
    memcpy(&extent, &io.data[at], sizeof(extent));
    Check(extent.length != 0 && extent.length % 512 == 0 && extent.length <= left);
    left -= extent.length;
  }
}

void Complete(void*, const CloudblkCompletion* done, uint32_t count) {
  for (uint32_t i = 0; i < count; ++i) {
    Io* io = static_cast<Io*>(done[i].opaque);
    ++io->completions;
    io->result = done[i].result;
    Check(done[i].bytes_stored <= io->length);
    Check(io->operation != Operation::kRead || io->result != 0 ||
          done[i].bytes_stored == io->length);
    if (io->operation == Operation::kBlockStatus && io->result == 0) {
      CheckExtents(*io, done[i].bytes_stored);
    }
  }
}

void Submit(RequestQueue* queue, Io* io) {
  io->data.resize(io->length);
  const iovec iov{io->data.data(), io->data.size()};
  CloudblkRequest request{};
  request.operation = static_cast<CloudblkOperation>(io->operation);
  request.offset = io->offset;
  if (io->operation != Operation::kFlush) {
    request.iov = &iov;
    request.iov_count = 1;
  }
  if (io->operation == Operation::kBlockStatus) {
    request.ranges = &kRange;
    request.range_count = 1;
  }
  request.opaque = io;
  Check(queue->Submit(request) == 0);
}

void Run(uint8_t habits, std::string bytes) {
  constexpr size_t kMost[] = {1, 7, 4096, SIZE_MAX};
  SessionConfig config;
  config.new_codec = NbdCodec::New;
  SessionState session(config);
  VolumeInfo volume;
  volume.size = 1 << 20;
  volume.logical_block_size = 512;
  volume.write_cache = true;
  session.SetVolume(volume, {.block_status = true});
  RequestQueue queue(&session, 0);
  const Clock clock;
  queue.Attach(&clock, Complete, nullptr);
  std::vector<Io> ios = {{Operation::kRead, 0, 512},
                         {Operation::kRead, 4096, 40960},
                         {Operation::kWrite, 65536, 512},
                         {Operation::kFlush, 0, 0},
                         {Operation::kBlockStatus, 0, 4 * sizeof(CloudblkExtent)}};
  for (Io& io : ios) Submit(&queue, &io);

  if ((habits & 1) != 0) bytes.insert(0, Negotiated((habits & 2) != 0));
  Bytes transport(std::move(bytes), kMost[habits >> 3 & 3], (habits & 4) == 0);
  CodecStats stats;
  NbdCodec codec(&stats);
  Outbox outbox;
  const std::vector<uint8_t> content(512, 0x55);
  OpenParams params;
  params.volume_name = "x";
  if ((habits & 32) != 0) params.known = KnownBlock{512, 512, Witness::DigestOf(content)};
  codec.Begin(params, &outbox);
  std::vector<Fact> facts;
  std::vector<Piece*> batch;
  uint64_t calls = 0;
  uint64_t before;
  bool open = false;
  do {
    before = stats.bytes_received;
    if (!codec.Receive(&transport, &queue, &outbox, &facts)) break;
    if (!open && !facts.empty()) {
      open = true;
      queue.Open(codec.limits(), 1, false);
      queue.BeginSending();
      queue.Gather(outbox.free(), &batch);
      if (!batch.empty()) codec.Append(batch, &outbox);
      if ((habits & 64) != 0) {
        codec.Send({.kind = Command::Kind::kExamine, .block = {512, 512}}, &outbox);
      }
    }
    outbox.Send(&transport, &calls);
  } while (stats.bytes_received != before);
  queue.Requeue();
  queue.FailAll(EIO);
  queue.Deliver();
  for (const Io& io : ios) Check(io.completions == 1);
}

}  // namespace
}  // namespace cloudblk

// The first byte chooses how the bytes come, and whether they begin behind the negotiation.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 1) return 0;
  cloudblk::Run(data[0], std::string(reinterpret_cast<const char*>(data + 1), size - 1));
  return 0;
}
