// SPDX-License-Identifier: GPL-2.0-or-later
#ifndef CLOUDBLK_PROXY_VOLUME_H_
#define CLOUDBLK_PROXY_VOLUME_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>

#include "base/clock.h"
#include "base/executor.h"
#include "base/status.h"
#include "proxy/alarm_clock.h"
#include "proxy/backend.h"
#include "proxy/ownership.h"
#include "proxy/resizer.h"
#include "proxy/volume_gate.h"

namespace cloudblk::proxy {

// Clock and executors of a volume: real ones, or a simulation's.
struct VolumeTools {
  std::function<int64_t()> clock;  // monotonic, nanoseconds
  AlarmClock* alarm = nullptr;     // goes by it, and outlives the volume
  // Each does one thing after the other, in order.
  std::function<std::unique_ptr<Executor>()> new_executor;
};

// A disk that the proxy offers under a name.
struct Volume {
  Volume(std::string volume_name, std::unique_ptr<Backend> storage, uint32_t lease,
         const VolumeTools& tools)
      : name(std::move(volume_name)),
        lease_ms(lease),
        backend(std::move(storage)),
        keeper(tools.new_executor()),
        worker(tools.new_executor()),
        ownership(name, backend.get(), lease * kNsPerMs, tools.clock, tools.alarm, keeper.get()),
        resizer(name, backend.get(), &ownership, &gate, tools.clock, tools.alarm, worker.get()) {
    backend->WatchSize([this] { worker->Run([this] { resizer.LookAtSize(); }); });
    backend->WatchLock([this](std::function<void()> done) { ownership.Yield(std::move(done)); });
  }
  ~Volume() {
    backend->WatchSize({});
    backend->WatchLock({});
    // What these still do uses all the rest.
    worker.reset();
    keeper.reset();
  }

  // Neither executor has anything to do. Any thread.
  bool idle() const { return keeper->idle() && worker->idle(); }

  const std::string name;
  const uint32_t lease_ms;
  const std::unique_ptr<Backend> backend;
  std::unique_ptr<Executor> keeper;  // where the storage is asked who owns the volume
  std::unique_ptr<Executor> worker;  // where it is resized
  Ownership ownership;
  VolumeGate gate;
  Resizer resizer;
};

// A name of the configuration, and its volume once its storage has answered.
class VolumeSlot {
 public:
  VolumeSlot() = default;
  explicit VolumeSlot(std::unique_ptr<Volume> volume) { Set(std::move(volume)); }

  // Null: it is not there, and why() may say why. Any thread.
  Volume* get() const { return ready_.load(std::memory_order_acquire); }
  // Empty: the storage has not answered yet. Any thread.
  std::string why() const {
    return failed_.load(std::memory_order_acquire) ? why_.message() : std::string();
  }

  // Once; Fail only before.
  void Set(std::unique_ptr<Volume> volume) {
    volume_ = std::move(volume);
    ready_.store(volume_.get(), std::memory_order_release);
  }
  void Fail(const Status& why) {
    why_ = why;
    failed_.store(true, std::memory_order_release);
  }

 private:
  std::unique_ptr<Volume> volume_;
  Status why_;
  std::atomic<Volume*> ready_{nullptr};
  std::atomic<bool> failed_{false};
};

using VolumeMap = std::map<std::string, VolumeSlot, std::less<>>;

}  // namespace cloudblk::proxy

#endif  // CLOUDBLK_PROXY_VOLUME_H_
