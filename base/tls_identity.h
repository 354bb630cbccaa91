// SPDX-License-Identifier: GPL-2.0-or-later
#ifndef CLOUDBLK_BASE_TLS_IDENTITY_H_
#define CLOUDBLK_BASE_TLS_IDENTITY_H_

#include <gnutls/gnutls.h>

#include "base/peer_identity.h"

namespace cloudblk {

// Of the peer of a session whose handshake is over. It has names only if its certificate was
// verified in that.
PeerIdentity IdentityOf(gnutls_session_t session);

}  // namespace cloudblk

#endif  // CLOUDBLK_BASE_TLS_IDENTITY_H_
