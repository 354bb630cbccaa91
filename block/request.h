// SPDX-License-Identifier: GPL-2.0-or-later
//
// What a channel keeps of each request, and of each piece of it that goes over the wire by itself.
#ifndef CLOUDBLK_BLOCK_REQUEST_H_
#define CLOUDBLK_BLOCK_REQUEST_H_

#include <sys/uio.h>

#include <cassert>
#include <cstdint>
#include <deque>
#include <vector>

#include "base/operation.h"
#include "block/coverage.h"
#include "block/include/cloudblk.h"
#include "block/session_state.h"

namespace cloudblk {

// Accepted and not completed.
struct Request {
  Operation operation{};
  bool fua = false;
  bool own = false;                   // FLUSH: CLOUDBLK_REQUEST_OWN
  uint32_t age = 0;                   // the queue's (RequestQueue::Age) when it was submitted
  uint64_t offset = 0;                // bytes on the volume; READ, WRITE
  uint64_t length = 0;                // bytes: of the data, or of all ranges together
  std::vector<iovec> iov;             // READ, WRITE; BLOCK_STATUS: where the extents go
  std::vector<CloudblkRange> ranges;  // DISCARD, WRITE_ZEROES; BLOCK_STATUS: what is asked about
  void* opaque = nullptr;
  Since since;  // FLUSH: when it was submitted for the first time

  uint32_t pieces = 0;  // not finished
  int result = 0;       // the first error of a piece
  uint64_t bytes_stored = 0;
  bool unreadable = false;  // WRITE: it is to fail with EFAULT
  // The volume's generation when the first piece was answered: if it is another one by the last
  // answer, what the first pieces wrote may be lost.
  bool answered = false;
  uint64_t generation = 0;

  Request* previous = nullptr;
  Request* next = nullptr;
};

// Bytes [begin, end) of a request, counted over its data or over its ranges one after the other. A
// request starts as one piece; what the server does not take in one is split when it is sent.
struct Piece {
  enum class State : uint8_t {
    kFree,
    kQueued,     // to be sent, for the first time or again
    kSent,       // its tag waits for an answer
    kAnswering,  // the answer is being received: its tag is not found any more
  };

  Request* request = nullptr;
  uint64_t begin = 0;
  uint64_t end = 0;
  uint64_t tag = 0;         // while sent
  uint64_t stream_end = 0;  // while sent: where its last byte stands in Outbox's stream
  int64_t sent_ns = 0;      // while sent: when; 0: not measured
  uint64_t flush_mark = 0;  // FLUSH, while sent: SessionState::FlushMark
  uint32_t slot = 0;        // in the TagTable; constant
  State state = State::kFree;
  // A write that an earlier connection, which nobody fences, may have sent (Quarantine).
  bool replayed = false;
  int error = 0;      // while sent: the first error that an answer in parts has reported
  Coverage coverage;  // while sent: which bytes an answer in parts has brought

  uint64_t length() const { return end - begin; }
  // BLOCK_STATUS: how many extents the request has room for.
  uint64_t max_extents() const { return request->iov.front().iov_len / sizeof(CloudblkExtent); }
  // The bytes that count against the credits.
  uint64_t credit_bytes() const { return HasRanges(request->operation) ? 0 : length(); }

  Piece* previous = nullptr;
  Piece* next = nullptr;
};

// A doubly linked list through `previous` and `next` of its elements, which it does not own.
template <typename T>
class LinkedList {
 public:
  bool empty() const { return front_ == nullptr; }
  T* front() const { return front_; }

  void PushBack(T* element) {
    element->previous = back_;
    element->next = nullptr;
    (back_ != nullptr ? back_->next : front_) = element;
    back_ = element;
  }
  void InsertBefore(T* element, T* position) {
    element->previous = position->previous;
    element->next = position;
    (position->previous != nullptr ? position->previous->next : front_) = element;
    position->previous = element;
  }
  void Remove(T* element) {
    (element->previous != nullptr ? element->previous->next : front_) = element->next;
    (element->next != nullptr ? element->next->previous : back_) = element->previous;
    element->previous = element->next = nullptr;
  }
  T* PopFront() {
    T* element = front_;
    Remove(element);
    return element;
  }
  // Moves all elements of `other` in front of this list's.
  void Prepend(LinkedList* other) {
    if (other->empty()) return;
    if (empty()) {
      back_ = other->back_;
    } else {
      other->back_->next = front_;
      front_->previous = other->back_;
    }
    front_ = other->front_;
    other->front_ = other->back_ = nullptr;
  }

 private:
  T* front_ = nullptr;
  T* back_ = nullptr;
};

// Requests that are used again, and keep the memory of their vectors: no allocation in steady
// state.
class RequestPool {
 public:
  Request* Take() {
    if (free_.empty()) return &all_.emplace_back();
    Request* request = free_.back();
    free_.pop_back();
    return request;
  }
  void Give(Request* request) {
    request->pieces = 0;
    request->result = 0;
    request->bytes_stored = 0;
    request->unreadable = false;
    request->answered = false;
    free_.push_back(request);
  }

 private:
  std::deque<Request> all_;
  std::vector<Request*> free_;
};

}  // namespace cloudblk

#endif  // CLOUDBLK_BLOCK_REQUEST_H_
