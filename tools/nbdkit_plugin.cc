// SPDX-License-Identifier: GPL-2.0-or-later
//
// nbdkit-cloudblk-plugin.so: a volume as an NBD export, for every program that speaks NBD.
//
// All clients of one nbdkit share one session. It begins with the first of them and ends with the
// last, so that the volume is free while nobody uses it. nbdkit's threads hand their requests to
// the session's own thread, where its loop runs, and wait.
#define NBDKIT_API_VERSION 2
#include <nbdkit-plugin.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <condition_variable>
#include <cstring>
#include <exception>
#include <future>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <string_view>
#include <thread>
#include <utility>

#include "base/epoll_loop.h"
#include "base/status.h"
#include "block/epoll_ops.h"
#include "block/include/cloudblk.h"
#include "tools/tls.h"

#define THREAD_MODEL NBDKIT_THREAD_MODEL_PARALLEL

namespace cloudblk {
namespace {

constexpr uint32_t kCloseTimeoutMs = 5000;
constexpr size_t kMostExtents = 256;
constexpr uint32_t kLargestRequest = 32u << 20;     // bytes; clients are asked for no more
constexpr uint32_t kLeastPreferredSize = 4u << 10;  // bytes

static_assert(CLOUDBLK_EXTENT_HOLE == NBDKIT_EXTENT_HOLE);
static_assert(CLOUDBLK_EXTENT_ZERO == NBDKIT_EXTENT_ZERO);

// What the command line says. Constant once nbdkit serves.
struct Settings {
  std::string server;
  bool share_rw = false;
  bool takeover = false;
  uint32_t request_timeout = 0;  // seconds; 0: none
  TlsOptions tls;
};
Settings settings;

Result<CloudblkSession*> OpenSession(bool observe, bool read_only) {
  CloudblkOptions open{};
  open.size = sizeof(open);
  open.abi_version = CLOUDBLK_ABI_VERSION;
  open.server = settings.server.c_str();
  open.channels = 1;
  open.observe = observe;
  open.read_only = read_only;
  open.share_rw = settings.share_rw;
  open.takeover = settings.takeover;
  open.log = EpollLoopOps()->log;
  CloudblkTls tls{};
  if (!settings.tls.dir.empty()) {
    const Result<CloudblkTls> found = settings.tls.ForEngine();
    if (!found.ok()) return found.status();
    tls = found.value();
    open.tls = &tls;
  }
  CloudblkSession* session = nullptr;
  char error[512];
  const int result = cloudblk_session_open(&open, &session, error, sizeof(error));
  if (result < 0) return Status(-result, error);
  return session;
}

// The volume while there are clients.
class Export {
 public:
  explicit Export(bool read_only) : read_only_(read_only) {}
  ~Export() {
    if (!thread_.joinable()) return;
    loop_->Stop();
    thread_.join();
  }
  Export(const Export&) = delete;
  Export& operator=(const Export&) = delete;

  // Once, and before all else.
  Status Open() {
    auto loop = EpollLoop::Create();
    if (!loop.ok()) return loop.status();
    loop_ = std::move(*loop);
    std::promise<Status> opened;
    thread_ = std::thread([this, &opened] { Run(&opened); });
    return opened.get_future().get();
  }

  CloudblkInfo info() const {
    CloudblkInfo info{};
    info.size = sizeof(info);
    cloudblk_session_info(session_, &info);
    return info;
  }

  // Carries out a request and waits for it: 0 or -errno. Any thread but the session's own.
  // `stored`, where not null, gets CloudblkCompletion::bytes_stored.
  int Do(CloudblkRequest request, uint64_t* stored = nullptr) {
    Waiter waiter;
    request.opaque = &waiter;
    loop_->Post([this, &request, &waiter] {
      const int accepted = cloudblk_channel_submit(channel_, &request);
      if (accepted < 0) waiter.Wake(accepted, 0);
    });
    const int result = waiter.Wait();
    if (stored != nullptr) *stored = waiter.stored;
    return result;
  }

