// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/session_state.h"

namespace cloudblk {

void SessionState::SetVolume(const VolumeInfo& volume, const Capabilities& promises) {
  volume_ = volume;
  promises_ = promises;
  has_volume_ = true;
  size_ = volume.size;
  generation_ = volume.generation;
}

bool SessionState::SetGeneration(uint64_t generation) {
  const std::lock_guard lock(loss_mutex_);
  return ChangeGeneration(generation);
}

bool SessionState::ChangeGeneration(uint64_t generation) {
  if (generation_.exchange(generation) == generation) return false;
  if (written_.load() == flushed_.load()) return false;
  NoteLoss();
  return true;
}

bool SessionState::NoteReconnected(uint32_t index, int64_t lost_ns, int64_t now_ns) {
  const std::lock_guard lock(loss_mutex_);
  // Another channel has lost its connection for the same reason, and was first.
  if (!config_.restart_loses || lost_ns == 0 || restarted_ns_ >= lost_ns) return false;
  for (uint32_t i = 0; i < config_.channels; ++i) {
    // A server that has answered a connection from before is still the same.
    if (i != index && heard_[i].connected_ns.load() < lost_ns && heard_[i].ns.load() > lost_ns) {
      return false;
    }
  }
  restarted_ns_ = now_ns;
  return ChangeGeneration(generation_.load() + 1);
}

bool SessionState::NoteSyncFailure() {
  // What is read back after that may be what was not written.
  witness_.Clear();
  const std::lock_guard lock(loss_mutex_);
  return ChangeGeneration(generation_.load() + 1);
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
