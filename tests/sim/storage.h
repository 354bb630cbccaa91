// SPDX-License-Identifier: GPL-2.0-or-later
//
// A storage of the simulation: the seed draws when and in which order operations end, what was not
// flushed is lost with the host, and nothing may touch it without its lock.
#ifndef CLOUDBLK_TESTS_SIM_STORAGE_H_
#define CLOUDBLK_TESTS_SIM_STORAGE_H_

#include <cstdint>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "proxy/backend.h"

namespace cloudblk::testing {

// What outlives a server.
struct Medium {
  explicit Medium(size_t size) : data(size, '\0'), durable(data) {}

  // The host died: what was not flushed is gone.
  void LoseCache() {
    data = durable;
    owner = durable_owner;
    ++generation;
  }

  std::string data;
  std::string durable;
  std::string owner;
  std::string durable_owner;
  uint64_t generation = 1;
  bool locked = false;
  int flushes_to_fail = 0;
  std::vector<uint64_t> submitted;  // offsets of writes, in the order they came
};

class SimBackend final : public proxy::Backend {
 public:
  // Both outlive the object.
  SimBackend(Medium* medium, std::mt19937* random);
  ~SimBackend() override;

  Result<std::unique_ptr<proxy::BackendQueue>> Attach(proxy::LoopContext& context) override;
  bool Submit(proxy::LoopContext& context, proxy::IoOp* op);

  Status AcquireExclusive(bool takeover) override;
  void ReleaseExclusive() override;
  Status StoreOwner(const std::string& text, bool lasting) override;
  Result<std::string> LoadOwner() override { return medium_->owner; }
  Status SyncAll() override;

  bool busy() const { return !under_way_.empty(); }
  // Ends one of the operations under way. Precondition: busy.
  void Step();
  // Ends all of them, and carries none out: the server dies.
  void DropAll();

 private:
  int CarryOut(proxy::IoOp* op);
  int Flush();
  int Zero(const proxy::IoOp& op);

  Medium* const medium_;
  std::mt19937* const random_;
  std::vector<proxy::IoOp*> under_way_;
};

}  // namespace cloudblk::testing

#endif  // CLOUDBLK_TESTS_SIM_STORAGE_H_
