// SPDX-License-Identifier: GPL-2.0-or-later
#ifndef CLOUDBLK_BLOCK_COPY_BATCH_H_
#define CLOUDBLK_BLOCK_COPY_BATCH_H_

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/bounce.h"
#include "block/request.h"
#include "block/sg_list.h"

namespace cloudblk {

// Copies between a bounce buffer and the memory of pieces, gathered so that one system call makes
// them all, and one more if zeros are stored too. A piece whose memory cannot be touched gets the
// error EFAULT, and hinders no other.
class CopyBatch {
 public:
  // Precondition for whatever follows: SetBounce. It outlives what is added.
  void SetBounce(Bounce* bounce) { bounce_ = bounce; }

  bool empty() const { return copies_.parts.empty() && zeros_.parts.empty(); }

  // The next `length` bytes of the piece's memory, at the cursor, and those at `at` in the buffer
  // belong together. Moves the cursor behind them. Preconditions: length > 0, `at` does not lie
  // before the end of the last Add.
  void Add(Piece* piece, size_t at, SgCursor* cursor, uint64_t length) {
    if (at != end_ && !copies_.parts.empty()) AddGap(at);
    copies_.Append(piece, at, cursor, length);
    end_ = at + length;
  }
  // The next `length` bytes become zeros. Only with Store. Precondition: length > 0.
  void AddZeros(Piece* piece, SgCursor cursor, uint64_t length);

  // Copies all, to the pieces or from them, and is empty then. False: there is a piece with EFAULT.
  // Precondition: not empty.
  bool Store();
  bool Fetch();

 private:
  struct Part {
    Piece* piece;
    size_t at;       // in the buffer
    size_t element;  // the first
  };
  struct List {
    std::vector<Part> parts;
    std::vector<iovec> elements;

    // What is pushed is no temporary: so the compiler makes no call of it.
    void Append(Piece* piece, size_t at, SgCursor* cursor, uint64_t length) {
      const Part part{piece, at, elements.size()};
      parts.push_back(part);
      while (length > 0) {
        const iovec element = cursor->Take(length);
        elements.push_back(element);
        length -= element.iov_len;
      }
    }
    // Finds out which pieces fail.
    template <typename Move>
    bool Run(Move&& move);
    void Clear() {
      parts.clear();
      elements.clear();
    }
  };

  void AddGap(size_t end);
  bool StorePieces();

  Bounce* bounce_ = nullptr;
  List copies_;
  List zeros_;
  size_t end_ = 0;  // in the buffer, of what was added last
};

}  // namespace cloudblk

#endif  // CLOUDBLK_BLOCK_COPY_BATCH_H_
