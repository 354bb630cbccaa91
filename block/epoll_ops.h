// SPDX-License-Identifier: GPL-2.0-or-later
//
// EpollLoop as a loop that a host program lends: for programs that use cloudblk.h and have no loop
// of their own.
#ifndef CLOUDBLK_BLOCK_EPOLL_OPS_H_
#define CLOUDBLK_BLOCK_EPOLL_OPS_H_

#include "block/include/cloudblk.h"

namespace cloudblk {

// For cloudblk_channel_attach(channel, EpollLoopOps(), epoll_loop, ...). Logs warnings and errors
// to standard error.
const CloudblkLoopOps* EpollLoopOps();

}  // namespace cloudblk

#endif  // CLOUDBLK_BLOCK_EPOLL_OPS_H_
