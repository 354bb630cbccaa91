// SPDX-License-Identifier: GPL-2.0-or-later
#ifndef CLOUDBLK_BLOCK_OPEN_CHECK_H_
#define CLOUDBLK_BLOCK_OPEN_CHECK_H_

#include "block/session_state.h"
#include "block/types.h"

namespace cloudblk {

// Whether the session can use what a server has opened, for the first time or again; error 0: it
// can.
Failure CheckOpened(const SessionState& session, const VolumeInfo& found, const Capabilities& can);

}  // namespace cloudblk

#endif  // CLOUDBLK_BLOCK_OPEN_CHECK_H_
