// SPDX-License-Identifier: GPL-2.0-or-later
//
// The backends there are, each in a file of its own.
#ifndef CLOUDBLK_PROXY_BACKENDS_BACKENDS_H_
#define CLOUDBLK_PROXY_BACKENDS_BACKENDS_H_

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>

#include "base/status.h"
#include "proxy/backend.h"
#include "proxy/backend_uri.h"

namespace cloudblk::proxy {

// What all that is opened at one start of the proxy has in common.
struct StartUp {
  // Where is kept what a storage cannot keep with the data.
  std::string state_dir;
  // How long all volumes together may still wait for the locks of a process that held them before
  // and is dying: it gives up all of them at once.
  std::chrono::milliseconds patience{3000};
  // How many loops will use each volume (Backend::Attach).
  uint32_t loops = 1;
};

// Opens the storage that `uri` names for the volume `volume`. The error is one line for the user.
Result<std::unique_ptr<Backend>> OpenBackend(const std::string& volume, const std::string& uri,
                                             StartUp* start_up);

// One per scheme; they take their options from `uri`. That of rbd: is in a module (module.h).
Result<std::unique_ptr<Backend>> OpenMemory(const std::string& volume, BackendUri uri);
Result<std::unique_ptr<Backend>> OpenFile(const std::string& volume, BackendUri uri,
                                          StartUp* start_up);
Result<std::unique_ptr<Backend>> OpenRemote(const std::string& volume, BackendUri uri,
                                            StartUp* start_up);

}  // namespace cloudblk::proxy

#endif  // CLOUDBLK_PROXY_BACKENDS_BACKENDS_H_
