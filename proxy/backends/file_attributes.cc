// SPDX-License-Identifier: GPL-2.0-or-later
#include "proxy/backends/file_attributes.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/limits.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "base/socket.h"

namespace cloudblk::proxy {
namespace {

std::string KeyOf(const std::string& name) { return "user.cloudblk." + name; }

int SyncFolder(const std::string& folder) {
  const UniqueFd fd(open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  return fd && fsync(fd.get()) == 0 ? 0 : errno;
}

int WriteFile(const std::string& path, const std::string& value) {
  const UniqueFd fd(open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
  if (!fd) return errno;
  const ssize_t written = write(fd.get(), value.data(), value.size());
  if (written < 0) return errno;
  if (static_cast<size_t>(written) != value.size()) return ENOSPC;
  return fsync(fd.get()) == 0 ? 0 : errno;
}

}  // namespace

int FileAttributes::Set(const std::string& name, const std::string& value) const {
  if (!folder_.empty()) return SetFile(name, value);
  const std::string key = KeyOf(name);
  if (value.empty()) {
    return fremovexattr(fd_, key.c_str()) == 0 || errno == ENODATA ? 0 : errno;
  }
  return fsetxattr(fd_, key.c_str(), value.data(), value.size(), 0) == 0 ? 0 : errno;
}

int FileAttributes::SetFile(const std::string& name, const std::string& value) const {
  const std::string path = PathOf(name);
  if (value.empty()) {
    if (unlink(path.c_str()) != 0) return errno == ENOENT ? 0 : errno;
    return SyncFolder(folder_);
  }
  if (mkdir(folder_.c_str(), 0700) == 0) {
    const int error = SyncFolder(folder_.substr(0, folder_.rfind('/') + 1));
    if (error != 0) return error;
  } else if (errno != EEXIST) {
    return errno;
  }
  // By a rename: whenever the host crashes, there is either the old value or the new one.
  const std::string draft = path + ".new";
  const int error = WriteFile(draft, value);
  if (error != 0) return error;
  if (rename(draft.c_str(), path.c_str()) != 0) return errno;
  return SyncFolder(folder_);
}

Result<std::string> FileAttributes::Get(const std::string& name) const {
  std::string value(XATTR_SIZE_MAX, '\0');
  ssize_t length;
  if (folder_.empty()) {
    length = fgetxattr(fd_, KeyOf(name).c_str(), value.data(), value.size());
  } else {
    const UniqueFd fd(open(PathOf(name).c_str(), O_RDONLY | O_CLOEXEC));
    length = fd ? read(fd.get(), value.data(), value.size()) : -1;
  }
  // Set() never makes an empty one, but the host's crash may leave one.
  if (length == 0) return Status(EINVAL, Describe(name) + " is empty");
  if (length > 0) {
    value.resize(static_cast<size_t>(length));
    return value;
  }
  // Some file systems have no such attributes.
  const bool none =
      folder_.empty() ? errno == ENODATA || errno == EOPNOTSUPP || errno == EPERM : errno == ENOENT;
  if (none) return std::string();
  return Status(errno, fmt::format("cannot read {}: {}", Describe(name), strerror(errno)));
}

std::string FileAttributes::Describe(const std::string& name) const {
  return folder_.empty() ? "the extended attribute " + KeyOf(name) : PathOf(name);
}

}  // namespace cloudblk::proxy
