// SPDX-License-Identifier: GPL-2.0-or-later
#include "proxy/backends/backends.h"

#include <fmt/format.h>

#include <cerrno>

namespace cloudblk::proxy {

Result<std::unique_ptr<Backend>> OpenBackend(const std::string& volume, const std::string& text,
                                             StartUp* start_up) {
  Result<BackendUri> uri = BackendUri::Parse(text);
  if (!uri.ok()) return uri.status();
  if (uri->scheme() == "memory") return OpenMemory(volume, std::move(*uri));
  if (uri->scheme() == "file") return OpenFile(volume, std::move(*uri), start_up);
  if (uri->scheme() == "rbd") {
#ifdef CLOUDBLK_HAVE_RBD
    return OpenRbd(volume, std::move(*uri));
#else
    return Status(ENOTSUP, fmt::format("backend URI '{}': this cloudblk-proxy was built without "
                                       "librbd; install librbd-dev and build it again",
                                       text));
#endif
  }
  // With TLS and over unix sockets too.
  if (uri->scheme().starts_with("cloudblk") || uri->scheme().starts_with("nbd")) {
    return OpenRemote(volume, std::move(*uri), start_up);
  }
  return Status(EINVAL, fmt::format("backend URI '{}': unknown scheme '{}'; there are memory:, "
                                    "file:, rbd:, cloudblk: and nbd:",
                                    text, uri->scheme()));
}

}  // namespace cloudblk::proxy
