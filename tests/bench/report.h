// SPDX-License-Identifier: GPL-2.0-or-later
//
// The figures that all programs of the benchmark report alike.
#ifndef CLOUDBLK_TESTS_BENCH_REPORT_H_
#define CLOUDBLK_TESTS_BENCH_REPORT_H_

#include <cstdint>
#include <nlohmann/json.hpp>

#include "tools/histogram.h"

namespace cloudblk::bench {

using Json = nlohmann::ordered_json;

// Adds "ios", "seconds", "iops", "mb-per-s" and "latency-us" (from ns).
void AddRates(double seconds, uint64_t ios, uint64_t bytes, const Histogram& latency, Json* json);

// Monotonic time.
int64_t NowNs();

// Processor time of the calling thread.
uint64_t OwnCpuNs();

}  // namespace cloudblk::bench

#endif  // CLOUDBLK_TESTS_BENCH_REPORT_H_
