// SPDX-License-Identifier: GPL-2.0-or-later
//
// Arguments of QEMU's command line as text: what -device takes.
#ifndef CLOUDBLK_TOOLS_QEMU_ARGUMENTS_H_
#define CLOUDBLK_TOOLS_QEMU_ARGUMENTS_H_

#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace cloudblk {

// "DRIVER,NAME=VALUE,..." in that order, each comma of a value doubled.
std::string FormatDevice(std::string_view driver,
                         const std::vector<std::pair<std::string, std::string>>& properties);

// What an argument of -device says, in either of the forms that QEMU takes (NAME=VALUE,... or
// JSON), by name; "driver" is one of them. What cannot be understood is left out.
std::map<std::string, std::string> ParseDevice(std::string_view argument);

// The slot in a PCI address as QEMU writes it, SLOT[.FUNCTION] in hexadecimal; nothing if it is
// none, or above 0x1f.
std::optional<unsigned> ParseSlot(std::string_view text);

}  // namespace cloudblk

#endif  // CLOUDBLK_TOOLS_QEMU_ARGUMENTS_H_
