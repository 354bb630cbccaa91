// SPDX-License-Identifier: GPL-2.0-or-later
//
// Faults that any backend can be given: fault:FAULT[=VALUE][,...]:BACKEND-URI, in programs that are
// linked with fault_filter.cc, which brings its own OpenBackend.
#ifndef CLOUDBLK_TESTS_SUPPORT_CPP_FAULT_FILTER_H_
#define CLOUDBLK_TESTS_SUPPORT_CPP_FAULT_FILTER_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "proxy/backend.h"

namespace cloudblk::proxy {

struct Faults {
  uint32_t delay_ms = 0;        // delay=MS: an operation is told so much after it was done
  uint64_t error_nth = 0;       // error-nth=N: each N-th operation fails with EIO, and is not done
  uint64_t disconnect_nth = 0;  // disconnect-nth=N: from the N-th one on all fail with EIO
  std::string hang_file;        // hang-file=PATH: as long as that is there, none is begun
};

// EINVAL: what is no fault is named.
Result<Faults> ParseFaults(std::string_view text);

// A backend with faults, which are of its operations alone.
class FaultFilter final : public Backend {
 public:
  FaultFilter(const Faults& faults, std::unique_ptr<Backend> inner);

  Result<std::unique_ptr<BackendQueue>> Attach(LoopContext& context) override;
  Status Resize(uint64_t size) override;
  void LookAtSize() override;
  Status AcquireExclusive(bool takeover) override { return inner_->AcquireExclusive(takeover); }
  void ReleaseExclusive() override { inner_->ReleaseExclusive(); }
  Status StoreOwner(const std::string& text, bool lasting) override {
    return inner_->StoreOwner(text, lasting);
  }
  Status SyncAll() override { return inner_->SyncAll(); }
  Result<std::string> LoadOwner() override { return inner_->LoadOwner(); }

  // --- For its queues. Any thread.

  const Faults& faults() const { return faults_; }
  // Whether the next operation is to fail.
  bool NextFails();
  bool hangs() const;
  void Follow() { generation_ = inner_->generation(); }

 private:
  const Faults faults_;
  const std::unique_ptr<Backend> inner_;
  std::atomic<uint64_t> operations_{0};
};

}  // namespace cloudblk::proxy

#endif  // CLOUDBLK_TESTS_SUPPORT_CPP_FAULT_FILTER_H_
