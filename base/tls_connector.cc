// SPDX-License-Identifier: GPL-2.0-or-later
#include "base/tls_connector.h"

#include <utility>

#include "base/tls_transport.h"

namespace cloudblk {

TlsConnector::TlsConnector(std::unique_ptr<Connector> below,
                           std::shared_ptr<const TlsCredentials> credentials, std::string hostname,
                           bool waits)
    : below_(std::move(below)),
      credentials_(std::move(credentials)),
      hostname_(std::move(hostname)),
      waits_(waits) {}

std::string TlsConnector::Host(size_t index) const {
  return hostname_.empty() ? below_->Host(index) : hostname_;
}

std::shared_ptr<const TlsCredentials> TlsConnector::Current() const {
  const std::lock_guard lock(mutex_);
  if (credentials_->IsOutdated()) {
    auto loaded = TlsCredentials::Load(credentials_->settings());
    // They may be half written just now.
    if (loaded.ok()) credentials_ = std::move(*loaded);
  }
  return credentials_;
}

Result<std::unique_ptr<Transport>> TlsConnector::Connect(size_t index) const {
  Result<std::unique_ptr<Transport>> below = below_->Connect(index);
  if (!below.ok()) return below;
  return MakeTlsTransport(std::move(*below), Current(), Host(index), waits_);
}

}  // namespace cloudblk
