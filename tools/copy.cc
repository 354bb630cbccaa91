// SPDX-License-Identifier: GPL-2.0-or-later
#include "tools/copy.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

#include "tools/extents.h"
#include "tools/progress.h"

namespace cloudblk {
namespace {

constexpr size_t kChunk = 256 << 10;  // bytes
constexpr size_t kDepth = 16;

// One request in flight and its data.
struct Chunk final : Waiter {
  void OnDone(int r) override {
    result = r;
    busy = false;
  }
  std::vector<uint8_t> data = std::vector<uint8_t>(kChunk);
  CloudblkRange zeros{};
  size_t skip = 0;      // bytes at the front that nobody asked for
  uint64_t length = 0;  // bytes behind them that somebody did
  bool zero = false;    // all of these are zeros, and not in `data`
  int result = 0;
  bool busy = false;
};

// A ring: chunks are started and finished in the order of the bytes.
class Ring {
 public:
  explicit Ring(Client* client) : client_(client) {}
  // Waits for all: no buffer may go while a request still uses it.
  ~Ring() {
    for (Chunk& chunk : chunks_) {
      while (chunk.busy) client_->Turn();
    }
  }
  bool empty() const { return head_ == tail_; }
  bool full() const { return head_ - tail_ == kDepth; }
  Chunk& Next() { return chunks_[head_ % kDepth]; }
  void Push() { ++head_; }
  // Waits for the oldest chunk.
  Chunk& Pop() {
    Chunk& chunk = chunks_[tail_++ % kDepth];
    while (chunk.busy) client_->Turn();
    return chunk;
  }

 private:
  Client* const client_;
  std::array<Chunk, kDepth> chunks_;
  size_t head_ = 0;
  size_t tail_ = 0;
};

Status FromErrno(int error, const std::string& what) {
  return Status(error, fmt::format("{}: {}", what, DescribeErrno(error)));
}

Status Interrupted() { return Status(ECANCELED, "interrupted"); }

Status WriteAll(Client* client, int fd, std::span<const uint8_t> data, const std::string& path) {
  while (!data.empty()) {
    // The reader of a pipe may be one that does not read on.
    if (!client->AwaitFile(fd, true)) return Interrupted();
    const ssize_t n = write(fd, data.data(), data.size());
    if (n < 0 && (errno == EINTR || errno == EAGAIN)) continue;
    if (n < 0) return FromErrno(errno, "cannot write to " + path);
    data = data.subspan(static_cast<size_t>(n));
  }
  return Status::Ok();
}

// Fills `data` unless the file ends before. Returns the bytes read.
Result<size_t> ReadUpTo(Client* client, int fd, std::span<uint8_t> data, const std::string& path) {
  size_t done = 0;
  while (done < data.size()) {
    if (!client->AwaitFile(fd, false)) return Interrupted();
    const ssize_t n = read(fd, data.data() + done, data.size() - done);
    if (n < 0 && (errno == EINTR || errno == EAGAIN)) continue;
    if (n < 0) return FromErrno(errno, "cannot read " + path);
    if (n == 0) break;
    done += static_cast<size_t>(n);
  }
  return done;
}

// A pipe takes what it has room for, where a write would wait for all. It is opened anew, as others
// use the standard output too and want to wait.
UniqueFd OpenStandardOutput() {
  struct stat info{};
  if (fstat(STDOUT_FILENO, &info) == 0 && S_ISFIFO(info.st_mode)) {
    UniqueFd fd(open("/proc/self/fd/1", O_WRONLY | O_NONBLOCK | O_CLOEXEC));
    if (fd) return fd;
  }
  return UniqueFd(dup(STDOUT_FILENO));
}

Result<UniqueFd> OpenFile(const std::string& path, bool output) {
  if (path == "-") return output ? OpenStandardOutput() : UniqueFd(dup(STDIN_FILENO));
  UniqueFd fd(output ? open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0666)
                     : open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd) return FromErrno(errno, "cannot open " + path);
  struct stat info{};
  if (fstat(fd.get(), &info) == 0 && S_ISDIR(info.st_mode)) {
    return FromErrno(EISDIR, "cannot read " + path);
  }
  return fd;
}

// What is left of a regular file; UINT64_MAX of anything else.
uint64_t BytesLeft(int fd) {
  struct stat info{};
  if (fstat(fd, &info) != 0 || !S_ISREG(info.st_mode)) return UINT64_MAX;
  const off_t at = lseek(fd, 0, SEEK_CUR);
  return at < info.st_size ? static_cast<uint64_t>(info.st_size - at) : 0;
}

// Whether so much input can be written where there are `room` bytes.
Status CheckInput(uint64_t bytes, uint64_t room, uint32_t block_size) {
  if (bytes > room) return Status(ENOSPC, "the input is longer than the volume");
  if (bytes % block_size != 0) {
    return Status(EINVAL, fmt::format("the input's length is not a multiple of the volume's block "
                                      "size of {} bytes",
                                      block_size));
  }
  return Status::Ok();
}

Status InputEnded(uint64_t bytes, uint64_t length) {
  return Status(EINVAL, fmt::format("the input ended after {} of {} bytes", bytes, length));
}

bool IsZero(std::span<const uint8_t> data) {
  return data[0] == 0 && std::equal(data.begin() + 1, data.end(), data.begin());
}

// What is copied to a volume, piece by piece.
class Input {
 public:
  struct Piece {
    uint64_t length = 0;  // bytes; 0: the input has ended
    bool zeros = false;
  };

