// SPDX-License-Identifier: GPL-2.0-or-later
#include "proxy/buffer_pool.h"

#include <algorithm>
#include <bit>
#include <cassert>
#include <cstdlib>
#include <cstring>

namespace cloudblk::proxy {
namespace {

int ClassOf(uint32_t length) {
  const uint32_t pages = (length + BufferPool::kAlignment - 1) / BufferPool::kAlignment;
  return std::bit_width(pages - 1);
}

}  // namespace

BufferPool::BufferPool(Limits* limits)
    : limits_(limits),
      max_kept_(limits == nullptr ? kMaxKept : std::min(kMaxKept, limits->max_kept())) {}

BufferPool::~BufferPool() {
  assert(handed_out() == 0);
  Trim();
}

Buffer BufferPool::Get(uint32_t length) {
  assert(length > 0 && length <= kLargest);
  const int size_class = ClassOf(length);
  const uint32_t capacity = kAlignment << size_class;
  ++gets_;
  // The one that was used last is the one that is still in the cache.
  uint8_t* const kept = free_[size_class];
  if (kept == nullptr) return Take(capacity);
  memcpy(static_cast<void*>(&free_[size_class]), kept, sizeof(kept));
  kept_ -= capacity;
  return {kept, capacity};
}

Buffer BufferPool::Count(uint32_t length) {
  assert(length > 0 && length <= kLargest);
  if (limits_ != nullptr) limits_->Take(Cost(length));
  taken_ += length;
  return {nullptr, length};
}

Buffer BufferPool::Take(uint32_t capacity) {
  // What is kept in other sizes would come on top of the limit.
  if (limits_ != nullptr && kept_ != 0 && limits_->left() < Cost(capacity)) Trim();
  auto* data = static_cast<uint8_t*>(std::aligned_alloc(kAlignment, capacity));
  if (data == nullptr) return {};
  if (limits_ != nullptr) limits_->Take(Cost(capacity));
  taken_ += capacity;
  return {data, capacity};
}

void BufferPool::PutSome(Buffer* buffer) {
  const uint32_t capacity = buffer->capacity;
  assert(handed_out() >= capacity);
  if (buffer->data == nullptr) {
    Forget(capacity);
  } else if (kept_ + capacity > max_kept_) {
    Free(buffer->data, capacity);
  } else {
    uint8_t*& first = free_[ClassOf(capacity)];
    memcpy(buffer->data, static_cast<const void*>(&first), sizeof(first));
    first = buffer->data;
    kept_ += capacity;
  }
  *buffer = {};
}

void BufferPool::Free(uint8_t* data, uint32_t capacity) {
  std::free(data);
  Forget(capacity);
}

void BufferPool::GiveAway(Buffer* buffer) {
  if (buffer->capacity != 0) Forget(buffer->capacity);
  *buffer = {};
}

void BufferPool::Forget(uint32_t capacity) {
  taken_ -= capacity;
  if (limits_ != nullptr) limits_->GiveBack(Cost(capacity));
}

void BufferPool::Trim() {
  for (int size_class = 0; size_class < kClasses; ++size_class) {
    const uint32_t capacity = kAlignment << size_class;
    while (uint8_t* const data = free_[size_class]) {
      memcpy(static_cast<void*>(&free_[size_class]), data, sizeof(data));
      kept_ -= capacity;
      Free(data, capacity);
    }
  }
}

}  // namespace cloudblk::proxy
