// SPDX-License-Identifier: GPL-2.0-or-later
#include "proxy/resizer.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <utility>

#include "proxy-protocol/wire_errno.h"

namespace cloudblk::proxy {

Resizer::Resizer(std::string volume, Backend* backend, Ownership* ownership)
    : volume_(std::move(volume)), backend_(backend), ownership_(ownership) {}

bool Resizer::Join(ResizeMember* member) {
  std::lock_guard lock(mutex_);
  members_.insert(member);
  return current_.has_value();
}

void Resizer::Leave(ResizeMember* member) {
  std::lock_guard lock(mutex_);
  members_.erase(member);
  waiting_for_.erase(member);
  std::erase_if(queue_, [member](const Operation& waiting) { return waiting.member == member; });
  if (current_ && current_->member == member) current_->member = nullptr;
  StartWhenQuiet();
}

void Resizer::Paused(ResizeMember* member) {
  std::lock_guard lock(mutex_);
  waiting_for_.erase(member);
  StartWhenQuiet();
}

void Resizer::Resize(ResizeMember* member, const wire::Resize& request, std::string who) {
  std::lock_guard lock(mutex_);
  queue_.push_back({member, request, std::move(who)});
  Advance();
}

void Resizer::Advance() {
  while (!current_ && !queue_.empty()) {
    Operation next = std::move(queue_.front());
    queue_.pop_front();
    const ResizeAnswer answer = Judge(next.request);
    if (answer.status != wire::StatusCode::kOk) {
      spdlog::info("{}: refused: {}", next.who, answer.text);
      next.member->AnswerResize(answer);
      continue;
    }
    current_ = std::move(next);
    waiting_for_ = members_;
    for (ResizeMember* member : members_) member->Pause();
  }
}

ResizeAnswer Resizer::Judge(const wire::Resize& request) const {
  const Geometry& geometry = backend_->geometry();
  if (geometry.read_only) {
    return {wire::StatusCode::kReadOnly, fmt::format("volume '{}' is read-only", volume_)};
  }
  if (request.size == 0 || request.size % geometry.logical_block_size != 0) {
    return {wire::StatusCode::kInvalid,
            fmt::format("the size of volume '{}' must be a multiple of {} bytes and not 0", volume_,
                        geometry.logical_block_size)};
  }
  if (request.size < backend_->size() && (request.flags & wire::ResizeFlag::kForce) == 0) {
    return {wire::StatusCode::kInvalid,
            fmt::format("volume '{}' has {} bytes: a smaller size cuts off what lies beyond it; "
                        "use force to do that",
                        volume_, backend_->size())};
  }
  return {};
}

void Resizer::StartWhenQuiet() {
  if (!current_ || working_ || !waiting_for_.empty()) return;
  working_ = true;
  worker_.Run([this, size = current_->request.size] { Work(size); });
}

void Resizer::Work(uint64_t size) {
  const uint64_t before = backend_->size();
  const ResizeAnswer answer = CarryOut(size);
  std::lock_guard lock(mutex_);
  Finish(before, answer);
  Advance();
}

ResizeAnswer Resizer::CarryOut(uint64_t size) {
  // Nobody need be active for it, but nobody else's server may be either (SPEC.md 7.8).
  const OwnershipAnswer held = ownership_->Hold();
  if (held.status != wire::StatusCode::kOk) return {held.status, held.text};
  const Status status = backend_->Resize(size);
  ownership_->Unhold();
  if (status.ok()) return {};
  return {wire::StatusOf(status.error()),
          fmt::format("volume '{}': {}", volume_, status.message())};
}

void Resizer::Finish(uint64_t size_before, const ResizeAnswer& answer) {
  const uint64_t size = backend_->size();
  if (size != size_before) {
    spdlog::info("{}: resized from {} to {} bytes", current_->who, size_before, size);
  }
  if (answer.status != wire::StatusCode::kOk) {
    spdlog::warn("{}: cannot resize: {}", current_->who, answer.text);
  }
  for (ResizeMember* member : members_) member->Resume(size != size_before ? size : 0);
  if (current_->member != nullptr) current_->member->AnswerResize(answer);
  current_.reset();
  working_ = false;
}

}  // namespace cloudblk::proxy
