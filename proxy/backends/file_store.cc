// SPDX-License-Identifier: GPL-2.0-or-later
#include "proxy/backends/file_store.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <spdlog/spdlog.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <sstream>
#include <thread>
#include <utility>

#include "base/bytes.h"
#include "base/random.h"
#include "proxy/backends/backends.h"
#include "proxy/backends/hash.h"

namespace cloudblk::proxy {
namespace {

constexpr std::chrono::milliseconds kPredecessorPoll{20};
constexpr std::chrono::milliseconds kNoTime{0};

struct flock WholeFile(short type) {
  struct flock lock{};
  lock.l_type = type;
  lock.l_whence = SEEK_SET;
  return lock;
}

}  // namespace

Result<FileOptions> ParseFileOptions(const std::string& volume, BackendUri uri) {
  FileOptions options;
  options.volume = volume;
  options.path = uri.path();
  const auto bad = [&](const std::string& what) {
    return Status(EINVAL,
                  fmt::format("volume '{}': backend URI '{}': {}", volume, uri.text(), what));
  };
  if (!options.path.starts_with('/')) return bad("the path is not absolute; write file:///path");
  Result<std::optional<uint64_t>> size = uri.TakeSize("size");
  if (!size.ok()) return size.status();
  options.size = *size;
  if (options.size == uint64_t{0}) return bad("size=0 is no disk");
  Result<uint32_t> block = uri.TakeBlockSize(0);
  if (!block.ok()) return block.status();
  if (*block != 0) options.logical_block_size = *block;
  const auto take = [&](const char* key, bool otherwise, bool* out) -> Status {
    Result<bool> value = uri.TakeSwitch(key, otherwise);
    if (!value.ok()) return value.status();
    *out = *value;
    return Status::Ok();
  };
  for (const auto& [key, otherwise, out] :
       {std::tuple{"create", false, &options.create}, std::tuple{"direct", true, &options.direct},
        std::tuple{"read-only", false, &options.read_only}}) {
    const Status status = take(key, otherwise, out);
    if (!status.ok()) return status;
  }
  if (const std::optional<std::string> aio = uri.Take("aio")) {
    if (*aio != "libaio" && *aio != "io_uring") return bad("aio is libaio or io_uring");
    options.aio = *aio == "libaio" ? FileOptions::Aio::kLibaio : FileOptions::Aio::kUring;
  }
  if (options.create && !options.size) return bad("create=on needs size=, for example size=10G");
  const Status status = uri.CheckAllTaken();
  if (!status.ok()) return status;
  return options;
}

void WaitForPredecessor(int fd, const std::string& path, bool read_only,
                        std::chrono::milliseconds* patience) {
  for (bool told = false;; told = true) {
    struct flock lock = WholeFile(read_only ? F_RDLCK : F_WRLCK);
    if (fcntl(fd, F_OFD_GETLK, &lock) != 0 || lock.l_type == F_UNLCK) return;
    if (!told) spdlog::warn("{} is locked by another process; waiting for it to let go", path);
    if (*patience <= kNoTime) break;
    std::this_thread::sleep_for(kPredecessorPoll);
    *patience -= kPredecessorPoll;
  }
  spdlog::warn("{} is still locked: clients are told that the volume is busy until it is not",
               path);
}

Status LockFile(int fd, const std::string& path, bool read_only) {
  struct flock lock = WholeFile(read_only ? F_RDLCK : F_WRLCK);
  if (fcntl(fd, F_OFD_SETLK, &lock) == 0) return Status::Ok();
  if (errno == EAGAIN || errno == EACCES) {
    return Status(EBUSY,
                  fmt::format("another process on the server, or another volume of this one, "
                              "holds the lock of {}; stop it first",
                              path));
  }
  return Status(errno, fmt::format("cannot lock {}: {}", path, strerror(errno)));
}

void UnlockFile(int fd) {
  struct flock lock = WholeFile(F_UNLCK);
  if (fcntl(fd, F_OFD_SETLK, &lock) != 0) spdlog::error("cannot unlock: {}", strerror(errno));
}

FileGeneration::FileGeneration(const FileAttributes* attributes) : attributes_(attributes) {
  errno = 0;
  std::ifstream("/proc/sys/kernel/random/boot_id") >> boot_id_;
  const int error = errno;
  // Nobody can tell then whether the host crashed: each start counts as one.
  if (boot_id_.empty()) {
    spdlog::warn(
        "cannot read the host's boot_id ({}): clients are told with each start of the proxy that "
        "writes which were not flushed may be lost",
        error == EMFILE || error == ENFILE
            ? fmt::format("{}; raise the limit on open files, ulimit -n", strerror(error))
            : std::string("is /proc/sys there?"));
    boot_id_ = fmt::format("{:x}", Random64());
  }
  Load();
}

void FileGeneration::Load() {
  const Result<std::string> read = attributes_->Get("sync-failures");
  if (!read.ok()) {
    spdlog::warn("{}: clients are told that a flush may have failed", read.status().message());
    failures_ = std::max(failures_, Random64() >> 1);
    Compute();
    return;
  }
  const std::string& kept = read.value();
  const size_t space = kept.find(' ');
  // Failures before the last boot are part of what that boot lost anyway. What could not be kept
  // counts all the same.
  if (space != std::string::npos && kept.substr(0, space) == boot_id_) {
    failures_ = std::max<uint64_t>(failures_, strtoull(kept.c_str() + space, nullptr, 10));
  }
  Compute();
}

uint64_t FileGeneration::Advance() {
  ++failures_;
  const int error = attributes_->Set("sync-failures", fmt::format("{} {}", boot_id_, failures_));
  if (error != 0) {
    spdlog::error("cannot note the failed flush in {} ({}): a restarted proxy will not know of it",
                  attributes_->Describe("sync-failures"), strerror(error));
  }
  Compute();
  return value_;
}

void FileGeneration::Compute() {
  value_ = Load64(HashToUuid(fmt::format("{} {}", boot_id_, failures_)).bytes.data());
}

void NoteResize(const FileAttributes& attributes, uint64_t from, uint64_t to) {
  const int error = attributes.Set("sizes", fmt::format("{} {}", from, to));
  if (error != 0) {
    spdlog::warn(
        "cannot note the new size in an extended attribute ({}): before the proxy starts again, "
        "change or leave out size= in the volume's URI",
        strerror(error));
  }
}

bool WasResizedTo(const FileAttributes& attributes, uint64_t size) {
  const Result<std::string> kept = attributes.Get("sizes");
  std::istringstream sizes(kept.ok() ? kept.value() : std::string());
  for (uint64_t known; sizes >> known;) {
    if (known == size) return true;
  }
  return false;
}

}  // namespace cloudblk::proxy
