// SPDX-License-Identifier: GPL-2.0-or-later
#include "proxy/volume_gate.h"

#include <cassert>
#include <utility>

namespace cloudblk::proxy {

bool VolumeGate::Join(GateMember* member) {
  std::lock_guard lock(mutex_);
  members_.insert(member);
  return is_closed_;
}

void VolumeGate::Leave(GateMember* member) {
  std::lock_guard lock(mutex_);
  members_.erase(member);
  waiting_for_.erase(member);
  TellIfQuiet();
}

void VolumeGate::Paused(GateMember* member) {
  std::lock_guard lock(mutex_);
  waiting_for_.erase(member);
  TellIfQuiet();
}

void VolumeGate::Close(std::function<void()> on_quiet) {
  std::lock_guard lock(mutex_);
  assert(!is_closed_);
  is_closed_ = true;
  on_quiet_ = std::move(on_quiet);
  waiting_for_ = members_;
  for (GateMember* member : members_) member->Pause();
  TellIfQuiet();
}

void VolumeGate::Open() {
  std::lock_guard lock(mutex_);
  assert(is_closed_ && on_quiet_ == nullptr);
  is_closed_ = false;
  for (GateMember* member : members_) member->Resume();
}

bool VolumeGate::GiveUp() {
  std::lock_guard lock(mutex_);
  if (on_quiet_ == nullptr) return false;
  on_quiet_ = nullptr;
  is_closed_ = false;
  waiting_for_.clear();
  for (GateMember* member : members_) member->Resume();
  return true;
}

void VolumeGate::Tell(uint64_t size) {
  std::lock_guard lock(mutex_);
  for (GateMember* member : members_) member->Resized(size);
}

void VolumeGate::TellIfQuiet() {
  if (on_quiet_ == nullptr || !waiting_for_.empty()) return;
  std::exchange(on_quiet_, nullptr)();
}

}  // namespace cloudblk::proxy
