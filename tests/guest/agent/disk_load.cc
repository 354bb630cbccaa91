// SPDX-License-Identifier: GPL-2.0-or-later
//
// Usage: disk_load DEVICE run|check [PAUSE]
//
// Load on a disk from inside the test guest that knows what the disk must hold, also after the
// guest was lost. Each of kWorkers writes to an area of its own, one write at a time and its blocks
// in a fixed order: so the number of a worker's last write says what its whole area holds, and
// whoever noted what was acknowledged can tell from the disk alone that nothing of it is missing.
// Every 16 bytes carry their place on the disk and the number of their write. PAUSE is how many
// milliseconds a worker waits between two writes.
//
// It says on its standard output, each with one number per worker (its last acknowledged write):
//   load found N...    the disk was read and is consistent
//   load at N...       `run` is under way (every few ms)
//   load paused N...   nothing is in flight since SIGUSR1; SIGUSR2 goes on
//   load ended N...    SIGTERM came, and the whole disk was read back
// and "load failed: ..." if an operation fails or what is read is not what was written.

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

namespace {

constexpr unsigned kWorkers = 8;
constexpr uint64_t kAreaSize = 4 << 20;
// Prime, so that any stride visits all blocks.
constexpr uint64_t kBlocks = 61;
constexpr uint64_t kStride = 23;
constexpr size_t kMaxBlock = 64 << 10;
constexpr uint64_t kReadEvery = 4;
constexpr uint64_t kFlushEvery = 64;
constexpr std::chrono::milliseconds kReportEvery{5};

struct Unit {
  uint64_t place;
  uint64_t write;
};

int device;
std::array<std::atomic<uint64_t>, kWorkers> acknowledged;

void Say(const std::string& line) {
  const std::string whole = line + "\n";
  if (write(STDOUT_FILENO, whole.data(), whole.size()) < 0) _exit(2);
}

void SayCounts(const char* what) {
  std::string line = std::string("load ") + what;
  for (const auto& count : acknowledged) line += " " + std::to_string(count.load());
  Say(line);
}

[[noreturn]] void Fail(const std::string& why) {
  Say("load failed: " + why);
  _exit(1);
}

size_t BlockSize(unsigned worker) { return size_t{4096} << worker % 5; }

uint64_t BlockOf(uint64_t write) { return write * kStride % kBlocks; }

uint64_t PlaceOf(unsigned worker, uint64_t block) {
  return worker * kAreaSize + block * BlockSize(worker);
}

// The last of the first `count` writes that went to this block; 0 if none did.
uint64_t LastWrite(uint64_t count, uint64_t block) {
  for (uint64_t write = count; write > 0 && write + kBlocks > count; --write) {
    if (BlockOf(write) == block) return write;
  }
  return 0;
}

class Worker {
 public:
  explicit Worker(unsigned index) : index_(index) {
    void* memory = nullptr;
    if (posix_memalign(&memory, 4096, kMaxBlock) != 0) Fail("no memory");
    units_ = static_cast<Unit*>(memory);
  }

  void Write(uint64_t number) {
    const uint64_t place = PlaceOf(index_, BlockOf(number));
    const size_t size = BlockSize(index_);
    for (size_t i = 0; i < size / sizeof(Unit); ++i) units_[i] = {place + i * sizeof(Unit), number};
    if (pwrite(device, units_, size, static_cast<off_t>(place)) != static_cast<ssize_t>(size)) {
      Fail("write: " + Where(place) + strerror(errno));
    }
  }

  // The number of the write that filled this block, 0 if it holds zeros.
  uint64_t Read(uint64_t block) {
    const uint64_t place = PlaceOf(index_, block);
    const size_t size = BlockSize(index_);
    if (pread(device, units_, size, static_cast<off_t>(place)) != static_cast<ssize_t>(size)) {
      Fail("read: " + Where(place) + strerror(errno));
    }
    const uint64_t number = units_[0].write;
    for (size_t i = 0; i < size / sizeof(Unit); ++i) {
      const uint64_t expected = number == 0 ? 0 : place + i * sizeof(Unit);
      if (units_[i].place != expected || units_[i].write != number) {
        Fail("torn block: " + Where(place) + "unit " + std::to_string(i) + " is of " +
             std::to_string(units_[i].place) + " and write " + std::to_string(units_[i].write) +
             ", the first of write " + std::to_string(number));
      }
    }
    return number;
  }

