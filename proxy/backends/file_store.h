// SPDX-License-Identifier: GPL-2.0-or-later
//
// What a file volume is, apart from its data: how the file is opened, which disk it is, who holds
// it. All of this happens at open and close only.
#ifndef CLOUDBLK_PROXY_BACKENDS_FILE_STORE_H_
#define CLOUDBLK_PROXY_BACKENDS_FILE_STORE_H_

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>

#include "base/status.h"
#include "proxy/backend.h"
#include "proxy/backend_uri.h"
#include "proxy/backends/file_attributes.h"

namespace cloudblk::proxy {

struct FileOptions {
  std::string volume;
  std::string path;
  std::optional<uint64_t> size;  // bytes
  std::optional<uint32_t> logical_block_size;
  bool create = false;
  bool direct = true;
  bool read_only = false;
  // How reads and writes are handed to the kernel; kAny: the best that this host has.
  enum class Aio { kAny, kLibaio, kUring };
  Aio aio = Aio::kAny;
  std::string state_dir;  // where a block device's attributes are kept
};

// EINVAL with one line for the user.
Result<FileOptions> ParseFileOptions(const std::string& volume, BackendUri uri);

// An open file, closed by the destructor.
struct OpenedFile {
  OpenedFile() = default;
  OpenedFile(OpenedFile&& other) noexcept { *this = std::move(other); }
  OpenedFile& operator=(OpenedFile&& other) noexcept;
  ~OpenedFile();

  // Of the file, kept where it can be.
  FileAttributes Attributes(const FileOptions& options) const {
    return {fd, block_device ? options.state_dir : std::string(), key};
  }

  int fd = -1;
  bool direct = false;
  bool block_device = false;
  uint64_t size = 0;  // bytes
  uint64_t inode = 0;
  Geometry geometry;
  Uuid uuid;
  std::string key;  // names a block device across restarts of this process and of the host
};

// Opens (or creates) the file, finds out its geometry and identity, and falls back to buffered I/O
// where direct I/O is refused, which is logged.
Result<OpenedFile> OpenVolumeFile(const FileOptions& options);

// Waits for another process to let the file go: at start-up that is the predecessor of this one,
// dying. What it takes is taken off *patience. Readers do not wait for readers.
void WaitForPredecessor(int fd, const std::string& path, bool read_only,
                        std::chrono::milliseconds* patience);

// A lock of the open file (F_OFD_SETLK), for writing or, if read_only, against writers. EBUSY.
// It goes away with the last reference to the open file, which the kernel keeps for I/O that is
// still under way: who gets the lock knows that nothing of a dead holder can land any more.
Status LockFile(int fd, const std::string& path, bool read_only);
void UnlockFile(int fd);

// The generation of a file's volume: changes with the host's boot (unflushed writes are in the
// host's memory) and with each failed sync, also across restarts of this process.
class FileGeneration {
 public:
  // `attributes` outlive it.
  explicit FileGeneration(const FileAttributes* attributes);
  uint64_t value() const { return value_; }
  // Takes over what another process kept with the file meanwhile.
  void Load();
  // A sync failed: a new value, kept with the file where it can be.
  uint64_t Advance();

 private:
  void Compute();

  const FileAttributes* const attributes_;
  std::string boot_id_;
  uint64_t failures_ = 0;
  uint64_t value_ = 0;
};

// Keeps with the file, where that is possible, that the volume is about to be resized. Then a file
// of one of these sizes is not held to the size that the configuration still names.
void NoteResize(const FileAttributes& attributes, uint64_t from, uint64_t to);
bool WasResizedTo(const FileAttributes& attributes, uint64_t size);

}  // namespace cloudblk::proxy

#endif  // CLOUDBLK_PROXY_BACKENDS_FILE_STORE_H_
