// SPDX-License-Identifier: GPL-2.0-or-later
//
// The one place where status codes of the wire and errno values meet.
#ifndef CLOUDBLK_PROXY_PROTOCOL_WIRE_ERRNO_H_
#define CLOUDBLK_PROXY_PROTOCOL_WIRE_ERRNO_H_

#include "proxy-protocol/wire.h"

namespace cloudblk::wire {

// A positive errno; 0 for OK.
int ErrnoOf(StatusCode status);

// For what a storage failed with (a positive errno; 0: OK). What has no status of its own is
// IO_ERROR; so is what would say of the client what is true of the storage only (EPERM).
StatusCode StatusCodeOf(int error);

}  // namespace cloudblk::wire

#endif  // CLOUDBLK_PROXY_PROTOCOL_WIRE_ERRNO_H_