  // `most_zeros`: bytes of one piece of zeros; 0: zeros are data like any other.
  Input(Client* client, int fd, std::string path, uint32_t block, uint64_t most_zeros)
      : client_(client),
        fd_(fd),
        path_(std::move(path)),
        block_(block),
        most_zeros_(most_zeros / block * block) {}

  // The next piece, at most `most` bytes, and in whole blocks unless the input ends before or is
  // longer. Data of it is in the front of `data`.
  Result<Piece> Next(std::span<uint8_t> data, uint64_t most) {
    const off_t at = most_zeros_ != 0 ? lseek(fd_, 0, SEEK_CUR) : -1;
    if (at >= 0) {
      const uint64_t hole = std::min(HoleAt(at) / block_ * block_, std::min(most, most_zeros_));
      if (lseek(fd_, at + static_cast<off_t>(hole), SEEK_SET) < 0) {
        return FromErrno(errno, "cannot read " + path_);
      }
      if (hole != 0) return Piece{hole, true};
      most = std::min(most, (DataAt(at) + block_ - 1) / block_ * block_);
    }
    auto got = ReadUpTo(client_, fd_, data.first(std::min<uint64_t>(data.size(), most)), path_);
    if (!got.ok()) return got.status();
    return Piece{*got, most_zeros_ != 0 && *got != 0 && IsZero(data.first(*got))};
  }

 private:
  // Bytes of the hole that begins there, or of the data. Both move the file's position.
  uint64_t HoleAt(off_t at) const {
    struct stat info{};
    off_t end = lseek(fd_, at, SEEK_DATA);
    if (end < 0 && errno == ENXIO && fstat(fd_, &info) == 0) end = info.st_size;
    return end > at ? static_cast<uint64_t>(end - at) : 0;
  }
  uint64_t DataAt(off_t at) const {
    const off_t end = lseek(fd_, at, SEEK_HOLE);
    lseek(fd_, at, SEEK_SET);
    return end > at ? static_cast<uint64_t>(end - at) : kChunk;
  }

  Client* const client_;
  const int fd_;
  const std::string path_;
  const uint32_t block_;
  const uint64_t most_zeros_;
};

// What is copied from a volume, on its way to a file or a pipe.
class Output {
 public:
  // `path` ("-": stdout) keeps what it has until Begin.
  static Result<Output> Open(Client* client, const std::string& path) {
    auto fd = OpenFile(path, true);
    if (!fd.ok()) return fd.status();
    return Output(client, std::move(*fd), path);
  }

