// SPDX-License-Identifier: GPL-2.0-or-later
//
// The one place where status codes of the wire and errno values meet.
#ifndef CLOUDBLK_PROXY_PROTOCOL_WIRE_ERRNO_H_
#define CLOUDBLK_PROXY_PROTOCOL_WIRE_ERRNO_H_

#include "proxy-protocol/wire.h"

namespace cloudblk::wire {

// A positive errno; 0 for OK.
int ErrnoOf(StatusCode status);

// For the positive errno that a storage failed with; 0: OK. IO_ERROR for all that no status code is
// about, and for an errno whose status code is about the client instead (EPERM: NOT_ACTIVE).
StatusCode StatusCodeOf(int error);

}  // namespace cloudblk::wire

#endif  // CLOUDBLK_PROXY_PROTOCOL_WIRE_ERRNO_H_
