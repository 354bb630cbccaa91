// SPDX-License-Identifier: GPL-2.0-or-later
//
// Content that says where and when it was written, so that a read can tell a lost, late or
// misplaced write from the right one.
#ifndef CLOUDBLK_TOOLS_STAMPS_H_
#define CLOUDBLK_TOOLS_STAMPS_H_

#include <cstdint>
#include <span>
#include <vector>

namespace cloudblk {

// The expected content of `slots` pieces of a volume, all of one size. A slot that was never
// written is not checked.
class Stamps {
 public:
  // seed: tells one run's content from another's.
  Stamps(uint64_t slots, uint64_t seed) : versions_(slots), seed_(seed) {}

  // Fills `data` with the next version of `slot`. Its size is a multiple of 8.
  void FillNext(uint64_t slot, std::span<uint8_t> data);
  // Whether `data` is the present version.
  bool Check(uint64_t slot, std::span<const uint8_t> data) const;
  bool Written(uint64_t slot) const { return versions_[slot] != 0; }

 private:
  uint64_t Start(uint64_t slot) const;

  std::vector<uint32_t> versions_;
  const uint64_t seed_;
};

}  // namespace cloudblk

#endif  // CLOUDBLK_TOOLS_STAMPS_H_
