// SPDX-License-Identifier: GPL-2.0-or-later
//
// The event loop of the programs that have none of their own: the proxy's threads, the command
// line, the opening of a session, and tests.
#ifndef CLOUDBLK_BASE_EPOLL_LOOP_H_
#define CLOUDBLK_BASE_EPOLL_LOOP_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <set>
#include <utility>
#include <vector>

#include "base/event_loop.h"
#include "base/socket.h"
#include "base/status.h"

namespace cloudblk {

// One turn: ready descriptors, then due timers, then posted work, then deferred work. A handler
// that is unwatched by another one in the same turn is not called any more.
// Timers and the loop are destroyed on the loop's thread, and the loop outlives its timers.
class EpollLoop final : public EventLoop {
 public:
  // Fails when the process is out of descriptors.
  static Result<std::unique_ptr<EpollLoop>> Create();
  ~EpollLoop() override;
  EpollLoop(const EpollLoop&) = delete;
  EpollLoop& operator=(const EpollLoop&) = delete;

  void Watch(int fd, bool readable, bool writable, FdHandler* handler) override;
  void Unwatch(int fd) override;
  std::unique_ptr<Timer> NewTimer(std::function<void()> fn) override;
  void Defer(std::function<void()> fn) override;
  void Post(std::function<void()> fn) override;
  int64_t NowNs() const override;

  // Turns until Stop. After a Stop that came before, it only runs what was posted by then.
  void Run();
  // Any thread, signal handlers too. Ends the present or the next Run.
  void Stop();
  // One turn that waits at most timeout_ns for something to happen; negative: as long as it takes.
  void RunOnce(int64_t timeout_ns);

 private:
  class EpollTimer;
  using TimerKey = std::pair<int64_t, EpollTimer*>;
  struct WatchEntry {
    FdHandler* handler = nullptr;
    uint32_t events = 0;  // what epoll was told; 0: epoll does not know the descriptor
    uint32_t serial = 0;  // tells events of this watch from those of an earlier one
  };

  EpollLoop(UniqueFd epoll, UniqueFd wake);
  int WaitMs(int64_t timeout_ns) const;
  void Dispatch(uint64_t key, uint32_t events);
  void RunTimers();
  void RunPosted();
  void RunDeferred();
  void Wake();

  const UniqueFd epoll_;
  const UniqueFd wake_;

  // Loop's thread only.
  std::vector<WatchEntry> watches_;  // by descriptor
  std::set<TimerKey> timers_;
  std::vector<std::function<void()>> deferred_;
  std::vector<std::function<void()>> running_;

  // Any thread.
  std::atomic<bool> stop_{false};
  std::mutex mutex_;
  std::vector<std::function<void()>> posted_;  // under mutex_
};

}  // namespace cloudblk

#endif  // CLOUDBLK_BASE_EPOLL_LOOP_H_
