// SPDX-License-Identifier: GPL-2.0-or-later
#include "proxy/resizer.h"

#include <fmt/format.h>

#include <utility>

#include "base/clock.h"
#include "proxy-protocol/wire_errno.h"

namespace cloudblk::proxy {
namespace {

// How long what is at the storage may hold up all that is to come after it.
constexpr int64_t kQuietNs = 5 * kNsPerS;

}  // namespace

Resizer::Resizer(std::string volume, Backend* backend, Ownership* ownership, VolumeGate* gate,
                 std::function<int64_t()> clock, AlarmClock* alarm, Executor* executor)
    : volume_(std::move(volume)),
      backend_(backend),
      ownership_(ownership),
      gate_(gate),
      clock_(std::move(clock)),
      alarm_(alarm),
      executor_(executor),
      log_(alarm, clock_) {}

Resizer::~Resizer() { alarm_->Cancel(this); }

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
      log_.Log(spdlog::level::info, "refused",
               fmt::format("{}: refused: {}", next.who, answer.text));
      next.asker->AnswerResize(answer);
      continue;
    }
    current_ = std::move(next);
    // Nobody need be active for it, but nobody else's server may be either (SPEC.md 7.8).
    ownership_->Hold([this, size = current_->request.size](const OwnershipAnswer& held) {
      executor_->Run([this, size, held] {
        if (held.status == wire::StatusCode::kOk) {
          Close(size);
        } else {
          Refuse({held.status, held.text});
        }
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
                        "add --force to do that nevertheless",
                        volume_, backend_->size())};
  }
  return {};
}

void Resizer::Close(uint64_t size) {
  gate_->Close([this, size] { executor_->Run([this, size] { CarryOut(size); }); });
  alarm_->Set(this, clock_() + kQuietNs, [this] { OnAlarm(); });
}

void Resizer::OnAlarm() {
  if (!gate_->GiveUp()) return;
  ownership_->Unhold();
  Refuse({wire::StatusCode::kBusy,
          fmt::format("volume '{}' was not resized: its storage has not answered requests for {} s",
                      volume_, kQuietNs / kNsPerS)});
}

void Resizer::CarryOut(uint64_t size) {
  alarm_->Cancel(this);
  const uint64_t before = backend_->size();
  const Status status = backend_->Resize(size);
  ownership_->Unhold();
  ResizeAnswer answer;
  if (!status.ok()) {
    answer = {wire::StatusCodeOf(status.error()),
              fmt::format("volume '{}': {}", volume_, status.message())};
  }
  const uint64_t after = backend_->size();
  std::lock_guard lock(mutex_);
  if (after != before) {
    log_.Log(spdlog::level::info, "resized",
             fmt::format("{}: resized from {} to {} bytes", current_->who, before, after),
             LogLimit::kOfVolume);
  }
  gate_->Open();
  if (after != before) gate_->Tell(after);
  Finish(answer);
  Advance();
}

void Resizer::LookAtSize() {
  const uint64_t before = backend_->size();
  backend_->LookAtSize();
  const uint64_t after = backend_->size();
  if (after == before) return;
  spdlog::info("volume '{}': its storage was resized from {} to {} bytes", volume_, before, after);
  gate_->Tell(after);
}

void Resizer::Refuse(const ResizeAnswer& answer) {
  std::lock_guard lock(mutex_);
  Finish(answer);
  Advance();
}

void Resizer::Finish(const ResizeAnswer& answer) {
  if (answer.status != wire::StatusCode::kOk) {
    log_.Log(spdlog::level::warn, "failed",
             fmt::format("{}: cannot resize: {}", current_->who, answer.text));
  }
  if (current_->asker != nullptr) current_->asker->AnswerResize(answer);
  current_.reset();
}

}  // namespace cloudblk::proxy
