// SPDX-License-Identifier: GPL-2.0-or-later
//
// Load on a virtio-blk device: a closed loop that keeps each queue at its depth and polls for
// answers.
#ifndef CLOUDBLK_TESTS_BENCH_LOAD_H_
#define CLOUDBLK_TESTS_BENCH_LOAD_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "base/status.h"
#include "tests/bench/guest_memory.h"
#include "tests/bench/virtio_pci.h"
#include "tests/bench/virtqueue.h"
#include "tools/histogram.h"
#include "tools/stamps.h"

namespace cloudblk::bench {

// What the driver does while nothing has come back.
enum class Wait { kYield, kSpin };

// Requests of one kind: `depth` of them in flight on each of the stream's queues.
struct StreamOptions {
  std::string pattern = "randread";  // read, write, randread, randwrite, randrw
  uint32_t size = 4096;
  uint32_t depth = 32;
  bool background = false;  // only beside others: on the first queue, and not what ends the load
};

struct LoadOptions {
  std::vector<StreamOptions> streams;
  uint16_t queues = 1;
  uint16_t queue_size = 0;  // 0: the device's
  uint64_t range = 0;       // the first so many bytes of the disk; 0: all
  uint64_t seed = 1;
  Chain chain = Chain::kIndirect;
  Wait wait = Wait::kYield;
  bool lockstep = false;  // all of a queue's requests have to come back before the next are made
  bool verify = false;    // the larger of two streams' sizes is a multiple of the other
};

struct StreamResult {
  uint64_t ios = 0;
  uint64_t bytes = 0;
  Histogram latency;  // ns
};

struct PhaseResult {
  double seconds = 0;
  std::vector<StreamResult> streams;
  uint64_t kicks = 0;
  uint64_t publishes = 0;  // times the driver made requests available
  uint64_t reaps = 0;      // times the driver found requests that came back
  uint64_t verified = 0;
};

class Load {
 public:
  // Sets the device up and lays the requests out.
  static Result<std::unique_ptr<Load>> Create(GuestMemory* memory, Qtest* qtest, VirtioPci* device,
                                              LoadOptions options);
  ~Load() { device_->Reset(); }

  uint64_t range() const { return options_.range; }

  // Runs for that time, or, where count is not 0, for that many requests. Nothing is in flight
  // before and after. A failed request or wrong content is an error.
  Result<PhaseResult> Run(double seconds, uint64_t count);
  // Writes the whole range once, in requests of the first stream's size.
  Status Fill();
  // Reads everything that Fill() and Run() wrote, and checks it. Gives the number of requests.
  Result<uint64_t> ReadBack();

 private:
  struct Slot {
    uint32_t stream;
    uint32_t number;  // in its queue
    uint64_t place = 0;
    int64_t start_ns = 0;
    bool write = false;
  };
  struct Queue {
    std::unique_ptr<Virtqueue> ring;
    uint16_t index = 0;
    uint64_t notify = 0;
    std::vector<Slot> slots;
    std::vector<uint32_t> idle;
    bool kick_again = false;
  };
  // A request's part of the range, in pieces of unit_ bytes.
  struct Units {
    uint64_t first;
    uint64_t count;
  };
  enum class Pass { kLoad, kFill, kReadBack };

  Load(Qtest* qtest, VirtioPci* device, LoadOptions options);
  Status SetUp(GuestMemory* memory);
  Status SetUpStamps();
  Result<PhaseResult> RunPass(Pass pass, double seconds, uint64_t count);
  bool Turn(Pass pass);
  bool Ended() const;
  bool Choose(Pass pass, Slot* slot);
  Units UnitsOf(const Slot& slot) const;
  bool Busy(Units units) const;
  void SetBusy(Units units, bool busy);
  void CheckContent(Pass pass, const Slot& slot, const uint8_t* data);
  void Refill(Pass pass, Queue* queue);
  void Kick(Queue* queue);
  void Finish(Pass pass, Queue* queue, uint32_t number, uint8_t status, int64_t now_ns);
  void Fail(std::string message);

  Qtest* const qtest_;
  VirtioPci* const device_;
  LoadOptions options_;
  std::mt19937_64 random_;
  std::vector<Queue> queues_;
  std::vector<uint64_t> places_;      // requests of each stream that fit into the range
  std::vector<uint64_t> sequential_;  // next place of each stream
  uint32_t unit_ = 0;                 // verify: bytes, the size of the smallest request
  std::optional<Stamps> stamps_;      // verify: of each unit
  std::vector<bool> busy_;            // verify: what is in flight is not touched by another
  uint32_t in_flight_ = 0;
  uint64_t started_ = 0;
  uint64_t count_ = 0;
  int64_t deadline_ns_ = 0;
  PhaseResult result_;
  std::string failure_;
};

}  // namespace cloudblk::bench

#endif  // CLOUDBLK_TESTS_BENCH_LOAD_H_
