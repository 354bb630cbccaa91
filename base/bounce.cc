// SPDX-License-Identifier: GPL-2.0-or-later
#include "base/bounce.h"

#include <limits.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 8u
#endif

namespace cloudblk {
namespace {

// Bytes of the file behind the buffer. They are a hole, which is read as zeros and takes no memory.
constexpr size_t kZeros = 256 << 10;
// No page is smaller.
constexpr uintptr_t kPage = 4096;

// Its pages come as they are used, like any memory of the process.
UniqueFd MakeFile(size_t size) {
  UniqueFd file(memfd_create("cloudblk", MFD_CLOEXEC | MFD_NOEXEC_SEAL));
  // Kernels before 6.3 do not know the flag, some later ones are told to insist on it.
  if (!file) file = UniqueFd(memfd_create("cloudblk", MFD_CLOEXEC));
  if (!file || ftruncate(file.get(), static_cast<off_t>(size + kZeros)) != 0) {
    return UniqueFd();
  }
  return file;
}

// Moves all bytes by `move`, which says how many it moved of those from an element on, or -1.
template <typename Move>
size_t MoveAll(std::span<iovec> elements, Move&& move) {
  size_t next = 0;
  while (next < elements.size()) {
    const size_t count = std::min<size_t>(elements.size() - next, IOV_MAX);
    ssize_t n = move(&elements[next], static_cast<int>(count));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) break;
    for (; n > 0; ++next) {
      iovec& element = elements[next];
      if (static_cast<size_t>(n) < element.iov_len) {
        element.iov_base = static_cast<uint8_t*>(element.iov_base) + n;
        element.iov_len -= static_cast<size_t>(n);
        break;
      }
      n -= static_cast<ssize_t>(element.iov_len);
    }
  }
  return next;
}

}  // namespace

Bounce::Bounce(size_t size) : size_(size), file_(MakeFile(size)) {
  void* mapped = MAP_FAILED;
  if (file_) {
    mapped = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, file_.get(), 0);
  }
  if (mapped == MAP_FAILED) {
    file_ = UniqueFd();
    memory_ = std::make_unique_for_overwrite<uint8_t[]>(size);
  }
  data_ = memory_ ? memory_.get() : static_cast<uint8_t*>(mapped);
}

Bounce::~Bounce() {
  if (!memory_) munmap(data_, size_);
}

size_t Bounce::Store(size_t at, std::span<iovec> to) const {
  return MoveAll(to, [&](const iovec* elements, int count) -> ssize_t {
    ssize_t n;
    if (file_) {
      n = preadv(file_.get(), elements, count, static_cast<off_t>(at));
    } else {
      std::memmove(elements->iov_base, data_ + at, elements->iov_len);
      n = static_cast<ssize_t>(elements->iov_len);
    }
    if (n > 0) at += static_cast<size_t>(n);
    return n;
  });
}

bool Bounce::StoreAll(size_t at, size_t end, std::span<const iovec> to) const {
  return to.size() <= IOV_MAX && preadv(file_.get(), to.data(), static_cast<int>(to.size()),
                                        static_cast<off_t>(at)) == static_cast<ssize_t>(end - at);
}

size_t Bounce::Fetch(size_t at, std::span<iovec> from) {
  return MoveAll(from, [&](const iovec* elements, int count) -> ssize_t {
    ssize_t n;
    if (file_) {
      n = pwritev(file_.get(), elements, count, static_cast<off_t>(at));
    } else {
      std::memmove(data_ + at, elements->iov_base, elements->iov_len);
      n = static_cast<ssize_t>(elements->iov_len);
    }
    if (n > 0) at += static_cast<size_t>(n);
    return n;
  });
}

size_t Bounce::Zero(std::span<iovec> to) const {
  return MoveAll(to, [&](const iovec* elements, int count) -> ssize_t {
    if (file_) return preadv(file_.get(), elements, count, static_cast<off_t>(size_));
    std::memset(elements->iov_base, 0, elements->iov_len);
    return static_cast<ssize_t>(elements->iov_len);
  });
}

bool Bounce::CanFetch(std::span<const iovec> from) {
  if (!file_) return true;
  // A byte of each page.
  std::array<iovec, IOV_MAX> bytes;
  size_t count = 0;
  for (const iovec& element : from) {
    auto* at = static_cast<uint8_t*>(element.iov_base);
    uint8_t* const end = at + element.iov_len;
    while (at < end) {
      bytes[count++] = {at, 1};
      if (count == bytes.size()) {
        if (Fetch(0, bytes) < count) return false;
        count = 0;
      }
      const size_t left_of_page = kPage - reinterpret_cast<uintptr_t>(at) % kPage;
      at += std::min<size_t>(left_of_page, static_cast<size_t>(end - at));
    }
  }
  return Fetch(0, std::span(bytes).first(count)) == count;
}

}  // namespace cloudblk
