// SPDX-License-Identifier: GPL-2.0-or-later
//
// A hostile guest against the device's data path: hw/'s ring, memory, request, completion and
// queue, as they are, with as much of QEMU around them as qemu_shim.h has, and an engine that
// answers as the input says. The input is what the driver writes into its memory and registers,
// also while the device reads, how the memory map changes, and when the machine stops and is reset.
// Each block of guest memory is memory of its own. Everything that is handed to the engine lies in
// guest memory and in the disk, what is written is reported as dirty, read-only memory stays as it
// is, and each request is given back once.
#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdarg>
#include <cstring>
#include <map>
#include <memory>
#include <set>
#include <utility>
#include <vector>

#include "cloudblk.h"
#include "tests/fuzz/check.h"
#include "tests/fuzz/qemu_shim.h"

extern "C" {
#include "cloudblk-complete.h"
#include "cloudblk-memory.h"
#include "cloudblk-queue.h"
#include "cloudblk-request.h"
#include "cloudblk-ring.h"
}

using cloudblk::testing::Check;

// A part of the guest's address space.
struct Block {
  Block(hwaddr where, hwaddr bytes, MemoryRegion kind)
      : address(where),
        length(bytes),
        region(kind),
        memory(std::make_unique<uint8_t[]>(bytes)),
        dirty(bytes) {}
  bool holds(const void* host, size_t bytes) const {
    const auto* at = static_cast<const uint8_t*>(host);
    return at >= memory.get() && at < memory.get() + length &&
           bytes <= static_cast<size_t>(memory.get() + length - at);
  }

  const hwaddr address;
  const hwaddr length;
  const MemoryRegion region;
  const std::unique_ptr<uint8_t[]> memory;
  std::vector<uint8_t> dirty;
  bool plugged = true;
};

struct VirtQueue {
  unsigned size = 16;
  hwaddr descriptors = 0x1000;
  hwaddr available = 0x2000;
  uint16_t next = 0;
  int notification = 1;
  unsigned in_use = 0;
  unsigned filled = 0;
};

namespace {

constexpr MemoryRegion kRam{true, false, false, false};
constexpr MemoryRegion kRom{false, false, true, false};
constexpr MemoryRegion kDevice{false, false, false, false};
constexpr uint64_t kCapacity = 1 << 20;
// Blocks of memory are whole pages.
constexpr size_t kPage = 0x1000;

// What the engine has of the device.
struct Pending {
  CloudblkOperation operation;
  std::vector<iovec> iov;
  void* opaque;
};

struct Machine {
  FuzzedDataProvider* in;
  // Read-only memory, and the registers of a device, lie between. The last one can be unplugged.
  std::array<Block, 4> blocks{{{0, 0x10000, kRam},
                               {0x10000, 0x1000, kRom},
                               {0x11000, 0x1000, kDevice},
                               {0x12000, 0x2000, kRam}}};
  VirtQueue vq;
  VirtIODevice vdev{};
  CloudblkDisk disk{};
  CloudblkLoop loop{};
  CloudblkQueue queue{};
  std::vector<Pending> pending;
  std::vector<std::pair<void*, void (*)(void*)>> rcu;
  MemoryListener* listener = nullptr;
  BlockErrorAction action = BLOCK_ERROR_ACTION_REPORT;
  int submit_error = 0;
  // What another processor of the guest writes while the device reads.
  hwaddr race_at = 0;
  int race_bytes = 0;

