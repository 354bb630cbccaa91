// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/epoll_ops.h"

#include <cstdio>
#include <memory>
#include <unordered_map>

#include "base/epoll_loop.h"

namespace cloudblk {
namespace {

// The handlers of one watched descriptor, as EpollLoop wants them.
struct Adapter final : FdHandler {
  void OnReadable() override { read(opaque); }
  void OnWritable() override { write(opaque); }
  CloudblkHandler* read = nullptr;
  CloudblkHandler* write = nullptr;
  void* opaque = nullptr;
};

// A loop belongs to one thread, and so do its adapters.
thread_local std::unordered_map<int, Adapter> adapters;

void WatchFd(void* loop, int fd, CloudblkHandler* read, CloudblkHandler* write, CloudblkPoll*,
             CloudblkHandler*, void* opaque) {
  EpollLoop* epoll = static_cast<EpollLoop*>(loop);
  if (read == nullptr && write == nullptr) {
    epoll->Unwatch(fd);
    adapters.erase(fd);
    return;
  }
  Adapter& adapter = adapters[fd];
  adapter.read = read;
  adapter.write = write;
  adapter.opaque = opaque;
  epoll->Watch(fd, read != nullptr, write != nullptr, &adapter);
}

// A call that was promised: it is also made if the loop ends without another turn.
struct Owed {
  ~Owed() { fn(opaque); }
  CloudblkHandler* const fn;
  void* const opaque;
};

void Defer(void* loop, CloudblkHandler* fn, void* opaque) {
  static_cast<EpollLoop*>(loop)->Defer(
      [owed = std::shared_ptr<Owed>(new Owed{fn, opaque})]() mutable { owed.reset(); });
}

void* TimerNew(void* loop, CloudblkHandler* fn, void* opaque) {
  return static_cast<EpollLoop*>(loop)->NewTimer([fn, opaque] { fn(opaque); }).release();
}

void TimerArm(void* timer, int64_t deadline_ns) {
  if (deadline_ns < 0) return static_cast<Timer*>(timer)->Disarm();
  static_cast<Timer*>(timer)->Arm(deadline_ns);
}

void TimerFree(void* timer) { delete static_cast<Timer*>(timer); }

int64_t NowNs(void* loop) { return static_cast<EpollLoop*>(loop)->NowNs(); }

void Log(CloudblkLogLevel level, const char* message) {
  if (level >= CLOUDBLK_LOG_INFO) std::fprintf(stderr, "cloudblk: %s\n", message);
}

}  // namespace

const CloudblkLoopOps* EpollLoopOps() {
  static constexpr CloudblkLoopOps kOps = {
      .size = sizeof(CloudblkLoopOps),
      .abi_version = CLOUDBLK_ABI_VERSION,
      .watch_fd = WatchFd,
      .defer = Defer,
      .timer_new = TimerNew,
      .timer_arm = TimerArm,
      .timer_free = TimerFree,
      .now_ns = NowNs,
      .log = Log,
  };
  return &kOps;
}

}  // namespace cloudblk
