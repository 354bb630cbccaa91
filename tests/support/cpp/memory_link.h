// SPDX-License-Identifier: GPL-2.0-or-later
//
// Connections in memory, with all the bad habits that real ones have.
#ifndef CLOUDBLK_TESTS_SUPPORT_CPP_MEMORY_LINK_H_
#define CLOUDBLK_TESTS_SUPPORT_CPP_MEMORY_LINK_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/transport.h"
#include "tests/support/cpp/manual_loop.h"

namespace cloudblk::testing {

// How a connection behaves.
struct LinkHabits {
  size_t read_chunk = SIZE_MAX;         // bytes that one Readv moves at most
  size_t write_chunk = SIZE_MAX;        // and one Writev
  size_t send_buffer = SIZE_MAX;        // bytes that wait for the server at most
  size_t receive_buffer = SIZE_MAX;     // and for the client, of what ServerEnd sends
  size_t record_size = 0;               // not 0: reads whole records, as TLS does (has_pending)
  bool scatters = true;                 // Readv takes several elements
  bool wants_other = false;             // every other call first wants the other readiness
  iovec untouchable{};                  // of the client's memory, as the kernel finds it
  uint64_t cut_to_client = UINT64_MAX;  // the connection ends after so many bytes
  uint64_t cut_to_server = UINT64_MAX;
};

// One connection, between a Transport and the server's side.
struct MemoryLink {
  LinkHabits habits;
  bool refuses = false;   // the connection attempt fails
  bool hangs = false;     // the connection attempt never ends
  std::string to_server;  // under way
  std::string to_client;
  uint64_t to_server_total = 0;  // ever sent
  uint64_t to_client_total = 0;  // ever received by the client
  uint64_t server_took = 0;      // ever received by the server
  bool client_closed = false;
  bool server_closed = false;

  // The bytes that reach the server, within the cut.
  std::string TakeForServer();
  bool ToClientEnded() const { return to_client_total >= habits.cut_to_client; }
};

// Makes a MemoryLink of each connection and lets the test have its server's end.
class MemoryConnector final : public Connector {
 public:
  // `accept` is told of each new link, with the address's index; it may change the link.
  using Accept = std::function<void(size_t address, std::shared_ptr<MemoryLink> link)>;

  MemoryConnector(ManualLoop* loop, size_t count, Accept accept)
      : loop_(loop), count_(count), accept_(std::move(accept)) {}

  size_t count() const override { return count_; }
  std::string Name(size_t index) const override { return "memory:" + std::to_string(index); }
  Result<std::unique_ptr<Transport>> Connect(size_t index) const override;
  void Refresh(int64_t) override { ++refreshes; }

  int refreshes = 0;
  // Goes between the link and the client; may be empty.
  std::function<std::unique_ptr<Transport>(std::unique_ptr<Transport>)> wrap;

 private:
  ManualLoop* const loop_;
  const size_t count_;
  const Accept accept_;
};

}  // namespace cloudblk::testing

#endif  // CLOUDBLK_TESTS_SUPPORT_CPP_MEMORY_LINK_H_
