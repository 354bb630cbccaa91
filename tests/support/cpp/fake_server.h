// SPDX-License-Identifier: GPL-2.0-or-later
//
// A small server of the native protocol for tests of the engine: answers by itself, or holds what
// it gets until the test decides. It checks that the client keeps to SPEC.md, and fails the test
// if not.
#ifndef CLOUDBLK_TESTS_SUPPORT_CPP_FAKE_SERVER_H_
#define CLOUDBLK_TESTS_SUPPORT_CPP_FAKE_SERVER_H_

#include <array>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "proxy-protocol/wire.h"
#include "tests/support/cpp/memory_link.h"

namespace cloudblk::testing {

class FakeServer {
 public:
  // A request that was received.
  struct Seen {
    wire::Request request;
    std::string data;                 // WRITE
    std::vector<wire::Range> ranges;  // DISCARD, WRITE_ZEROES
    uint32_t connection = 0;          // counted from 0
    uint32_t frame = 0;               // of that connection
  };

  explicit FakeServer(uint64_t size);
  virtual ~FakeServer() = default;

  // Serves the link from now on: call Step until it returns false.
  void Accept(std::shared_ptr<MemoryLink> link);
  bool Step();

  // Answers what is held, in one frame if it fits: pending[first], and `count` in all. Status other
  // than OK: nothing is carried out.
  void Answer(size_t first, size_t count = 1, wire::StatusCode status = wire::StatusCode::kOk);
  // Raw bytes to the newest connection.
  void Send(std::string_view bytes);
  void SendReply(const std::vector<wire::Reply>& replies, std::string_view payload);
  void SendEvent(wire::EventKind kind, uint64_t value, std::string_view text);
  // Ends the newest connection.
  void Cut();

  template <typename Message>
  static std::string Frame(wire::FrameType type, const Message& message, size_t section_size,
                           std::string_view payload);
  static std::string ReplyFrame(const std::vector<wire::Reply>& replies, std::string_view payload,
                                bool crc);

  // What it says in HELLO_REPLY and OPEN_REPLY. Change before a client connects.
  wire::HelloReply hello;
  wire::OpenReply open;
  std::string refusal;  // text with a status other than OK
  std::string note;     // text of an OPEN that is answered with OK

  // How it behaves. May be changed at any time.
  bool hold = false;           // do not answer by itself
  bool reverse = false;        // answer the requests of a frame in reverse order
  bool one_by_one = false;     // a frame for each answer
  bool holes = false;          // answer reads of zeros with HOLE
  bool silent = false;         // read, but say nothing at all
  bool deaf = false;           // do not even read
  bool hold_opens = false;     // say hello, and do not answer an OPEN
  bool cut_by_resize = false;  // end the connection instead of answering a RESIZE
  wire::StatusCode resize_status = wire::StatusCode::kOk;  // with `refusal`, if it is another
  bool corrupt_data = false;  // send data that does not match its CRC, once
  // What to answer to an OPEN or RELEASE, where that is not always the same.
  std::function<wire::StatusCode(const wire::Open&)> judge_open;
  std::function<wire::StatusCode(const wire::TokenMessage&)> judge_release;
  // The connection ends with the next OPEN or RELEASE, once: as it comes, or before its answer.
  enum class Lose { kNothing, kRequest, kAnswer };
  Lose lose_open = Lose::kNothing;
  Lose lose_release = Lose::kNothing;

  std::string disk;
  std::vector<Seen> seen;    // every request
  std::deque<Seen> pending;  // not answered, of the newest connection
  std::vector<wire::Open> opens;
  std::vector<std::string> opened_names;  // volume and client name
  std::vector<wire::Resize> resizes;
  uint32_t pings = 0;
  uint32_t closes = 0;
  std::vector<uint32_t> close_flags;
  std::shared_ptr<MemoryLink> link() const { return link_; }
  uint32_t connections() const { return connections_; }

 protected:
  // What became of a request.
  struct Answered {
    wire::Request request;
    wire::StatusCode status;
    std::string data;  // of a READ; extents as the wire has them
  };

  // --- The protocol.

  // A new link was accepted.
  virtual void OnAccepted() {}
  // Takes a whole message from input(), if there is one.
  virtual bool ParseFrame();
  virtual void SendAnswers(const std::vector<Answered>& answers);

  std::string& input() { return input_; }
  void NoteOpen(const wire::Open& message);
  // Requests of one frame.
  void TakeRequests(std::vector<Seen> requests);

 private:
  void OnFrame(const wire::FrameHeader& header, std::span<const uint8_t> section,
               std::span<const uint8_t> payload);
  void OnHello(std::span<const uint8_t> section);
  void OnOpen(std::span<const uint8_t> section, std::string_view payload);
  void OnResize(std::span<const uint8_t> section);
  void OnRelease(std::span<const uint8_t> section);
  void OnRequests(const wire::FrameHeader& header, std::span<const uint8_t> section,
                  std::string_view payload);
  void CheckRules(const Seen& added) const;
  void CarryOut(const Seen& seen);
  std::string Extents(const wire::Request& request) const;
  bool crc() const { return (hello.features & wire::Feature::kPayloadCrc) != 0; }

  std::shared_ptr<MemoryLink> link_;
  std::string input_;
  bool ready_ = false;
  uint32_t connections_ = 0;
  uint32_t frames_ = 0;
  // The last incarnation, by session and channel.
  std::map<std::pair<std::array<uint8_t, 16>, uint32_t>, uint64_t> incarnations_;
};

template <typename Message>
std::string FakeServer::Frame(wire::FrameType type, const Message& message, size_t section_size,
                              std::string_view payload) {
  std::string frame(wire::kFrameHeaderSize + section_size, '\0');
  const std::span<uint8_t> bytes(reinterpret_cast<uint8_t*>(frame.data()), frame.size());
  wire::Encode(message, bytes.subspan(wire::kFrameHeaderSize));
  wire::FrameHeader header;
  header.type = type;
  header.header_length = static_cast<uint32_t>(section_size);
  header.payload_length = static_cast<uint32_t>(payload.size());
  wire::SealFrame(header, bytes);
  return frame + std::string(payload);
}

}  // namespace cloudblk::testing

#endif  // CLOUDBLK_TESTS_SUPPORT_CPP_FAKE_SERVER_H_
