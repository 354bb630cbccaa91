// SPDX-License-Identifier: GPL-2.0-or-later
//
// The fake server, speaking NBD. It checks that the client keeps to that protocol.
#ifndef CLOUDBLK_TESTS_SUPPORT_CPP_NBD_FAKE_SERVER_H_
#define CLOUDBLK_TESTS_SUPPORT_CPP_NBD_FAKE_SERVER_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "proxy-protocol/nbd/nbd.h"
#include "tests/support/cpp/fake_server.h"

namespace cloudblk::testing {

// What FakeServer is told in the native protocol's terms means here: open.status other than OK that
// it is about to stop, open.logical_block_size and hello.max_frame_payload its block sizes,
// open.volume_flags READ_ONLY a read-only export.
class NbdFakeServer final : public FakeServer {
 public:
  using FakeServer::FakeServer;

  // How it negotiates. Change before a client connects.
  bool structured = true;
  bool block_sizes = true;  // tells them
  bool contexts = true;     // grants base:allocation
  uint16_t flags = nbd::ExportFlag::kHasFlags | nbd::ExportFlag::kFlush | nbd::ExportFlag::kFua |
                   nbd::ExportFlag::kTrim | nbd::ExportFlag::kWriteZeroes |
                   nbd::ExportFlag::kMultiConn;
  uint64_t export_size = 0;    // bytes; 0: the disk's
  std::string greeting;        // instead of its own
  uint32_t go_error = 0;       // the type of its reply to GO
  std::string before_go;       // bytes that it says before it answers GO
  uint32_t context_error = 0;  // the same of SET_META_CONTEXT, which may follow the context
  std::string before_context;

  uint32_t syncs = 0;  // FLUSH commands

  static std::string OptionReply(nbd::Option option, uint32_t type, std::string_view data);
  static std::string SimpleReply(uint32_t error, uint64_t cookie, std::string_view data = {});
  static std::string Chunk(uint16_t flags, uint16_t type, uint64_t cookie,
                           std::string_view payload);
  static std::string DataChunk(uint16_t flags, uint64_t cookie, uint64_t offset,
                               std::string_view data);
  static std::string HoleChunk(uint16_t flags, uint64_t cookie, uint64_t offset, uint32_t length);
  static std::string ErrorChunk(uint16_t flags, uint64_t cookie, uint32_t error,
                                std::string_view text);
  // Of the context that it grants: (length, flags).
  static std::string StatusChunk(uint16_t flags, uint64_t cookie,
                                 const std::vector<std::pair<uint32_t, uint32_t>>& descriptors);
  static constexpr uint32_t kContext = 0xc0ffee00;  // its id

 private:
  void OnAccepted() override;
  bool ParseFrame() override;
  void SendAnswers(const std::vector<Answered>& answers) override;
  bool OnOption();
  void OnSetMetaContext(std::string_view data);
  void OnGo(std::string_view data);
  bool OnRequest();
  void SendExtents(const Answered& answer);
  void SendRead(const Answered& answer);

  enum class Step { kFlags, kOptions, kRequests };
  Step step_ = Step::kFlags;
  bool structured_ = false;  // agreed on
  bool context_ = false;     // likewise
};

}  // namespace cloudblk::testing

#endif  // CLOUDBLK_TESTS_SUPPORT_CPP_NBD_FAKE_SERVER_H_
