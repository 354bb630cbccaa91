// SPDX-License-Identifier: GPL-2.0-or-later
//
// The answer to a BLOCK_STATUS, from NBD's descriptors to the engine's extents.
#ifndef CLOUDBLK_BLOCK_NBD_EXTENTS_H_
#define CLOUDBLK_BLOCK_NBD_EXTENTS_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "block/include/cloudblk.h"
#include "block/request.h"
#include "proxy-protocol/nbd/nbd.h"

namespace cloudblk {

// Takes the descriptors as they come, so that a long list need not be kept. Extents begin and end
// at multiples of the block size: a block of several descriptors is what all of them are.
class NbdExtents {
 public:
  // Bytes that one request asks about. The server may tell of each block, and what there is no
  // room for is asked again.
  static uint32_t AskedBy(const Piece& piece);

  // An answer begins. `block_size`: bytes, which the range of the piece is a multiple of.
  void Begin(const Piece& piece, uint32_t block_size);
  // False: the server may not say that.
  bool Add(const nbd::Descriptor& descriptor);
  // All was added. What there is room for, from the range's start on; at least one.
  std::span<const CloudblkExtent> Finish();

 private:
  void Keep(uint64_t to, uint32_t flags);

  uint64_t asked_ = 0;   // bytes
  uint64_t told_ = 0;    // bytes that the server has told of
  uint64_t length_ = 0;  // of the range, bytes
  uint64_t block_ = 1;   // bytes
  size_t room_ = 0;      // extents
  uint64_t kept_ = 0;    // where the last whole block that was told of ends
  uint32_t flags_ = 0;   // of what was told of the block behind it
  bool full_ = false;
  std::vector<CloudblkExtent> extents_;
};

}  // namespace cloudblk

#endif  // CLOUDBLK_BLOCK_NBD_EXTENTS_H_
