// SPDX-License-Identifier: GPL-2.0-or-later
#include "tools/bench.h"

#include <fmt/core.h>

#include <cstring>
#include <deque>
#include <optional>
#include <random>

#include "tools/stamps.h"

namespace cloudblk {
namespace {

constexpr uint64_t kMaxBuffers = 1 << 30;  // bytes

enum class Mix { kRead, kWrite, kBoth };

struct Pattern {
  bool random;
  Mix mix;
};

std::optional<Pattern> ParsePattern(const std::string& text) {
  if (text == "read") return Pattern{false, Mix::kRead};
  if (text == "write") return Pattern{false, Mix::kWrite};
  if (text == "rw") return Pattern{false, Mix::kBoth};
  if (text == "randread") return Pattern{true, Mix::kRead};
  if (text == "randwrite") return Pattern{true, Mix::kWrite};
  if (text == "randrw") return Pattern{true, Mix::kBoth};
  return std::nullopt;
}

class Bench {
 public:
  Bench(Client* client, const BenchOptions& options, Pattern pattern, uint64_t slots)
      : client_(client),
        options_(options),
        pattern_(pattern),
        slots_(slots),
        random_(options.seed),
        stamps_(options.verify ? slots : 0, options.seed),
        busy_(options.verify ? slots : 0) {}

  Result<BenchResult> Run();

 private:
  struct Job final : Waiter {
    void OnDone(int result) override { bench->Finish(this, result); }
    Bench* bench = nullptr;
    std::vector<uint8_t> data;
    uint64_t slot = 0;
    int64_t start_ns = 0;
    bool write = false;
  };

  bool Ended() const;
  uint64_t NextSlot();
  void Start(Job* job, uint64_t slot, bool write);
  void Finish(Job* job, int result);
  void Fail(std::string message);
  void Feed();
  void RunLoad();
  void ReadBack();

