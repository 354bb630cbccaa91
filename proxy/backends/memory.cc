// SPDX-License-Identifier: GPL-2.0-or-later
//
// memory:?size=1G[&logical-block-size=512]: a volume that lives and dies with this process.
#include <fmt/format.h>
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <memory>
#include <vector>

#include "base/random.h"
#include "base/uuid.h"
#include "proxy/backends/backends.h"
#include "proxy/backends/plain_queue.h"
#include "proxy/extent_writer.h"
#include "proxy/loop_context.h"

namespace cloudblk::proxy {
namespace {

constexpr uint64_t kPage = 4096;
// Holes are known by blocks of this many bytes.
constexpr uint64_t kHoleBlock = 65536;
// Blocks that one piece of a DISCARD or WRITE_ZEROES looks at, and clears, and that a BLOCK_STATUS
// looks at: some ten microseconds.
constexpr uint64_t kHolesAtOnce = 8192;
constexpr uint64_t kBlocksAtOnce = 4;
// Bytes of address space to grow into: replies go out from the volume itself, so that it cannot
// move.
constexpr uint64_t kRoomLeast = uint64_t{16} << 30;

class Memory final : public Backend {
 public:
  // Takes over a fresh private mapping of `reserved` bytes, of which the first `size` are
  // accessible.
  Memory(uint8_t* base, uint64_t reserved, uint64_t size, const Geometry& geometry)
      : base_(base), reserved_(reserved), accessible_(size), written_(HoleBlocks(size)) {
    size_ = size;
    geometry_ = geometry;
    uuid_ = RandomUuid();
    generation_ = Random64();
  }
  ~Memory() override { munmap(base_, reserved_); }

  Result<std::unique_ptr<BackendQueue>> Attach(LoopContext& context) override {
    return PlainQueue<Memory>::New(this, context);
  }
  bool Submit(LoopContext& context, IoOp* op) {
    if (!op->ranges.empty()) {
      context.DoPieceByPiece(
          [this, op, place = Place{}]() mutable { return RunPiece(op, &place); });
      return false;
    }
    op->result = Run(context, op);
    return true;
  }

  Status Resize(uint64_t size) override;
  Status StoreOwner(const std::string& text, bool /*lasting*/) override {
    owner_ = text;
    return Status::Ok();
  }
  Result<std::string> LoadOwner() override { return owner_; }

 private:
  // How far an operation on ranges has come.
  struct Place {
    size_t range = 0;
    uint64_t done = 0;  // bytes of that range
  };

  // Does some of an operation on ranges. True: it is done, and its sink was told.
  bool RunPiece(IoOp* op, Place* place);
  // Deallocates some of the bytes from `offset` to `end`; returns the end of what is done.
  Result<uint64_t> DeallocatePiece(uint64_t offset, uint64_t end);
  static uint64_t HoleBlocks(uint64_t size) { return (size + kHoleBlock - 1) / kHoleBlock; }
  int Run(LoopContext& context, IoOp* op);
  bool IsHole(uint64_t offset, uint64_t length) const;
  void FindExtents(IoOp* op) const;
  void MarkWritten(uint64_t offset, uint64_t length);
  int Deallocate(uint64_t offset, uint64_t length);