  Status Begin() {
    struct stat info{};
    // What stdout has is its opener's.
    if (path_ == "-" || fstat(fd_.get(), &info) != 0 || !S_ISREG(info.st_mode)) return Status::Ok();
    may_have_holes_ = true;
    return ftruncate(fd_.get(), 0) == 0 ? Status::Ok() : Failed();
  }
  Status Write(std::span<const uint8_t> data) {
    if (may_have_holes_ && IsZero(data)) return WriteZeros(data.size());
    return WriteAll(client_, fd_.get(), data, path_);
  }
  Status WriteZeros(uint64_t length) {
    if (may_have_holes_) {
      const off_t end = lseek(fd_.get(), static_cast<off_t>(length), SEEK_CUR);
      return end >= 0 && ftruncate(fd_.get(), end) == 0 ? Status::Ok() : Failed();
    }
    static const std::array<uint8_t, kChunk> zeros{};
    while (length > 0) {
      const size_t n = std::min<uint64_t>(length, zeros.size());
      const Status written = WriteAll(client_, fd_.get(), std::span(zeros).first(n), path_);
      if (!written.ok()) return written;
      length -= n;
    }
    return Status::Ok();
  }
  // Some file systems say only now that they could not keep what was written.
  Status Close() { return close(fd_.release()) == 0 || errno == EINTR ? Status::Ok() : Failed(); }

 private:
  Output(Client* client, UniqueFd fd, std::string path)
      : client_(client), fd_(std::move(fd)), path_(std::move(path)) {}
  Status Failed() const { return FromErrno(errno, "cannot write to " + path_); }

  Client* client_;
  UniqueFd fd_;
  std::string path_;
  bool may_have_holes_ = false;  // a new file, and ours
};

// Starts to read volume[offset, end), piece by piece, and says of each piece what it is.
class Source {
 public:
  Source(Client* client, uint64_t offset, uint64_t end)
      : client_(client),
        block_(client->info().logical_block_size),
        end_(end),
        extents_(client, offset, end),
        extent_{.offset = offset},
        at_(offset) {}

  bool ended() const { return at_ == end_; }
  // Precondition: not ended.
  Status Start(Chunk* chunk) {
    while (at_ == extent_.offset + extent_.length) {
      auto next = extents_.Next();
      if (!next.ok()) return next.status();
      extent_ = *next;
    }
    const uint64_t left = extent_.offset + extent_.length - at_;
    chunk->zero = extent_.zero;
    chunk->skip = at_ % block_;
    chunk->length = extent_.zero ? left : std::min<uint64_t>(kChunk - chunk->skip, left);
    chunk->result = 0;
    const uint64_t begin = at_ - chunk->skip;
    at_ += chunk->length;
    if (chunk->zero) return Status::Ok();
    const size_t blocks = (chunk->skip + chunk->length + block_ - 1) / block_ * block_;
    const int accepted = client_->Read(begin, std::span(chunk->data).first(blocks), chunk);
    if (accepted < 0) return FromErrno(-accepted, "the volume refused a read");
    chunk->busy = true;
    return Status::Ok();
  }

 private:
  Client* const client_;
  const uint64_t block_;
  const uint64_t end_;
  ExtentReader extents_;
  ExtentReader::Extent extent_;  // that at_ is in, or at the end of
  uint64_t at_;
};

// Takes what the ring's oldest chunk read to the file. Returns its bytes.
Result<uint64_t> Drain(Ring* ring, Output* output) {
  const Chunk& chunk = ring->Pop();
  if (chunk.result < 0) return FromErrno(-chunk.result, "a read of the volume failed");
  const Status written =
      chunk.zero ? output->WriteZeros(chunk.length)
                 : output->Write(std::span(chunk.data).subspan(chunk.skip, chunk.length));
  if (!written.ok()) return written;
  return chunk.length;
}

}  // namespace

