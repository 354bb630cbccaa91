// SPDX-License-Identifier: GPL-2.0-or-later
//
// A machine's memory as the benchmark sees it: the file behind QEMU's memory-backend-file.
#ifndef CLOUDBLK_TESTS_BENCH_GUEST_MEMORY_H_
#define CLOUDBLK_TESTS_BENCH_GUEST_MEMORY_H_

#include <cstdint>
#include <memory>
#include <string>

#include "base/status.h"

namespace cloudblk::bench {

class GuestMemory {
 public:
  // Maps all of `path`, which QEMU has to use with share=on as memory from address 0.
  static Result<std::unique_ptr<GuestMemory>> Map(const std::string& path);
  ~GuestMemory();
  GuestMemory(const GuestMemory&) = delete;
  GuestMemory& operator=(const GuestMemory&) = delete;

  // Guest-physical address of fresh memory. What is left must be enough: see Left().
  uint64_t Allocate(uint64_t size, uint64_t align);
  uint64_t Left() const { return size_ - used_; }

  template <typename T>
  T* At(uint64_t address) const {
    return reinterpret_cast<T*>(base_ + address);
  }

 private:
  GuestMemory(uint8_t* base, uint64_t size) : base_(base), size_(size) {}

  uint8_t* const base_;
  const uint64_t size_;
  uint64_t used_ = 1 << 20;  // below are the holes and ROMs of a PC
};

}  // namespace cloudblk::bench

#endif  // CLOUDBLK_TESTS_BENCH_GUEST_MEMORY_H_
