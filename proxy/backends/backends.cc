// SPDX-License-Identifier: GPL-2.0-or-later
#include "proxy/backends/backends.h"

#include <fmt/format.h>
#include <sys/random.h>

#include <cerrno>
#include <cstdlib>

namespace cloudblk::proxy {

Result<std::unique_ptr<Backend>> OpenBackend(const std::string& volume, const std::string& text,
                                             StartUp* start_up) {
  Result<BackendUri> uri = BackendUri::Parse(text);
  if (!uri.ok()) return uri.status();
  if (uri->scheme() == "memory") return OpenMemory(volume, std::move(*uri));
  if (uri->scheme() == "file") return OpenFile(volume, std::move(*uri), start_up);
  return Status(EINVAL, fmt::format("backend URI '{}': unknown scheme '{}'; there are memory: and "
                                    "file:",
                                    text, uri->scheme()));
}

wire::Uuid RandomUuid() {
  wire::Uuid uuid;
  // 16 bytes are never short once the kernel's pool is up.
  if (getrandom(uuid.bytes.data(), uuid.bytes.size(), 0) != 16) std::abort();
  uuid.bytes[6] = static_cast<uint8_t>((uuid.bytes[6] & 0x0f) | 0x40);
  uuid.bytes[8] = static_cast<uint8_t>((uuid.bytes[8] & 0x3f) | 0x80);
  return uuid;
}

uint64_t Random64() {
  const wire::Uuid uuid = RandomUuid();
  return wire::Load64(uuid.bytes.data()) ^ wire::Load64(uuid.bytes.data() + 8);
}

}  // namespace cloudblk::proxy
