// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/outbox.h"

#include <limits.h>

#include <algorithm>
#include <cassert>
#include <cerrno>

namespace cloudblk {

void Outbox::SetRoom(size_t bytes) {
  assert(empty());
  if (memory_ != nullptr && bytes == memory_->size()) return;
  memory_ = std::make_unique<Bounce>(bytes);
  used_ = 0;
}

uint8_t* Outbox::Reserve(size_t bytes) {
  assert(bytes <= free());
  uint8_t* memory = memory_->data() + used_;
  used_ += bytes;
  return memory;
}

void Outbox::Append(const void* data, size_t bytes) {
  assert(bytes > 0);
  appended_ += bytes;
  uint8_t* start = static_cast<uint8_t*>(const_cast<void*>(data));
  if (!empty()) {
    iovec& last = elements_.back();
    if (static_cast<uint8_t*>(last.iov_base) + last.iov_len == start) {
      last.iov_len += bytes;
      return;
    }
  }
  elements_.push_back({start, bytes});
}

void Outbox::Append(SgCursor list, uint64_t bytes) {
  while (bytes > 0) {
    const iovec element = list.Take(bytes);
    if (element.iov_len > 0) Append(element.iov_base, element.iov_len);
    bytes -= element.iov_len;
  }
}

int Outbox::Send(Transport* transport, uint64_t* calls) {
  while (!empty()) {
    const int count = static_cast<int>(std::min<size_t>(elements(), IOV_MAX));
    ssize_t n = transport->Writev(&elements_[next_], count);
    ++*calls;
    if (n < 0) return static_cast<int>(n);
    sent_ += n;
    while (n > 0) {
      iovec& element = elements_[next_];
      const size_t sent = std::min<size_t>(n, element.iov_len);
      element.iov_base = static_cast<uint8_t*>(element.iov_base) + sent;
      element.iov_len -= sent;
      n -= sent;
      if (element.iov_len == 0) ++next_;
    }
  }
  Clear();
  return 0;
}

void Outbox::Clear() {
  sent_ = appended_;
  elements_.clear();
  next_ = 0;
  used_ = 0;
}

}  // namespace cloudblk
