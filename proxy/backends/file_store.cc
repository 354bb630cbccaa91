// SPDX-License-Identifier: GPL-2.0-or-later
#include "proxy/backends/file_store.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/limits.h>
#include <spdlog/spdlog.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <sstream>
#include <thread>
#include <utility>

#include "proxy/backends/hash.h"

namespace cloudblk::proxy {
namespace {

constexpr std::chrono::milliseconds kPredecessorPatience{3000};
constexpr std::chrono::milliseconds kPredecessorPoll{20};

struct flock WholeFile(short type) {
  struct flock lock {};
  lock.l_type = type;
  lock.l_whence = SEEK_SET;
  return lock;
}

std::string AttributeName(const char* name) { return std::string("user.cloudblk.") + name; }

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
  const std::string aio = uri.Take("aio").value_or("libaio");
  if (aio != "libaio" && aio != "io_uring") return bad("aio is libaio or io_uring");
  options.uring = aio == "io_uring";
  if (options.create && !options.size) return bad("create=on needs size=, for example size=10G");
  const Status status = uri.CheckAllTaken();
  if (!status.ok()) return status;
  return options;
}

void WaitForPredecessor(int fd, const std::string& path, bool read_only) {
  const auto deadline = std::chrono::steady_clock::now() + kPredecessorPatience;
  for (bool told = false;; told = true) {
    struct flock lock = WholeFile(read_only ? F_RDLCK : F_WRLCK);
    if (fcntl(fd, F_OFD_GETLK, &lock) != 0 || lock.l_type == F_UNLCK) return;
    if (!told) spdlog::warn("{} is locked by another process; waiting for it to let go", path);
    if (std::chrono::steady_clock::now() >= deadline) break;
    std::this_thread::sleep_for(kPredecessorPoll);
  }
  spdlog::warn("{} is still locked: clients are told that the volume is busy until it is not",
               path);
}

Status LockFile(int fd, const std::string& path, bool read_only) {
  struct flock lock = WholeFile(read_only ? F_RDLCK : F_WRLCK);
  if (fcntl(fd, F_OFD_SETLK, &lock) == 0) return Status::Ok();
  if (errno == EAGAIN || errno == EACCES) {
    return Status(EBUSY, fmt::format("another process on the server holds the lock of {} (another "
                                     "cloudblk-proxy?); stop it first",
                                     path));
  }
  return Status(errno, fmt::format("cannot lock {}: {}", path, strerror(errno)));
}

void UnlockFile(int fd) {
  struct flock lock = WholeFile(F_UNLCK);
  if (fcntl(fd, F_OFD_SETLK, &lock) != 0) spdlog::error("cannot unlock: {}", strerror(errno));
}

FileGeneration::FileGeneration(int fd) : fd_(fd) {
  std::ifstream("/proc/sys/kernel/random/boot_id") >> boot_id_;
  Load();
}

void FileGeneration::Load() {
  const Result<std::string> read = GetAttribute(fd_, "sync-failures");
  const std::string kept = read.ok() ? read.value() : std::string();
  const size_t space = kept.find(' ');
  // Failures before the last boot are part of what that boot lost anyway.
  if (space != std::string::npos && kept.substr(0, space) == boot_id_) {
    failures_ = strtoull(kept.c_str() + space, nullptr, 10);
  }
  Compute();
}

uint64_t FileGeneration::Advance() {
  ++failures_;
  const int error = SetAttribute(fd_, "sync-failures", fmt::format("{} {}", boot_id_, failures_));
  if (error != 0) {
    spdlog::error(
        "cannot note the failed flush in an extended attribute ({}): a restarted proxy "
        "will not know of it",
        strerror(error));
  }
  Compute();
  return value_;
}

void FileGeneration::Compute() {
  value_ = wire::Load64(HashToUuid(fmt::format("{} {}", boot_id_, failures_)).bytes.data());
}

void NoteResize(int fd, uint64_t from, uint64_t to) {
  const int error = SetAttribute(fd, "sizes", fmt::format("{} {}", from, to));
  if (error != 0) {
    spdlog::warn(
        "cannot note the new size in an extended attribute ({}): before the proxy starts again, "
        "change "
        "or leave out size= in the volume's URI",
        strerror(error));
  }
}

bool WasResizedTo(int fd, uint64_t size) {
  const Result<std::string> kept = GetAttribute(fd, "sizes");
  std::istringstream sizes(kept.ok() ? kept.value() : std::string());
  for (uint64_t known; sizes >> known;) {
    if (known == size) return true;
  }
  return false;
}

int SetAttribute(int fd, const char* name, const std::string& value) {
  const std::string key = AttributeName(name);
  if (value.empty()) {
    return fremovexattr(fd, key.c_str()) == 0 || errno == ENODATA ? 0 : errno;
  }
  return fsetxattr(fd, key.c_str(), value.data(), value.size(), 0) == 0 ? 0 : errno;
}

Result<std::string> GetAttribute(int fd, const char* name) {
  const std::string key = AttributeName(name);
  std::string value(XATTR_SIZE_MAX, '\0');
  const ssize_t length = fgetxattr(fd, key.c_str(), value.data(), value.size());
  if (length >= 0) {
    value.resize(static_cast<size_t>(length));
    return value;
  }
  // Device nodes have no such attributes, nor have some file systems.
  if (errno == ENODATA || errno == EOPNOTSUPP || errno == EPERM) return std::string();
  return Status(errno,
                fmt::format("cannot read the extended attribute {}: {}", key, strerror(errno)));
}

}  // namespace cloudblk::proxy
