// SPDX-License-Identifier: GPL-2.0-or-later
//
// Texts that others sent, or that are sent to others.
#ifndef CLOUDBLK_BASE_TEXT_H_
#define CLOUDBLK_BASE_TEXT_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace cloudblk {

// Whether it is valid UTF-8 without NUL.
bool IsText(std::span<const uint8_t> text);
bool IsText(std::string_view text);

// The start of a UTF-8 text: at most `max` bytes of it, and no part of a character.
std::string_view CutText(std::string_view text, size_t max);

// A peer's text for a log, a terminal or another peer: with '?' for every control character and for
// what is not UTF-8, so that it stays on one line, can hold no escape sequence and is text.
std::string Printable(std::string_view text);

}  // namespace cloudblk

#endif  // CLOUDBLK_BASE_TEXT_H_
