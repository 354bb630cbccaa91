// SPDX-License-Identifier: GPL-2.0-or-later
//
// Load on a volume, measured and, if wanted, verified.
#ifndef CLOUDBLK_TOOLS_BENCH_H_
#define CLOUDBLK_TOOLS_BENCH_H_

#include <cstdint>
#include <string>

#include "base/status.h"
#include "tools/client.h"
#include "tools/histogram.h"

namespace cloudblk {

struct BenchOptions {
  std::string pattern = "randread";  // fio's names: [rand]read, [rand]write, [rand]rw
  uint64_t size = 4096;              // bytes of one request
  uint32_t depth = 32;               // requests in flight
  double seconds = 5;
  uint64_t count = 0;   // requests; 0: until the time is over
  uint64_t range = 0;   // the first so many bytes of the volume; 0: all
  uint64_t seed = 1;    // of the random offsets and of the content
  bool verify = false;  // check every byte that this run wrote, while it runs and at its end
};

struct BenchResult {
  uint64_t reads = 0;
  uint64_t writes = 0;
  double seconds = 0;
  Histogram latency;      // ns
  uint64_t verified = 0;  // reads whose content was checked
  CloudblkStats stats{};
};

// Runs the load. A failed request or wrong content ends it with an error. Writes destroy what the
// volume has.
Result<BenchResult> RunBench(Client* client, const BenchOptions& options);

}  // namespace cloudblk

#endif  // CLOUDBLK_TOOLS_BENCH_H_
