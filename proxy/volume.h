// SPDX-License-Identifier: GPL-2.0-or-later
#ifndef CLOUDBLK_PROXY_VOLUME_H_
#define CLOUDBLK_PROXY_VOLUME_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>

#include "base/clock.h"
#include "base/worker_pool.h"
#include "proxy/backend.h"
#include "proxy/ownership.h"
#include "proxy/resizer.h"

namespace cloudblk::proxy {

// A disk that the proxy offers under a name.
struct Volume {
  Volume(std::string volume_name, std::unique_ptr<Backend> storage, uint32_t lease,
         std::function<int64_t()> clock)
      : name(std::move(volume_name)),
        lease_ms(lease),
        backend(std::move(storage)),
        ownership(name, backend.get(), lease * kNsPerMs, std::move(clock),
                  [this](std::function<void()> fn) { keeper.Run(std::move(fn)); }),
        resizer(name, backend.get(), &ownership) {}

  // Nothing is kept or resized. Any thread.
  bool idle() const { return keeper.idle() && resizer.idle(); }

  const std::string name;
  const uint32_t lease_ms;
  const std::unique_ptr<Backend> backend;
  Ownership ownership;
  Resizer resizer;
  // Has the storage keep who owns the volume.
  WorkerPool keeper{1};
};

using VolumeMap = std::map<std::string, std::unique_ptr<Volume>, std::less<>>;

}  // namespace cloudblk::proxy

#endif  // CLOUDBLK_PROXY_VOLUME_H_
