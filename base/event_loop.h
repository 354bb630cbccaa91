// SPDX-License-Identifier: GPL-2.0-or-later
//
// What the engine, the proxy and the tools need of an event loop. Three implementations: EpollLoop
// (tools, tests, proxy), HostLoop (lent by the host program through cloudblk.h), and a manual one
// in the tests, whose clock only moves when told.
#ifndef CLOUDBLK_BASE_EVENT_LOOP_H_
#define CLOUDBLK_BASE_EVENT_LOOP_H_

#include <cstdint>
#include <functional>
#include <memory>

namespace cloudblk {

// Called when a watched descriptor is ready. An object of its own, not std::function: it is on the
// path of every batch.
class FdHandler {
 public:
  virtual void OnReadable() = 0;
  virtual void OnWritable() = 0;
  // Whether OnReadable has something to do, without waiting. For loops that busy-poll. It may have
  // begun to do it: after true OnReadable is called soon.
  virtual bool Poll() { return false; }

 protected:
  ~FdHandler() = default;
};

// A one-shot timer. Destroying it disarms it.
class Timer {
 public:
  virtual ~Timer() = default;
  // Fires once when NowNs() >= deadline_ns; replaces an earlier deadline.
  virtual void Arm(int64_t deadline_ns) = 0;
  virtual void Disarm() = 0;
};

// All methods are called on the loop's own thread, but Post.
class EventLoop {
 public:
  virtual ~EventLoop() = default;

  // Level-triggered interest in fd. `handler` must live until Unwatch. Calling it again for the
  // same fd changes the interest. Handlers may call Watch and Unwatch for any fd.
  virtual void Watch(int fd, bool readable, bool writable, FdHandler* handler) = 0;
  virtual void Unwatch(int fd) = 0;

  virtual std::unique_ptr<Timer> NewTimer(std::function<void()> fn) = 0;

  // Runs fn once at the end of this loop turn (or the next), never from inside Defer.
  virtual void Defer(std::function<void()> fn) = 0;

  // Runs fn once on the loop's thread. Any thread.
  virtual void Post(std::function<void()> fn) = 0;

  // Monotonic, nanoseconds.
  virtual int64_t NowNs() const = 0;
};

}  // namespace cloudblk

#endif  // CLOUDBLK_BASE_EVENT_LOOP_H_