 private:
  struct Waiter {
    void Wake(int r, uint64_t bytes) {
      // Told under the lock: who waits may end, and this with it, as soon as that is free.
      const std::lock_guard lock(mutex);
      result = r;
      stored = bytes;
      is_done = true;
      done.notify_one();
    }
    int Wait() {
      std::unique_lock lock(mutex);
      done.wait(lock, [this] { return is_done; });
      return result;
    }
    std::mutex mutex;
    std::condition_variable done;
    int result = 0;
    uint64_t stored = 0;
    bool is_done = false;
  };

  void Run(std::promise<Status>* opened) {
    auto session = OpenSession(false, read_only_);
    if (!session.ok()) return opened->set_value(session.status());
    session_ = *session;
    channel_ = cloudblk_session_channel(session_, 0);
    const int result =
        cloudblk_channel_attach(channel_, EpollLoopOps(), loop_.get(), OnComplete, nullptr);
    if (result == 0) {
      cloudblk_channel_set_request_timeout(channel_, settings.request_timeout);
      opened->set_value(Status::Ok());
      loop_->Run();
      // Nobody waits for an answer any more.
      if (cloudblk_channel_in_flight(channel_) > 0) cloudblk_channel_revoke(channel_);
      cloudblk_channel_detach(channel_);
    } else {
      opened->set_value(Status(-result, "cannot attach to the loop"));
    }
    cloudblk_session_close(session_, kCloseTimeoutMs);
  }
  static void OnComplete(void*, const CloudblkCompletion* done, uint32_t count) {
    for (uint32_t i = 0; i < count; ++i) {
      static_cast<Waiter*>(done[i].opaque)->Wake(done[i].result, done[i].bytes_stored);
    }
  }

