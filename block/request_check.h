// SPDX-License-Identifier: GPL-2.0-or-later
#ifndef CLOUDBLK_BLOCK_REQUEST_CHECK_H_
#define CLOUDBLK_BLOCK_REQUEST_CHECK_H_

#include <cstdint>

#include "block/include/cloudblk.h"
#include "block/session_state.h"

namespace cloudblk {

// Whether a host's request makes sense on the session's volume: 0, or -errno as
// cloudblk_channel_submit() has it. *length gets the bytes of its data, or of all its ranges.
int CheckRequest(const SessionState& session, const CloudblkRequest& request, uint64_t* length);

}  // namespace cloudblk

#endif  // CLOUDBLK_BLOCK_REQUEST_CHECK_H_
