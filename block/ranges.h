// SPDX-License-Identifier: GPL-2.0-or-later
//
// The range lists of DISCARD and WRITE_ZEROES, cut to what a connection carries.
#ifndef CLOUDBLK_BLOCK_RANGES_H_
#define CLOUDBLK_BLOCK_RANGES_H_

#include <algorithm>
#include <cstdint>

#include "block/request.h"
#include "block/types.h"

namespace cloudblk {

inline uint64_t RangeLimit(Operation operation, const Limits& limits) {
  return operation == Operation::kDiscard ? limits.max_discard_length
                                          : limits.max_write_zeroes_length;
}

// Cuts the bytes [begin, end) of a request's ranges into ranges of at most `most` bytes. Calls
// emit(CloudblkRange) for each until it returns false; returns where the last accepted one ended.
template <typename F>
uint64_t WalkRanges(const Request& request, uint64_t begin, uint64_t end, uint64_t most, F&& emit) {
  uint64_t at = 0;  // where the present range starts
  for (const CloudblkRange& range : request.ranges) {
    const uint64_t range_end = at + range.length;
    while (begin < std::min(end, range_end)) {
      const uint64_t length = std::min({most, range_end - begin, end - begin});
      if (!emit(CloudblkRange{range.offset + (begin - at), length, range.flags})) return begin;
      begin += length;
    }
    at = range_end;
  }
  return begin;
}

// Of a piece of a request with ranges.
inline uint32_t CountRanges(const Piece& piece, const Limits& limits) {
  uint32_t count = 0;
  WalkRanges(*piece.request, piece.begin, piece.end, RangeLimit(piece.request->operation, limits),
             [&](const CloudblkRange&) {
               ++count;
               return true;
             });
  return count;
}

// How far the bytes [begin, end) of the request fit into one piece: begin < result <= end, or end
// where begin == end.
inline uint64_t FittingEnd(const Request& request, uint64_t begin, uint64_t end,
                           const Limits& limits) {
  if (!HasRanges(request.operation)) return std::min(end, begin + limits.max_data);
  uint32_t count = 0;
  return WalkRanges(request, begin, end, RangeLimit(request.operation, limits),
                    [&](const CloudblkRange&) { return ++count <= limits.max_ranges; });
}

}  // namespace cloudblk

#endif  // CLOUDBLK_BLOCK_RANGES_H_
