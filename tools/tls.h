// SPDX-License-Identifier: GPL-2.0-or-later
#ifndef CLOUDBLK_TOOLS_TLS_H_
#define CLOUDBLK_TOOLS_TLS_H_

#include <string>

#include "base/status.h"
#include "base/tls_credentials.h"
#include "block/include/cloudblk.h"

namespace cloudblk {

// What the command line says of TLS.
struct TlsOptions {
  std::string dir;       // empty: none
  std::string username;  // PSK; empty: "qemu"
  std::string hostname;  // empty: the server URI's host

  // Points into this. An error: the folder has no credentials.
  Result<CloudblkTls> ForEngine() const {
    const Result<TlsSettings::Kind> kind = KindOfTlsFolder(dir);
    if (!kind.ok()) return kind.status();
    CloudblkTls tls{};
    tls.psk = kind.value() == TlsSettings::Kind::kPsk;
    tls.verify_peer = true;
    tls.dir = dir.c_str();
    tls.username = username.empty() ? nullptr : username.c_str();
    tls.hostname = hostname.empty() ? nullptr : hostname.c_str();
    return tls;
  }
};

}  // namespace cloudblk

#endif  // CLOUDBLK_TOOLS_TLS_H_
