// SPDX-License-Identifier: GPL-2.0-or-later
//
// Tags: what names a piece on the wire.
#ifndef CLOUDBLK_BLOCK_TAG_TABLE_H_
#define CLOUDBLK_BLOCK_TAG_TABLE_H_

#include <cassert>
#include <cstdint>
#include <deque>
#include <vector>

#include "block/request.h"

namespace cloudblk {

// Owns a channel's pieces. A tag is `sending << kSlotBits | slot`: each sending of a piece gets a
// new one, so that a late or invented answer finds nothing.
class TagTable {
 public:
  static constexpr int kSlotBits = 24;

  // A piece of `request`, queued.
  Piece* Take(Request* request, uint64_t begin, uint64_t end) {
    Piece* piece;
    if (free_.empty()) {
      piece = &slots_.emplace_back();
      piece->slot = static_cast<uint32_t>(slots_.size() - 1);
      assert(piece->slot < 1u << kSlotBits);
    } else {
      piece = free_.back();
      free_.pop_back();
    }
    assert(piece->state == Piece::State::kFree);
    piece->request = request;
    piece->begin = begin;
    piece->end = end;
    piece->state = Piece::State::kQueued;
    piece->replayed = false;
    ++request->pieces;
    return piece;
  }
  void Give(Piece* piece) {
    --piece->request->pieces;
    piece->request = nullptr;
    piece->state = Piece::State::kFree;
    free_.push_back(piece);
  }

  // The piece is about to be sent: its tag is live from here on.
  void Send(Piece* piece) {
    assert(piece->state == Piece::State::kQueued);
    piece->tag = ++sendings_ << kSlotBits | piece->slot;
    piece->state = Piece::State::kSent;
    piece->error = 0;
    piece->coverage.Reset(piece->length());
  }

  // The piece that was sent under this tag and waits for its answer, or null.
  Piece* Find(uint64_t tag) {
    const uint64_t slot = tag & ((1u << kSlotBits) - 1);
    if (slot >= slots_.size()) return nullptr;
    Piece& piece = slots_[slot];
    return piece.state == Piece::State::kSent && piece.tag == tag ? &piece : nullptr;
  }

 private:
  std::deque<Piece> slots_;
  std::vector<Piece*> free_;
  uint64_t sendings_ = 0;
};

}  // namespace cloudblk

#endif  // CLOUDBLK_BLOCK_TAG_TABLE_H_
