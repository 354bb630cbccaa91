// SPDX-License-Identifier: GPL-2.0-or-later
#include "base/text.h"

#include <algorithm>

namespace cloudblk {

bool IsText(std::span<const uint8_t> text) {
  for (size_t i = 0; i < text.size();) {
    const uint8_t lead = text[i];
    if (lead == 0) return false;
    const size_t more = lead < 0x80                   ? 0
                        : lead >= 0xc2 && lead < 0xe0 ? 1
                        : lead >= 0xe0 && lead < 0xf0 ? 2
                        : lead >= 0xf0 && lead < 0xf5 ? 3
                                                      : 4;
    if (more == 4 || i + more >= text.size()) return false;
    for (size_t k = 1; k <= more; ++k) {
      if ((text[i + k] & 0xc0) != 0x80) return false;
    }
    // Overlong forms, surrogates and what lies beyond U+10FFFF.
    const uint8_t second = more != 0 ? text[i + 1] : 0x80;
    if ((lead == 0xe0 && second < 0xa0) || (lead == 0xed && second > 0x9f) ||
        (lead == 0xf0 && second < 0x90) || (lead == 0xf4 && second > 0x8f)) {
      return false;
    }
    i += more + 1;
  }
  return true;
}

bool IsText(std::string_view text) {
  return IsText(std::span(reinterpret_cast<const uint8_t*>(text.data()), text.size()));
}

std::string_view CutText(std::string_view text, size_t max) {
  if (text.size() <= max) return text;
  while (max > 0 && (static_cast<uint8_t>(text[max]) & 0xc0) == 0x80) --max;
  return text.substr(0, max);
}

std::string Printable(std::string_view text) {
  std::string line(text);
  std::ranges::replace_if(line, [](unsigned char c) { return c < 0x20 || c == 0x7f; }, '?');
  return line;
}

}  // namespace cloudblk
