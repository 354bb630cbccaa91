// SPDX-License-Identifier: GPL-2.0-or-later
//
// The fake server, speaking the protocol of chunk_codec.h.
#ifndef CLOUDBLK_TESTS_SUPPORT_CPP_CHUNK_SERVER_H_
#define CLOUDBLK_TESTS_SUPPORT_CPP_CHUNK_SERVER_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "tests/support/cpp/chunk_codec.h"
#include "tests/support/cpp/fake_server.h"

namespace cloudblk::testing {

// What FakeServer is told in the native protocol's terms means here: open.status other than OK an
// EBUSY, hello.max_frame_payload the most data of a request.
class ChunkServer final : public FakeServer {
 public:
  using FakeServer::FakeServer;

  static std::string Chunk(chunk::Kind kind, uint64_t tag, uint64_t value, std::string_view data);
  // Answers a held READ with its first half, and an error after that.
  void AnswerHalf(size_t index, int error);

 private:
  void OnAccepted() override;
  bool ParseFrame() override;
  void SendAnswers(const std::vector<Answered>& answers) override;
  bool OnHello();
  bool OnRequest();

  enum class Step { kHello, kStart, kRequests };
  Step step_ = Step::kHello;
};

}  // namespace cloudblk::testing

#endif  // CLOUDBLK_TESTS_SUPPORT_CPP_CHUNK_SERVER_H_
