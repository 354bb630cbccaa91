// SPDX-License-Identifier: GPL-2.0-or-later
//
// How a volume changes its size while clients use it (SPEC.md 14), or is found to have changed it.
#ifndef CLOUDBLK_PROXY_RESIZER_H_
#define CLOUDBLK_PROXY_RESIZER_H_

#include <cstdint>
#include <deque>
#include <functional>
#include <mutex>
#include <optional>
#include <string>

#include "base/executor.h"
#include "proxy-protocol/wire.h"
#include "proxy/alarm_clock.h"
#include "proxy/backend.h"
#include "proxy/log_limit.h"
#include "proxy/ownership.h"
#include "proxy/volume_gate.h"

namespace cloudblk::proxy {

struct ResizeAnswer {
  wire::StatusCode status = wire::StatusCode::kOk;
  std::string text;  // for people, unless kOk
};

// Who asked for a resize.
class ResizeAsker {
 public:
  // What became of its Resize, after the gate has opened. Called with the resizer's lock held, from
  // any thread; returns at once.
  virtual void AnswerResize(const ResizeAnswer& answer) = 0;

 protected:
  ~ResizeAsker() = default;
};

// One volume's. All methods may be called from any thread; none waits for a connection or for the
// storage.
class Resizer {
 public:
  // `clock` is monotonic, in nanoseconds, and `alarm` goes by it. All outlive the object, and what
  // was given to `executor` must be done before it goes.
  Resizer(std::string volume, Backend* backend, Ownership* ownership, VolumeGate* gate,
          std::function<int64_t()> clock, AlarmClock* alarm, Executor* executor);
  ~Resizer();

  // Followed by AnswerResize, unless Forget comes first. An asker has one under way. `who` is for
  // the log.
  void Resize(ResizeAsker* asker, const wire::Resize& request, std::string who);
  // No more calls to the asker are made.
  void Forget(ResizeAsker* asker);
  // The storage says that its size has changed. Not from any thread, but on the executor: it waits
  // for the storage.
  void LookAtSize();

 private:
  struct Operation {
    ResizeAsker* asker;  // null: it is gone
    wire::Resize request;
    std::string who;
  };

  // Below: with mutex_ held.
  void Advance();
  ResizeAnswer Judge(const wire::Resize& request) const;
  void Finish(const ResizeAnswer& answer);

  // The storage's lock is held: with it, on the executor. Then the gate is closed, and the size
  // changed; or the gate does not close.
  void Close(uint64_t size);
  void CarryOut(uint64_t size);
  void OnAlarm();
  void Refuse(const ResizeAnswer& answer);
  const std::string volume_;
  Backend* const backend_;
  Ownership* const ownership_;
  VolumeGate* const gate_;
  const std::function<int64_t()> clock_;
  AlarmClock* const alarm_;
  Executor* const executor_;
  LogLimit log_;

  std::mutex mutex_;
  std::deque<Operation> queue_;
  std::optional<Operation> current_;
};

}  // namespace cloudblk::proxy

#endif  // CLOUDBLK_PROXY_RESIZER_H_
