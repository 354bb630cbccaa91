// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/copy_batch.h"

#include <algorithm>
#include <cassert>
#include <cerrno>
#include <span>
#include <utility>

namespace cloudblk {

// `move` is Bounce's for a place in the buffer and elements.
template <typename Move>
bool CopyBatch::List::Run(Move&& move) {
  bool whole = true;
  auto part = parts.begin();
  while (part != parts.end()) {
    const std::span<iovec> rest = std::span(elements).subspan(part->element);
    const size_t stopped = part->element + move(part->at, rest);
    if (stopped == elements.size()) break;
    // The part that this element is of fails; on with the one behind it.
    part = std::upper_bound(part, parts.end(), stopped, [](size_t element, const Part& candidate) {
      return element < candidate.element;
    });
    Piece* const failed = std::prev(part)->piece;
    assert(failed != nullptr);
    if (failed->error == 0) failed->error = EFAULT;
    whole = false;
  }
  return whole;
}

// One system call moves what is in one piece of the buffer, so what lies between is copied onto
// itself.
void CopyBatch::AddGap(size_t end) {
  copies_.parts.push_back({nullptr, end_, copies_.elements.size()});
  copies_.elements.push_back({bounce_->data() + end_, end - end_});
}

void CopyBatch::AddZeros(Piece* piece, SgCursor cursor, uint64_t length) {
  zeros_.Append(piece, 0, &cursor, length);
}

bool CopyBatch::Store() {
  bool whole =
      zeros_.parts.empty() && bounce_->StoreAll(copies_.parts.front().at, end_, copies_.elements);
  if (!whole) whole = StorePieces();
  copies_.Clear();
  return whole;
}

bool CopyBatch::StorePieces() {
  const bool copied = copies_.Run(
      [this](size_t at, std::span<iovec> elements) { return bounce_->Store(at, elements); });
  const bool zeroed =
      zeros_.Run([this](size_t, std::span<iovec> elements) { return bounce_->Zero(elements); });
  zeros_.Clear();
  return copied && zeroed;
}

bool CopyBatch::Fetch() {
  assert(zeros_.parts.empty());
  const bool whole = copies_.Run(
      [this](size_t at, std::span<iovec> elements) { return bounce_->Fetch(at, elements); });
  copies_.Clear();
  return whole;
}

}  // namespace cloudblk
