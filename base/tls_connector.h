// SPDX-License-Identifier: GPL-2.0-or-later
//
// A client's connections with TLS.
#ifndef CLOUDBLK_BASE_TLS_CONNECTOR_H_
#define CLOUDBLK_BASE_TLS_CONNECTOR_H_

#include <memory>
#include <mutex>
#include <string>

#include "base/status.h"
#include "base/tls_credentials.h"
#include "base/transport.h"

namespace cloudblk {

// TLS over another connector's connections. A connection uses the credentials as their files are
// when it is made; while these cannot be loaded, those that were before.
class TlsConnector final : public Connector {
 public:
  // `hostname`: of all servers; empty: each one's as its address was given.
  // `waits`: as of MakeTlsTransport.
  TlsConnector(std::unique_ptr<Connector> below, std::shared_ptr<const TlsCredentials> credentials,
               std::string hostname, bool waits);

  size_t count() const override { return below_->count(); }
  std::string Name(size_t index) const override { return below_->Name(index); }
  std::string Host(size_t index) const override;
  Result<std::unique_ptr<Transport>> Connect(size_t index) const override;
  void Refresh(int64_t now_ns) override { below_->Refresh(now_ns); }

 private:
  std::shared_ptr<const TlsCredentials> Current() const;

  const std::unique_ptr<Connector> below_;
  mutable std::mutex mutex_;
  mutable std::shared_ptr<const TlsCredentials> credentials_;  // with mutex_
  const std::string hostname_;
  const bool waits_;
};

}  // namespace cloudblk

#endif  // CLOUDBLK_BASE_TLS_CONNECTOR_H_
