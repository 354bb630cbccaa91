// SPDX-License-Identifier: GPL-2.0-or-later
#include "proxy/owner_store.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <cerrno>

namespace cloudblk::proxy {

Result<OwnerRecord> OwnerStore::Acquire(bool takeover) {
  Status status = backend_->AcquireExclusive(takeover);
  if (!status.ok()) {
    const char* what = status.error() == EBUSY ? "is in use" : "cannot be had";
    return Status(status.error(),
                  fmt::format("volume '{}' {}: {}", volume_, what, status.message()));
  }
  const Result<std::string> text = backend_->LoadOwner();
  if (text.ok()) {
    Result<OwnerRecord> record = ParseOwnerRecord(text.value());
    if (record.ok()) return record;
    status = record.status();
  } else {
    status = text.status();
  }
  Release();
  return Status(EIO, fmt::format("volume '{}': it cannot be found out who holds it: {}", volume_,
                                 status.message()));
}

OwnerStore::Kept OwnerStore::Keep(const OwnerRecord& record, bool wrong, Durability durability) {
  if (durability == Durability::kEverything) {
    const Status synced = backend_->SyncAll();
    // The generation has changed, by which whoever claims the volume knows.
    if (!synced.ok()) spdlog::error("volume '{}': {}", volume_, synced.message());
  }
  Kept kept;
  kept.status = backend_->StoreOwner(Format(record), durability != Durability::kProcess);
  // No record is better than one of somebody who has lost the volume since. One that is only older
  // than the present one stays.
  kept.removed = !kept.status.ok() && wrong && backend_->StoreOwner({}, true).ok();
  return kept;
}

}  // namespace cloudblk::proxy
