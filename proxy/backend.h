// SPDX-License-Identifier: GPL-2.0-or-later
//
// What a storage library has to offer to be a volume's backend. One Backend per volume, and of that
// one BackendQueue per loop, which operations go through.
#ifndef CLOUDBLK_PROXY_BACKEND_H_
#define CLOUDBLK_PROXY_BACKEND_H_

#include <atomic>
#include <cerrno>
#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/operation.h"
#include "base/status.h"
#include "base/uuid.h"
#include "proxy/buffer_pool.h"

namespace cloudblk::proxy {

class BackendQueue;
class LoopContext;
struct IoOp;

// Told of operations that are done, on the loop's thread that submitted them.
class IoSink {
 public:
  virtual void OnIoDone(IoOp* op) = 0;

 protected:
  ~IoSink() = default;
};

// One operation. The submitter owns it and what it points to until it is done.
struct IoOp {
  // The storage does not know this process any more, as another took over its lock, and will tell
  // nobody what became of the operation. It is not answered: its connection ends, and the client
  // asks again by another.
  static constexpr int kLost = std::numeric_limits<int>::min();

  // Set by the submitter.
  Operation kind{};
  bool fua = false;               // WRITE, WRITE_ZEROES: durable when done
  bool hole_allowed = false;      // READ: `hole` may be answered instead of data
  bool stable_data = false;       // READ: the data may not change while it is being sent
  uint64_t offset = 0;            // READ, WRITE, BLOCK_STATUS: bytes
  uint32_t length = 0;            // READ, WRITE: bytes
  uint32_t max_extents = 0;       // BLOCK_STATUS: that there is room for, at least 1
  uint64_t extent = 0;            // BLOCK_STATUS: bytes from `offset` that are asked about
  uint64_t generation = 0;        // FLUSH, FUA: what the connection was told at its OPEN
  std::span<const Range> ranges;  // DISCARD, WRITE_ZEROES
  // Once true, nobody waits for the result any more: what was not begun need not be. Null: never.
  const std::atomic<bool>* abandoned = nullptr;
  // WRITE: the data, aligned. BLOCK_STATUS: room for `max_extents` objects of Extent, which an
  // ExtentWriter makes (extent_writer.h).
  Buffer buffer;
  IoSink* sink = nullptr;
  bool given_up() const {
    return abandoned != nullptr && abandoned->load(std::memory_order_relaxed);
  }

  // Set by the backend when it is done.
  int result = 0;     // 0, -errno or kLost
  bool hole = false;  // READ: all zeros; `data` is null
  const uint8_t* data =
      nullptr;  // READ: `length` bytes, in `buffer`, in `lent` or in the backend's own memory
  std::shared_ptr<const void> lent;  // READ: what is kept for `data`; null: it is not needed
  uint32_t extents = 0;              // BLOCK_STATUS: how many there are, at least 1

  // The backend's own while the operation is under way.
  LoopContext* context = nullptr;
  BackendQueue* queue = nullptr;
  uint32_t transferred = 0;  // bytes
  bool delayed = false;      // the storage had no room for it once
  IoOp* next = nullptr;
};

// What a client may rely on; constant once the volume is open. The size is not: see Backend::size.
struct Geometry {
  uint32_t logical_block_size = 512;   // bytes
  uint32_t physical_block_size = 512;  // bytes
  uint32_t optimal_io_size = 0;        // bytes
  uint32_t discard_granularity = 0;    // bytes
  bool read_only = false;
  bool discard = true;
  bool write_zeroes = true;
  bool write_cache = true;  // done is durable only after a FLUSH
  bool rotational = false;
  // Of one operation: ranges, and bytes of one of them, a multiple of the block size.
  uint32_t max_ranges = 64;
  uint64_t max_discard_length = uint64_t{1} << 30;
  uint64_t max_write_zeroes_length = uint64_t{64} << 20;
};

// A backend as one loop uses it. On that loop's thread.
class BackendQueue {
 public:
  virtual ~BackendQueue() = default;

  // Starts an operation that lies within the volume and is aligned. True: it is done already and
  // the sink will not be told. False: the sink is told later, never from inside Submit.
  virtual bool Submit(IoOp* op) = 0;
  // Hands to the storage what Submit has only queued. At the end of a turn.
  virtual void Kick() = 0;
};

class Backend {
 public:
  virtual ~Backend() = default;

