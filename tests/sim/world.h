// SPDX-License-Identifier: GPL-2.0-or-later
//
// The real engine and the real server of volumes in one process, on one thread: links in memory, a
// clock that moves when told, and a seed that draws the order in which storage and executors do
// what they have to do. The same seed does the same, bit by bit.
#ifndef CLOUDBLK_TESTS_SIM_WORLD_H_
#define CLOUDBLK_TESTS_SIM_WORLD_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <random>
#include <vector>

#include "proxy/connection_host.h"
#include "proxy/volume.h"
#include "tests/sim/storage.h"
#include "tests/support/cpp/channel_fixture.h"
#include "tests/support/cpp/loop_alarm_clock.h"
#include "tests/support/cpp/manual_executor.h"
#include "tests/support/cpp/manual_loop.h"
#include "tests/support/cpp/memory_link.h"

namespace cloudblk::testing {

inline constexpr int64_t kSecond = 1'000'000'000;

class World {
 public:
  World(uint32_t seed, size_t size);
  ~World();

  // A server starts on the medium, or dies. Its clients find nobody meanwhile.
  void Boot();
  void Kill();
  // Kill, and the host with it: what was not flushed is lost.
  void Crash();

  // Options of a ChannelFixture that is a client of the server.
  FixtureOptions Client();
  // A number below n.
  uint32_t Draw(uint32_t n) { return static_cast<uint32_t>(random_() % n); }

  ManualLoop loop;
  Medium medium;
  uint32_t crc = 0;  // CRC32C of all bytes that servers and clients have exchanged, in their order
  // The storage and the executors stand still.
  bool frozen = false;
  // Changes a link before it is used.
  std::function<void(MemoryLink*)> on_link;
  std::shared_ptr<MemoryLink> last_link;
  // Goes between a link and the server; may be empty.
  std::function<std::unique_ptr<Transport>(std::unique_ptr<Transport>)> wrap;

 private:
  struct Server {
    explicit Server(ManualLoop* loop) : alarm(loop) {}

    LoopAlarmClock alarm;
    proxy::Limits limits;
    proxy::Access access;
    proxy::VolumeMap volumes;
    SimBackend* backend = nullptr;
    std::vector<ManualExecutor*> executors;  // of the volumes
    std::unique_ptr<proxy::ConnectionHost> host;
    std::vector<std::weak_ptr<MemoryLink>> links;
  };

  void Accept(std::shared_ptr<MemoryLink> link);
  bool Step();

  std::mt19937 random_;
  std::unique_ptr<Server> server_;
};

}  // namespace cloudblk::testing

#endif  // CLOUDBLK_TESTS_SIM_WORLD_H_
