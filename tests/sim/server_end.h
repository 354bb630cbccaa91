// SPDX-License-Identifier: GPL-2.0-or-later
#ifndef CLOUDBLK_TESTS_SIM_SERVER_END_H_
#define CLOUDBLK_TESTS_SIM_SERVER_END_H_

#include <cstdint>
#include <memory>

#include "base/transport.h"
#include "tests/support/cpp/manual_loop.h"
#include "tests/support/cpp/memory_link.h"

namespace cloudblk::testing {

// The accepting side of a link, for a server that is not a fake. One Readv takes at most
// habits.write_chunk bytes, it takes bytes while habits.receive_buffer has room, and the link ends
// here too where it is cut. All bytes in either direction are added to `*crc`, which outlives it.
std::unique_ptr<Transport> ServerEnd(ManualLoop* loop, std::shared_ptr<MemoryLink> link,
                                     uint32_t* crc);

}  // namespace cloudblk::testing

#endif  // CLOUDBLK_TESTS_SIM_SERVER_END_H_
