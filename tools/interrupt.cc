// SPDX-License-Identifier: GPL-2.0-or-later
#include "tools/interrupt.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstring>

namespace cloudblk {
namespace {

volatile std::sig_atomic_t came = 0;
int wake = -1;

void OnAlarm(int) { alarm(1); }

void OnSignal(int number) {
  const int error = errno;
  came = number;
  const uint64_t one = 1;
  // It cannot fail: nobody else adds to the counter.
  [[maybe_unused]] const ssize_t ignored = write(wake, &one, sizeof(one));
  // A write to a pipe may be about to block, and the signal then comes too early to end it: more
  // signals follow, one a second.
  struct sigaction again{};
  again.sa_handler = OnAlarm;
  sigaction(SIGALRM, &again, nullptr);
  alarm(1);
  errno = error;
}

}  // namespace

Result<UniqueFd> CatchInterrupt() {
  UniqueFd fd(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!fd) return Status(errno, std::string("cannot create an eventfd: ") + strerror(errno));
  wake = fd.get();
  for (const int number : {SIGINT, SIGTERM, SIGHUP}) {
    struct sigaction action{};
    sigaction(number, nullptr, &action);
    if (action.sa_handler == SIG_IGN) continue;
    action = {};
    action.sa_handler = OnSignal;
    // Without SA_RESTART: a write to a pipe that nobody reads has to end.
    action.sa_flags = static_cast<int>(SA_RESETHAND);
    sigaction(number, &action, nullptr);
  }
  return fd;
}

int InterruptSignal() { return came; }

}  // namespace cloudblk
