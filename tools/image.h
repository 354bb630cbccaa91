// SPDX-License-Identifier: GPL-2.0-or-later
//
// Whole volumes from and to disk images of any format.
#ifndef CLOUDBLK_TOOLS_IMAGE_H_
#define CLOUDBLK_TOOLS_IMAGE_H_

#include <cstdint>
#include <memory>
#include <string>

#include "base/status.h"
#include "tools/client.h"

namespace cloudblk {

// Both return the bytes copied. A `format` other than "raw" is one of qemu-img's, which runs as a
// child; the content then lies in a file without a name meanwhile, in $TMPDIR or /var/tmp.

// From the front of the volume. What has no data in the image needs no room in the volume
// afterwards. A raw image that begins as one of another format is refused unless `raw_is_meant`: by
// such a beginning, which a guest can write, no format may be chosen.
Result<uint64_t> ImportImage(Client* client, const std::string& path, const std::string& format,
                             bool raw_is_meant);

// The file is created or truncated, and has holes where the volume has none of its data. The
// session is over when the volume was read.
Result<uint64_t> ExportImage(std::unique_ptr<Client> client, const std::string& path,
                             const std::string& format);

}  // namespace cloudblk

#endif  // CLOUDBLK_TOOLS_IMAGE_H_
