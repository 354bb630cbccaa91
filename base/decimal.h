// SPDX-License-Identifier: GPL-2.0-or-later
//
// Numbers as command lines give them.
#ifndef CLOUDBLK_BASE_DECIMAL_H_
#define CLOUDBLK_BASE_DECIMAL_H_

#include <algorithm>
#include <cctype>
#include <string>

namespace cloudblk {

// A transformation for options of CLI11, which alone would take 010 for octal and 0x10 for
// hexadecimal: strips leading zeros. Returns what is wrong with the text, or an empty string.
inline std::string MakeDecimal(std::string& text) {
  if (text.empty() || !std::ranges::all_of(text, isdigit)) return text + " is not a number";
  text.erase(0, std::min(text.find_first_not_of('0'), text.size() - 1));
  return {};
}

}  // namespace cloudblk

#endif  // CLOUDBLK_BASE_DECIMAL_H_
