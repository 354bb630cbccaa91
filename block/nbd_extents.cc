// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/nbd_extents.h"

#include <algorithm>
#include <cassert>

namespace cloudblk {
namespace {

constexpr uint64_t kMostAsked = uint64_t{1} << 30;
// Of one answer: so many are asked for at a time by all who ask.
constexpr size_t kMostExtents = 256;

static_assert(CLOUDBLK_EXTENT_HOLE == nbd::StateFlag::kHole);
static_assert(CLOUDBLK_EXTENT_ZERO == nbd::StateFlag::kZero);
constexpr uint32_t kKnownFlags = nbd::StateFlag::kHole | nbd::StateFlag::kZero;

}  // namespace

uint32_t NbdExtents::AskedBy(const Piece& piece) {
  return static_cast<uint32_t>(std::min(piece.request->ranges.front().length, kMostAsked));
}

void NbdExtents::Begin(const Piece& piece, uint32_t block_size) {
  asked_ = AskedBy(piece);
  told_ = 0;
  length_ = piece.request->ranges.front().length;
  block_ = block_size;
  room_ = std::min<uint64_t>(piece.max_extents(), kMostExtents);
  kept_ = 0;
  full_ = false;
  extents_.clear();
}

bool NbdExtents::Add(const nbd::Descriptor& descriptor) {
  // Only the last one may reach beyond what was asked about.
  if (descriptor.length == 0 || told_ >= asked_) return false;
  const uint32_t flags = descriptor.flags & kKnownFlags;
  const bool begun = told_ > kept_;  // a block
  told_ += descriptor.length;
  const uint64_t end = std::min(told_, length_);
  if (begun) {
    flags_ &= flags;
    if (end < kept_ + block_) return true;
    Keep(kept_ + block_, flags_);
  }
  Keep(end - end % block_, flags);
  flags_ = flags;
  return true;
}

void NbdExtents::Keep(uint64_t to, uint32_t flags) {
  const uint64_t length = to - kept_;
  kept_ = to;
  if (length == 0 || full_) return;
  if (!extents_.empty() && extents_.back().flags == flags) {
    extents_.back().length += length;
  } else if (extents_.size() == room_) {
    full_ = true;
  } else {
    extents_.push_back({length, flags, 0});
  }
}

std::span<const CloudblkExtent> NbdExtents::Finish() {
  assert(told_ > 0);
  // Less than a block: the rest of it may be anything.
  if (extents_.empty()) extents_.push_back({block_, 0, 0});
  return extents_;
}

}  // namespace cloudblk
