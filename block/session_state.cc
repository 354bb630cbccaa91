// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/session_state.h"

namespace cloudblk {

void SessionState::SetVolume(const VolumeInfo& volume) {
  volume_ = volume;
  has_volume_ = true;
  size_ = volume.size;
  generation_ = volume.generation;
}

bool SessionState::SetGeneration(uint64_t generation) {
  const std::lock_guard lock(loss_mutex_);
  if (generation_.exchange(generation) == generation) return false;
  if (written_.load() == flushed_.load()) return false;
  NoteLoss();
  return true;
}

void SessionState::NoteWrite(uint64_t generation) {
  written_.fetch_add(1);
  if (generation_.load() == generation) return;
  const std::lock_guard lock(loss_mutex_);
  NoteLoss();
}

void SessionState::NoteLoss() {
  lost_mark_ = written_.load();
  losses_.fetch_add(1);
}

bool SessionState::FlushFails(const Since& since) {
  if (!LostSince(since)) return false;
  const std::lock_guard lock(loss_mutex_);
  if (since.mark >= lost_mark_) told_ = losses_.load();
  return true;
}

void SessionState::NoteFlush(uint64_t mark) {
  uint64_t flushed = flushed_.load();
  while (flushed < mark && !flushed_.compare_exchange_weak(flushed, mark)) {
  }
}

}  // namespace cloudblk
