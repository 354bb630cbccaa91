// SPDX-License-Identifier: GPL-2.0-or-later
#include "tests/bench/load.h"

#include <fmt/core.h>
#include <sched.h>

#include <algorithm>
#include <array>
#include <cerrno>

#include "tests/bench/report.h"

namespace cloudblk::bench {
namespace {

constexpr uint64_t kEventIdx = 1ull << 29, kIndirectDescriptors = 1ull << 28;
constexpr uint64_t kVersion1 = 1ull << 32, kFlush = 1ull << 9, kMultiqueue = 1ull << 12;
constexpr unsigned kCapacity = 0, kNumQueues = 34;  // fields of virtio_blk_config
constexpr uint64_t kSector = 512;
// A device that answers nothing for so long is stuck.
constexpr int64_t kStuckNs = 60'000'000'000;

bool IsRandom(const std::string& pattern) { return pattern.starts_with("rand"); }
bool IsMixed(const std::string& pattern) { return pattern.ends_with("rw"); }
bool IsWrite(const std::string& pattern) { return pattern.ends_with("write"); }

Status CheckPattern(const std::string& pattern) {
  constexpr std::array kKnown = {"read", "write", "randread", "randwrite", "randrw"};
  if (std::find(kKnown.begin(), kKnown.end(), pattern) != kKnown.end()) return Status::Ok();
  return Status(EINVAL, fmt::format("unknown pattern '{}': use read, write, randread, randwrite "
                                    "or randrw",
                                    pattern));
}

}  // namespace

Load::Load(Qtest* qtest, VirtioPci* device, LoadOptions options)
    : qtest_(qtest), device_(device), options_(std::move(options)), random_(options_.seed) {}

Result<std::unique_ptr<Load>> Load::Create(GuestMemory* memory, Qtest* qtest, VirtioPci* device,
                                           LoadOptions options) {
  std::unique_ptr<Load> load(new Load(qtest, device, std::move(options)));
  Status status = load->SetUp(memory);
  if (!status.ok()) return status;
  return load;
}

Status Load::SetUp(GuestMemory* memory) {
  auto features =
      device_->Negotiate(kVersion1 | kEventIdx | kIndirectDescriptors | kFlush | kMultiqueue);
  if (!features.ok()) return features.status();
  const uint64_t needed = kVersion1 | kEventIdx | kIndirectDescriptors;
  if ((*features & needed) != needed) return Status(ENOTSUP, "the device lacks virtio features");

  const uint64_t capacity = device_->ReadConfig(kCapacity, 8) * kSector;
  if (options_.range == 0) options_.range = capacity;
  if (options_.range > capacity) {
    return Status(EINVAL, fmt::format("the disk has only {} bytes", capacity));
  }
  if (options_.queues > 1 &&
      ((*features & kMultiqueue) == 0 || device_->ReadConfig(kNumQueues, 2) < options_.queues)) {
    return Status(EINVAL, fmt::format("the device has fewer than {} queues", options_.queues));
  }
  for (const StreamOptions& stream : options_.streams) {
    Status status = CheckPattern(stream.pattern);
    if (!status.ok()) return status;
    if (stream.size == 0 || stream.size % kSector != 0 || stream.size > options_.range) {
      return Status(EINVAL, fmt::format("a request cannot have {} bytes", stream.size));
    }
    places_.push_back(options_.range / stream.size);
    sequential_.push_back(0);
  }
  if (options_.verify) {
    Status status = SetUpStamps();
    if (!status.ok()) return status;
  }

  Status status = device_->RouteInterrupts(memory->Allocate(4, 4096));
  if (!status.ok()) return status;
  queues_.resize(options_.queues);
  for (Queue& queue : queues_) {
    queue.index = static_cast<uint16_t>(&queue - queues_.data());
    const uint16_t offered = device_->QueueSize(queue.index);
    const uint16_t size = options_.queue_size == 0 ? offered : options_.queue_size;
    queue.ring = std::make_unique<Virtqueue>(memory, size, options_.chain);
    for (uint32_t i = 0; i < options_.streams.size(); ++i) {
      const StreamOptions& stream = options_.streams[i];
      if (stream.background && queue.index != 0) continue;
      for (uint32_t n = 0; n < stream.depth; ++n) {
        if (queue.slots.size() == queue.ring->Capacity() ||
            memory->Left() < stream.size + (1u << 16)) {
          return Status(ENOSPC, "the queue or the machine's memory is too small for that depth");
        }
        const uint32_t number = queue.ring->AddSlot(stream.size);
        std::generate_n(queue.ring->Data(number), stream.size, [&] { return random_() | 1; });
        queue.slots.push_back({.stream = i, .number = number});
        queue.idle.push_back(number);
      }
    }
    queue.notify = device_->EnableQueue(queue.index, size, queue.ring->rings());
  }
  device_->Start();
  return Status::Ok();
}

Status Load::SetUpStamps() {
  unit_ = std::ranges::min(options_.streams, {}, &StreamOptions::size).size;
  const uint32_t largest = std::ranges::max(options_.streams, {}, &StreamOptions::size).size;
  uint64_t requests = 0;
  for (const StreamOptions& stream : options_.streams) {
    requests += uint64_t{stream.depth} * (stream.background ? 1 : options_.queues);
  }
  if (largest % unit_ != 0) {
    return Status(EINVAL,
                  fmt::format("to verify, {} bytes must be a multiple of {}", largest, unit_));
  }
  // Each keeps the others off its place, and there has to be one left for the next.
  if (requests * largest > options_.range) {
    return Status(EINVAL,
                  fmt::format("to verify, a range of {} bytes is too small for {} requests of "
                              "up to {} bytes",
                              options_.range, requests, largest));
  }
  stamps_.emplace(options_.range / unit_, options_.seed);
  busy_.resize(options_.range / unit_);
  return Status::Ok();
}

Result<PhaseResult> Load::Run(double seconds, uint64_t count) {
  return RunPass(Pass::kLoad, seconds, count);
}

Status Load::Fill() {
  sequential_[0] = 0;
  const auto done = RunPass(Pass::kFill, 0, places_[0]);
  sequential_[0] = 0;
  return done.ok() ? Status::Ok() : done.status();
}

Result<uint64_t> Load::ReadBack() {
  sequential_[0] = 0;
  auto done = RunPass(Pass::kReadBack, 0, places_[0]);
  if (!done.ok()) return done.status();
  return done->verified;
}

Result<PhaseResult> Load::RunPass(Pass pass, double seconds, uint64_t count) {
  result_ = PhaseResult{};
  result_.streams.resize(options_.streams.size());
  started_ = 0;
  count_ = count;
  const int64_t start_ns = NowNs();
  deadline_ns_ = start_ns + static_cast<int64_t>(seconds * 1e9);
  int64_t progress_ns = start_ns;
  while (!Ended() || in_flight_ > 0) {
    if (Turn(pass)) {
      progress_ns = NowNs();
    } else if (NowNs() - progress_ns > kStuckNs) {
      return Status(ETIMEDOUT, fmt::format("no answer from the device, {} requests are in flight",
                                           in_flight_));
    } else if (options_.wait == Wait::kYield) {
      sched_yield();
    }
  }
  result_.seconds = static_cast<double>(NowNs() - start_ns) / 1e9;
  if (!failure_.empty()) return Status(EIO, failure_);
  return result_;
}

// Whether anything came back or was sent.
bool Load::Turn(Pass pass) {
  bool busy = false;
  for (Queue& queue : queues_) {
    const int64_t now_ns = NowNs();
    const uint32_t count = queue.ring->Reap(
        [&](uint32_t number, uint8_t status) { Finish(pass, &queue, number, status, now_ns); });
    result_.reaps += count != 0;
    const bool refill =
        options_.lockstep ? queue.idle.size() == queue.slots.size() : !queue.idle.empty();
    if (refill && !Ended()) Refill(pass, &queue);
    if (queue.kick_again && qtest_->Pending() == 0) Kick(&queue);
    busy |= count != 0;
  }
  return busy;
}

bool Load::Ended() const {
  if (!failure_.empty()) return true;
  return count_ != 0 ? started_ >= count_ : NowNs() >= deadline_ns_;
}

// Sets where and what the slot's next request is. False if it has none now.
bool Load::Choose(Pass pass, Slot* slot) {
  const StreamOptions& stream = options_.streams[slot->stream];
  if (pass != Pass::kLoad) {
    if (slot->stream != 0) return false;
    slot->place = sequential_[0]++;
    slot->write = pass == Pass::kFill;
    return true;
  }
  do {
    slot->place = (IsRandom(stream.pattern) ? random_() : sequential_[slot->stream]++) %
                  places_[slot->stream];
  } while (stamps_ && Busy(UnitsOf(*slot)));
  slot->write = IsWrite(stream.pattern) || (IsMixed(stream.pattern) && (random_() & 1) != 0);
  return true;
}

Load::Units Load::UnitsOf(const Slot& slot) const {
  const uint64_t count = options_.streams[slot.stream].size / unit_;
  return {slot.place * count, count};
}

bool Load::Busy(Units units) const {
  for (uint64_t i = 0; i < units.count; ++i) {
    if (busy_[units.first + i]) return true;
  }
  return false;
}

void Load::SetBusy(Units units, bool busy) {
  for (uint64_t i = 0; i < units.count; ++i) busy_[units.first + i] = busy;
}

// What was read must be what was written last. What never was written may be anything, until it is
// read back.
void Load::CheckContent(Pass pass, const Slot& slot, const uint8_t* data) {
  const Units units = UnitsOf(slot);
  bool written = true;
  for (uint64_t i = 0; i < units.count; ++i) {
    const uint64_t unit = units.first + i;
    if (!stamps_->Written(unit)) {
      written = false;
    } else if (!stamps_->Check(unit, {data + i * unit_, unit_})) {
      Fail(fmt::format("wrong content in {} bytes at {}", unit_, unit * unit_));
    }
  }
  result_.verified += written;
  if (pass == Pass::kReadBack && !written) {
    Fail(
        fmt::format("{} bytes at {} were never written", units.count * unit_, units.first * unit_));
  }
}

void Load::Refill(Pass pass, Queue* queue) {
  std::vector<uint32_t>& idle = queue->idle;
  const int64_t now_ns = NowNs();
  size_t kept = 0;
  for (size_t i = 0; i < idle.size(); ++i) {
    Slot& slot = queue->slots[idle[i]];
    const bool background = options_.streams[slot.stream].background;
    if ((count_ != 0 && started_ >= count_) || !Choose(pass, &slot)) {
      idle[kept++] = idle[i];
      continue;
    }
    const uint32_t size = options_.streams[slot.stream].size;
    if (stamps_) {
      const Units units = UnitsOf(slot);
      SetBusy(units, true);
      uint8_t* data = queue->ring->Data(slot.number);
      for (uint64_t i = 0; slot.write && i < units.count; ++i) {
        stamps_->FillNext(units.first + i, {data + i * unit_, unit_});
      }
    }
    slot.start_ns = now_ns;
    queue->ring->Add(slot.number, slot.write, slot.place * (size / kSector));
    ++in_flight_;
    started_ += !background;
  }
  idle.resize(kept);
  ++result_.publishes;
  if (queue->ring->Publish()) Kick(queue);
}

// One notification at a time: what is added while QEMU still has to act on the last one may be seen
// or not, so another follows then.
void Load::Kick(Queue* queue) {
  queue->kick_again = qtest_->Pending() > 0;
  if (queue->kick_again) return;
  qtest_->Post(queue->notify, 2, queue->index);
  ++result_.kicks;
}

void Load::Finish(Pass pass, Queue* queue, uint32_t number, uint8_t status, int64_t now_ns) {
  const Slot& slot = queue->slots[number];
  const uint32_t size = options_.streams[slot.stream].size;
  StreamResult& stream = result_.streams[slot.stream];
  queue->idle.push_back(number);
  --in_flight_;
  ++stream.ios;
  stream.bytes += size;
  stream.latency.Add(static_cast<uint64_t>(now_ns - slot.start_ns));
  if (stamps_) SetBusy(UnitsOf(slot), false);
  if (status != 0) {
    Fail(fmt::format("a {} of {} bytes at {} was answered with status {}",
                     slot.write ? "write" : "read", size, slot.place * size, status));
  } else if (stamps_ && !slot.write) {
    CheckContent(pass, slot, queue->ring->Data(number));
  }
}

void Load::Fail(std::string message) {
  if (failure_.empty()) failure_ = std::move(message);
}

}  // namespace cloudblk::bench