  Block* Find(hwaddr address) {
    for (Block& block : blocks) {
      if (address - block.address < block.length) return &block;
    }
    return nullptr;
  }
  void Poke(hwaddr address, const void* data, size_t bytes) {
    for (size_t i = 0; i < bytes; ++i) {
      Block* block = Find(address + i);
      if (block == nullptr || !block->region.ram || !block->plugged) continue;
      block->memory[address + i - block->address] = static_cast<const uint8_t*>(data)[i];
    }
  }
  template <typename T>
  void Poke(hwaddr address, T value) {
    Poke(address, &value, sizeof(value));
  }
  void Race() {
    for (; race_bytes > 0; --race_bytes) Poke(race_at++, in->ConsumeIntegral<uint8_t>());
  }
  // Nobody is in a read side.
  void RunRcu() {
    for (const auto& [object, fn] : std::exchange(rcu, {})) fn(object);
  }
};

Machine* machine;

// What is in guest memory, for a look at what has changed.
class Snapshot {
 public:
  Snapshot() {
    for (Block& block : machine->blocks) {
      std::ranges::fill(block.dirty, uint8_t{0});
      before_.emplace_back(block.memory.get(), block.memory.get() + block.length);
    }
  }
  // All that was written since then may be written, and was reported.
  void Compare() const {
    for (size_t i = 0; i < before_.size(); ++i) {
      const Block& block = machine->blocks[i];
      // Few pages have changed, and bytes one by one are slow with a sanitizer.
      for (size_t page = 0; page < block.length; page += kPage) {
        if (std::memcmp(&block.memory[page], &before_[i][page], kPage) == 0) continue;
        for (size_t at = page; at < page + kPage; ++at) {
          if (block.memory[at] == before_[i][at]) continue;
          Check(block.region.ram && block.dirty[at] != 0);
        }
      }
    }
  }

 private:
  std::vector<std::vector<uint8_t>> before_;
};

void MarkDirty(const Block* block, hwaddr offset, hwaddr length) {
  Check(offset <= block->length && length <= block->length - offset);
  std::fill_n(const_cast<Block*>(block)->dirty.begin() + static_cast<ptrdiff_t>(offset), length,
              uint8_t{1});
}

const Block* BlockOf(const void* host, size_t bytes) {
  for (const Block& block : machine->blocks) {
    if (block.holds(host, bytes)) return &block;
  }
  return nullptr;
}

void Broken(CloudblkDisk* disk, const char*, ...) { disk->vdev->disabled = true; }
BlockErrorAction ErrorAction(CloudblkDisk*, bool, int) { return machine->action; }
void ErrorRaise(CloudblkDisk*, BlockErrorAction, bool, int) {}

constexpr CloudblkDiskOps kOps{Broken, ErrorAction, ErrorRaise};

void CheckRange(uint64_t offset, uint64_t length) {
  Check(length > 0 && (offset | length) % machine->disk.logical_block_size == 0);
  Check(offset <= machine->disk.capacity && length <= machine->disk.capacity - offset);
}

}  // namespace

// --- The engine. --------------------------------------------------------------------------------

extern "C" int cloudblk_channel_submit(CloudblkChannel*, const CloudblkRequest* request) noexcept {
  Pending pending{request->operation, {}, request->opaque};
  const bool read = request->operation == CLOUDBLK_OP_READ;
  const bool write = request->operation == CLOUDBLK_OP_WRITE;
  Check(read || request->operation == CLOUDBLK_OP_FLUSH || !machine->disk.read_only);
  if (read || write) {
    uint64_t total = 0;
    for (uint32_t i = 0; i < request->iov_count; ++i) {
      const iovec& element = request->iov[i];
      const Block* block = BlockOf(element.iov_base, element.iov_len);
      Check(element.iov_len > 0 && block != nullptr);
      Check(block->region.ram || (write && block->region.rom_device));
      total += element.iov_len;
    }
    CheckRange(request->offset, total);
    pending.iov.assign(request->iov, request->iov + request->iov_count);
  } else if (request->operation != CLOUDBLK_OP_FLUSH) {
    Check(request->range_count >= 1 && request->range_count <= machine->disk.max_ranges);
    for (uint32_t i = 0; i < request->range_count; ++i) {
      CheckRange(request->ranges[i].offset, request->ranges[i].length);
    }
  }
  machine->Race();
  if (machine->submit_error != 0) return std::exchange(machine->submit_error, 0);
  machine->pending.push_back(std::move(pending));
  return 0;
}

extern "C" void cloudblk_channel_kick(CloudblkChannel*) noexcept { machine->Race(); }

// --- QEMU. --------------------------------------------------------------------------------------

