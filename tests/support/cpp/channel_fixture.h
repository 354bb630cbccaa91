// SPDX-License-Identifier: GPL-2.0-or-later
//
// One channel, a fake server and the memory between them.
#ifndef CLOUDBLK_TESTS_SUPPORT_CPP_CHANNEL_FIXTURE_H_
#define CLOUDBLK_TESTS_SUPPORT_CPP_CHANNEL_FIXTURE_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "block/channel.h"
#include "block/session_state.h"
#include "tests/support/cpp/fake_server.h"
#include "tests/support/cpp/manual_loop.h"
#include "tests/support/cpp/memory_link.h"
#include "tests/support/cpp/nbd_fake_server.h"

namespace cloudblk::testing {

// A request, its memory and what became of it. Each element of the buffer is memory of its own, so
// that a sanitizer sees one byte too many.
struct Io {
  CloudblkOperation operation{};
  uint64_t offset = 0;
  std::vector<std::unique_ptr<uint8_t[]>> memory;
  std::vector<iovec> iov;
  int completions = 0;
  int result = 0;
  uint64_t bytes_stored = 0;

  void Allocate(uint64_t length, const std::vector<size_t>& elements);
  std::string Data() const;
  void Fill(std::string_view data);
};

// `length` bytes that differ from place to place and from seed to seed.
std::string Pattern(size_t length, uint32_t seed);

struct EventSeen {
  CloudblkEventKind kind;
  uint64_t value;
  std::string text;
};

// The protocol of a fixture's server.
enum class Speaks { kNative, kChunked, kNbd, kSimpleNbd };
std::string Name(Speaks protocol);

// What tests change before they open.
struct FixtureOptions {
  uint64_t size = 4 << 20;
  size_t addresses = 1;
  bool payload_crc = false;
  Speaks protocol = Speaks::kNative;
  bool restart_loses = false;
  bool accept_no_flush = false;
  int64_t quarantine_ns = 0;
  bool observe = false;
  bool read_only = false;
  bool takeover = false;
  bool share_rw = false;
  uint8_t session_id = 42;
  uint32_t channels = 1;
  uint32_t index = 0;
  int64_t open_answer_timeout_ns = SessionConfig().open_answer_timeout_ns;
  SessionState* shared = nullptr;  // another fixture's, for a second channel of its session
  ManualLoop* loop = nullptr;      // likewise
  // Takes the links in place of the fixture's own server.
  std::function<void(std::shared_ptr<MemoryLink>)> accept{};
};

class ChannelFixture : public ChannelObserver {
 public:
  explicit ChannelFixture(const FixtureOptions& options = {});
  virtual ~ChannelFixture();

  void Attach(ManualLoop* to = nullptr);  // null: the fixture's own loop
  // Attaches, connects and runs until it is ready, or not.
  void Open();
  bool ready() const { return channel.state() == Channel::State::kReady; }

  // Each submits; the test kicks or runs. `elements`: sizes of the iovecs but the last.
  Io* Read(uint64_t offset, uint64_t length, const std::vector<size_t>& elements = {});
  Io* Write(uint64_t offset, std::string_view data, const std::vector<size_t>& elements = {},
            uint32_t flags = 0);
  Io* Flush(uint32_t flags = 0);
  Io* Ranges(CloudblkOperation operation, const std::vector<CloudblkRange>& ranges,
             uint32_t flags = 0);
  // Room for `most` extents, which Io::Data has.
  Io* BlockStatus(const CloudblkRange& range, size_t most);
  // The result of submit, for requests that are refused.
  int TrySubmit(const CloudblkRequest& request);

  void Run() { loop.Run(); }
  // What the server has sent arrives so many bytes at a time.
  void RunInPieces(size_t step);
  bool HasEvent(CloudblkEventKind kind) const;

  void OnReady(Channel*) override { ++times_ready; }
  void OnFailure(Channel*, const Failure& failure) override { failures.push_back(failure); }
  void OnClosed(Channel*) override { ++times_closed; }

  std::unique_ptr<ManualLoop> own_loop;
  ManualLoop& loop;
  const std::unique_ptr<FakeServer> own_server;
  FakeServer& server;
  // The same, of a fixture that speaks NBD.
  NbdFakeServer& nbd_server() { return static_cast<NbdFakeServer&>(server); }
  LinkHabits habits;                                 // of the next connections
  std::function<void(size_t, MemoryLink*)> on_link;  // may change each, by address
  std::vector<size_t> addresses_tried;
  MemoryConnector connector;
  std::unique_ptr<SessionState> own_state;
  SessionState& state;
  Channel channel;

  std::vector<std::unique_ptr<Io>> ios;
  std::vector<EventSeen> events;
  std::vector<uint32_t> batches;  // sizes
  // What people are told, of all fixtures of this thread since the last one with a loop of its own.
  static inline thread_local std::vector<std::string> logged;
  std::function<void()> on_complete;
  std::vector<Failure> failures;
  int times_ready = 0;
  int times_closed = 0;
  bool in_submit = false;

 private:
  Io* NewIo(CloudblkOperation operation);
  void Submit(const CloudblkRequest& request);
  static void Complete(void* opaque, const CloudblkCompletion* done, uint32_t count);
  static void Log(CloudblkLogLevel level, const char* message);
  static void Event(void* opaque, CloudblkEventKind kind, uint64_t value, const char* text);
};

// Both channels of a session, open, on one loop.
struct TwoChannels {
  TwoChannels() {
    a.Open();
    b.Open();
  }

  ManualLoop loop;
  ChannelFixture a{FixtureOptions{.channels = 2, .loop = &loop}};
  ChannelFixture b{FixtureOptions{.channels = 2, .index = 1, .shared = &a.state, .loop = &loop}};
};

}  // namespace cloudblk::testing

#endif  // CLOUDBLK_TESTS_SUPPORT_CPP_CHANNEL_FIXTURE_H_
