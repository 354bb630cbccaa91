// SPDX-License-Identifier: GPL-2.0-or-later
//
// The one place where status codes of the wire and errno values meet.
#ifndef CLOUDBLK_BLOCK_WIRE_ERRNO_H_
#define CLOUDBLK_BLOCK_WIRE_ERRNO_H_

#include "proxy-protocol/wire.h"

namespace cloudblk {

// A positive errno; 0 for OK.
int ErrnoOf(wire::Status status);

// For a request that failed with `error` (a positive errno; 0: OK). What has no status of its own
// is IO_ERROR.
wire::Status StatusOf(int error);

}  // namespace cloudblk

#endif  // CLOUDBLK_BLOCK_WIRE_ERRNO_H_
