// SPDX-License-Identifier: GPL-2.0-or-later
//
// libvirt by its own command line, which knows every way to connect.
#ifndef CLOUDBLK_TOOLS_VIRSH_H_
#define CLOUDBLK_TOOLS_VIRSH_H_

#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace cloudblk {

// Runs virsh, with `input` as its standard input, and gives what it prints; if it fails, what it
// says is wrong. `connect` is libvirt's URI, empty for its default. Waits until it has ended.
Result<std::string> RunVirsh(const std::string& connect, const std::vector<std::string>& words,
                             std::string_view input);

}  // namespace cloudblk

#endif  // CLOUDBLK_TOOLS_VIRSH_H_