Result<uint64_t> CopyOut(Client* client, uint64_t offset, uint64_t length,
                         const std::string& path) {
  const CloudblkInfo info = client->info();
  if (offset > info.size_bytes || length > info.size_bytes - offset) {
    return Status(EINVAL, fmt::format("offset {} and length {} go beyond the end of the volume "
                                      "({} bytes)",
                                      offset, length, info.size_bytes));
  }
  auto output = Output::Open(client, path);
  if (!output.ok()) return output.status();
  Status ready = client->Activate();
  if (ready.ok()) ready = output->Begin();
  if (!ready.ok()) return ready;
  Progress progress(length);
  Ring ring(client);
  Source source(client, offset, offset + length);
  uint64_t finished = 0;
  while (finished < length) {
    while (!source.ended() && !ring.full()) {
      const Status started = source.Start(&ring.Next());
      if (!started.ok()) return started;
      ring.Push();
    }
    client->Kick();
    auto drained = Drain(&ring, &*output);
    if (!drained.ok()) return drained.status();
    finished += *drained;
    progress.Update(finished);
  }
  const Status closed = output->Close();
  if (!closed.ok()) return closed;
  return length;
}

Result<uint64_t> CopyIn(Client* client, uint64_t offset, uint64_t length, const std::string& path,
                        bool sparse) {
  const CloudblkInfo info = client->info();
  if (info.read_only) return Status(EROFS, "the volume is read-only");
  if (offset % info.logical_block_size != 0 || offset > info.size_bytes) {
    return Status(EINVAL, fmt::format("offset {} must be a multiple of {} within the volume's {} "
                                      "bytes",
                                      offset, info.logical_block_size, info.size_bytes));
  }
  auto file = OpenFile(path, false);
  if (!file.ok()) return file.status();
  const uint64_t left = BytesLeft(file->get());
  const uint64_t room = info.size_bytes - offset;
  // UINT64_MAX: as much as comes.
  const uint64_t expected = std::min(length, left);
  if (expected != UINT64_MAX) {
    Status fits = CheckInput(expected, room, info.logical_block_size);
    if (fits.ok() && length != UINT64_MAX && left < length) fits = InputEnded(left, length);
    if (!fits.ok()) return Status(fits.error(), fits.message() + "; nothing was written");
  }
  const Status active = client->Activate();
  if (!active.ok()) return active;
  Progress progress(expected != UINT64_MAX ? expected : 0);
  Ring ring(client);
  Input source(client, file->get(), path, info.logical_block_size,
               sparse ? info.max_write_zeroes_bytes : 0);
  uint64_t done = 0;
  Status input = Status::Ok();
  while (done < length && input.ok()) {
    if (ring.full()) {
      const int result = ring.Pop().result;
      if (result < 0) return FromErrno(-result, "a write to the volume failed");
    }
    Chunk& chunk = ring.Next();
    auto piece = source.Next(chunk.data, length - done);
    if (!piece.ok()) {
      input = piece.status();
      break;
    }
    if (piece->length == 0) break;
    input = CheckInput(piece->length, room - done, info.logical_block_size);
    const uint64_t usable =
        std::min(piece->length, room - done) / info.logical_block_size * info.logical_block_size;
    if (usable == 0) break;
    chunk.zeros = {offset + done, usable, CLOUDBLK_RANGE_UNMAP};
    const int accepted =
        piece->zeros ? client->WriteZeroes(&chunk.zeros, &chunk)
                     : client->Write(offset + done, std::span(chunk.data).first(usable), &chunk);
    if (accepted < 0) return FromErrno(-accepted, "the volume refused a write");
    chunk.busy = true;
    ring.Push();
    client->Kick();
    done += usable;
    progress.Update(done);
  }
  while (!ring.empty()) {
    const int result = ring.Pop().result;
    if (result < 0) return FromErrno(-result, "a write to the volume failed");
  }
  const int flushed = client->Flush();
  if (flushed < 0)
    return FromErrno(-flushed, "the flush failed: what was written may not be durable");
  // Also a file that has become shorter than it was.
  if (input.ok() && expected != UINT64_MAX && done < expected) input = InputEnded(done, expected);
  if (!input.ok()) {
    return Status(input.error(),
                  fmt::format("{}; {} bytes were written and flushed", input.message(), done));
  }
  return done;
}

}  // namespace cloudblk
