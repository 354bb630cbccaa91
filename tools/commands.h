// SPDX-License-Identifier: GPL-2.0-or-later
//
// What the commands of cloudblk do, once the command line is understood.
#ifndef CLOUDBLK_TOOLS_COMMANDS_H_
#define CLOUDBLK_TOOLS_COMMANDS_H_

#include <cstdint>
#include <string>

#include "base/status.h"
#include "tools/bench.h"
#include "tools/client.h"
#include "tools/libvirt_xml.h"

namespace cloudblk {

// Of all commands.
struct Options {
  ClientOptions client;
  uint64_t offset = 0;
  uint64_t length = UINT64_MAX;
  uint64_t size = 0;
  bool force = false;
  bool no_sparse = false;
  bool write = false;
  std::string file = "-";
  std::string format;  // of an image; empty: raw, if it looks like that
  uint32_t pings = 4;
  BenchOptions bench;
  LibvirtDisk libvirt{};
  bool compiled_in = false;
  std::string domain;   // libvirt's name of it; empty: only the XML
  std::string connect;  // libvirt's URI
  bool print = false;
  bool json = false;
};

// Carries out a command, and prints its result or, to stderr, why there is none. The exit status.
int RunCommand(const std::string& name, const Options& options);

// Prints why a command failed. The exit status.
int Fail(const Status& status);

}  // namespace cloudblk

#endif  // CLOUDBLK_TOOLS_COMMANDS_H_
