// SPDX-License-Identifier: GPL-2.0-or-later
#include <fcntl.h>
#include <fmt/format.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <spdlog/spdlog.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <utility>

#include "base/bytes.h"
#include "proxy/backends/file_store.h"
#include "proxy/backends/hash.h"

namespace cloudblk::proxy {
namespace {

constexpr uint32_t kMaxBlock = 4096;

Status FromErrno(const FileOptions& options, const std::string& what, int error) {
  return Status(error, fmt::format("volume '{}': {} {}: {}", options.volume, what, options.path,
                                   strerror(error)));
}

Status Bad(const FileOptions& options, const std::string& what) {
  return Status(EINVAL, fmt::format("volume '{}': {} {}", options.volume, options.path, what));
}

// Makes the name durable as well: a volume that a client was told of must not vanish with a crash.
int SyncFolderOf(const std::string& path) {
  const std::string folder = path.substr(0, path.rfind('/') + 1);
  const int fd = open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return errno;
  const int error = fsync(fd) == 0 ? 0 : errno;
  close(fd);
  return error;
}

// Where no file is created: it would be lost with the memory that /dev is, and hide the device.
bool IsDevicePath(const std::string& path) {
  return path.starts_with("/dev/") && !path.starts_with("/dev/shm/");
}

// `begun`: the file is there, but empty, as a crash may leave it.
Status Create(const FileOptions& options, bool begun) {
  const uint32_t block = options.logical_block_size.value_or(512);
  if (*options.size % block != 0) {
    return Bad(options, fmt::format("cannot be made with size={}: write a multiple of {}",
                                    *options.size, block));
  }
  const int flags = begun ? 0 : O_CREAT | O_EXCL;
  const int fd = open(options.path.c_str(), O_RDWR | O_CLOEXEC | flags, 0600);
  if (fd < 0) {
    if (errno == EEXIST) return Status::Ok();
    if (errno == ENOENT) return Bad(options, "cannot be made: make its folder first");
    return FromErrno(options, "cannot create", errno);
  }
  // A file that was in use has lost its content, and zeros would hide that.
  Result<std::string> owner = FileAttributes(fd, {}, {}).Get("owner");
  if (begun && (!owner.ok() || !owner->empty())) {
    close(fd);
    return Bad(options, "is empty, but somebody has used it: restore it");
  }
  int error = ftruncate(fd, static_cast<off_t>(*options.size)) == 0 ? 0 : errno;
  if (error == 0 && fsync(fd) != 0) error = errno;
  if (error == 0) error = SyncFolderOf(options.path);
  close(fd);
  if (error == 0) return Status::Ok();
  if (!begun) unlink(options.path.c_str());
  return FromErrno(options, "cannot create", error);
}

Status Open(const FileOptions& options, OpenedFile* file) {
  const int flags = (options.read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC;
  if (options.direct) {
    file->fd = open(options.path.c_str(), flags | O_DIRECT);
    file->direct = file->fd >= 0;
    if (file->fd >= 0 || errno != EINVAL) {
      return file->fd >= 0 ? Status::Ok() : FromErrno(options, "cannot open", errno);
    }
  }
  file->fd = open(options.path.c_str(), flags);
  return file->fd >= 0 ? Status::Ok() : FromErrno(options, "cannot open", errno);
}

// The alignment of offsets and lengths that direct I/O wants; 0: it cannot be done.
uint32_t DirectAlignment(int fd, const struct statx& info) {
#ifdef STATX_DIOALIGN
  if ((info.stx_mask & STATX_DIOALIGN) != 0) {
    if (info.stx_dio_mem_align > BufferPool::kAlignment) return 0;
    return info.stx_dio_offset_align;
  }
#endif
  if (S_ISBLK(info.stx_mode)) {
    int size = 0;
    return ioctl(fd, BLKSSZGET, &size) == 0 ? static_cast<uint32_t>(size) : 0;
  }
  // An old kernel does not say: try.
  alignas(4096) static thread_local uint8_t buffer[kMaxBlock];
  for (const uint32_t size : {512u, kMaxBlock}) {
    if (pread(fd, buffer, size, 0) >= 0) return size;
  }
  return 0;
}

void DropDirect(const FileOptions& options, OpenedFile* file, const std::string& why) {
  spdlog::warn("volume '{}': {}: {}; using buffered I/O", options.volume, options.path, why);
  const int flags = fcntl(file->fd, F_GETFL);
  if (fcntl(file->fd, F_SETFL, flags & ~O_DIRECT) == 0) file->direct = false;
}

// Direct I/O with blocks smaller than the device's would need reads before writes, which a cut
// could tear: such a volume goes through the page cache.
Status ChooseBlockSize(const FileOptions& options, const struct statx& info, OpenedFile* file) {
  const uint64_t size = file->size;
  uint32_t& block = file->geometry.logical_block_size;
  block = options.logical_block_size.value_or(512);
  if (options.direct && !file->direct) {
    spdlog::warn("volume '{}': the file system of {} refuses direct I/O; using buffered I/O",
                 options.volume, options.path);
  } else if (file->direct) {
    const uint32_t alignment = DirectAlignment(file->fd, info);
    if (alignment == 0 || alignment > kMaxBlock || !std::has_single_bit(alignment)) {
      DropDirect(options, file, "direct I/O is not possible here");
    } else if (alignment > block && options.logical_block_size) {
      DropDirect(options, file, fmt::format("direct I/O needs blocks of {} bytes", alignment));
    } else if (alignment > block && size % alignment != 0) {
      DropDirect(options, file,
                 fmt::format("direct I/O needs a size that is a multiple of {}", alignment));
    } else {
      if (alignment > block) {
        spdlog::info(
            "volume '{}': {} is on a storage of {}-byte blocks, and so is the disk; one that was "
            "made "
            "with blocks of 512 needs ?logical-block-size=512 (and is slower)",
            options.volume, options.path, alignment);
      }
      block = std::max(block, alignment);
    }
  }
  if (size == 0 || size % block != 0) {
    return Bad(options,
               fmt::format("has {} bytes, which is not a multiple of its block size {} (or "
                           "0); make it one with truncate",
                           size, block));
  }
  return Status::Ok();
}

uint64_t ReadSysNumber(const struct statx& info, const char* name) {
  uint64_t value = 0;
  const std::string device =
      fmt::format("/sys/dev/block/{}:{}/", info.stx_rdev_major, info.stx_rdev_minor);
  // A partition has its queue in the disk's folder.
  for (const char* queue : {"queue/", "../queue/"}) {
    if (std::ifstream(device + queue + name) >> value) return value;
  }
  return 0;
}

std::string ReadSysLine(const std::string& path) {
  std::string line;
  std::ifstream file(path);
  std::getline(file, line);
  return line;
}

// What the device is, rather than what it is called: a logical volume may be made anew under the
// same name, and behind a loop device is another file the next time.
std::string NameBlockDevice(const FileOptions& options, const struct statx& info) {
  const std::string folder =
      fmt::format("/sys/dev/block/{}:{}/", info.stx_rdev_major, info.stx_rdev_minor);
  // A partition is one of the disk in whose folder its own is.
  const std::string partition = ReadSysLine(folder + "partition");
  const std::string disk = partition.empty() ? folder : folder + "../";
  const std::string suffix = partition.empty() ? "" : "-part" + partition;
  const std::string backing = ReadSysLine(disk + "loop/backing_file");
  if (!backing.empty()) return "loop-" + backing + "@" + ReadSysLine(disk + "loop/offset") + suffix;
  for (const char* source : {"dm/uuid", "wwid", "device/wwid"}) {
    const std::string id = ReadSysLine(disk + source);
    if (!id.empty()) return id + suffix;
  }
  return options.path;
}

// As the name of a file.
std::string KeyOfBlockDevice(const std::string& name) {
  constexpr size_t kLongest = 200;
  std::string key;
  for (const char c : name) key += c == '/' ? "%2F" : c == '%' ? "%25" : std::string(1, c);
  if (key.size() <= kLongest) return key;
  return fmt::format("{:016x}", Load64(HashToUuid(name).bytes.data()));
}

void DescribeBlockDevice(const struct statx& info, OpenedFile* file) {
  Geometry& geometry = file->geometry;
  unsigned physical = 0;
  if (ioctl(file->fd, BLKPBSZGET, &physical) != 0 || !std::has_single_bit(physical)) physical = 512;
  geometry.physical_block_size = std::max(physical, geometry.logical_block_size);
  geometry.optimal_io_size = static_cast<uint32_t>(ReadSysNumber(info, "optimal_io_size"));
  geometry.discard_granularity = static_cast<uint32_t>(ReadSysNumber(info, "discard_granularity"));
  geometry.discard = ReadSysNumber(info, "discard_max_bytes") != 0;
  geometry.rotational = ReadSysNumber(info, "rotational") != 0;
}

void DescribeRegularFile(const struct statx& info, OpenedFile* file) {
  Geometry& geometry = file->geometry;
  const uint32_t block = std::clamp(std::bit_ceil(info.stx_blksize), 512u, 65536u);
  geometry.physical_block_size = std::max(std::min(block, 4096u), geometry.logical_block_size);
  geometry.discard_granularity = std::max(block, geometry.logical_block_size);
  // A hole behind the end changes nothing and tells whether holes can be made.
  geometry.discard = fallocate(file->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                               static_cast<off_t>(file->size), block) == 0;
}

Status FindSize(const FileOptions& options, const struct statx& info, OpenedFile* file) {
  uint64_t size = info.stx_size;
  if (file->block_device && ioctl(file->fd, BLKGETSIZE64, &size) != 0) {
    return FromErrno(options, "cannot find the size of", errno);
  }
  file->size = size;
  if (options.size && *options.size != size && !WasResizedTo(file->Attributes(options), size)) {
    return Bad(options, fmt::format("has {} bytes, but size={} was asked for; its size is not "
                                    "changed: correct or leave out size=",
                                    size, *options.size));
  }
  return Status::Ok();
}

}  // namespace

OpenedFile& OpenedFile::operator=(OpenedFile&& other) noexcept {
  std::swap(fd, other.fd);
  direct = other.direct;
  size = other.size;
  inode = other.inode;
  block_device = other.block_device;
  geometry = other.geometry;
  uuid = other.uuid;
  key = std::move(other.key);
  return *this;
}

OpenedFile::~OpenedFile() {
  if (fd >= 0) close(fd);
}

Result<OpenedFile> OpenVolumeFile(const FileOptions& options) {
  struct stat existing{};
  if (stat(options.path.c_str(), &existing) != 0) {
    if (errno != ENOENT) return FromErrno(options, "cannot open", errno);
    if (IsDevicePath(options.path)) {
      return Bad(options, "does not exist; make the device available first");
    }
    if (!options.create) {
      return Status(ENOENT,
                    fmt::format("volume '{}': {} does not exist; add size=SIZE&create=on to "
                                "the URI to make it",
                                options.volume, options.path));
    }
    const Status created = Create(options, false);
    if (!created.ok()) return created;
  } else if (options.create && S_ISREG(existing.st_mode) && existing.st_size == 0) {
    const Status created = Create(options, true);
    if (!created.ok()) return created;
  }
  OpenedFile file;
  Status status = Open(options, &file);
  if (!status.ok()) return status;
  struct statx info{};
  unsigned mask = STATX_BASIC_STATS | STATX_BTIME;
#ifdef STATX_DIOALIGN
  mask |= STATX_DIOALIGN;
#endif
  if (statx(file.fd, "", AT_EMPTY_PATH, mask, &info) != 0) {
    return FromErrno(options, "cannot look at", errno);
  }
  // A file system in user space is told of each close, and the kernel waits for its answer, at the
  // end of a process too, until one such call was answered that there is nothing to be told. Now it
  // answers.
  close(dup(file.fd));
  file.inode = info.stx_ino;
  file.block_device = S_ISBLK(info.stx_mode);
  if (!file.block_device && !S_ISREG(info.stx_mode)) {
    return Bad(options, "is neither a regular file nor a block device");
  }
  if (file.block_device) file.key = KeyOfBlockDevice(NameBlockDevice(options, info));
  status = FindSize(options, info, &file);
  if (!status.ok()) return status;
  status = ChooseBlockSize(options, info, &file);
  if (!status.ok()) return status;
  file.geometry.read_only = options.read_only;
  if (file.block_device) {
    DescribeBlockDevice(info, &file);
    file.uuid = HashToUuid(fmt::format("{} {}", options.volume, options.path));
  } else {
    DescribeRegularFile(info, &file);
    file.uuid = HashToUuid(fmt::format("{} {} {}.{}", options.volume, info.stx_ino,
                                       info.stx_btime.tv_sec, info.stx_btime.tv_nsec));
  }
  if (options.read_only) file.geometry.discard = file.geometry.write_zeroes = false;
  return file;
}

}  // namespace cloudblk::proxy
