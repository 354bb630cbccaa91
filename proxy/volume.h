// SPDX-License-Identifier: GPL-2.0-or-later
#ifndef CLOUDBLK_PROXY_VOLUME_H_
#define CLOUDBLK_PROXY_VOLUME_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>

#include "base/clock.h"
#include "base/executor.h"
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
        resizer(name, backend.get(), &ownership, &gate, tools.clock, tools.alarm, worker.get()) {}
  ~Volume() {
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

using VolumeMap = std::map<std::string, std::unique_ptr<Volume>, std::less<>>;

}  // namespace cloudblk::proxy

#endif  // CLOUDBLK_PROXY_VOLUME_H_
