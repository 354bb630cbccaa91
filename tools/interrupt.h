// SPDX-License-Identifier: GPL-2.0-or-later
//
// The user's wish to end. A process that just dies keeps its volume until the server's lease
// expires; one that is asked to end can give it back first.
#ifndef CLOUDBLK_TOOLS_INTERRUPT_H_
#define CLOUDBLK_TOOLS_INTERRUPT_H_

#include "base/socket.h"
#include "base/status.h"

namespace cloudblk {

// From now on the first SIGINT, SIGTERM or SIGHUP does not end the process, the same one again
// does. A signal that is ignored stays so (nohup). Returns a descriptor that becomes readable with
// the signal. To be called once.
Result<UniqueFd> CatchInterrupt();

// The signal that came; 0 if none did.
int InterruptSignal();

}  // namespace cloudblk

#endif  // CLOUDBLK_TOOLS_INTERRUPT_H_
