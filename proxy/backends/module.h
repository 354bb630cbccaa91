// SPDX-License-Identifier: GPL-2.0-or-later
//
// A backend that is a shared object of its own, since its libraries are large and most proxies do
// without. It stays loaded until the process ends.
#ifndef CLOUDBLK_PROXY_BACKENDS_MODULE_H_
#define CLOUDBLK_PROXY_BACKENDS_MODULE_H_

#include <memory>
#include <string>

#include "base/status.h"
#include "proxy/backend.h"
#include "proxy/backend_uri.h"

namespace cloudblk::proxy {

struct BackendModule {
  // The module's kBuildId. First, whatever else changes: nothing behind it is looked at unless it
  // is the program's.
  const char* build_id;
  // As one of backends.h.
  Result<std::unique_ptr<Backend>> (*open)(const std::string& volume, BackendUri uri);
};

// The module of rbd:, loaded by the first call, which may take as long as the disk does. Any
// thread. The error, the same at each call, is one line for the user without the URI.
Result<const BackendModule*> RbdModule();

}  // namespace cloudblk::proxy

// What a module exports, and nothing else.
extern "C" __attribute__((visibility("default")))
const cloudblk::proxy::BackendModule cloudblk_backend_module;

#endif  // CLOUDBLK_PROXY_BACKENDS_MODULE_H_