void shim_call_rcu(void* object, void (*fn)(void*)) { machine->rcu.emplace_back(object, fn); }
FlatView* address_space_to_flatview(AddressSpace*) { return nullptr; }
void flatview_for_each_range(FlatView*, flatview_cb fn, void* opaque) {
  for (const Block& block : machine->blocks) {
    if (block.plugged) fn(block.address, block.length, &block.region, 0, opaque);
  }
}
int64_t address_space_cache_init(MemoryRegionCache* cache, AddressSpace*, hwaddr address,
                                 hwaddr length, bool is_write) {
  const Block* block = machine->Find(address);
  Check(block != nullptr && block->plugged && length <= block->length);
  const bool direct = block->region.ram || (!is_write && block->region.rom_device);
  *cache = {direct ? block->memory.get() : nullptr, address, length, is_write};
  return static_cast<int64_t>(length);
}
void address_space_cache_invalidate(MemoryRegionCache* cache, hwaddr offset, int64_t length) {
  const Block* block = BlockOf(cache->ptr, 1);
  Check(block != nullptr && cache->is_write);
  MarkDirty(block, offset, static_cast<hwaddr>(length));
}
void address_space_cache_destroy(MemoryRegionCache* cache) { *cache = {}; }
void memory_listener_register(MemoryListener* listener, AddressSpace*) {
  machine->listener = listener;
}
void memory_listener_unregister(MemoryListener*) { machine->listener = nullptr; }
ram_addr_t qemu_ram_addr_from_host(void* host) {
  return BlockOf(host, 1) != nullptr ? 0 : RAM_ADDR_INVALID;
}
MemoryRegion* memory_region_from_host(void* host, ram_addr_t* offset) {
  const Block* block = BlockOf(host, 1);
  Check(block != nullptr);
  *offset = static_cast<ram_addr_t>(static_cast<uint8_t*>(host) - block->memory.get());
  return const_cast<MemoryRegion*>(&block->region);
}
void memory_region_set_dirty(MemoryRegion* mr, hwaddr offset, hwaddr length) {
  for (const Block& block : machine->blocks) {
    if (&block.region == mr) MarkDirty(&block, offset, length);
  }
}
AioContext* qemu_get_aio_context() { return nullptr; }
void error_report(const char*, ...) {}
size_t iov_size(const iovec* iov, unsigned count) {
  size_t total = 0;
  for (unsigned i = 0; i < count; ++i) total += iov[i].iov_len;
  return total;
}
size_t iov_to_buf(const iovec* iov, unsigned count, size_t offset, void* to, size_t bytes) {
  size_t done = 0;
  for (unsigned i = 0; i < count && done < bytes; ++i) {
    const size_t skip = std::min(offset, iov[i].iov_len);
    const size_t n = std::min(iov[i].iov_len - skip, bytes - done);
    memcpy(static_cast<uint8_t*>(to) + done, static_cast<uint8_t*>(iov[i].iov_base) + skip, n);
    offset -= skip;
    done += n;
  }
  // QEMU asserts it too.
  Check(offset == 0);
  return done;
}
size_t iov_from_buf(const iovec* iov, unsigned count, size_t offset, const void* from,
                    size_t bytes) {
  Check(offset == 0);
  size_t done = 0;
  for (unsigned i = 0; i < count && done < bytes; ++i) {
    const size_t n = std::min(iov[i].iov_len, bytes - done);
    memcpy(iov[i].iov_base, static_cast<const uint8_t*>(from) + done, n);
    done += n;
  }
  return done;
}
bool virtio_vdev_has_feature(const VirtIODevice* vdev, unsigned bit) {
  return (vdev->features >> bit & 1) != 0;
}
bool virtio_device_disabled(const VirtIODevice* vdev) { return vdev->disabled; }
int virtio_get_queue_index(VirtQueue*) { return 0; }
int virtio_queue_get_num(VirtIODevice*, int) { return static_cast<int>(machine->vq.size); }
hwaddr virtio_queue_get_desc_addr(VirtIODevice*, int) { return machine->vq.descriptors; }
hwaddr virtio_queue_get_avail_addr(VirtIODevice*, int) { return machine->vq.available; }
unsigned virtio_queue_get_last_avail_idx(VirtIODevice*, int) { return machine->vq.next; }
void virtio_queue_set_last_avail_idx(VirtIODevice*, int, uint16_t next) { machine->vq.next = next; }
int virtio_queue_get_notification(VirtQueue* vq) { return vq->notification; }
void virtio_queue_set_notification(VirtQueue* vq, int enable) {
  machine->Race();
  vq->notification = enable;
}
int virtio_queue_empty(VirtQueue* vq) {
  if (machine->vdev.disabled || vq->descriptors == 0 || vq->size == 0) return 1;
  const Block* block = machine->Find(vq->available + 2);
  if (block == nullptr || vq->available + 4 - block->address > block->length) return 1;
  uint16_t index;
  memcpy(&index, &block->memory[vq->available + 2 - block->address], sizeof(index));
  return index == vq->next;
}
// What is left to it here has no ring.
void* virtqueue_pop(VirtQueue*, size_t) { return nullptr; }
void virtqueue_fill(VirtQueue* vq, const VirtQueueElement* elem, unsigned, unsigned at) {
  // The buffers are not QEMU's to give back.
  Check(elem->in_num == 0 && elem->out_num == 0 && at == vq->filled);
  ++vq->filled;
}
void virtqueue_flush(VirtQueue* vq, unsigned count) {
  Check(count == vq->filled && count <= vq->in_use);
  vq->in_use -= count;
  vq->filled = 0;
}
void virtqueue_detach_element(VirtQueue* vq, const VirtQueueElement* elem, unsigned) {
  Check(elem->in_num == 0 && elem->out_num == 0);
  // One that was taken in a batch that is not over is counted at its end.
  vq->in_use -= elem->ndescs;
}
bool cloudblk_compat_xen() { return false; }
void cloudblk_compat_count_popped(VirtQueue* vq, unsigned count) { vq->in_use += count; }
void cloudblk_compat_notify(VirtIODevice*, VirtQueue*, bool) {}

