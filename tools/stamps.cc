// SPDX-License-Identifier: GPL-2.0-or-later
#include "tools/stamps.h"

#include <cstring>

namespace cloudblk {
namespace {

// The finalizer of SplitMix64: every bit of the input changes half of the output's.
uint64_t Mix(uint64_t x) {
  x ^= x >> 30;
  x *= 0xbf58476d1ce4e5b9;
  x ^= x >> 27;
  x *= 0x94d049bb133111eb;
  return x ^ x >> 31;
}

}  // namespace

uint64_t Stamps::Start(uint64_t slot) const {
  return Mix(seed_ ^ Mix(slot + 1) ^ Mix(uint64_t{versions_[slot]} << 32));
}

void Stamps::FillNext(uint64_t slot, std::span<uint8_t> data) {
  ++versions_[slot];
  uint64_t word = Start(slot);
  for (size_t i = 0; i + 8 <= data.size(); i += 8, word += 0x9e3779b97f4a7c15) {
    memcpy(&data[i], &word, 8);
  }
}

bool Stamps::Check(uint64_t slot, std::span<const uint8_t> data) const {
  uint64_t word = Start(slot);
  for (size_t i = 0; i + 8 <= data.size(); i += 8, word += 0x9e3779b97f4a7c15) {
    if (memcmp(&data[i], &word, 8) != 0) return false;
  }
  return true;
}

}  // namespace cloudblk
