// SPDX-License-Identifier: GPL-2.0-or-later
//
// By libnbd, so that it is another client's word and not the engine's.
#include "tools/nbd_check.h"

#include <fmt/format.h>
#include <libnbd.h>
#include <signal.h>
#include <sys/time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <memory>
#include <string_view>

#include "base/text.h"
#include "block/uri.h"

namespace cloudblk {
namespace {

constexpr uint64_t kBlock = 4096;

struct Close {
  void operator()(nbd_handle* handle) const { nbd_close(handle); }
};
using Handle = std::unique_ptr<nbd_handle, Close>;

Status LastError(const std::string& what) {
  const int error = nbd_get_errno();
  return Status(error != 0 ? error : EIO, Printable(fmt::format("{}: {}", what, nbd_get_error())));
}

// 0, or -1 with libnbd's error.
int SetTls(nbd_handle* h, const TlsOptions& tls, TlsSettings::Kind kind) {
  if (nbd_set_tls(h, LIBNBD_TLS_REQUIRE) != 0) return -1;
  if (kind == TlsSettings::Kind::kX509) return nbd_set_tls_certificates(h, tls.dir.c_str());
  if (nbd_set_tls_psk_file(h, (tls.dir + "/keys.psk").c_str()) != 0) return -1;
  return nbd_set_tls_username(h, tls.username.empty() ? "qemu" : tls.username.c_str());
}

Result<Handle> Connect(const ServerUri& uri, const TlsOptions& tls) {
  Handle handle(nbd_create());
  if (handle == nullptr) return LastError("libnbd");
  nbd_handle* const h = handle.get();
  const Endpoint& endpoint = uri.endpoints.front();
  // Mistakes are to reach the server, as those of other clients would.
  nbd_set_strict_mode(h, 0);
  int result = nbd_set_export_name(h, uri.volume.c_str());
  if (uri.tls && result == 0) {
    const Result<TlsSettings::Kind> kind = KindOfTlsFolder(tls.dir);
    if (!kind.ok()) return kind.status();
    result = SetTls(h, tls, kind.value());
  }
  if (result == 0) {
    result = endpoint.kind == Endpoint::Kind::kUnix
                 ? nbd_connect_unix(h, endpoint.path.c_str())
                 : nbd_connect_tcp(h, endpoint.host.c_str(), std::to_string(endpoint.port).c_str());
  }
  if (result != 0) return LastError("cannot open " + endpoint.ToString());
  return handle;
}

std::string YesNo(int answer) { return answer > 0 ? "yes" : answer == 0 ? "no" : "not told"; }

// What a request of libnbd's came to.
NbdFinding Tried(const std::string& what, int promised, int result) {
  NbdFinding finding{what, YesNo(promised), {}};
  finding.tried = result == 0 ? "works" : Printable(fmt::format("fails: {}", nbd_get_error()));
  finding.broken = (result == 0) != (promised > 0);
  return finding;
}

class Check {
 public:
  Check(const ServerUri& uri, const TlsOptions& tls, nbd_handle* handle, bool write)
      : uri_(uri), tls_(tls), h_(handle), write_(write && nbd_is_read_only(handle) == 0) {
    size_ = static_cast<uint64_t>(std::max<int64_t>(0, nbd_get_size(h_)));
    block_ = std::max<uint64_t>(kBlock, BlockSize(LIBNBD_SIZE_MINIMUM));
    content_.resize(block_);
  }

  std::vector<NbdFinding> Run() {
    Size();
    Blocksizes();
    Tell("structured replies", YesNo(nbd_get_structured_replies_negotiated(h_)));
    Tell("read-only", YesNo(nbd_is_read_only(h_)));
    Tell("TRIM", YesNo(nbd_can_trim(h_)));
    findings_.push_back(Tried("FLUSH", nbd_can_flush(h_), nbd_flush(h_, 0)));
    if (size_ >= block_) Blocks();
    SecondConnection();
    return std::move(findings_);
  }

