// SPDX-License-Identifier: GPL-2.0-or-later
#ifndef CLOUDBLK_BASE_PRINTABLE_H_
#define CLOUDBLK_BASE_PRINTABLE_H_

#include <algorithm>
#include <string>
#include <string_view>

namespace cloudblk {

// A peer's text for a log, a terminal or another peer: on one line and without escapes.
inline std::string Printable(std::string_view text) {
  std::string line(text);
  std::ranges::replace_if(line, [](unsigned char c) { return c < 0x20 || c == 0x7f; }, '?');
  return line;
}

}  // namespace cloudblk

#endif  // CLOUDBLK_BASE_PRINTABLE_H_
