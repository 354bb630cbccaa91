// SPDX-License-Identifier: GPL-2.0-or-later
//
// The kernel's random numbers. Any thread. They wait only while the kernel has just started, and
// end the process where the kernel has none.
#ifndef CLOUDBLK_BASE_RANDOM_H_
#define CLOUDBLK_BASE_RANDOM_H_

#include <cstdint>
#include <span>

namespace cloudblk {

void FillRandom(std::span<uint8_t> bytes);
uint64_t Random64();

}  // namespace cloudblk

#endif  // CLOUDBLK_BASE_RANDOM_H_