 private:
  void Size() {
    Tell("size", fmt::format("{} bytes", size_));
    if (size_ > 0) return;
    findings_.back().tried = nbd_get_size(h_) < 0 ? "no size that can be" : "there is nothing";
    findings_.back().broken = true;
  }
  void Blocksizes() {
    const uint64_t least = BlockSize(LIBNBD_SIZE_MINIMUM);
    const uint64_t best = BlockSize(LIBNBD_SIZE_PREFERRED);
    if (least == 0 && best == 0) return Tell("blocks", "not told");
    Tell("blocks",
         fmt::format("{} to {} bytes, best {}", least, BlockSize(LIBNBD_SIZE_MAXIMUM), best));
    if (least <= kBlock) return;
    findings_.back().tried = "a guest's disk may have 4096 at most";
    findings_.back().broken = true;
  }
  uint64_t BlockSize(int which) const {
    return static_cast<uint64_t>(std::max<int64_t>(0, nbd_get_block_size(h_, which)));
  }
  void Tell(const std::string& what, const std::string& promised) {
    findings_.push_back({what, promised, {}});
  }
  void Blocks() {
    const int read = nbd_pread(h_, content_.data(), block_, 0, 0);
    findings_.push_back(Tried("READ", 1, read));
    if (read != 0 || !write_) {
      Tell("FUA", YesNo(nbd_can_fua(h_)));
      Tell("WRITE_ZEROES", YesNo(nbd_can_zero(h_)));
      Tell("FAST_ZERO", YesNo(nbd_can_fast_zero(h_)));
      return;
    }
    findings_.push_back(Tried("FUA", nbd_can_fua(h_), Write(LIBNBD_CMD_FLAG_FUA)));
    const bool zero = std::ranges::all_of(content_, [](uint8_t byte) { return byte == 0; });
    if (!zero) {
      // It would have to be written again, which a cut could prevent.
      Tell("WRITE_ZEROES", YesNo(nbd_can_zero(h_)));
      Tell("FAST_ZERO", YesNo(nbd_can_fast_zero(h_)));
      return;
    }
    findings_.push_back(Tried("WRITE_ZEROES", nbd_can_zero(h_), nbd_zero(h_, block_, 0, 0)));
    NbdFinding fast{"FAST_ZERO", YesNo(nbd_can_fast_zero(h_)), {}};
    if (nbd_can_fast_zero(h_) > 0) {
      const int result = nbd_zero(h_, block_, 0, LIBNBD_CMD_FLAG_FAST_ZERO);
      const bool slow =
          result != 0 && (nbd_get_errno() == ENOTSUP || nbd_get_errno() == EOPNOTSUPP);
      fast.tried = result == 0 ? "works" : slow ? "says that it would be slow" : nbd_get_error();
      fast.broken = result != 0 && !slow;
    }
    findings_.push_back(fast);
  }
  int Write(uint32_t flags) { return nbd_pwrite(h_, content_.data(), block_, 0, flags); }
  void SecondConnection() {
    NbdFinding finding{"several connections", YesNo(nbd_can_multi_conn(h_)), {}};
    Result<Handle> second = Connect(uri_, tls_);
    if (!second.ok()) {
      finding.tried = "a second one is refused: " + second.status().message();
      finding.broken = nbd_can_multi_conn(h_) > 0;
    } else {
      finding.tried = "a second one is let in";
      if (write_ && size_ >= block_) {
        std::vector<uint8_t> seen(block_);
        const bool same = Write(0) == 0 && nbd_flush(h_, 0) == 0 &&
                          nbd_pread(second->get(), seen.data(), block_, 0, 0) == 0 &&
                          seen == content_;
        finding.tried +=
            same ? ", and sees what the first one has written" : ", and sees other data";
        finding.broken = !same && nbd_can_multi_conn(h_) > 0;
      }
      nbd_shutdown(second->get(), 0);
    }
    findings_.push_back(finding);
  }

  const ServerUri& uri_;
  const TlsOptions& tls_;
  nbd_handle* const h_;
  const bool write_;
  uint64_t size_;
  uint64_t block_;
  std::vector<uint8_t> content_;
  std::vector<NbdFinding> findings_;
};

constexpr uint32_t kMostMs = 60'000;

void OnAlarm(int) {
  constexpr std::string_view kText =
      "cloudblk: the server does not answer; gave up (--timeout says when)\n";
  [[maybe_unused]] const ssize_t n = ::write(STDERR_FILENO, kText.data(), kText.size());
  _exit(1);
}

}  // namespace

Result<std::vector<NbdFinding>> CheckNbdServer(const std::string& text, const TlsOptions& tls,
                                               bool write, uint32_t timeout_ms) {
  Result<ServerUri> uri = ParseServerUri(text);
  if (!uri.ok()) return uri.status();
  if (uri->protocol != Protocol::kNbd)
    return Status(EINVAL, "this is for nbd://, nbds:// and the like");
  signal(SIGALRM, OnAlarm);
  const uint32_t ms = timeout_ms == 0 ? kMostMs : timeout_ms;
  const itimerval none{};
  itimerval timer{};
  timer.it_value = {.tv_sec = ms / 1000, .tv_usec = long{ms % 1000} * 1000};
  setitimer(ITIMER_REAL, &timer, nullptr);
  Result<Handle> handle = Connect(*uri, tls);
  if (!handle.ok()) return handle.status();
  std::vector<NbdFinding> findings = Check(*uri, tls, handle->get(), write).Run();
  nbd_shutdown(handle->get(), 0);
  setitimer(ITIMER_REAL, &none, nullptr);
  return findings;
}

}  // namespace cloudblk
