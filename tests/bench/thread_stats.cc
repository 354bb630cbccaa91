// SPDX-License-Identifier: GPL-2.0-or-later
#include "tests/bench/thread_stats.h"

#include <fmt/core.h>
#include <linux/perf_event.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>

namespace cloudblk::bench {
namespace {

// Those that may be on a data path; whatever else is called is in the total.
constexpr const char* kCalls[] = {
    "read",        "write",    "readv",        "writev",    "recvfrom",       "sendto",
    "recvmsg",     "sendmsg",  "ppoll",        "poll",      "epoll_wait",     "epoll_ctl",
    "epoll_pwait", "futex",    "io_getevents", "io_submit", "io_uring_enter", "ioctl",
    "pread64",     "pwrite64", "sched_yield",  "setsockopt"};

std::vector<pid_t> ThreadsOf(pid_t process) {
  std::vector<pid_t> threads;
  std::error_code error;
  for (const auto& entry :
       std::filesystem::directory_iterator(fmt::format("/proc/{}/task", process), error)) {
    threads.push_back(static_cast<pid_t>(std::stol(entry.path().filename())));
  }
  std::sort(threads.begin(), threads.end());
  return threads;
}

std::string FirstLine(const std::string& path) {
  std::string line;
  std::ifstream file(path);
  std::getline(file, line);
  return line;
}

// The number of a tracepoint; 0 if it is not to be had.
uint64_t Tracepoint(const std::string& name) {
  for (const char* root : {"/sys/kernel/tracing", "/sys/kernel/debug/tracing"}) {
    const std::string id = FirstLine(fmt::format("{}/events/{}/id", root, name));
    if (!id.empty()) return std::stoull(id);
  }
  return 0;
}

int OpenCounter(uint64_t tracepoint, pid_t thread) {
  perf_event_attr attributes{};
  attributes.type = PERF_TYPE_TRACEPOINT;
  attributes.size = sizeof(attributes);
  attributes.config = tracepoint;
  attributes.inherit = 1;
  return static_cast<int>(
      syscall(SYS_perf_event_open, &attributes, thread, -1, -1, PERF_FLAG_FD_CLOEXEC));
}

}  // namespace

Result<std::vector<Watched>> ParseWatched(const std::vector<std::string>& words) {
  std::vector<Watched> processes;
  for (const std::string& word : words) {
    const size_t equals = word.find('=');
    const pid_t pid = equals == std::string::npos ? 0 : atoi(word.c_str() + equals + 1);
    if (pid <= 0) return Status(EINVAL, fmt::format("'{}' is not NAME=PID", word));
    processes.push_back({word.substr(0, equals), pid});
  }
  return processes;
}

SyscallCounter::~SyscallCounter() {
  for (const Counter& counter : counters_) close(counter.fd);
}

Status SyscallCounter::Start(const std::vector<Watched>& processes) {
  std::vector<std::pair<std::string, uint64_t>> points = {
      {"total", Tracepoint("raw_syscalls/sys_enter")}};
  if (points[0].second == 0) {
    return Status(ENOENT,
                  "no tracepoints to count system calls by: mount tracefs at "
                  "/sys/kernel/tracing, and be root");
  }
  for (const char* call : kCalls) {
    const uint64_t point = Tracepoint(fmt::format("syscalls/sys_enter_{}", call));
    if (point != 0) points.emplace_back(call, point);
  }
  for (const Watched& process : processes) {
    for (const pid_t thread : ThreadsOf(process.pid)) {
      for (const auto& [call, point] : points) {
        const int fd = OpenCounter(point, thread);
        if (fd < 0) {
          return Status(errno, fmt::format("cannot count the system calls of {}: {}", process.name,
                                           strerror(errno)));
        }
        counters_.push_back({thread, call, fd});
      }
    }
  }
  return Status::Ok();
}

std::map<std::string, uint64_t> SyscallCounter::Read(pid_t thread) const {
  std::map<std::string, uint64_t> calls;
  for (const Counter& counter : counters_) {
    uint64_t count = 0;
    if (counter.thread == thread && read(counter.fd, &count, sizeof(count)) == sizeof(count) &&
        count != 0) {
      calls[counter.call] = count;
    }
  }
  return calls;
}

std::vector<ThreadUse> ThreadStats::Sample() const {
  std::vector<ThreadUse> sample;
  for (const Watched& process : processes_) {
    for (const pid_t thread : ThreadsOf(process.pid)) {
      const std::string folder = fmt::format("/proc/{}/task/{}", process.pid, thread);
      ThreadUse use;
      use.process = process.name;
      use.name = FirstLine(folder + "/comm");
      use.thread = thread;
      use.cpu_ns = strtoull(FirstLine(folder + "/schedstat").c_str(), nullptr, 10);
      std::ifstream status(folder + "/status");
      for (std::string line; std::getline(status, line);) {
        sscanf(line.c_str(), "voluntary_ctxt_switches: %lu", &use.voluntary_switches);
        sscanf(line.c_str(), "nonvoluntary_ctxt_switches: %lu", &use.involuntary_switches);
      }
      sample.push_back(use);
    }
  }
  return sample;
}

void ThreadStats::Start() { before_ = Sample(); }

Json ThreadStats::PerIo(uint64_t ios, const SyscallCounter* calls) const {
  Json threads = Json::array();
  const auto per_io = [&](uint64_t count) {
    return static_cast<double>(count) / static_cast<double>(std::max<uint64_t>(ios, 1));
  };
  for (const ThreadUse& now : Sample()) {
    const auto same = [&](const ThreadUse& use) { return use.thread == now.thread; };
    const auto found = std::find_if(before_.begin(), before_.end(), same);
    const ThreadUse before = found == before_.end() ? ThreadUse{} : *found;
    if (now.cpu_ns == before.cpu_ns) continue;
    Json thread = {
        {"process", now.process},
        {"thread", now.name},
        {"cpu-us-per-io", per_io(now.cpu_ns - before.cpu_ns) / 1e3},
        {"voluntary-switches-per-io", per_io(now.voluntary_switches - before.voluntary_switches)},
        {"involuntary-switches-per-io",
         per_io(now.involuntary_switches - before.involuntary_switches)},
    };
    if (calls != nullptr) {
      Json counts = Json::object();
      for (const auto& [call, count] : calls->Read(now.thread)) counts[call] = per_io(count);
      thread["syscalls-per-io"] = counts;
    }
    threads.push_back(thread);
  }
  return threads;
}

}  // namespace cloudblk::bench
