// SPDX-License-Identifier: GPL-2.0-or-later
//
// How a file volume changes its size.
#include <fmt/format.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "proxy/backends/file.h"

namespace cloudblk::proxy {
namespace {

// Bytes of the file or block device now; -errno.
int64_t FindSize(const OpenedFile& file) {
  if (file.block_device) {
    uint64_t size = 0;
    return ioctl(file.fd, BLKGETSIZE64, &size) == 0 ? static_cast<int64_t>(size) : -errno;
  }
  struct stat info{};
  return fstat(file.fd, &info) == 0 ? static_cast<int64_t>(info.st_size) : -errno;
}

}  // namespace

Status File::CheckResize(uint64_t size, uint64_t file_size) const {
  const std::string& path = options_.path;
  if (file_.block_device && file_size != size) {
    return Status(EOPNOTSUPP, fmt::format("{} is a block device of {} bytes: resize it where it "
                                          "comes from, and then the volume to its new size",
                                          path, file_size));
  }
  const uint64_t usable = std::min(file_size, watch_.usable());
  if (usable < this->size() && size > usable) {
    return Status(EIO, fmt::format("{} shrank to {} bytes: restore the file and restart the proxy, "
                                   "or shrink the volume to what is left",
                                   path, usable));
  }
  if (file_size > this->size() && size < file_size) {
    return Status(EINVAL, fmt::format("{} has grown to {} bytes meanwhile: resize the volume to "
                                      "that first",
                                      path, file_size));
  }
  return Status::Ok();
}

Status File::Resize(uint64_t size) {
  const int64_t found = FindSize(file_);
  if (found < 0) {
    const int error = static_cast<int>(-found);
    return Status(error,
                  fmt::format("cannot find the size of {}: {}", options_.path, strerror(error)));
  }
  Status allowed = CheckResize(size, static_cast<uint64_t>(found));
  if (!allowed.ok()) return allowed;
  if (!file_.block_device) {
    NoteResize(attributes_, this->size(), size);
    watch_.BeginResize();
    if (ftruncate(file_.fd, static_cast<off_t>(size)) != 0) {
      const int error = errno;
      watch_.EndResize(watch_.usable(), this->size());
      return Status(
          error, fmt::format("cannot change the size of {}: {}", options_.path, strerror(error)));
    }
    watch_.EndResize(size, size);
  }
  size_ = size;
  Status synced = SyncAll();
  if (synced.ok()) return synced;
  return Status(synced.error(), options_.path +
                                    " has its new size, but a crash of the host may undo that: " +
                                    synced.message());
}

}  // namespace cloudblk::proxy
