// SPDX-License-Identifier: GPL-2.0-or-later
//
// What clients may take of this process in all. Whoever holds a volume always gets one frame each
// way, so that a client that reads its answers goes on, however much the others hold.
#ifndef CLOUDBLK_PROXY_LIMITS_H_
#define CLOUDBLK_PROXY_LIMITS_H_

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>

namespace cloudblk::proxy {

inline constexpr uint32_t kDefaultMaxConnections = 1024;
inline constexpr uint64_t kDefaultMaxMemory = uint64_t{128} << 20;

// Shared by all loops. Any thread.
class Limits {
 public:
  struct Settings {
    uint32_t max_connections = kDefaultMaxConnections;  // that have a volume open
    uint64_t max_memory = kDefaultMaxMemory;            // bytes of buffers
    uint32_t loops = 1;
    // Within this time a frame that has begun to arrive, or a reply that has begun to go out, has
    // to get on by kStallBytes or come to its end. It is the default time after which a dead peer
    // is given up; a client that was stopped so long comes back and asks again.
    int64_t stall_ns = 30'000'000'000;
  };
  static constexpr uint64_t kStallBytes = 64 << 10;

  explicit Limits(const Settings& settings) : settings_(settings) {}
  Limits() : Limits(Settings{}) {}
  Limits(const Limits&) = delete;
  Limits& operator=(const Limits&) = delete;

  const Settings& settings() const { return settings_; }

  // --- Memory, as the buffer pools get it from the host and give it back.

  void Take(size_t bytes) { used_.fetch_add(bytes, std::memory_order_relaxed); }
  void GiveBack(size_t bytes) { used_.fetch_sub(bytes, std::memory_order_relaxed); }
  uint64_t left() const {
    const uint64_t used = used_.load(std::memory_order_relaxed);
    return used < settings_.max_memory ? settings_.max_memory - used : 0;
  }
  // Bytes that one loop may keep for reuse.
  size_t max_kept() const { return settings_.max_memory / 4 / settings_.loops; }

  // --- Connections that have a volume open, or have asked for it.

  // False: there are as many already.
  bool TryOpen() {
    if (open_.fetch_add(1, std::memory_order_relaxed) < settings_.max_connections) return true;
    Closed();
    return false;
  }
  // For one that gets in nevertheless.
  void Open() { open_.fetch_add(1, std::memory_order_relaxed); }
  void Closed() { open_.fetch_sub(1, std::memory_order_relaxed); }
  // Connections of one loop that have not asked for a volume yet.
  size_t max_strangers() const {
    return std::max(settings_.max_connections / 4 / settings_.loops, 4u);
  }

 private:
  const Settings settings_;
  std::atomic<uint64_t> used_{0};
  std::atomic<uint32_t> open_{0};
};

}  // namespace cloudblk::proxy

#endif  // CLOUDBLK_PROXY_LIMITS_H_
