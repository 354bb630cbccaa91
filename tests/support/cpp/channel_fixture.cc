// SPDX-License-Identifier: GPL-2.0-or-later
#include "tests/support/cpp/channel_fixture.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "block/native_codec.h"
#include "block/nbd_codec.h"
#include "tests/support/cpp/chunk_codec.h"
#include "tests/support/cpp/chunk_server.h"

namespace cloudblk::testing {
namespace {

NewCodec CodecOf(Speaks protocol) {
  switch (protocol) {
    case Speaks::kNative:
      break;
    case Speaks::kChunked:
      return chunk::Codec::New;
    case Speaks::kNbd:
    case Speaks::kSimpleNbd:
      return NbdCodec::New;
  }
  return NativeCodec::New;
}

std::unique_ptr<FakeServer> ServerOf(const FixtureOptions& options) {
  switch (options.protocol) {
    case Speaks::kNative:
      break;
    case Speaks::kChunked:
      return std::make_unique<ChunkServer>(options.size);
    case Speaks::kNbd:
    case Speaks::kSimpleNbd: {
      auto server = std::make_unique<NbdFakeServer>(options.size);
      server->structured = options.protocol == Speaks::kNbd;
      return server;
    }
  }
  return std::make_unique<FakeServer>(options.size);
}

SessionConfig ConfigOf(const FixtureOptions& options, CloudblkEventFn* event, void* opaque) {
  SessionConfig config;
  config.new_codec = CodecOf(options.protocol);
  config.restart_loses = options.restart_loses;
  config.accept_no_flush = options.accept_no_flush;
  config.quarantine_ns = options.quarantine_ns;
  config.uuid.bytes[0] = options.session_id;
  config.volume = "disk";
  config.client_name = "test";
  config.channels = options.channels;
  config.payload_crc = options.payload_crc;
  config.observe = options.observe;
  config.read_only = options.read_only;
  config.takeover = options.takeover;
  config.share_rw = options.share_rw;
  config.open_answer_timeout_ns = options.open_answer_timeout_ns;
  config.event = event;
  config.event_opaque = opaque;
  return config;
}

}  // namespace

std::string Name(Speaks protocol) {
  switch (protocol) {
    case Speaks::kNative:
      break;
    case Speaks::kChunked:
      return "chunked";
    case Speaks::kNbd:
      return "nbd";
    case Speaks::kSimpleNbd:
      return "simple_nbd";
  }
  return "native";
}

void Io::Allocate(uint64_t length, const std::vector<size_t>& elements) {
  const auto add = [this](size_t size) {
    memory.push_back(std::make_unique<uint8_t[]>(size));
    std::memset(memory.back().get(), 0xee, size);
    iov.push_back({memory.back().get(), size});
  };
  for (const size_t size : elements) {
    add(size);
    length -= size;
  }
  if (length > 0) add(length);
}

std::string Io::Data() const {
  std::string data;
  for (const iovec& element : iov) {
    data.append(static_cast<const char*>(element.iov_base), element.iov_len);
  }
  return data;
}

void Io::Fill(std::string_view data) {
  for (const iovec& element : iov) {
    std::memcpy(element.iov_base, data.data(), element.iov_len);
    data.remove_prefix(element.iov_len);
  }
}

std::string Pattern(size_t length, uint32_t seed) {
  std::string data(length, '\0');
  uint32_t x = seed * 2654435761u + 1;
  for (char& byte : data) {
    x = x * 1664525u + 1013904223u;
    byte = static_cast<char>(x >> 24);
  }
  return data;
}

ChannelFixture::ChannelFixture(const FixtureOptions& options)
    : own_loop(options.loop == nullptr ? std::make_unique<ManualLoop>() : nullptr),
      loop(options.loop != nullptr ? *options.loop : *own_loop),
      own_server(ServerOf(options)),
      server(*own_server),
      connector(&loop, options.addresses,
                [this, accept = options.accept](size_t address, std::shared_ptr<MemoryLink> link) {
                  addresses_tried.push_back(address);
                  link->habits = habits;
                  if (on_link) on_link(address, link.get());
                  if (link->refuses || link->hangs) return;
                  if (accept) return accept(std::move(link));
                  server.Accept(std::move(link));
                }),
      own_state(options.shared == nullptr
                    ? std::make_unique<SessionState>(ConfigOf(options, Event, this))
                    : nullptr),
      state(options.shared != nullptr ? *options.shared : *own_state),
      channel(&state, options.index, &connector) {
  // Not where `accept` has another server: then the loop may outlive this fixture.
  if (!options.accept) loop.AddStep([this] { return server.Step(); });
  channel.set_observer(this);
  if (own_loop != nullptr) logged.clear();
}

void ChannelFixture::Log(CloudblkLogLevel level, const char* message) {
  if (level != CLOUDBLK_LOG_DEBUG) logged.emplace_back(message);
}

ChannelFixture::~ChannelFixture() {
  if (channel.in_flight() > 0) channel.Revoke();
  channel.Detach();
  channel.Abandon();
  for (const auto& io : ios) EXPECT_EQ(io->completions, 1);
}

void ChannelFixture::Attach(ManualLoop* to) {
  channel.Attach({to != nullptr ? to : &loop, Complete, this, Log});
}

void ChannelFixture::Open() {
  Attach();
  channel.Start();
  Run();
}

Io* ChannelFixture::NewIo(CloudblkOperation operation) {
  ios.push_back(std::make_unique<Io>());
  ios.back()->operation = operation;
  return ios.back().get();
}

void ChannelFixture::Submit(const CloudblkRequest& request) {
  in_submit = true;
  EXPECT_EQ(channel.Submit(request), 0);
  in_submit = false;
}

int ChannelFixture::TrySubmit(const CloudblkRequest& request) { return channel.Submit(request); }

Io* ChannelFixture::Read(uint64_t offset, uint64_t length, const std::vector<size_t>& elements) {
  Io* io = NewIo(CLOUDBLK_OP_READ);
  io->offset = offset;
  io->Allocate(length, elements);
  // A copy, freed at once: the engine must keep its own.
  const std::vector<iovec> iov = io->iov;
  Submit(
      {CLOUDBLK_OP_READ, 0, offset, iov.data(), static_cast<uint32_t>(iov.size()), 0, nullptr, io});
  return io;
}

Io* ChannelFixture::Write(uint64_t offset, std::string_view data,
                          const std::vector<size_t>& elements, uint32_t flags) {
  Io* io = NewIo(CLOUDBLK_OP_WRITE);
  io->offset = offset;
  io->Allocate(data.size(), elements);
  io->Fill(data);
  const std::vector<iovec> iov = io->iov;
  Submit({CLOUDBLK_OP_WRITE, flags, offset, iov.data(), static_cast<uint32_t>(iov.size()), 0,
          nullptr, io});
  return io;
}

Io* ChannelFixture::Flush(uint32_t flags) {
  Io* io = NewIo(CLOUDBLK_OP_FLUSH);
  Submit({CLOUDBLK_OP_FLUSH, flags, 0, nullptr, 0, 0, nullptr, io});
  return io;
}

Io* ChannelFixture::Ranges(CloudblkOperation operation, const std::vector<CloudblkRange>& ranges,
                           uint32_t flags) {
  Io* io = NewIo(operation);
  Submit(
      {operation, flags, 0, nullptr, 0, static_cast<uint32_t>(ranges.size()), ranges.data(), io});
  return io;
}

Io* ChannelFixture::BlockStatus(const CloudblkRange& range, size_t most) {
  Io* io = NewIo(CLOUDBLK_OP_BLOCK_STATUS);
  io->Allocate(most * sizeof(CloudblkExtent), {});
  const std::vector<iovec> iov = io->iov;
  Submit({CLOUDBLK_OP_BLOCK_STATUS, 0, 0, iov.data(), 1, 1, &range, io});
  return io;
}

void ChannelFixture::RunInPieces(size_t step) {
  std::string& stream = server.link()->to_client;
  const std::string whole = std::exchange(stream, {});
  for (size_t at = 0; at < whole.size(); at += step) {
    stream += whole.substr(at, step);
    Run();
  }
}

bool ChannelFixture::HasEvent(CloudblkEventKind kind) const {
  return std::any_of(events.begin(), events.end(),
                     [kind](const EventSeen& event) { return event.kind == kind; });
}

void ChannelFixture::Complete(void* opaque, const CloudblkCompletion* done, uint32_t count) {
  auto* self = static_cast<ChannelFixture*>(opaque);
  EXPECT_FALSE(self->in_submit);
  EXPECT_GE(count, 1u);
  self->batches.push_back(count);
  for (uint32_t i = 0; i < count; ++i) {
    Io* io = static_cast<Io*>(done[i].opaque);
    ++io->completions;
    io->result = done[i].result;
    io->bytes_stored = done[i].bytes_stored;
    // The host may unmap the memory now. Writes of the engine would be seen by a sanitizer.
    if (io->operation == CLOUDBLK_OP_WRITE) {
      io->memory.clear();
      io->iov.clear();
    }
  }
  if (self->on_complete) self->on_complete();
}

void ChannelFixture::Event(void* opaque, CloudblkEventKind kind, uint64_t value, const char* text) {
  static_cast<ChannelFixture*>(opaque)->events.push_back({kind, value, text});
}

}  // namespace cloudblk::testing