  const Geometry& geometry() const { return geometry_; }
  // Bytes, a multiple of logical_block_size. Changes only in Resize and LookAtSize. Any thread.
  uint64_t size() const { return size_.load(std::memory_order_acquire); }
  const Uuid& uuid() const { return uuid_; }
  // Changes exactly when writes that were done but not flushed may have been lost. Any thread.
  uint64_t generation() const { return generation_.load(std::memory_order_acquire); }

  // Makes the backend usable on the loop of `context`, which outlives the queue. On that
  // loop's thread, or before it runs; does not wait.
  virtual Result<std::unique_ptr<BackendQueue>> Attach(LoopContext& context) = 0;

  // Gives the volume another size, durably. It may take a while. What a smaller size cuts off reads
  // as zeros when the volume grows again. `size` is a multiple of the block size and not 0; no
  // operation is under way, and none is submitted until it returns. On failure, whose text says
  // what to do, size() is what the storage has.
  virtual Status Resize(uint64_t) {
    return Status(EOPNOTSUPP, "this kind of storage cannot be resized");
  }

  // Has `look` called, from any thread, whenever the storage says that its size has changed, which
  // LookAtSize takes over. When this returns, what was given before is not called any more.
  void WatchSize(std::function<void()> look) {
    std::lock_guard lock(watch_mutex_);
    look_ = std::move(look);
  }
  // Takes the storage's size for the volume's, while operations are under way. Never while Resize
  // runs. It may take a while.
  virtual void LookAtSize() {}

  // Has `let_go` called, from any thread, when that lock is wanted elsewhere or was lost: nobody is
  // to be active any more and ReleaseExclusive to be called, unless that is so already; then
  // `done`, where blocking is allowed, and before AcquireExclusive is called again. When this
  // returns, what was given before is not called any more.
  using LetGoFn = std::function<void(std::function<void()> done)>;
  void WatchLock(LetGoFn let_go) {
    std::lock_guard lock(watch_mutex_);
    let_go_ = std::move(let_go);
  }

  // Has `done` called, before long and from any thread, with one line that says why the storage
  // does not answer; empty: nothing is known to be wrong. What needs no asking is told before it
  // returns.
  using TroubleFn = std::function<void(const std::string& trouble)>;
  virtual void FindTrouble(const TroubleFn& done) { done({}); }

  // --- Ownership. Called one at a time (OwnerStore), where blocking is allowed.

  // Keeps every other process from writing, until ReleaseExclusive. EBUSY: somebody else does.
  // `takeover`: if there is a way to make that one let go, or to keep the storage from taking
  // anything more of it, go that way.
  virtual Status AcquireExclusive(bool /*takeover*/) { return Status::Ok(); }
  virtual void ReleaseExclusive() {}
  // Keeps a short text (who may write) where the volume lives, so that it outlives this process
  // and, if `lasting`, a crash of the host. An empty text removes it. An error says why it cannot
  // be kept. May take long.
  virtual Status StoreOwner(const std::string&, bool /*lasting*/) { return Status::Ok(); }
  // Makes all that was done durable, whoever did it, so that another server has it too. May take
  // long.
  virtual Status SyncAll() { return Status::Ok(); }
  // Empty if none is kept. An error: there may be one, but it cannot be read.
  virtual Result<std::string> LoadOwner() { return std::string(); }

 protected:
  void NoteOtherSize() {
    std::lock_guard lock(watch_mutex_);
    if (look_) look_();
  }
  void NoteLetGo(std::function<void()> done) {
    std::lock_guard lock(watch_mutex_);
    if (let_go_) let_go_(std::move(done));
  }

  std::atomic<uint64_t> size_{0};
  Geometry geometry_;
  Uuid uuid_;
  std::atomic<uint64_t> generation_{0};

 private:
  std::mutex watch_mutex_;
  // Under watch_mutex_.
  std::function<void()> look_;
  LetGoFn let_go_;
};

}  // namespace cloudblk::proxy

#endif  // CLOUDBLK_PROXY_BACKEND_H_
