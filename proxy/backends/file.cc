// SPDX-License-Identifier: GPL-2.0-or-later
#include "proxy/backends/file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <spdlog/spdlog.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <ctime>
#include <utility>

#include "proxy/backends/backends.h"
#include "proxy/backends/file_queue.h"
#include "proxy/backends/hash.h"
#include "proxy/extent_writer.h"
#include "proxy/loop_context.h"

namespace cloudblk::proxy {
namespace {

constexpr size_t kZeroes = 1 << 20;
// Not const: zeros in .bss cost nothing on disk.
alignas(4096) uint8_t zeroes[kZeroes];

// A transfer that the kernel would have had to wait for blocks a thread. One sync serves all that
// wait for it. Ranges have threads of their own, so that zeroing holds up neither.
constexpr size_t kTransferThreads = 16;
constexpr size_t kSyncThreads = 1;
constexpr size_t kRangeThreads = 4;

// Bytes that one BLOCK_STATUS looks at: some file systems look at page after page.
constexpr uint64_t kMostLookedAt = uint64_t{16} << 30;

}  // namespace

File::File(const FileOptions& options, OpenedFile file)
    : name_(options.volume),
      options_(options),
      file_(std::move(file)),
      watch_(options.volume, options.path, file_.fd, file_.size),
      attributes_(file_.Attributes(options)),
      file_generation_(&attributes_),
      syncs_(
          &sync_threads_, this, [this] { return Sync(fdatasync); },
          [](int) { /* Sync has changed the generation */ }),
      sync_threads_(kSyncThreads),
      range_threads_(kRangeThreads),
      transfer_threads_(kTransferThreads) {
  size_ = file_.size;
  geometry_ = file_.geometry;
  uuid_ = file_.uuid;
  generation_ = file_generation_.value();
}

Result<std::unique_ptr<BackendQueue>> File::Attach(LoopContext& context) {
  Result<AsyncIo*> io = ChooseIo(context);
  if (!io.ok()) return io.status();
  return std::unique_ptr<BackendQueue>(std::make_unique<FileQueue>(this, &context, *io));
}

Result<AsyncIo*> File::ChooseIo(LoopContext& context) const {
  if (options_.aio != FileOptions::Aio::kLibaio) {
    Result<AsyncIo*> uring = context.NeedUring();
    if (uring.ok() || options_.aio == FileOptions::Aio::kUring) return uring;
    static std::atomic<bool> told{false};
    if (!told.exchange(true)) {
      spdlog::warn(
          "{}; using libaio, with which a storage that hangs can keep the end of this "
          "process waiting",
          uring.status().message());
    }
  }
  // It would read and write the page cache on the loop.
  if (!file_.direct) return nullptr;
  return context.NeedLibaio();
}

void File::RunRangesOnThread(IoOp* op) {
  range_threads_.Run([this, op] { RunRanges(op); });
}

void File::FindExtentsOnThread(IoOp* op) {
  range_threads_.Run([this, op] {
    op->result = FindExtents(op);
    op->next = nullptr;
    PostDone(op);
  });
}

int File::FindExtents(IoOp* op) {
  watch_.Look();
  if (op->offset + op->extent > usable_size()) return -EIO;
  ExtentWriter writer(op, geometry_.logical_block_size);
  uint64_t at = op->offset;
  const uint64_t end = std::min(writer.end(), at + kMostLookedAt);
  // What is written and discarded meanwhile does not keep it from ending.
  for (uint32_t looks = 0; at < end && looks <= 2 * op->max_extents; ++looks) {
    if (op->given_up()) return -ECANCELED;
    const off_t data = lseek(file_.fd, static_cast<off_t>(at), SEEK_DATA);
    // ENXIO: there is none behind it. Else the file system does not know.
    const uint64_t hole_end = data >= 0 ? static_cast<uint64_t>(data) : errno == ENXIO ? end : at;
    if (hole_end > at && !writer.Add(std::min(hole_end, end), true, true)) return 0;
    at = hole_end;
    if (at >= end) break;
    const off_t hole = lseek(file_.fd, static_cast<off_t>(at), SEEK_HOLE);
    at = hole >= 0 ? std::min(static_cast<uint64_t>(hole), end) : end;
    if (!writer.AddData(at)) return 0;
  }
  if (op->extents == 0) writer.AddData(end);
  return 0;
}

void File::RunTransferOnThread(std::function<void()> fn) { transfer_threads_.Run(std::move(fn)); }

int File::RunRange(const IoOp& op, const Range& range) {
  if (op.given_up()) return -ECANCELED;
  if (!file_.block_device) watch_.Look();
  if (range.offset + range.length > usable_size()) return -EIO;
  const int result = op.kind == Operation::kDiscard ? Discard(range) : WriteZeroes(op, range);
  return result == -ENOSPC && IsBeyondDevice(range.offset + range.length) ? -EIO : result;
}

void File::RunRanges(IoOp* op) {
  for (const Range& range : op->ranges) {
    op->result = RunRange(*op, range);
    if (op->result != 0) break;
  }
  if (op->result != 0 && op->result != -ECANCELED) LogFirst(-op->result, *op);
  if (op->result == 0 && op->fua) {
    syncs_.Add(op);
    return;
  }
  op->next = nullptr;
  PostDone(op);
}

int File::Allocate(int mode, const Range& range) {
  int result;
  do {
    result = fallocate(file_.fd, mode | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(range.offset),
                       static_cast<off_t>(range.length));
  } while (result != 0 && errno == EINTR);
  return result == 0 ? 0 : -errno;
}

int File::Discard(const Range& range) {
  if (range.length == 0) return 0;
  int error;
  if (file_.block_device) {
    uint64_t bounds[2] = {range.offset, range.length};
    error = ioctl(file_.fd, BLKDISCARD, bounds) == 0 ? 0 : -errno;
  } else {
    error = Allocate(FALLOC_FL_PUNCH_HOLE, range);
  }
  // A storage that will not discard (or not in pieces smaller than its blocks) has done all that
  // DISCARD asks for.
  return error == -EOPNOTSUPP || (file_.block_device && error == -EINVAL) ? 0 : error;
}

int File::WriteZeroes(const IoOp& op, const Range& range) {
  if (range.length == 0) return 0;
  if (range.unmap && geometry_.discard) {
    const int error = Allocate(FALLOC_FL_PUNCH_HOLE, range);
    if (error != -EOPNOTSUPP && !(file_.block_device && error == -EINVAL)) return error;
  }
  if (zero_range_works_.load(std::memory_order_relaxed)) {
    const int error = Allocate(FALLOC_FL_ZERO_RANGE, range);
    // Smaller than the device's blocks.
    if (file_.block_device && error == -EINVAL) {
      return WritePlainZeroes(op, range.offset, range.length);
    }
    if (error != -EOPNOTSUPP) return error;
    zero_range_works_.store(false, std::memory_order_relaxed);
  }
  return WritePlainZeroes(op, range.offset, range.length);
}

int File::WritePlainZeroes(const IoOp& op, uint64_t offset, uint64_t length) {
  while (length > 0) {
    if (op.given_up()) return -ECANCELED;
    const ssize_t n =
        pwrite(file_.fd, zeroes, std::min<uint64_t>(length, kZeroes), static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return n == 0 ? -EIO : -errno;
    offset += static_cast<uint64_t>(n);
    length -= static_cast<uint64_t>(n);
  }
  return 0;
}

void File::Latch(int error) {
  generation_.store(file_generation_.Advance(), std::memory_order_release);
  spdlog::error(
      "volume '{}': cannot flush {}: {}; writes since the last flush may be lost, and "
      "flushes of the clients that are connected now fail",
      name_, options_.path, strerror(-error));
}

// A block device that shrank says that it is full.
bool File::IsBeyondDevice(uint64_t end) const {
  uint64_t size = 0;
  return file_.block_device && ioctl(file_.fd, BLKGETSIZE64, &size) == 0 && end > size;
}

void File::LogFirst(int error, const IoOp& op) {
  const uint64_t bit = uint64_t{1} << (error & 63);
  if ((errors_logged_.fetch_or(bit, std::memory_order_relaxed) & bit) != 0) return;
  spdlog::error(
      "volume '{}': {} of {} bytes at {} of {} failed: {} (further errors of this kind "
      "are not logged)",
      name_, Name(op.kind), op.length, op.offset, options_.path, strerror(error));
}

// LockFile locks the device's node, and each container may have a node of its own. An exclusive
// open is of the device itself, which nobody can mount meanwhile either.
Status File::TakeDevice() {
  constexpr int kFlags = O_RDONLY | O_EXCL | O_CLOEXEC;
  device_.reset(open(fmt::format("/proc/self/fd/{}", file_.fd).c_str(), kFlags));
  if (!device_ && errno == ENOENT) device_.reset(open(options_.path.c_str(), kFlags));  // no /proc
  if (device_) return Status::Ok();
  return Status(errno, fmt::format("{} cannot be had for this proxy alone (is it mounted, or does "
                                   "another process use it?): {}",
                                   options_.path, strerror(errno)));
}

Status File::AcquireExclusive(bool /*takeover*/) {
  Status locked = LockFile(file_.fd, options_.path, geometry_.read_only);
  if (!locked.ok()) return locked;
  if (file_.block_device && !geometry_.read_only) {
    Status taken = TakeDevice();
    if (!taken.ok()) {
      UnlockFile(file_.fd);
      return taken;
    }
  }
  // Who had it before may have failed to flush.
  std::lock_guard lock(generation_mutex_);
  file_generation_.Load();
  generation_.store(file_generation_.value(), std::memory_order_release);
  return Status::Ok();
}

void File::ReleaseExclusive() {
  device_.reset();
  UnlockFile(file_.fd);
}

Status File::StoreOwner(const std::string& text, bool lasting) {
  if (geometry_.read_only) return Status::Ok();
  int error = attributes_.Set("owner", text);
  if (error == 0 && !file_.block_device) {
    error = attributes_.Set("owner-of", text.empty() ? std::string() : OwnerOf(text));
  }
  if (error != 0) {
    return Status(error, "cannot set " + attributes_.Describe("owner") + " for " + options_.path +
                             ": " + strerror(error));
  }
  // Else a crash of the host could bring back the former owner, in whose absence data was flushed.
  return lasting ? SyncAll() : Status::Ok();
}

std::string File::OwnerOf(const std::string& record) const {
  return fmt::format("{} {}", file_.inode, ToString(HashToUuid(record)));
}

// The kernel reports a lost write to one sync only. So there is one at a time: another one must not
// succeed before the failure has changed the generation.
int File::Sync(int (*sync)(int)) {
  // Some file systems that cannot be written to refuse it.
  if (geometry_.read_only) return 0;
  std::lock_guard lock(generation_mutex_);
  if (sync(file_.fd) == 0) return 0;
  const int error = errno;
  Latch(-error);
  return -error;
}

Status File::SyncAll() {
  const int error = -Sync(fsync);
  if (error == 0) return Status::Ok();
  return Status(error, "cannot sync " + options_.path + ": " + strerror(error));
}

Result<std::string> File::LoadOwner() {
  if (geometry_.read_only) return std::string();
  Result<std::string> owner = attributes_.Get("owner");
  if (!owner.ok() || owner->empty() || file_.block_device) return owner;
  // Copies of a file may bring its attributes along. Releases that know of no "owner-of" leave that
  // of an older record.
  Result<std::string> of = attributes_.Get("owner-of");
  if (!of.ok()) return of;
  const std::string own = OwnerOf(*owner);
  const size_t space = own.find(' ');
  if (of->size() <= space || *of == own || !of->ends_with(own.substr(space))) return owner;
  spdlog::info("volume '{}': {} is a copy of a file that somebody had: that is passed over", name_,
               options_.path);
  return std::string();
}

Result<std::unique_ptr<Backend>> OpenFile(const std::string& volume, BackendUri uri,
                                          StartUp* start_up) {
  Result<FileOptions> options = ParseFileOptions(volume, std::move(uri));
  if (!options.ok()) return options.status();
  options->state_dir = start_up->state_dir;
  Result<OpenedFile> file = OpenVolumeFile(*options);
  if (!file.ok()) return file.status();
  WaitForPredecessor(file->fd, options->path, options->read_only, &start_up->patience);
  return std::unique_ptr<Backend>(std::make_unique<File>(*options, std::move(*file)));
}

}  // namespace cloudblk::proxy
