// SPDX-License-Identifier: GPL-2.0-or-later
#include "proxy/backends/module.h"

#include <dlfcn.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <system_error>

#include "proxy/build_id.h"

namespace cloudblk::proxy {
namespace {

// Beside the program's file, and nowhere else: programs of several builds on one host find each
// their own. A package that wants no shared objects in /usr/bin puts both into a folder of its own
// and a symbolic link to the program into /usr/bin.
Result<const BackendModule*> Load() {
  std::error_code error;
  std::filesystem::path program = std::filesystem::read_symlink("/proc/self/exe", error);
  if (error) {
    return Status(error.value(), fmt::format("its module is beside this program, and where that "
                                             "is, is not known: /proc/self/exe: {}",
                                             error.message()));
  }
  const std::string path = program.replace_filename("cloudblk-proxy-rbd.so").string();
  if (access(path.c_str(), F_OK) != 0) {
    return Status(ENOTSUP,
                  fmt::format("there is no {} ({}), the module for rbd:; install it, or "
                              "librbd-dev and libradospp-dev and build cloudblk-proxy again",
                              path, strerror(errno)));
  }
  void* const loaded = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (loaded == nullptr) {
    return Status(ENOTSUP, fmt::format("the module for rbd: cannot be loaded ({}); it needs librbd "
                                       "(librbd1) as it was built with",
                                       dlerror()));
  }
  const auto* const module =
      static_cast<const BackendModule*>(dlsym(loaded, "cloudblk_backend_module"));
  if (module == nullptr || strcmp(module->build_id, kBuildId) != 0) {
    return Status(ENOTSUP, fmt::format("{} is not of the same build as this program; install both "
                                       "of one build",
                                       path));
  }
  return module;
}

}  // namespace

Result<const BackendModule*> RbdModule() {
  static const Result<const BackendModule*> module = Load();
  return module;
}

}  // namespace cloudblk::proxy
