// SPDX-License-Identifier: GPL-2.0-or-later
#include "proxy/backends/backends.h"

#include <fmt/format.h>

#include <cerrno>
#include <utility>

#include "proxy/backends/module.h"

namespace cloudblk::proxy {

Result<std::unique_ptr<Backend>> OpenBackend(const std::string& volume, const std::string& text,
                                             StartUp* start_up) {
  Result<BackendUri> uri = BackendUri::Parse(text);
  if (!uri.ok()) return uri.status();
  if (uri->scheme() == "memory") return OpenMemory(volume, std::move(*uri));
  if (uri->scheme() == "file") return OpenFile(volume, std::move(*uri), start_up);
  if (uri->scheme() == "rbd") {
    Result<const BackendModule*> module = RbdModule();
    if (module.ok()) return (*module)->open(volume, std::move(*uri));
    return Status(module.status().error(),
                  fmt::format("backend URI '{}': {}", text, module.status().message()));
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
