// SPDX-License-Identifier: GPL-2.0-or-later
#include "base/text.h"

namespace cloudblk {

namespace {

// Bytes of the character that the text starts with. 0: it is none, or NUL.
size_t CharacterLength(std::span<const uint8_t> text) {
  const uint8_t lead = text[0];
  if (lead == 0) return 0;
  const size_t more = lead < 0x80                   ? 0
                      : lead >= 0xc2 && lead < 0xe0 ? 1
                      : lead >= 0xe0 && lead < 0xf0 ? 2
                      : lead >= 0xf0 && lead < 0xf5 ? 3
                                                    : 4;
  if (more == 4 || more >= text.size()) return 0;
  for (size_t k = 1; k <= more; ++k) {
    if ((text[k] & 0xc0) != 0x80) return 0;
  }
  // Overlong forms, surrogates and what lies beyond U+10FFFF.
  const uint8_t second = more != 0 ? text[1] : 0x80;
  if ((lead == 0xe0 && second < 0xa0) || (lead == 0xed && second > 0x9f) ||
      (lead == 0xf0 && second < 0x90) || (lead == 0xf4 && second > 0x8f)) {
    return 0;
  }
  return more + 1;
}

std::span<const uint8_t> BytesOf(std::string_view text) {
  return {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
}

}  // namespace

bool IsText(std::span<const uint8_t> text) {
  while (!text.empty()) {
    const size_t length = CharacterLength(text);
    if (length == 0) return false;
    text = text.subspan(length);
  }
  return true;
}

bool IsText(std::string_view text) { return IsText(BytesOf(text)); }

std::string_view CutText(std::string_view text, size_t max) {
  if (text.size() <= max) return text;
  while (max > 0 && (static_cast<uint8_t>(text[max]) & 0xc0) == 0x80) --max;
  return text.substr(0, max);
}

std::string Printable(std::string_view text) {
  std::string line;
  line.reserve(text.size());
  while (!text.empty()) {
    const size_t length = CharacterLength(BytesOf(text));
    const auto first = static_cast<unsigned char>(text[0]);
    if (length == 0 || first < 0x20 || first == 0x7f) {
      line.push_back('?');
    } else {
      line.append(text.substr(0, length));
    }
    text.remove_prefix(length == 0 ? 1 : length);
  }
  return line;
}

}  // namespace cloudblk