  // The block must hold what it does after the first `count` writes.
  void Check(uint64_t count, uint64_t block) {
    const uint64_t found = Read(block);
    const uint64_t expected = LastWrite(count, block);
    if (found != expected) {
      Fail("mismatch: " + Where(PlaceOf(index_, block)) + "write " + std::to_string(found) +
           " instead of " + std::to_string(expected));
    }
  }

  // The last write that the disk holds; everything else must fit to it.
  uint64_t Find() {
    uint64_t last = 0;
    for (uint64_t block = 0; block < kBlocks; ++block) last = std::max(last, Read(block));
    for (uint64_t block = 0; block < kBlocks; ++block) Check(last, block);
    return last;
  }

  void Flush() {
    if (fdatasync(device) != 0) Fail(std::string("flush: ") + strerror(errno));
  }

 private:
  std::string Where(uint64_t place) const {
    return "worker " + std::to_string(index_) + " at " + std::to_string(place) + ": ";
  }

  unsigned index_;
  Unit* units_;
};

// Lets the workers run, pause and end.
class Control {
 public:
  // Between two operations of a worker. False: end.
  bool Continue() {
    if (!held_.load()) return true;
    std::unique_lock lock(mutex_);
    ++idle_;
    changed_.notify_all();
    changed_.wait(lock, [this] { return !held_.load() || ending_; });
    --idle_;
    return !ending_;
  }

  void Hold() {
    std::unique_lock lock(mutex_);
    held_ = true;
    changed_.wait(lock, [this] { return idle_ == kWorkers; });
  }

  void Release(bool ending) {
    const std::lock_guard lock(mutex_);
    ending_ = ending;
    held_ = ending;
    changed_.notify_all();
  }

 private:
  std::atomic<bool> held_{false};
  std::mutex mutex_;
  std::condition_variable changed_;
  unsigned idle_ = 0;
  bool ending_ = false;
};

void Report() {
  static std::mutex mutex;
  static std::chrono::steady_clock::time_point last;
  const std::unique_lock lock(mutex, std::try_to_lock);
  if (!lock.owns_lock()) return;
  const auto now = std::chrono::steady_clock::now();
  if (now - last < kReportEvery) return;
  SayCounts("at");
  last = now;
}

void Run(unsigned index, std::chrono::milliseconds pause, Control* control) {
  Worker worker(index);
  uint64_t number = acknowledged[index];
  while (control->Continue()) {
    worker.Write(++number);
    acknowledged[index] = number;
    Report();
    if (number % kReadEvery == 0) worker.Check(number, number / kReadEvery % kBlocks);
    // Not all at a time
    if ((number + index * kFlushEvery / kWorkers) % kFlushEvery == 0) worker.Flush();
    if (pause.count() > 0) std::this_thread::sleep_for(pause);
  }
}

void Find() {
  std::vector<std::thread> threads;
  for (unsigned i = 0; i < kWorkers; ++i) {
    threads.emplace_back([i] { acknowledged[i] = Worker(i).Find(); });
  }
  for (auto& thread : threads) thread.join();
}

void RunUntilTold(std::chrono::milliseconds pause, sigset_t* signals) {
  Control control;
  std::vector<std::thread> threads;
  for (unsigned i = 0; i < kWorkers; ++i) threads.emplace_back(Run, i, pause, &control);
  for (;;) {
    int signal = 0;
    sigwait(signals, &signal);
    if (signal == SIGUSR2) {
      control.Release(false);
      continue;
    }
    control.Hold();
    if (signal == SIGTERM) break;
    SayCounts("paused");
  }
  control.Release(true);
  for (auto& thread : threads) thread.join();
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) return 2;
  const std::chrono::milliseconds pause{argc > 3 ? atoi(argv[3]) : 0};
  sigset_t signals;
  sigemptyset(&signals);
  for (const int signal : {SIGTERM, SIGUSR1, SIGUSR2}) sigaddset(&signals, signal);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  device = open(argv[1], O_RDWR | O_DIRECT | O_CLOEXEC);
  if (device < 0) Fail(std::string(argv[1]) + ": " + strerror(errno));
  Find();
  SayCounts("found");
  if (strcmp(argv[2], "run") != 0) return 0;

  RunUntilTold(pause, &signals);
  const auto written = std::vector<uint64_t>(acknowledged.begin(), acknowledged.end());
  Find();
  for (unsigned i = 0; i < kWorkers; ++i) {
    if (acknowledged[i] != written[i]) Fail("worker " + std::to_string(i) + ": writes are missing");
  }
  SayCounts("ended");
  return 0;
}
