// SPDX-License-Identifier: GPL-2.0-or-later
#include "proxy/backends/size_watch.h"

#include <linux/magic.h>
#include <spdlog/spdlog.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include <algorithm>
#include <ctime>
#include <utility>

#include "base/clock.h"

namespace cloudblk::proxy {
namespace {

// A size that was seen so long ago is looked at again, and one that was seen so long ago is not
// relied on any more: a write waits for the look then.
constexpr int64_t kLookAgainNs = 20 * kNsPerMs;
constexpr int64_t kTooOldNs = 100 * kNsPerMs;

int64_t CoarseNowNs() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
  return now.tv_sec * kNsPerS + now.tv_nsec;
}

// Whether the file system has the size of an open file in memory, and asks nobody for it. One that
// is not known may be another host's, or a process's.
bool AnswersAtOnce(int fd) {
  constexpr long kZfs = 0x2fc12fc1;  // not in the kernel's header
  struct statfs info{};
  if (fstatfs(fd, &info) != 0) return false;
  switch (info.f_type) {
    case BTRFS_SUPER_MAGIC:
    case EXT4_SUPER_MAGIC:
    case F2FS_SUPER_MAGIC:
    case OVERLAYFS_SUPER_MAGIC:
    case RAMFS_MAGIC:
    case TMPFS_MAGIC:
    case XFS_SUPER_MAGIC:
    case kZfs:
      return true;
    default:
      return false;
  }
}

}  // namespace

SizeWatch::SizeWatch(std::string volume, std::string path, int fd, uint64_t size)
    : volume_(std::move(volume)),
      path_(std::move(path)),
      fd_(fd),
      answers_at_once_(AnswersAtOnce(fd)),
      usable_(size),
      volume_size_(size) {}

void SizeWatch::BeginResize() {
  std::lock_guard lock(mutex_);
  ++resizes_;
}

void SizeWatch::EndResize(uint64_t usable, uint64_t volume_size) {
  std::lock_guard lock(mutex_);
  ++resizes_;
  usable_ = usable;
  volume_size_ = volume_size;
}

bool SizeWatch::IsRecent(Waiter* waiter) {
  const int64_t age = CoarseNowNs() - looked_ns_.load(std::memory_order_acquire);
  if (answers_at_once_) {
    // Once in a tick of the coarse clock, some milliseconds.
    if (age > 0) Look();
    return true;
  }
  if (age < kLookAgainNs) return true;
  if (!is_looking_.exchange(true)) thread_.Run([this] { LookAndTell(); });
  if (age < kTooOldNs) return true;
  std::lock_guard lock(mutex_);
  // The look may have ended meanwhile.
  if (!is_looking_) return true;
  if (std::ranges::find(waiters_, waiter) == waiters_.end()) waiters_.push_back(waiter);
  return false;
}

void SizeWatch::LookAndTell() {
  Look();
  std::vector<Waiter*> waiters;
  {
    std::lock_guard lock(mutex_);
    is_looking_ = false;
    waiters.swap(waiters_);
  }
  for (Waiter* waiter : waiters) waiter->OnSizeKnown();
}

void SizeWatch::Look() {
  uint32_t before;
  {
    std::lock_guard lock(mutex_);
    before = resizes_;
  }
  struct stat info{};
  const bool seen = fstat(fd_, &info) == 0;
  std::lock_guard lock(mutex_);
  if (seen && before == resizes_ && before % 2 == 0) {
    Note(static_cast<uint64_t>(info.st_size), info.st_nlink != 0);
  }
  looked_ns_.store(CoarseNowNs(), std::memory_order_release);
}

void SizeWatch::Note(uint64_t size, bool has_name) {
  if (!has_name && !name_missed_) {
    spdlog::error(
        "volume '{}': {} was deleted: it is served as long as this proxy runs, and is gone then; "
        "copy it away before (cloudblk read)",
        volume_, path_);
  }
  name_missed_ = !has_name;
  if (size >= usable_) return;
  usable_ = size;
  spdlog::error(
      "volume '{}': {} shrank to {} bytes, below the volume's {}: requests beyond that fail; "
      "restore the file and restart the proxy",
      volume_, path_, size, volume_size_);
}

}  // namespace cloudblk::proxy