  uint8_t* const base_;
  const uint64_t reserved_;
  uint64_t accessible_;  // bytes; replies may be on their way from what was cut off
  std::string owner_;
  // Shared by all loops: whether a block may hold anything but zeros.
  std::vector<std::atomic<bool>> written_;
};

int Memory::Run(LoopContext& context, IoOp* op) {
  switch (op->kind) {
    case Operation::kRead:
      if (op->hole_allowed && IsHole(op->offset, op->length)) {
        op->hole = true;
        return 0;
      }
      if (!op->stable_data) {
        // The reply goes out from the volume itself. What another request writes meanwhile may show
        // in it, which is as good an order of the two as any.
        op->data = base_ + op->offset;
        return 0;
      }
      op->buffer = context.buffers().Get(op->length);
      if (op->buffer.data == nullptr) return -ENOMEM;
      memcpy(op->buffer.data, base_ + op->offset, op->length);
      op->data = op->buffer.data;
      return 0;
    case Operation::kWrite:
      memcpy(base_ + op->offset, op->buffer.data, op->length);
      // In this order: what a DISCARD on another loop takes for a hole meanwhile shows as written
      // by the time that this is answered.
      MarkWritten(op->offset, op->length);
      return 0;
    case Operation::kBlockStatus:
      FindExtents(op);
      return 0;
    case Operation::kFlush:
    case Operation::kDiscard:      // of no range
    case Operation::kWriteZeroes:  // of no range
      return 0;
  }
  return -EINVAL;
}

bool Memory::IsHole(uint64_t offset, uint64_t length) const {
  for (uint64_t block = offset / kHoleBlock; block <= (offset + length - 1) / kHoleBlock; ++block) {
    if (written_[block].load(std::memory_order_acquire)) return false;
  }
  return true;
}

void Memory::FindExtents(IoOp* op) const {
  ExtentWriter writer(op, geometry_.logical_block_size);
  uint64_t block = op->offset / kHoleBlock;
  const uint64_t last = std::min(HoleBlocks(writer.end()), block + kHolesAtOnce);
  bool more = true;
  while (more && block < last) {
    const bool written = written_[block].load(std::memory_order_acquire);
    do ++block;
    while (block < last && written_[block].load(std::memory_order_acquire) == written);
    const uint64_t to = block * kHoleBlock;
    more = written ? writer.AddData(to) : writer.Add(to, true, true);
  }
}

void Memory::MarkWritten(uint64_t offset, uint64_t length) {
  for (uint64_t block = offset / kHoleBlock; block <= (offset + length - 1) / kHoleBlock; ++block) {
    if (!written_[block].load(std::memory_order_relaxed)) {
      written_[block].store(true, std::memory_order_release);
    }
  }
}

bool Memory::RunPiece(IoOp* op, Place* place) {
  op->result = 0;
  // Ranges of nothing are done in no time, but there may be many operations of them.
  if (place->range != op->ranges.size() && !op->given_up()) {
    const Range& range = op->ranges[place->range];
    const uint64_t end = range.offset + range.length;
    Result<uint64_t> done = DeallocatePiece(range.offset + place->done, end);
    if (done.ok()) {
      place->done = *done - range.offset;
      if (*done == end) *place = {place->range + 1, 0};
      if (place->range != op->ranges.size()) return false;
    } else {
      op->result = -done.status().error();
    }
  }
  op->sink->OnIoDone(op);
  return true;
}

Result<uint64_t> Memory::DeallocatePiece(uint64_t offset, uint64_t end) {
  // Holes are nothing to do, however many there are; and what was written goes a piece at a time,
  // as the host takes its pages one by one.
  const uint64_t last = (end + kHoleBlock - 1) / kHoleBlock;
  uint64_t block = offset / kHoleBlock;
  const uint64_t look_to = std::min(last, block + kHolesAtOnce);
  while (block < look_to && !written_[block].load(std::memory_order_acquire)) ++block;
  if (block == last) return end;
  if (block == look_to) return block * kHoleBlock;
  const uint64_t from = std::max(offset, block * kHoleBlock);
  const uint64_t stop = std::min(last, block + kBlocksAtOnce);
  for (; block < stop; ++block) {
    // Not where there may be something beside the range.
    if (block * kHoleBlock >= offset && (block + 1) * kHoleBlock <= end) {
      written_[block].store(false, std::memory_order_release);
    }
  }
  const uint64_t to = std::min(end, stop * kHoleBlock);
  const int error = Deallocate(from, to - from);
  if (error != 0) return Status(-error, "madvise");
  return to;
}

// Zeros, and the whole pages among them go back to the host.
int Memory::Deallocate(uint64_t offset, uint64_t length) {
  const uint64_t end = offset + length;
  const uint64_t first_page = std::min((offset + kPage - 1) / kPage * kPage, end);
  const uint64_t last_page = std::max(end / kPage * kPage, first_page);
  memset(base_ + offset, 0, first_page - offset);
  if (last_page > first_page &&
      madvise(base_ + first_page, last_page - first_page, MADV_DONTNEED) != 0) {
    return -errno;
  }
  memset(base_ + last_page, 0, end - last_page);
  return 0;
}

Status Memory::Resize(uint64_t size) {
  if (size > reserved_) {
    return Status(EOPNOTSUPP, fmt::format("in memory it can grow to {} bytes while the proxy runs; "
                                          "for more, start the proxy with a larger size=",
                                          reserved_));
  }
  if (size > accessible_) {
    if (mprotect(base_, size, PROT_READ | PROT_WRITE) != 0) {
      return Status(errno,
                    fmt::format("cannot reserve {} bytes of memory: {}", size, strerror(errno)));
    }
    accessible_ = size;
  }
  const uint64_t old = this->size();
  if (size < old) {
    const int error = Deallocate(size, old - size);
    if (error != 0) {
      return Status(-error, fmt::format("cannot free memory: {}", strerror(-error)));
    }
  }
  std::vector<std::atomic<bool>> written(HoleBlocks(size));
  for (size_t i = 0; i < std::min(written.size(), written_.size()); ++i) {
    written[i] = written_[i].load();
  }
  written_.swap(written);
  size_ = size;
  return Status::Ok();
}

}  // namespace

Result<std::unique_ptr<Backend>> OpenMemory(const std::string& volume, BackendUri uri) {
  Result<std::optional<uint64_t>> size = uri.TakeSize("size");
  if (!size.ok()) return size.status();
  Geometry geometry;
  Result<uint32_t> block = uri.TakeBlockSize(geometry.logical_block_size);
  if (!block.ok()) return block.status();
  geometry.logical_block_size = *block;
  const Status status = uri.CheckAllTaken();
  if (!status.ok()) return status;
  const auto bad = [&](const std::string& what) {
    return Status(EINVAL,
                  fmt::format("volume '{}': backend URI '{}': {}", volume, uri.text(), what));
  };
  if (!uri.path().empty()) return bad("memory: takes no path; write memory:?size=1G");
  if (!*size) return bad("size= is missing; write for example memory:?size=1G");
  geometry.physical_block_size = std::max<uint32_t>(kPage, geometry.logical_block_size);
  geometry.discard_granularity = kPage;
  if (**size == 0 || **size % geometry.logical_block_size != 0) {
    return bad(
        fmt::format("size must be a multiple of {} bytes and not 0", geometry.logical_block_size));
  }
  const uint64_t reserved = **size + std::max(**size, kRoomLeast);
  void* base =
      mmap(nullptr, reserved, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (base == MAP_FAILED || mprotect(base, **size, PROT_READ | PROT_WRITE) != 0) {
    const int error = errno;
    if (base != MAP_FAILED) munmap(base, reserved);
    return Status(error, fmt::format("volume '{}': cannot reserve {} bytes of memory: {}", volume,
                                     **size, strerror(error)));
  }
  return std::unique_ptr<Backend>(
      std::make_unique<Memory>(static_cast<uint8_t*>(base), reserved, **size, geometry));
}

}  // namespace cloudblk::proxy
