// SPDX-License-Identifier: GPL-2.0-or-later
//
// The driver's side of a split virtqueue with VIRTIO_F_EVENT_IDX, for block requests whose places
// in memory are laid out once.
#ifndef CLOUDBLK_TESTS_BENCH_VIRTQUEUE_H_
#define CLOUDBLK_TESTS_BENCH_VIRTQUEUE_H_

#include <cstdint>
#include <vector>

#include "tests/bench/guest_memory.h"
#include "tests/bench/virtio_pci.h"

namespace cloudblk::bench {

// How a request's three parts (header, data, status) are described.
enum class Chain { kIndirect, kDirect };

class Virtqueue {
 public:
  Virtqueue(GuestMemory* memory, uint16_t size, Chain chain);

  const VirtioPci::Rings& rings() const { return rings_; }
  // How many slots there is room for.
  uint32_t Capacity() const { return size_ / step_; }

  // A slot for requests of up to `bytes`. Returns its number.
  uint32_t AddSlot(uint32_t bytes);
  uint8_t* Data(uint32_t slot) const { return memory_->At<uint8_t>(slots_[slot].data); }

  // Makes a read or write of the slot's whole size available, from the next Publish() on.
  void Add(uint32_t slot, bool write, uint64_t sector);
  // Whether the device wants to be notified of what was added since the last call.
  bool Publish();
  // Calls done(slot, status) for each request that came back since the last call, then asks for an
  // interrupt for the next, as Linux does. Returns how many.
  template <typename Done>
  uint32_t Reap(Done done);

 private:
  struct Descriptor {
    uint64_t address;
    uint32_t length;
    uint16_t flags;
    uint16_t next;
  };
  struct UsedElement {
    uint32_t id;
    uint32_t length;
  };
  struct Slot {
    uint64_t header;
    uint64_t data;
    uint64_t status;
    Descriptor* data_descriptor;
  };
  struct BlockHeader {
    uint32_t type;
    uint32_t reserved;
    uint64_t sector;
  };

  uint16_t* UsedIndex() const { return memory_->At<uint16_t>(rings_.used + 2); }
  uint16_t* UsedEvent() const { return memory_->At<uint16_t>(rings_.available + 4 + 2 * size_); }

  GuestMemory* const memory_;
  const uint16_t size_;
  const Chain chain_;
  const uint16_t step_;  // descriptors of the ring that a slot has
  VirtioPci::Rings rings_;
  std::vector<Slot> slots_;
  uint16_t added_ = 0;
  uint16_t published_ = 0;
  uint16_t seen_ = 0;
};

template <typename Done>
uint32_t Virtqueue::Reap(Done done) {
  const uint16_t until = __atomic_load_n(UsedIndex(), __ATOMIC_ACQUIRE);
  const uint16_t count = static_cast<uint16_t>(until - seen_);
  for (; seen_ != until; ++seen_) {
    const auto* element = memory_->At<UsedElement>(rings_.used + 4) + seen_ % size_;
    const uint32_t slot = element->id / step_;
    done(slot, *memory_->At<uint8_t>(slots_[slot].status));
  }
  if (count != 0) __atomic_store_n(UsedEvent(), seen_, __ATOMIC_SEQ_CST);
  return count;
}

}  // namespace cloudblk::bench

#endif  // CLOUDBLK_TESTS_BENCH_VIRTQUEUE_H_
