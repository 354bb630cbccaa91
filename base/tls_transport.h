// SPDX-License-Identifier: GPL-2.0-or-later
//
// TLS 1.3 over any connection.
#ifndef CLOUDBLK_BASE_TLS_TRANSPORT_H_
#define CLOUDBLK_BASE_TLS_TRANSPORT_H_

#include <memory>
#include <string>

#include "base/status.h"
#include "base/tls_credentials.h"
#include "base/transport.h"

namespace cloudblk {

// A side of TLS, the client's or the server's as the credentials are, that takes over `below`. The
// handshake goes on in Readv and Writev, without blocking, and nothing is moved before it is over.
// A client checks that the server's certificate is for `hostname`, a name or an address. Readv
// returns 0 only when the peer has ended its stream by close_notify, as destruction does for this
// side; a connection that is cut is ECONNRESET.
//
// It moves bytes by the processor. What a client writes may be memory of a guest that cannot be
// touched (EFAULT); what it reads, and both of a server, may not.
//
// `waits`: until StartTls the bytes go through as they are.
Result<std::unique_ptr<Transport>> MakeTlsTransport(
    std::unique_ptr<Transport> below, std::shared_ptr<const TlsCredentials> credentials,
    const std::string& hostname, bool waits = false);

}  // namespace cloudblk

#endif  // CLOUDBLK_BASE_TLS_TRANSPORT_H_
