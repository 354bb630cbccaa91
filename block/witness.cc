// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/witness.h"

#include <algorithm>
#include <functional>
#include <string_view>

namespace cloudblk {

uint64_t Witness::DigestOf(std::span<const uint8_t> data) {
  const bool zero = std::ranges::all_of(data, [](uint8_t byte) { return byte == 0; });
  if (zero) return kNoDigest;
  const std::string_view text(reinterpret_cast<const char*>(data.data()), data.size());
  return std::max<uint64_t>(std::hash<std::string_view>()(text), kNoDigest + 1);
}

void Witness::NoteWritten(uint32_t channel, uint64_t begin, uint64_t end) {
  Channel& mine = channel_[channel];
  mine.written_length = static_cast<uint32_t>(std::min<uint64_t>(end - begin, kMostLength));
  mine.written = begin;
}

bool Witness::Offer(uint32_t channel) {
  Channel& mine = channel_[channel];
  const uint64_t begin = mine.written.load();
  if (begin == kNowhere) return false;
  mine.flushed = false;
  mine.offered_length = mine.written_length;
  mine.offered = begin;
  if (mine.written.exchange(kNowhere) == begin) return true;
  mine.offered = kNowhere;
  return false;
}

void Witness::NoteFlushed(uint32_t channel, bool done) {
  channel_[channel].flushed = done;
  if (!done) channel_[channel].offered = kNowhere;
}

std::optional<KnownBlock> Witness::Choose(uint32_t channel) {
  Channel& mine = channel_[channel];
  if (!mine.flushed || at_.load() != kNowhere) return std::nullopt;
  const std::lock_guard lock(mutex_);
  const uint64_t begin = mine.offered.load();
  if (begin == kNowhere || at_.load() != kNowhere) return std::nullopt;
  at_ = begin;
  mine.flushed = false;
  if (mine.offered.exchange(kNowhere) != begin) {
    at_ = kNowhere;
    return std::nullopt;
  }
  reading_ = true;
  reader_ = channel;
  block_ = {.offset = begin, .length = mine.offered_length};
  return block_;
}

void Witness::Take(uint32_t channel, const KnownBlock& block) {
  const std::lock_guard lock(mutex_);
  if (!reading_ || reader_ != channel || block.offset != block_.offset ||
      block.length != block_.length)
    return;
  reading_ = false;
  block_ = block;
  if (block.digest == kNoDigest) at_ = kNowhere;
}

void Witness::GiveUp(uint32_t channel) {
  const std::lock_guard lock(mutex_);
  if (!reading_ || reader_ != channel) return;
  reading_ = false;
  at_ = kNowhere;
}

std::optional<KnownBlock> Witness::known() const {
  const std::lock_guard lock(mutex_);
  if (reading_ || at_.load() == kNowhere) return std::nullopt;
  return block_;
}

void Witness::Forget() {
  const std::lock_guard lock(mutex_);
  reading_ = false;
  at_ = kNowhere;
}

}  // namespace cloudblk
