// SPDX-License-Identifier: GPL-2.0-or-later
#include "tests/bench/guest_memory.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cassert>
#include <cerrno>
#include <cstring>

namespace cloudblk::bench {

Result<std::unique_ptr<GuestMemory>> GuestMemory::Map(const std::string& path) {
  const int fd = open(path.c_str(), O_RDWR | O_CLOEXEC);
  struct stat status{};
  if (fd < 0 || fstat(fd, &status) < 0) {
    return Status(errno,
                  fmt::format("cannot open the machine's memory {}: {}", path, strerror(errno)));
  }
  const auto size = static_cast<uint64_t>(status.st_size);
  void* base = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, 0);
  const int error = errno;
  close(fd);
  if (base == MAP_FAILED) {
    return Status(error, fmt::format("cannot map {}: {}", path, strerror(error)));
  }
  return std::unique_ptr<GuestMemory>(new GuestMemory(static_cast<uint8_t*>(base), size));
}

GuestMemory::~GuestMemory() { munmap(base_, size_); }

uint64_t GuestMemory::Allocate(uint64_t size, uint64_t align) {
  const uint64_t address = (used_ + align - 1) / align * align;
  assert(address + size <= size_);
  used_ = address + size;
  memset(base_ + address, 0, size);
  return address;
}

}  // namespace cloudblk::bench
