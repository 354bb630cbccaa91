// SPDX-License-Identifier: GPL-2.0-or-later
#include "tests/bench/virtqueue.h"

namespace cloudblk::bench {
namespace {

constexpr uint16_t kNext = 1, kDeviceWrites = 2, kIndirect = 4;
constexpr uint32_t kRead = 0, kWrite = 1;
constexpr uint32_t kParts = 3;

}  // namespace

Virtqueue::Virtqueue(GuestMemory* memory, uint16_t size, Chain chain)
    : memory_(memory),
      size_(size),
      chain_(chain),
      step_(chain == Chain::kDirect ? kParts : 1),
      rings_{memory->Allocate(sizeof(Descriptor) * size, 4096),
             memory->Allocate(6 + 2ull * size, 4096),
             memory->Allocate(6 + sizeof(UsedElement) * size, 4096)} {}

uint32_t Virtqueue::AddSlot(uint32_t bytes) {
  const auto number = static_cast<uint32_t>(slots_.size());
  Slot slot{};
  slot.header = memory_->Allocate(sizeof(BlockHeader), 16);
  slot.status = memory_->Allocate(1, 64);
  slot.data = memory_->Allocate(bytes, 4096);
  uint64_t table = rings_.descriptors + sizeof(Descriptor) * number * step_;
  uint16_t first = static_cast<uint16_t>(number * step_);
  if (chain_ == Chain::kIndirect) {
    const uint64_t outer = table;
    table = memory_->Allocate(sizeof(Descriptor) * kParts, 16);
    *memory_->At<Descriptor>(outer) = {table, sizeof(Descriptor) * kParts, kIndirect, 0};
    first = 0;
  }
  auto* parts = memory_->At<Descriptor>(table);
  parts[0] = {slot.header, sizeof(BlockHeader), kNext, static_cast<uint16_t>(first + 1)};
  parts[1] = {slot.data, bytes, kNext, static_cast<uint16_t>(first + 2)};
  parts[2] = {slot.status, 1, kDeviceWrites, 0};
  slot.data_descriptor = &parts[1];
  slots_.push_back(slot);
  return number;
}

void Virtqueue::Add(uint32_t number, bool write, uint64_t sector) {
  const Slot& slot = slots_[number];
  *memory_->At<BlockHeader>(slot.header) = {write ? kWrite : kRead, 0, sector};
  // A status that no device gives, so that one that forgets it is found out.
  *memory_->At<uint8_t>(slot.status) = UINT8_MAX;
  slot.data_descriptor->flags = write ? kNext : kNext | kDeviceWrites;
  memory_->At<uint16_t>(rings_.available + 4)[added_ % size_] =
      static_cast<uint16_t>(number * step_);
  ++added_;
}

bool Virtqueue::Publish() {
  const auto count = static_cast<uint16_t>(added_ - published_);
  if (count == 0) return false;
  __atomic_store_n(memory_->At<uint16_t>(rings_.available + 2), added_, __ATOMIC_SEQ_CST);
  const uint16_t event = __atomic_load_n(
      memory_->At<uint16_t>(rings_.used + 4 + sizeof(UsedElement) * size_), __ATOMIC_SEQ_CST);
  published_ = added_;
  return static_cast<uint16_t>(added_ - event - 1) < count;
}

}  // namespace cloudblk::bench
