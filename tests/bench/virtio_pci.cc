// SPDX-License-Identifier: GPL-2.0-or-later
#include "tests/bench/virtio_pci.h"

#include <fmt/core.h>

#include <cerrno>

namespace cloudblk::bench {
namespace {

// PCI configuration space
constexpr unsigned kCommand = 4;
constexpr unsigned kFirstBar = 0x10;
constexpr unsigned kCapabilities = 0x34;
constexpr unsigned kVendorCapability = 9;
constexpr unsigned kMsixCapability = 0x11;

// Where BARs are put; nothing else has been.
constexpr uint64_t kMemoryStart = 0xe0000000;
constexpr uint32_t kPortStart = 0xc000;

// Common configuration
constexpr unsigned kDeviceFeatureSelect = 0, kDeviceFeature = 4;
constexpr unsigned kDriverFeatureSelect = 8, kDriverFeature = 12;
constexpr unsigned kConfigVector = 16, kStatus = 20, kQueueSelect = 22, kQueueSize = 24;
constexpr unsigned kQueueVector = 26, kQueueEnable = 28, kQueueNotifyOffset = 30;
constexpr unsigned kQueueDescriptors = 32, kQueueAvailable = 40, kQueueUsed = 48;

constexpr uint8_t kAcknowledge = 1, kDriver = 2, kDriverOk = 4, kFeaturesOk = 8;

}  // namespace

uint32_t VirtioPci::PciRead(unsigned offset, int size) {
  qtest_->PortOut(0xcf8, 4, select_ | (offset & ~3u));
  return qtest_->PortIn(static_cast<uint16_t>(0xcfc + (offset & 3)), size);
}

void VirtioPci::PciWrite(unsigned offset, int size, uint32_t value) {
  qtest_->PortOut(0xcf8, 4, select_ | (offset & ~3u));
  qtest_->PortOut(static_cast<uint16_t>(0xcfc + (offset & 3)), size, value);
}

void VirtioPci::MapBars() {
  uint64_t memory = kMemoryStart;
  uint32_t port = kPortStart;
  for (unsigned bar = 0; bar < bars_.size(); ++bar) {
    const unsigned offset = kFirstBar + 4 * bar;
    PciWrite(offset, 4, UINT32_MAX);
    const uint32_t mask = PciRead(offset, 4);
    const bool is_port = (mask & 1) != 0;
    const uint32_t size = -(mask & (is_port ? ~3u : ~15u));
    if (mask != 0 && is_port) {
      port = (port + size - 1) / size * size;
      bars_[bar] = port;
      port += size;
    } else if (mask != 0) {
      memory = (memory + size - 1) / size * size;
      bars_[bar] = memory;
      memory += size;
    }
    PciWrite(offset, 4, static_cast<uint32_t>(bars_[bar]));
    // 64 bits wide: the next register is its upper half.
    if ((mask & 7) == 4) PciWrite(kFirstBar + 4 * ++bar, 4, 0);
  }
}

void VirtioPci::FindRegisters() {
  for (unsigned at = PciRead(kCapabilities, 1); at != 0; at = PciRead(at + 1, 1)) {
    const uint32_t id = PciRead(at, 1);
    if (id == kMsixCapability) msix_ = at;
    if (id != kVendorCapability) continue;
    const uint32_t kind = PciRead(at + 3, 1);
    const uint64_t address = bars_[PciRead(at + 4, 1) % 6] + PciRead(at + 8, 4);
    if (kind == 1) common_ = address;
    if (kind == 2) {
      notify_ = address;
      notify_multiplier_ = PciRead(at + 16, 4);
    }
    if (kind == 4) config_ = address;
  }
}

Result<std::unique_ptr<VirtioPci>> VirtioPci::Open(Qtest* qtest, unsigned slot) {
  std::unique_ptr<VirtioPci> device(new VirtioPci(qtest, slot));
  if (device->PciRead(0, 2) != 0x1af4) {
    return Status(ENODEV, fmt::format("there is no virtio device in PCI slot {:#x}", slot));
  }
  device->MapBars();
  device->PciWrite(kCommand, 2, device->PciRead(kCommand, 2) | 7);
  device->FindRegisters();
  if (device->common_ == 0 || device->notify_ == 0 || device->config_ == 0) {
    return Status(ENODEV,
                  fmt::format("the device in PCI slot {:#x} has no virtio 1 registers", slot));
  }
  device->Reset();
  return device;
}

void VirtioPci::Reset() {
  Set(kStatus, 1, 0);
  while (qtest_->Read(common_ + kStatus, 1) != 0) {
  }
}

Result<uint64_t> VirtioPci::Negotiate(uint64_t wanted) {
  Set(kStatus, 1, kAcknowledge | kDriver);
  uint64_t agreed = 0;
  for (unsigned half = 0; half < 2; ++half) {
    Set(kDeviceFeatureSelect, 4, half);
    const uint64_t offered = qtest_->Read(common_ + kDeviceFeature, 4);
    const uint64_t taken = offered & (wanted >> 32 * half) & UINT32_MAX;
    Set(kDriverFeatureSelect, 4, half);
    Set(kDriverFeature, 4, taken);
    agreed |= taken << 32 * half;
  }
  Set(kStatus, 1, kAcknowledge | kDriver | kFeaturesOk);
  if ((qtest_->Read(common_ + kStatus, 1) & kFeaturesOk) == 0) {
    return Status(EPROTO, fmt::format("the device refuses the features {:#x}", agreed));
  }
  return agreed;
}

uint16_t VirtioPci::QueueSize(uint16_t queue) {
  Set(kQueueSelect, 2, queue);
  return static_cast<uint16_t>(qtest_->Read(common_ + kQueueSize, 2));
}

Status VirtioPci::RouteInterrupts(uint64_t address) {
  if (msix_ == 0) return Status(ENODEV, "the device has no MSI-X: give it vectors=2 or more");
  const uint32_t table = PciRead(msix_ + 4, 4);
  const uint64_t entries = bars_[(table & 7) % 6] + (table & ~7u);
  PciWrite(msix_ + 2, 2, PciRead(msix_ + 2, 2) | 0x8000);
  // Vector 0 serves the queues, as "write 1 to `address`"; configuration changes have none.
  qtest_->Write(entries, 4, address);
  qtest_->Write(entries + 4, 4, address >> 32);
  qtest_->Write(entries + 8, 4, 1);
  qtest_->Write(entries + 12, 4, 0);
  Set(kConfigVector, 2, 0xffff);
  interrupts_ = true;
  return Status::Ok();
}

uint64_t VirtioPci::EnableQueue(uint16_t queue, uint16_t size, const Rings& rings) {
  Set(kQueueSelect, 2, queue);
  Set(kQueueSize, 2, size);
  if (interrupts_) Set(kQueueVector, 2, 0);
  for (const auto& [offset, address] :
       {std::pair(kQueueDescriptors, rings.descriptors),
        std::pair(kQueueAvailable, rings.available), std::pair(kQueueUsed, rings.used)}) {
    Set(offset, 4, address & UINT32_MAX);
    Set(offset + 4, 4, address >> 32);
  }
  Set(kQueueEnable, 2, 1);
  return notify_ + qtest_->Read(common_ + kQueueNotifyOffset, 2) * notify_multiplier_;
}

void VirtioPci::Start() { Set(kStatus, 1, kAcknowledge | kDriver | kFeaturesOk | kDriverOk); }

}  // namespace cloudblk::bench
