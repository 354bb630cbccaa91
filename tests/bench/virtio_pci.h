// SPDX-License-Identifier: GPL-2.0-or-later
//
// A virtio 1.x device on PCI, by the registers of the virtio specification 1.2, chapter 4.1.
#ifndef CLOUDBLK_TESTS_BENCH_VIRTIO_PCI_H_
#define CLOUDBLK_TESTS_BENCH_VIRTIO_PCI_H_

#include <array>
#include <cstdint>
#include <memory>

#include "base/status.h"
#include "tests/bench/qtest.h"

namespace cloudblk::bench {

class VirtioPci {
 public:
  // Where a queue's parts lie in guest memory.
  struct Rings {
    uint64_t descriptors;
    uint64_t available;
    uint64_t used;
  };

  // The function 0 of that slot on bus 0. Maps its BARs and resets it.
  static Result<std::unique_ptr<VirtioPci>> Open(Qtest* qtest, unsigned slot);

  // Takes those of `wanted` that are offered; gives what was agreed on.
  Result<uint64_t> Negotiate(uint64_t wanted);
  uint64_t ReadConfig(unsigned offset, int size) { return qtest_->Read(config_ + offset, size); }
  uint16_t QueueSize(uint16_t queue);
  // Sends the interrupts of all queues as a write of four bytes to `address`. Before EnableQueue().
  Status RouteInterrupts(uint64_t address);
  // Gives the address where the queue is notified.
  uint64_t EnableQueue(uint16_t queue, uint16_t size, const Rings& rings);
  void Start();
  void Reset();

 private:
  VirtioPci(Qtest* qtest, unsigned slot) : qtest_(qtest), select_(0x80000000 | slot << 11) {}
  uint32_t PciRead(unsigned offset, int size);
  void PciWrite(unsigned offset, int size, uint32_t value);
  void MapBars();
  void FindRegisters();
  void Set(unsigned offset, int size, uint64_t value) {
    qtest_->Write(common_ + offset, size, value);
  }

  Qtest* const qtest_;
  const uint32_t select_;
  std::array<uint64_t, 6> bars_{};
  uint64_t common_ = 0;
  uint64_t notify_ = 0;
  uint64_t config_ = 0;
  uint32_t notify_multiplier_ = 0;
  unsigned msix_ = 0;  // where its capability is; 0: none
  bool interrupts_ = false;
};

}  // namespace cloudblk::bench

#endif  // CLOUDBLK_TESTS_BENCH_VIRTIO_PCI_H_
