// SPDX-License-Identifier: GPL-2.0-or-later
//
// What can be asked of a disk, whatever carries the request and whatever storage carries it out.
#ifndef CLOUDBLK_BASE_OPERATION_H_
#define CLOUDBLK_BASE_OPERATION_H_

#include <cstdint>
#include <string_view>

namespace cloudblk {

enum class Operation : uint8_t { kRead = 1, kWrite, kFlush, kDiscard, kWriteZeroes, kBlockStatus };

// Whether it changes data, and so may not overlap another that does.
constexpr bool Writes(Operation operation) {
  return operation == Operation::kWrite || operation == Operation::kDiscard ||
         operation == Operation::kWriteZeroes;
}
// Whether it has a list of ranges in place of one range with data.
constexpr bool HasRanges(Operation operation) {
  return operation == Operation::kDiscard || operation == Operation::kWriteZeroes;
}

// Whether the answer brings data, or what stands for it.
constexpr bool BringsData(Operation operation) {
  return operation == Operation::kRead || operation == Operation::kBlockStatus;
}

// Of BLOCK_STATUS: consecutive bytes that are alike. Neither flag: data, as far as is known.
struct Extent {
  uint64_t length = 0;  // bytes
  bool hole = false;    // the storage has nothing allocated for them
  bool zero = false;    // they read as zeros
};

// Of DISCARD and WRITE_ZEROES.
struct Range {
  uint64_t offset = 0;  // bytes
  uint64_t length = 0;  // bytes
  bool unmap = false;   // WRITE_ZEROES: it may be deallocated
};

// For logs.
constexpr std::string_view Name(Operation operation) {
  switch (operation) {
    case Operation::kRead:
      return "READ";
    case Operation::kWrite:
      return "WRITE";
    case Operation::kFlush:
      return "FLUSH";
    case Operation::kDiscard:
      return "DISCARD";
    case Operation::kWriteZeroes:
      return "WRITE_ZEROES";
    case Operation::kBlockStatus:
      return "BLOCK_STATUS";
  }
  return "UNKNOWN";
}

}  // namespace cloudblk

#endif  // CLOUDBLK_BASE_OPERATION_H_