// --- The guest, and whoever runs the machine. ----------------------------------------------------

namespace {

// Where the driver may put something: into memory mostly, and onto every kind of border.
hwaddr SomeAddress(FuzzedDataProvider* in) {
  constexpr hwaddr kPlaces[] = {0x4000, 0x5000, 0x8000, 0xfff0, 0x10000, 0x11ff0, 0x12000, 0x13ff0};
  const auto choice = in->ConsumeIntegral<uint8_t>();
  if (choice > 250) return in->ConsumeIntegral<uint64_t>();
  return kPlaces[choice & 7] + (choice < 128 ? 0 : in->ConsumeIntegral<uint8_t>());
}

void WriteDescriptor(FuzzedDataProvider* in, hwaddr at, hwaddr address, uint32_t length,
                     uint16_t flags, uint16_t next) {
  machine->Poke(at, address);
  machine->Poke(at + 8, length);
  machine->Poke(at + 12, cloudblk::testing::Maybe(in, flags));
  machine->Poke(at + 14, cloudblk::testing::Maybe(in, next));
}

// A request as a driver makes it, or nearly, from descriptor `head` of the table at `table` on.
void WriteRequest(FuzzedDataProvider* in, hwaddr table, uint16_t head) {
  constexpr uint32_t kTypes[] = {
      VIRTIO_BLK_T_IN,      VIRTIO_BLK_T_OUT,          VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID,
      VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_WRITE_ZEROES, VIRTIO_BLK_T_IN,    VIRTIO_BLK_T_OUT};
  const auto choice = in->ConsumeIntegral<uint8_t>();
  const uint32_t type = choice < 240 ? kTypes[choice & 7] : in->ConsumeIntegral<uint32_t>();
  const hwaddr header = 0x3000 + head % 64 * 16;
  machine->Poke(header, type);
  machine->Poke(header + 4, uint32_t{0});
  machine->Poke(header + 8,
                cloudblk::testing::Maybe<uint64_t>(in, in->ConsumeIntegral<uint8_t>() * 8));
  constexpr uint16_t kNext = 1, kWrite = 2;
  const bool to_device =
      type == VIRTIO_BLK_T_OUT || type == VIRTIO_BLK_T_DISCARD || type == VIRTIO_BLK_T_WRITE_ZEROES;
  const auto buffers = static_cast<uint16_t>(in->ConsumeIntegral<uint8_t>() & 3);
  const auto slot = [&](unsigned i) { return static_cast<uint16_t>(head + i); };
  WriteDescriptor(in, table + slot(0) * 16, header, cloudblk::testing::Small(in, 16), kNext,
                  slot(1));
  for (uint16_t i = 1; i <= buffers; ++i) {
    const bool ranges = to_device && type != VIRTIO_BLK_T_OUT;
    const uint32_t usual = ranges ? 16u : type == VIRTIO_BLK_T_GET_ID ? 20u : 4096u;
    const hwaddr address = SomeAddress(in);
    if (ranges) {
      machine->Poke(address, uint64_t{in->ConsumeIntegral<uint8_t>()} * 8);
      machine->Poke(address + 8, cloudblk::testing::Small(in, 8));
      machine->Poke(address + 12, cloudblk::testing::Small(in, 0));
    }
    WriteDescriptor(in, table + slot(i) * 16, address, cloudblk::testing::Small(in, usual),
                    static_cast<uint16_t>(kNext | (to_device ? 0 : kWrite)), slot(i + 1));
  }
  WriteDescriptor(in, table + slot(buffers + 1u) * 16, SomeAddress(in),
                  cloudblk::testing::Small(in, 1), kWrite, 0);
}

// Makes descriptors available, as many as the input says.
void Publish(FuzzedDataProvider* in) {
  const hwaddr available = machine->vq.available;
  const auto index = static_cast<uint16_t>(machine->vq.next + in->ConsumeIntegralInRange(1, 3));
  for (uint16_t at = machine->vq.next; at != index; ++at) {
    const unsigned size = std::max(machine->vq.size, 1u);
    machine->Poke(available + 4 + at % size * 2,
                  static_cast<uint16_t>(cloudblk::testing::Small(in, 0)));
  }
  machine->Poke(available + 2, cloudblk::testing::Maybe(in, index));
}

void Run() {
  const Snapshot before;
  // What the driver writes meanwhile is not the device's doing.
  const bool races = machine->race_bytes != 0;
  cloudblk_queue_run(&machine->queue);
  if (!races) before.Compare();
  Check(machine->loop.filled == nullptr);
}

// The engine answers the request, or gives it back.
void Complete(size_t index, int result) {
  Pending done = std::move(machine->pending[index]);
  machine->pending.erase(machine->pending.begin() + static_cast<ptrdiff_t>(index));
  const Snapshot before;
  uint64_t stored = 0;
  std::vector<uint8_t> sent;
  for (const iovec& element : done.iov) {
    auto* bytes = static_cast<uint8_t*>(element.iov_base);
    if (done.operation == CLOUDBLK_OP_READ) {
      memset(bytes, 0xaa, element.iov_len);
      stored += element.iov_len;
    } else {
      sent.insert(sent.end(), bytes, bytes + element.iov_len);
    }
  }
  const CloudblkCompletion completion{done.opaque, result, stored};
  cloudblk_complete(&machine->loop, &completion, 1);
  before.Compare();
}

void TakeBack(CloudblkDisposition disposition) {
  machine->disk.disposition = disposition;
  while (!machine->pending.empty()) Complete(0, -ECANCELED);
}

void Reset() {
  TakeBack(CLOUDBLK_DROP);
  cloudblk_queue_forget(&machine->queue);
  Check(machine->queue.popped == 0 && machine->vq.in_use == 0 && machine->vq.filled == 0);
  machine->vq = {};
  machine->vdev.disabled = false;
  machine->disk.disposition = CLOUDBLK_ANSWER;
}

void MapChanged() {
  if (machine->listener != nullptr) machine->listener->commit(machine->listener);
  machine->RunRcu();
}

void Act(FuzzedDataProvider* in) {
  switch (in->ConsumeIntegralInRange(0, 15)) {
    case 0:
    case 1:
    case 2:
      return WriteRequest(in, machine->vq.descriptors,
                          static_cast<uint16_t>(cloudblk::testing::Small(in, 0) & 0xfff));
    case 3:  // an indirect table
      WriteRequest(in, 0x6000, 0);
      return WriteDescriptor(in, machine->vq.descriptors, 0x6000,
                             cloudblk::testing::Small(in, 16 * 4), 4, 0);
    case 4:
    case 5:
      return Publish(in);
    case 6:
    case 7:
      return Run();
    case 8: {
      const hwaddr address = SomeAddress(in);
      const std::string bytes = cloudblk::testing::SomeBytes(in);
      return machine->Poke(address, bytes.data(), bytes.size());
    }
    case 9:
    case 10:
      if (machine->pending.empty()) return;
      return Complete(in->ConsumeIntegral<uint8_t>() % machine->pending.size(),
                      in->ConsumeBool() ? 0 : -static_cast<int>(in->ConsumeIntegral<uint8_t>()));
    case 11:
      machine->race_at = machine->vq.descriptors + in->ConsumeIntegral<uint16_t>();
      machine->race_bytes = in->ConsumeIntegralInRange(1, 32);
      return;
    case 12:
      switch (in->ConsumeIntegralInRange(0, 4)) {
        case 0:
          machine->vq.descriptors = cloudblk::testing::Maybe<uint64_t>(in, 0x1000);
          return;
        case 1:
          machine->vq.available = SomeAddress(in);
          return;
        case 2:
          machine->vq.size = in->ConsumeIntegralInRange(0, VIRTQUEUE_MAX_SIZE);
          return;
        case 3:
          machine->action = static_cast<BlockErrorAction>(in->ConsumeIntegralInRange(0, 2));
          return;
        default:
          machine->submit_error =
              in->PickValueInArray({0, -EINVAL, -ENOTSUP, -EROFS, -EIO, -EFAULT, -ERANGE});
          return;
      }
    case 13:
      machine->blocks[3].plugged = !machine->blocks[3].plugged;
      return MapChanged();
    case 14:  // the machine stops, and goes on
      TakeBack(CLOUDBLK_KEEP);
      machine->disk.disposition = CLOUDBLK_ANSWER;
      cloudblk_queue_retry(&machine->queue);
      return Run();
    default:
      if (in->ConsumeIntegral<uint8_t>() < 64) return Reset();
      machine->disk.capacity = in->ConsumeBool() ? kCapacity : kCapacity / 4;
      return;
  }
}

void RunInput(FuzzedDataProvider* in) {
  Machine here{.in = in};
  machine = &here;
  const auto kind = in->ConsumeIntegral<uint8_t>();
  here.vdev.features = (kind & 1) != 0 ? 0
                                       : uint64_t{1} << VIRTIO_BLK_F_DISCARD |
                                             uint64_t{1} << VIRTIO_BLK_F_WRITE_ZEROES;
  here.disk.vdev = &here.vdev;
  here.disk.ops = &kOps;
  here.disk.loops = &here.loop;
  here.disk.num_loops = 1;
  here.disk.server = "server";
  here.disk.serial = (kind & 2) != 0 ? "a serial number of many bytes" : nullptr;
  here.disk.queue_size = 16;
  here.disk.logical_block_size = (kind & 4) != 0 ? 4096 : 512;
  here.disk.max_ranges = (kind & 8) != 0 ? CLOUDBLK_MAX_RANGES : 1;
  here.disk.max_discard_sectors = here.disk.max_write_zeroes_sectors = 1024;
  here.disk.read_only = (kind & 0x30) == 0x30;
  here.disk.volume_has_cache = (kind & 0x40) != 0;
  here.disk.write_cache = (kind & 0x80) != 0;
  here.disk.capacity = kCapacity;
  here.loop.disk = &here.disk;
  QSIMPLEQ_INIT(&here.loop.spare);
  here.queue.vq = &here.vq;
  cloudblk_queue_init(&here.queue, &here.loop);
  cloudblk_memory_watch(&here.disk);
  for (int i = 0; i < 120 && in->remaining_bytes() > 0; ++i) Act(in);
  here.race_bytes = 0;
  Reset();
  cloudblk_ring_cleanup(&here.loop);
  cloudblk_memory_unwatch(&here.disk);
  here.RunRcu();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  FuzzedDataProvider in(data, size);
  RunInput(&in);
  return 0;
}
