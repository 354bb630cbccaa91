// SPDX-License-Identifier: GPL-2.0-or-later
//
// Server URIs: which servers, and which volume there.
#ifndef CLOUDBLK_BLOCK_URI_H_
#define CLOUDBLK_BLOCK_URI_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/socket.h"
#include "base/status.h"

namespace cloudblk {

inline constexpr uint16_t kDefaultPort = 9810;
inline constexpr size_t kMaxVolumeName = 255;  // bytes

struct ServerUri {
  std::vector<Endpoint> endpoints;  // failover order, at least one
  std::string volume;               // not empty, UTF-8
};

// cloudblk://host[:port][,host2[:port2]...]/volume or cloudblk+unix:///volume?socket=/path, with
// percent-encoding in the volume and the socket path. EINVAL for what is wrong, ENOTSUP for a
// scheme that is known and not built in.
Result<ServerUri> ParseServerUri(std::string_view uri);

// Undoes percent-encoding. EINVAL for a '%' without two hexadecimal digits and for %00.
Result<std::string> PercentDecode(std::string_view text);

}  // namespace cloudblk

#endif  // CLOUDBLK_BLOCK_URI_H_
