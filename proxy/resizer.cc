// SPDX-License-Identifier: GPL-2.0-or-later
#include "proxy/resizer.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <utility>

#include "proxy-protocol/wire_errno.h"

namespace cloudblk::proxy {

Resizer::Resizer(std::string volume, Backend* backend, Ownership* ownership, VolumeGate* gate,
                 Executor* executor)
    : volume_(std::move(volume)),
      backend_(backend),
      ownership_(ownership),
      gate_(gate),
      executor_(executor) {}

void Resizer::Forget(ResizeAsker* asker) {
  std::lock_guard lock(mutex_);
  std::erase_if(queue_, [asker](const Operation& waiting) { return waiting.asker == asker; });
  if (current_ && current_->asker == asker) current_->asker = nullptr;
}

void Resizer::Resize(ResizeAsker* asker, const wire::Resize& request, std::string who) {
  std::lock_guard lock(mutex_);
  queue_.push_back({asker, request, std::move(who)});
  Advance();
}

void Resizer::Advance() {
  while (!current_ && !queue_.empty()) {
    Operation next = std::move(queue_.front());
    queue_.pop_front();
    const ResizeAnswer answer = Judge(next.request);
    if (answer.status != wire::StatusCode::kOk) {
      spdlog::info("{}: refused: {}", next.who, answer.text);
      next.asker->AnswerResize(answer);
      continue;
    }
    current_ = std::move(next);
    gate_->Close([this, size = current_->request.size] {
      // Nobody need be active for it, but nobody else's server may be either (SPEC.md 7.8).
      ownership_->Hold([this, size](const OwnershipAnswer& held) {
        executor_->Run([this, size, held] { CarryOut(size, held); });
      });
    });
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

void Resizer::CarryOut(uint64_t size, const OwnershipAnswer& held) {
  const uint64_t before = backend_->size();
  ResizeAnswer answer{held.status, held.text};
  if (held.status == wire::StatusCode::kOk) {
    const Status status = backend_->Resize(size);
    ownership_->Unhold();
    if (!status.ok()) {
      answer = {wire::StatusCodeOf(status.error()),
                fmt::format("volume '{}': {}", volume_, status.message())};
    }
  }
  std::lock_guard lock(mutex_);
  Finish(before, answer);
  Advance();
}

void Resizer::Finish(uint64_t size_before, const ResizeAnswer& answer) {
  const uint64_t size = backend_->size();
  if (size != size_before) {
    spdlog::info("{}: resized from {} to {} bytes", current_->who, size_before, size);
  }
  if (answer.status != wire::StatusCode::kOk) {
    spdlog::warn("{}: cannot resize: {}", current_->who, answer.text);
  }
  gate_->Open(size != size_before ? size : 0);
  if (current_->asker != nullptr) current_->asker->AnswerResize(answer);
  current_.reset();
}

}  // namespace cloudblk::proxy
