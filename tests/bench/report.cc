// SPDX-License-Identifier: GPL-2.0-or-later
#include "tests/bench/report.h"

#include <ctime>

namespace cloudblk::bench {

void AddRates(double seconds, uint64_t ios, uint64_t bytes, const Histogram& latency, Json* json) {
  const auto us = [&](double percent) {
    return static_cast<double>(latency.Percentile(percent)) / 1e3;
  };
  (*json)["ios"] = ios;
  (*json)["seconds"] = seconds;
  (*json)["iops"] = static_cast<double>(ios) / seconds;
  (*json)["mb-per-s"] = static_cast<double>(bytes) / 1e6 / seconds;
  (*json)["latency-us"] = {{"mean", latency.mean() / 1e3},
                           {"p50", us(50)},
                           {"p90", us(90)},
                           {"p99", us(99)},
                           {"p99.9", us(99.9)},
                           {"max", static_cast<double>(latency.max()) / 1e3}};
}

int64_t NowNs() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
}

uint64_t OwnCpuNs() {
  timespec used{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &used);
  return static_cast<uint64_t>(used.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(used.tv_nsec);
}

}  // namespace cloudblk::bench
