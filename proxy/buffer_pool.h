// SPDX-License-Identifier: GPL-2.0-or-later
//
// Aligned I/O buffers of one loop thread, in power-of-two sizes.
#ifndef CLOUDBLK_PROXY_BUFFER_POOL_H_
#define CLOUDBLK_PROXY_BUFFER_POOL_H_

#include <array>
#include <cstddef>
#include <cstdint>

#include "proxy/limits.h"

namespace cloudblk::proxy {

struct Buffer {
  uint8_t* data = nullptr;
  uint32_t capacity = 0;  // bytes; 0: there is no buffer
};

// Not thread-safe. What it has of the host is counted in Limits, where nothing is refused: whoever
// may do without asks left() first. What is kept for reuse is bounded, and freed when the loop has
// been idle (Trim).
class BufferPool {
 public:
  static constexpr uint32_t kAlignment = 4096;
  static constexpr uint32_t kLargest = 4u << 20;
  static constexpr size_t kMaxKept = 32u << 20;  // bytes

  // `limits`, if there are any, outlive the object.
  explicit BufferPool(Limits* limits = nullptr);
  BufferPool(const BufferPool&) = delete;
  BufferPool& operator=(const BufferPool&) = delete;
  ~BufferPool();

  // At least `length` bytes, aligned to kAlignment; data is null if the host is out of memory.
  // Precondition: 0 < length <= kLargest.
  Buffer Get(uint32_t length);
  // Counts `length` bytes like those of Get, for memory that another will have. No data.
  Buffer Count(uint32_t length);
  // Takes it back and clears it; an empty buffer is ignored.
  void Put(Buffer* buffer) {
    if (buffer->capacity != 0) PutSome(buffer);
  }

  // Clears it; it does not come back. Whoever has its data calls free() for that, on any thread.
  void GiveAway(Buffer* buffer);

  // Frees everything that is kept.
  void Trim();

  // Bytes that it can hand out before the limit is reached.
  uint64_t left() const { return limits_ == nullptr ? ~uint64_t{0} : limits_->left() + kept_; }

  size_t kept() const { return kept_; }                 // bytes
  size_t handed_out() const { return taken_ - kept_; }  // bytes
  uint64_t gets() const { return gets_; }               // calls of Get so far

 private:
  static constexpr int kClasses = 11;  // 4 KiB .. 4 MiB

  // What a buffer costs: the allocator has a page beside it that is used.
  static size_t Cost(uint32_t capacity) { return size_t{capacity} + kAlignment; }
  Buffer Take(uint32_t capacity);
  void PutSome(Buffer* buffer);
  void Free(uint8_t* data, uint32_t capacity);
  void Forget(uint32_t capacity);

  Limits* const limits_;
  const size_t max_kept_;
  // What is kept of each size: the first of a list, of which each begins with where the next is.
  std::array<uint8_t*, kClasses> free_{};
  size_t kept_ = 0;
  size_t taken_ = 0;  // of the host, bytes; with what is kept
  uint64_t gets_ = 0;
};

}  // namespace cloudblk::proxy

#endif  // CLOUDBLK_PROXY_BUFFER_POOL_H_