  Client* const client_;
  const BenchOptions options_;
  const Pattern pattern_;
  const uint64_t slots_;
  std::mt19937_64 random_;
  Stamps stamps_;
  std::vector<bool> busy_;  // verify: what is in flight is neither read nor written again
  std::deque<Job> jobs_;
  std::vector<Job*> idle_;
  bool feeding_ = false;  // a job that has ended is started again
  uint64_t started_ = 0;
  uint64_t sequential_ = 0;
  int64_t deadline_ns_ = 0;
  BenchResult result_;
  std::string failure_;
};

bool Bench::Ended() const {
  if (!failure_.empty()) return true;
  if (options_.count != 0) return started_ >= options_.count;
  return client_->NowNs() >= deadline_ns_;
}

uint64_t Bench::NextSlot() {
  for (;;) {
    const uint64_t slot = pattern_.random ? random_() % slots_ : sequential_++ % slots_;
    if (!options_.verify || !busy_[slot]) return slot;
  }
}

void Bench::Start(Job* job, uint64_t slot, bool write) {
  job->slot = slot;
  job->write = write;
  if (options_.verify) {
    busy_[slot] = true;
    if (write) stamps_.FillNext(slot, job->data);
  }
  job->start_ns = client_->NowNs();
  const uint64_t offset = slot * options_.size;
  const int accepted =
      write ? client_->Write(offset, job->data, job) : client_->Read(offset, job->data, job);
  if (accepted == 0) {
    ++started_;
    return;
  }
  idle_.push_back(job);
  Fail(fmt::format("the volume refused a request: {}", DescribeErrno(-accepted)));
}

void Bench::Finish(Job* job, int result) {
  idle_.push_back(job);
  if (options_.verify) busy_[job->slot] = false;
  result_.latency.Add(static_cast<uint64_t>(client_->NowNs() - job->start_ns));
  ++(job->write ? result_.writes : result_.reads);
  if (result < 0) {
    Fail(fmt::format("a {} at offset {} failed: {}", job->write ? "write" : "read",
                     job->slot * options_.size, DescribeErrno(-result)));
  } else if (options_.verify && !job->write && stamps_.Written(job->slot)) {
    ++result_.verified;
    if (!stamps_.Check(job->slot, job->data)) {
      Fail(fmt::format("wrong content at offset {}", job->slot * options_.size));
    }
  }
  // Inside a completion callback: it is sent with the others of the turn.
  if (feeding_) Feed();
}

void Bench::Fail(std::string message) {
  if (failure_.empty()) failure_ = std::move(message);
}

void Bench::Feed() {
  while (!idle_.empty() && !Ended()) {
    Job* job = idle_.back();
    idle_.pop_back();
    const bool write =
        pattern_.mix == Mix::kWrite || (pattern_.mix == Mix::kBoth && (random_() & 1) != 0);
    Start(job, NextSlot(), write);
  }
}

void Bench::RunLoad() {
  feeding_ = true;
  Feed();
  client_->Kick();
  while (idle_.size() < jobs_.size()) client_->Turn();
  feeding_ = false;
}

void Bench::ReadBack() {
  uint64_t slot = 0;
  while (slot < slots_ || idle_.size() < jobs_.size()) {
    while (!idle_.empty() && slot < slots_ && failure_.empty()) {
      if (stamps_.Written(slot)) {
        Job* job = idle_.back();
        idle_.pop_back();
        Start(job, slot, false);
      }
      ++slot;
    }
    if (!failure_.empty()) slot = slots_;
    client_->Kick();
    if (idle_.size() < jobs_.size()) client_->Turn();
  }
}

Result<BenchResult> Bench::Run() {
  for (uint32_t i = 0; i < options_.depth; ++i) {
    Job& job = jobs_.emplace_back();
    job.bench = this;
    job.data.resize(options_.size);
    for (uint8_t& byte : job.data) byte = static_cast<uint8_t>(random_());
    idle_.push_back(&job);
  }
  const int64_t start_ns = client_->NowNs();
  deadline_ns_ = start_ns + static_cast<int64_t>(options_.seconds * 1e9);
  RunLoad();
  result_.seconds = static_cast<double>(client_->NowNs() - start_ns) / 1e9;
  result_.stats = client_->stats();
  if (options_.verify && failure_.empty()) {
    const BenchResult measured = result_;
    ReadBack();
    const uint64_t verified = result_.verified;
    result_ = measured;
    result_.verified = verified;
  }
  if (!failure_.empty()) return Status(EIO, failure_);
  return result_;
}

}  // namespace

Result<BenchResult> RunBench(Client* client, const BenchOptions& options) {
  const CloudblkInfo info = client->info();
  const auto pattern = ParsePattern(options.pattern);
  if (!pattern) {
    return Status(EINVAL, fmt::format("unknown pattern '{}': use read, write, rw, randread, "
                                      "randwrite or randrw",
                                      options.pattern));
  }
  if (info.read_only && !options.pattern.ends_with("read")) {
    return Status(EROFS, "the volume is read-only");
  }
  if (options.size == 0 || options.size % info.logical_block_size != 0) {
    return Status(EINVAL, fmt::format("size {} is not a multiple of the volume's block size of {}",
                                      options.size, info.logical_block_size));
  }
  // "nan" is a number to the parser.
  if (!(options.seconds > 0 && options.seconds < 1e9)) {
    return Status(EINVAL, fmt::format("{} seconds is no time to measure for", options.seconds));
  }
  const uint64_t range = options.range == 0 ? info.size_bytes : options.range;
  const uint64_t slots = range / options.size;
  if (range > info.size_bytes || slots == 0) {
    return Status(EINVAL,
                  fmt::format("the range of {} bytes must hold a request of {} and lie within "
                              "the volume's {}",
                              range, options.size, info.size_bytes));
  }
  if (options.depth == 0 || (options.verify && options.depth >= slots)) {
    return Status(EINVAL,
                  fmt::format("depth {} must be at least 1 and, with --verify, below the {} "
                              "requests that fit into the range",
                              options.depth, slots));
  }
  if (options.size > kMaxBuffers / options.depth) {
    return Status(EINVAL, fmt::format("depth {} of {} bytes takes more than {} MiB of memory",
                                      options.depth, options.size, kMaxBuffers >> 20));
  }
  const Status active = client->Activate();
  if (!active.ok()) return active;
  return Bench(client, options, *pattern, slots).Run();
}

}  // namespace cloudblk
