// SPDX-License-Identifier: GPL-2.0-or-later
#ifndef CLOUDBLK_PROXY_PEER_H_
#define CLOUDBLK_PROXY_PEER_H_

#include <atomic>
#include <cstdint>
#include <string>

#include "proxy-protocol/wire.h"

namespace cloudblk::proxy {

struct OwnershipAnswer {
  wire::StatusCode status = wire::StatusCode::kOk;
  std::string text;  // for people, unless kOk
  uint64_t epoch = 0;
  uint32_t retry_ms = 0;
};

// A connection as ownership sees it. Its functions are called with the volume's lock held, from any
// thread, and return at once.
class Peer {
 public:
  // Stop this connection (SPEC.md 7.1), then call Ownership::Gone. `why` is for people. `revoked`:
  // its session lost the volume, which the client is told. May come again.
  virtual void Stop(const std::string& why, bool revoked) = 0;
  // What became of this connection's Open, Release, Claim or End.
  virtual void Answer(const OwnershipAnswer& answer) = 0;
  // Somebody else asks for the volume: find out whether the client is still there, and stop if not.
  virtual void Probe() = 0;

  // When it last said something after such a question; 0: never. And since when it owes a word; 0:
  // it owes none. Any thread; monotonic, in nanoseconds.
  int64_t heard_ns() const { return heard_ns_.load(std::memory_order_relaxed); }
  int64_t asked_ns() const { return asked_ns_.load(std::memory_order_relaxed); }

  // Whether its requests are to be carried out. Any thread.
  bool active() const { return active_.load(std::memory_order_acquire); }

 protected:
  ~Peer() = default;
  void NoteAsked(int64_t now) { asked_ns_.store(now, std::memory_order_relaxed); }
  void NoteHeard(int64_t now) {
    heard_ns_.store(now, std::memory_order_relaxed);
    asked_ns_.store(0, std::memory_order_relaxed);
  }

 private:
  friend class Ownership;
  friend class OwnerTable;
  std::atomic<bool> active_{false};
  std::atomic<int64_t> heard_ns_{0};
  std::atomic<int64_t> asked_ns_{0};
};

struct OpenRequest {
  wire::Open open;
  std::string client_name;
  std::string address;  // where the client connects from
  // Unless empty, why it is not let in if its session is not known.
  std::string no_room;
};

}  // namespace cloudblk::proxy

#endif  // CLOUDBLK_PROXY_PEER_H_
