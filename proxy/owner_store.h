// SPDX-License-Identifier: GPL-2.0-or-later
//
// What ownership asks of a volume's storage: its lock, and to keep who has the volume.
#ifndef CLOUDBLK_PROXY_OWNER_STORE_H_
#define CLOUDBLK_PROXY_OWNER_STORE_H_

#include <string>
#include <utility>

#include "base/status.h"
#include "proxy/backend.h"
#include "proxy/owner_record.h"

namespace cloudblk::proxy {

// One volume's. Every call may take as long as the storage does, and comes after the one before.
class OwnerStore {
 public:
  // `backend` outlives the object.
  OwnerStore(std::string volume, Backend* backend)
      : volume_(std::move(volume)), backend_(backend) {}

  // The storage's lock, and the record that it keeps; the lock is not had if that cannot be read.
  // `takeover`: as AcquireExclusive has it.
  Result<OwnerRecord> Acquire(bool takeover);
  void Release() { backend_->ReleaseExclusive(); }

  struct Kept {
    Status status;
    bool removed = false;  // it was not kept, and what was kept before is gone
  };
  enum class Durability {
    kProcess,     // it has to outlive this process
    kHost,        // and a crash of the host
    kEverything,  // and so has all data: whoever has the volume next may come by another server
  };
  // `wrong`: what is kept now contradicts the record, so that nothing is better than that.
  Kept Keep(const OwnerRecord& record, bool wrong, Durability durability);

 private:
  const std::string volume_;
  Backend* const backend_;
};

}  // namespace cloudblk::proxy

#endif  // CLOUDBLK_PROXY_OWNER_STORE_H_
