// SPDX-License-Identifier: GPL-2.0-or-later
#include "proxy/buffer_pool.h"

#include <algorithm>
#include <bit>
#include <cassert>
#include <cstdlib>

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
  assert(handed_out_ == 0);
  Trim();
}

Buffer BufferPool::Get(uint32_t length) {
  assert(length > 0 && length <= kLargest);
  const int size_class = ClassOf(length);
  const uint32_t capacity = kAlignment << size_class;
  ++gets_;
  std::vector<uint8_t*>& free = free_[size_class];
  uint8_t* data;
  if (!free.empty()) {
    // The one that was used last is the one that is still in the cache.
    data = free.back();
    free.pop_back();
    kept_ -= capacity;
  } else {
    // What is kept in other sizes would come on top of the limit.
    if (limits_ != nullptr && kept_ != 0 && limits_->left() < Cost(capacity)) Trim();
    data = static_cast<uint8_t*>(std::aligned_alloc(kAlignment, capacity));
    if (data == nullptr) return {};
    if (limits_ != nullptr) limits_->Take(Cost(capacity));
  }
  handed_out_ += capacity;
  return {data, capacity};
}

void BufferPool::Put(Buffer* buffer) {
  if (buffer->data == nullptr) return;
  assert(handed_out_ >= buffer->capacity);
  handed_out_ -= buffer->capacity;
  if (kept_ + buffer->capacity > max_kept_) {
    Free(buffer->data, buffer->capacity);
  } else {
    free_[ClassOf(buffer->capacity)].push_back(buffer->data);
    kept_ += buffer->capacity;
  }
  *buffer = {};
}

void BufferPool::Free(uint8_t* data, uint32_t capacity) {
  std::free(data);
  if (limits_ != nullptr) limits_->GiveBack(Cost(capacity));
}

void BufferPool::Trim() {
  for (int size_class = 0; size_class < kClasses; ++size_class) {
    std::vector<uint8_t*>& free = free_[size_class];
    for (uint8_t* data : free) Free(data, kAlignment << size_class);
    free.clear();
    free.shrink_to_fit();
  }
  kept_ = 0;
}

}  // namespace cloudblk::proxy
