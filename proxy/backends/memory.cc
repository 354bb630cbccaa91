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
#include "proxy/loop_context.h"

namespace cloudblk::proxy {
namespace {

constexpr uint64_t kPage = 4096;
// Holes are known by blocks of this many bytes.
constexpr uint64_t kHoleBlock = 65536;
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
    op->result = Run(context, op);
    return true;
  }

  Status Resize(uint64_t size) override;
  Status StoreOwner(const std::string& text) override {
    owner_ = text;
    return Status::Ok();
  }
  Result<std::string> LoadOwner() override { return owner_; }

 private:
  static uint64_t HoleBlocks(uint64_t size) { return (size + kHoleBlock - 1) / kHoleBlock; }
  int Run(LoopContext& context, IoOp* op);
  bool IsHole(uint64_t offset, uint64_t length) const;
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
      MarkWritten(op->offset, op->length);
      memcpy(base_ + op->offset, op->buffer.data, op->length);
      return 0;
    case Operation::kFlush:
      return 0;
    case Operation::kDiscard:
    case Operation::kWriteZeroes:
      for (const Range& range : op->ranges) {
        const int error = Deallocate(range.offset, range.length);
        if (error != 0) return error;
      }
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

void Memory::MarkWritten(uint64_t offset, uint64_t length) {
  for (uint64_t block = offset / kHoleBlock; block <= (offset + length - 1) / kHoleBlock; ++block) {
    if (!written_[block].load(std::memory_order_relaxed)) {
      written_[block].store(true, std::memory_order_release);
    }
  }
}

// Zeros, and the whole pages among them go back to the host. A block stays marked as written: a
// write beside the range may be under way on another loop.
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