  const bool read_only_;
  std::unique_ptr<EpollLoop> loop_;
  // Of the thread; but session_, as far as cloudblk_session_info goes, of any.
  CloudblkSession* session_ = nullptr;
  CloudblkChannel* channel_ = nullptr;
  std::thread thread_;
};

// The one export, and how many clients it has.
std::mutex export_mutex;
std::unique_ptr<Export> the_export;
size_t export_users = 0;

Export& ExportOf(void* handle) { return *static_cast<Export*>(handle); }

// What nbdkit has a code for on the wire; it takes anything else for a mistake of the client.
int ErrorForClient(int error) {
  switch (error) {
    case EPERM:
    case EROFS:
    case ENOMEM:
    case EINVAL:
    case ENOSPC:
    case ENOTSUP:
      return error;
    case ERANGE:  // the volume has become smaller
      return ENOSPC;
    default:
      return EIO;
  }
}

// 0 for 0. Else the client gets the error, and nbdkit's log the line.
int Answer(int result, const char* what) {
  if (result == 0) return 0;
  nbdkit_error("%s: %s", what, strerror(-result));
  nbdkit_set_error(ErrorForClient(-result));
  return -1;
}

int Refuse(const Status& status) {
  nbdkit_error("%s", status.message().c_str());
  nbdkit_set_error(ErrorForClient(status.error()));
  return -1;
}

CloudblkRequest DataRequest(CloudblkOperation operation, const iovec& data, uint64_t offset) {
  CloudblkRequest request{};
  request.operation = operation;
  request.offset = offset;
  request.iov = &data;
  request.iov_count = 1;
  return request;
}

CloudblkRequest RangeRequest(CloudblkOperation operation, const CloudblkRange& range) {
  CloudblkRequest request{};
  request.operation = operation;
  request.range_count = 1;
  request.ranges = &range;
  return request;
}

uint32_t FuaOf(uint32_t flags) { return (flags & NBDKIT_FLAG_FUA) != 0 ? CLOUDBLK_REQUEST_FUA : 0; }

int SetFlag(const char* value, bool* flag) {
  const int parsed = nbdkit_parse_bool(value);
  if (parsed >= 0) *flag = parsed != 0;
  return parsed < 0 ? -1 : 0;
}

int Config(const char* key, const char* value) {
  const std::string_view name = key;
  if (name == "server") return settings.server = value, 0;
  if (name == "share-rw") return SetFlag(value, &settings.share_rw);
  if (name == "takeover") return SetFlag(value, &settings.takeover);
  if (name == "tls-dir" || name == "tls-username" || name == "tls-hostname") {
    TlsOptions& tls = settings.tls;
    (name == "tls-dir" ? tls.dir : name == "tls-username" ? tls.username : tls.hostname) = value;
    return 0;
  }
  if (name == "request-timeout") {
    return nbdkit_parse_uint32_t(key, value, &settings.request_timeout);
  }
  nbdkit_error("there is no parameter '%s'", key);
  return -1;
}

int ConfigComplete() {
  if (!settings.server.empty()) return 0;
  nbdkit_error("say which volume: server=cloudblk://HOST/VOLUME");
  return -1;
}

// What is wrong is said at start, and not to the first client. Nobody is disturbed by it.
int GetReady() {
  auto session = OpenSession(true, false);
  if (!session.ok()) return Refuse(session.status());
  cloudblk_session_close(*session, kCloseTimeoutMs);
  return 0;
}

void* OpenExport(int read_only) {
  const std::lock_guard lock(export_mutex);
  try {
    if (export_users == 0) {
      auto opening = std::make_unique<Export>(read_only != 0);
      const Status opened = opening->Open();
      if (!opened.ok()) return Refuse(opened), nullptr;
      the_export = std::move(opening);
    }
  } catch (const std::exception& error) {  // no memory, or no more threads
    return Refuse(Status(ENOMEM, error.what())), nullptr;
  }
  ++export_users;
  return the_export.get();
}

void CloseExport(void*) {
  const std::lock_guard lock(export_mutex);
  if (--export_users == 0) the_export.reset();
}

int64_t GetSize(void* handle) { return static_cast<int64_t>(ExportOf(handle).info().size_bytes); }

int BlockSize(void* handle, uint32_t* minimum, uint32_t* preferred, uint32_t* maximum) {
  const CloudblkInfo info = ExportOf(handle).info();
  *minimum = info.logical_block_size;
  *preferred = std::max(info.physical_block_size, kLeastPreferredSize);
  *maximum = kLargestRequest;
  return 0;
}

int CanWrite(void* handle) { return ExportOf(handle).info().read_only ? 0 : 1; }
int CanFlush(void* handle) { return ExportOf(handle).info().flush ? 1 : 0; }
int CanFua(void* handle) {
  return ExportOf(handle).info().flush ? NBDKIT_FUA_NATIVE : NBDKIT_FUA_NONE;
}
int IsRotational(void* handle) { return ExportOf(handle).info().rotational ? 1 : 0; }
int CanTrim(void* handle) { return ExportOf(handle).info().max_discard_bytes != 0 ? 1 : 0; }
// 0: nbdkit writes zeros.
int CanZero(void* handle) { return ExportOf(handle).info().max_write_zeroes_bytes != 0 ? 1 : 0; }
// Nobody knows before how fast a storage will be.
int CanFastZero(void*) { return 0; }
int CanExtents(void* handle) { return ExportOf(handle).info().block_status ? 1 : 0; }
// There is one session, whatever the connection.
int CanMultiConn(void*) { return 1; }

int Read(void* handle, void* data, uint32_t count, uint64_t offset, uint32_t) {
  const iovec iov{data, count};
  return Answer(ExportOf(handle).Do(DataRequest(CLOUDBLK_OP_READ, iov, offset)), "read");
}

int Write(void* handle, const void* data, uint32_t count, uint64_t offset, uint32_t flags) {
  const iovec iov{const_cast<void*>(data), count};
  CloudblkRequest request = DataRequest(CLOUDBLK_OP_WRITE, iov, offset);
  request.flags = FuaOf(flags);
  return Answer(ExportOf(handle).Do(request), "write");
}

int Flush(void* handle, uint32_t) {
  CloudblkRequest request{};
  request.operation = CLOUDBLK_OP_FLUSH;
  return Answer(ExportOf(handle).Do(request), "flush");
}

int Trim(void* handle, uint32_t count, uint64_t offset, uint32_t flags) {
  const CloudblkRange range{offset, count, 0};
  const int result = ExportOf(handle).Do(RangeRequest(CLOUDBLK_OP_DISCARD, range));
  if (result < 0 || FuaOf(flags) == 0) return Answer(result, "trim");
  return Flush(handle, 0);
}

int Zero(void* handle, uint32_t count, uint64_t offset, uint32_t flags) {
  const bool unmap = (flags & NBDKIT_FLAG_MAY_TRIM) != 0;
  const CloudblkRange range{offset, count, unmap ? CLOUDBLK_RANGE_UNMAP : 0};
  CloudblkRequest request = RangeRequest(CLOUDBLK_OP_WRITE_ZEROES, range);
  request.flags = FuaOf(flags);
  return Answer(ExportOf(handle).Do(request), "zero");
}

int Extents(void* handle, uint32_t count, uint64_t offset, uint32_t flags,
            nbdkit_extents* extents) {
  Export& volume = ExportOf(handle);
  const uint64_t block = volume.info().logical_block_size;
  uint64_t at = offset - offset % block;
  const CloudblkRange range{at, (offset + count + block - 1) / block * block - at, 0};
  std::array<CloudblkExtent, kMostExtents> list;
  const size_t most = (flags & NBDKIT_FLAG_REQ_ONE) != 0 ? 1 : list.size();
  const iovec iov{list.data(), most * sizeof(CloudblkExtent)};
  CloudblkRequest request = RangeRequest(CLOUDBLK_OP_BLOCK_STATUS, range);
  request.iov = &iov;
  request.iov_count = 1;
  uint64_t stored = 0;
  const int result = volume.Do(request, &stored);
  if (result < 0) return Answer(result, "block status");
  for (const CloudblkExtent& extent : std::span(list).first(stored / sizeof(CloudblkExtent))) {
    if (nbdkit_add_extent(extents, at, extent.length, extent.flags) != 0) return -1;
    at += extent.length;
  }
  return 0;
}

nbdkit_plugin MakePlugin() {
  nbdkit_plugin plugin{};
  plugin.name = "cloudblk";
  plugin.longname = "a volume of cloudblk-proxy, or of an NBD server";
  plugin.version = CLOUDBLK_VERSION;
  plugin.magic_config_key = "server";
  plugin.config_help =
      "server=URI               (required) cloudblk://HOST[:PORT]/VOLUME and the like\n"
      "share-rw=BOOL            let others that say so too write beside us\n"
      "tls-dir=DIR              credentials for cloudblks:// and nbds://\n"
      "tls-username=NAME        whose key of keys.psk (default qemu)\n"
      "tls-hostname=NAME        name in the server's certificate\n"
      "takeover=BOOL            fence the present holder of the volume\n"
      "request-timeout=SECONDS  fail requests that have no answer; 0: wait for the server";
  plugin.config = Config;
  plugin.config_complete = ConfigComplete;
  plugin.get_ready = GetReady;
  plugin.open = OpenExport;
  plugin.close = CloseExport;
  plugin.get_size = GetSize;
  plugin.block_size = BlockSize;
  plugin.can_write = CanWrite;
  plugin.can_flush = CanFlush;
  plugin.can_fua = CanFua;
  plugin.is_rotational = IsRotational;
  plugin.can_trim = CanTrim;
  plugin.can_zero = CanZero;
  plugin.can_fast_zero = CanFastZero;
  plugin.can_extents = CanExtents;
  plugin.can_multi_conn = CanMultiConn;
  plugin.pread = Read;
  plugin.pwrite = Write;
  plugin.flush = Flush;
  plugin.trim = Trim;
  plugin.zero = Zero;
  plugin.extents = Extents;
  return plugin;
}

}  // namespace
}  // namespace cloudblk

static nbdkit_plugin plugin = cloudblk::MakePlugin();

NBDKIT_REGISTER_PLUGIN(plugin)
