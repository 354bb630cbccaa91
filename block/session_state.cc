// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/session_state.h"

namespace cloudblk {

void SessionState::SetVolume(const wire::OpenReply& reply) {
  volume_ = reply;
  has_volume_ = true;
  size_ = reply.size;
  generation_ = reply.generation;
}

bool SessionState::SetGeneration(uint64_t generation) {
  if (generation_.exchange(generation) == generation) return false;
  if (written_.load() == flushed_.load()) return false;
  losses_.fetch_add(1);
  lost_ = true;
  return true;
}

void SessionState::NoteWrite(uint64_t generation) {
  written_.fetch_add(1);
  if (generation_.load() != generation) lost_ = true;
}

void SessionState::NoteFlush(uint64_t mark) {
  uint64_t flushed = flushed_.load();
  while (flushed < mark && !flushed_.compare_exchange_weak(flushed, mark)) {
  }
}

}  // namespace cloudblk
