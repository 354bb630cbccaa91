// SPDX-License-Identifier: GPL-2.0-or-later
#include "proxy/volume_opener.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "base/worker_pool.h"
#include "proxy/backends/backends.h"

namespace cloudblk::proxy {
namespace {

// What a volume has to itself, before the next one is opened beside it.
constexpr std::chrono::milliseconds kHeadStart{500};
// From one attempt to the next, for one that failed when nobody waited for it any more.
constexpr std::chrono::seconds kRetry{5};

}  // namespace

Status CannotStartThread(const std::system_error& error) {
  return Status(
      error.code().value(),
      fmt::format("cannot start a thread ({}); each volume has 2 to 6 at least: allow this "
                  "process more (ulimit -u, TasksMax=)",
                  error.code().message()));
}

struct VolumeOpener::State {
  std::mutex mutex;
  std::condition_variable answered;
  // Under mutex.
  size_t volumes = 0;
  size_t answers = 0;
  std::vector<bool> has_answered;  // by the order of the configuration
  bool gave_up = false;            // Open waits no more
  std::vector<Status> failures;    // in the order of the configuration
};

VolumeOpener::VolumeOpener(VolumeMap* volumes, AlarmClock* alarm)
    : volumes_(volumes), alarm_(alarm), state_(std::make_shared<State>()) {}

Result<std::unique_ptr<Volume>> VolumeOpener::OpenOne(const Options& options,
                                                      const VolumeOptions& wanted,
                                                      AlarmClock* alarm) {
  StartUp start_up{.state_dir = options.state_dir, .loops = options.threads};
  const VolumeTools tools{MonotonicNs, alarm, [] { return std::make_unique<WorkerPool>(1); }};
  try {
    Result<std::unique_ptr<Backend>> backend = OpenBackend(wanted.name, wanted.backend, &start_up);
    if (!backend.ok()) return backend.status();
    auto volume =
        std::make_unique<Volume>(wanted.name, std::move(*backend), options.lease_s * 1000, tools);
    volume->ownership.Restore();
    return volume;
  } catch (const std::system_error& error) {
    return CannotStartThread(error);
  }
}

void VolumeOpener::OpenOnThread(const Options& options, size_t index) {
  const VolumeOptions& wanted = options.volumes[index];
  auto open = [state = state_, slot = &volumes_->at(wanted.name), options, wanted, index,
               alarm = alarm_] {
    Result<std::unique_ptr<Volume>> volume = OpenOne(options, wanted, alarm);
    std::unique_lock lock(state->mutex);
    // Who has started the proxy does not wait any more, and so cannot be told.
    for (bool told = false; state->gave_up && !volume.ok(); told = true) {
      if (!told) {
        spdlog::error("{}; tried again every few seconds", volume.status().message());
        slot->Fail(volume.status());
      }
      lock.unlock();
      std::this_thread::sleep_for(kRetry);
      volume = OpenOne(options, wanted, alarm);
      lock.lock();
    }
    if (state->gave_up) {
      spdlog::info("volume '{}': its storage has answered, and it is served", wanted.name);
    }
    state->failures[index] = volume.ok() ? Status::Ok() : volume.status();
    if (volume.ok()) slot->Set(std::move(*volume));
    state->has_answered[index] = true;
    ++state->answers;
    state->answered.notify_all();
  };
  try {
    std::thread(open).detach();
  } catch (const std::system_error& error) {
    std::lock_guard lock(state_->mutex);
    state_->failures[index] = CannotStartThread(error);
    state_->has_answered[index] = true;
    ++state_->answers;
  }
}

Status VolumeOpener::Open(const Options& options, std::chrono::milliseconds patience) {
  const auto deadline = std::chrono::steady_clock::now() + patience;
  state_->volumes = options.volumes.size();
  state_->failures.assign(state_->volumes, Status::Ok());
  state_->has_answered.assign(state_->volumes, false);
  for (const VolumeOptions& wanted : options.volumes) volumes_->try_emplace(wanted.name);
  std::unique_lock lock(state_->mutex);
  for (size_t i = 0; i < state_->volumes; ++i) {
    // One after the other, as long as they answer: a volume may be of the file that one before it
    // makes.
    lock.unlock();
    OpenOnThread(options, i);
    lock.lock();
    state_->answered.wait_for(lock, kHeadStart, [&] { return bool{state_->has_answered[i]}; });
  }
  const auto last = std::max(deadline, std::chrono::steady_clock::now() + kHeadStart);
  state_->answered.wait_until(lock, last, [&] { return state_->answers == state_->volumes; });
  state_->gave_up = true;
  for (const Status& failure : state_->failures) {
    if (!failure.ok()) return failure;
  }
  for (const auto& [name, slot] : *volumes_) {
    if (slot.get() != nullptr) continue;
    spdlog::warn("volume '{}': its storage does not answer; it is served as soon as it does", name);
  }
  return Status::Ok();
}

bool VolumeOpener::pending() const {
  std::lock_guard lock(state_->mutex);
  return state_->answers != state_->volumes;
}

}  // namespace cloudblk::proxy
