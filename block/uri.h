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

enum class Protocol : uint8_t { kNative, kNbd };

// What the user knows of an NBD server that the protocol does not tell.
struct NbdOptions {
  bool accept_no_flush = false;    // a disk whose writes are never known to be durable
  bool loses_unflushed = false;    // a server that was restarted has lost what was not flushed
  bool unfenced_failover = false;  // another server may go on though the first one may live
  uint32_t quarantine_s = 10;      // how long a lost write may still be on its way at the server
};

struct ServerUri {
  Protocol protocol = Protocol::kNative;
  std::vector<Endpoint> endpoints;  // failover order, at least one
  bool tls = false;
  std::string volume;  // UTF-8, not empty but for the default export of NBD
  NbdOptions nbd{};
};

// cloudblk://host[:port][,host2[:port2]...]/volume or cloudblk+unix:///volume?socket=/path, with
// percent-encoding in the volume and the socket path; nbd://host[:port][,...]/export[?option...] or
// nbd+unix:///export?socket=/path[&option...] with the options noflush=accept, unflushed=kept|lost,
// failover=unfenced and quarantine=SECONDS. With an 's' before ':' or '+' (cloudblks://, nbds://)
// it is TLS. EINVAL for what is wrong.
Result<ServerUri> ParseServerUri(std::string_view uri);

// Undoes percent-encoding. EINVAL for a '%' without two hexadecimal digits and for %00.
Result<std::string> PercentDecode(std::string_view text);

}  // namespace cloudblk

#endif  // CLOUDBLK_BLOCK_URI_H_
