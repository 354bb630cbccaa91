// SPDX-License-Identifier: GPL-2.0-or-later
//
// Bytes between a volume and a file, a pipe or a terminal, with several requests in flight.
#ifndef CLOUDBLK_TOOLS_COPY_H_
#define CLOUDBLK_TOOLS_COPY_H_

#include <cstdint>
#include <string>

#include "base/status.h"
#include "tools/client.h"

namespace cloudblk {

// Both make the client active, once range and file are known to be right.

// Copies volume[offset, offset+length) to the file `path` ("-": stdout), which is created or
// truncated. Returns the bytes copied. Any offset and length within the volume. What is known to
// read as zeros is not read, and the file has holes for it and for larger pieces of zeros.
Result<uint64_t> CopyOut(Client* client, uint64_t offset, uint64_t length, const std::string& path);

// Copies the file `path` ("-": stdin) to the volume at `offset`, all of it or `length` bytes where
// that is not UINT64_MAX, and flushes. offset, and what is copied, in whole logical blocks.
// `sparse`: what the file has holes for, and larger pieces of zeros, need no room in the volume
// afterwards. Returns the bytes copied.
Result<uint64_t> CopyIn(Client* client, uint64_t offset, uint64_t length, const std::string& path,
                        bool sparse);

}  // namespace cloudblk

#endif  // CLOUDBLK_TOOLS_COPY_H_
