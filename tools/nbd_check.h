// SPDX-License-Identifier: GPL-2.0-or-later
#ifndef CLOUDBLK_TOOLS_NBD_CHECK_H_
#define CLOUDBLK_TOOLS_NBD_CHECK_H_

#include <string>
#include <vector>

#include "base/status.h"
#include "tools/tls.h"

namespace cloudblk {

// Something that an NBD server says of an export, and what became of trying it.
struct NbdFinding {
  std::string what;
  std::string promised;
  std::string tried;  // empty: it cannot be tried, or was not
  bool broken = false;
};

// Asks the server of an nbd:// URI, the first one if it names several. What changes nothing is
// tried; with `write` also what writes a block's own content back. An error: it cannot be asked, or
// no NBD URI. A server that has not answered all of it within timeout_ms (0: a minute) ends the
// program, with a line and status 1: libnbd waits for ever.
Result<std::vector<NbdFinding>> CheckNbdServer(const std::string& uri, const TlsOptions& tls,
                                               bool write, uint32_t timeout_ms);

}  // namespace cloudblk

#endif  // CLOUDBLK_TOOLS_NBD_CHECK_H_
