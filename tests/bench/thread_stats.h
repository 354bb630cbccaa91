// SPDX-License-Identifier: GPL-2.0-or-later
//
// What the threads of other processes have used: processor time, context switches, system calls.
#ifndef CLOUDBLK_TESTS_BENCH_THREAD_STATS_H_
#define CLOUDBLK_TESTS_BENCH_THREAD_STATS_H_

#include <sys/types.h>

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "base/status.h"
#include "tests/bench/report.h"

namespace cloudblk::bench {

// A process under observation, as "NAME=PID" on the command line.
struct Watched {
  std::string name;
  pid_t pid;
};
Result<std::vector<Watched>> ParseWatched(const std::vector<std::string>& words);

// Counts system calls by the kernel's tracepoints, which costs the counted threads some 0.1 us a
// call and nothing else: no stop, no wake-up, no changed library.
class SyscallCounter {
 public:
  SyscallCounter() = default;
  ~SyscallCounter();
  SyscallCounter(const SyscallCounter&) = delete;
  SyscallCounter& operator=(const SyscallCounter&) = delete;

  // Counts from now on, by thread, those of the threads that exist and of threads these start.
  Status Start(const std::vector<Watched>& processes);
  // Calls so far: {"total": n, "recvmsg": n, ...} of the thread, those that did not occur left out.
  std::map<std::string, uint64_t> Read(pid_t thread) const;

 private:
  struct Counter {
    pid_t thread;
    std::string call;
    int fd;
  };
  std::vector<Counter> counters_;
};

// Figures of one thread, over a period.
struct ThreadUse {
  std::string process;
  std::string name;
  pid_t thread = 0;
  uint64_t cpu_ns = 0;
  uint64_t voluntary_switches = 0;
  uint64_t involuntary_switches = 0;
};

class ThreadStats {
 public:
  explicit ThreadStats(std::vector<Watched> processes) : processes_(std::move(processes)) {}

  void Start();
  // What was used since Start(), divided by `ios`: one object for each thread that used any.
  Json PerIo(uint64_t ios, const SyscallCounter* calls) const;

 private:
  std::vector<ThreadUse> Sample() const;

  const std::vector<Watched> processes_;
  std::vector<ThreadUse> before_;
};

}  // namespace cloudblk::bench

#endif  // CLOUDBLK_TESTS_BENCH_THREAD_STATS_H_
