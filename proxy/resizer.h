// SPDX-License-Identifier: GPL-2.0-or-later
//
// How a volume changes its size while clients use it (SPEC.md 14).
#ifndef CLOUDBLK_PROXY_RESIZER_H_
#define CLOUDBLK_PROXY_RESIZER_H_

#include <cstdint>
#include <deque>
#include <mutex>
#include <optional>
#include <set>
#include <string>

#include "base/worker_pool.h"
#include "proxy-protocol/wire.h"
#include "proxy/backend.h"
#include "proxy/ownership.h"

namespace cloudblk::proxy {

struct ResizeAnswer {
  wire::StatusCode status = wire::StatusCode::kOk;
  std::string text;  // for people, unless kOk
};

// A connection as the resizer sees it. Its functions are called with the resizer's lock held, from
// any thread, and return at once.
class ResizeMember {
 public:
  // Hand nothing more to the storage, and call Resizer::Paused when nothing is there any more.
  virtual void Pause() = 0;
  // Go on. `size`: what the volume has now, in bytes; 0 if that is no change.
  virtual void Resume(uint64_t size) = 0;
  // What became of this connection's Resize. After Resume.
  virtual void AnswerResize(const ResizeAnswer& answer) = 0;

 protected:
  ~ResizeMember() = default;
};

// One volume's. All methods may be called from any thread; none waits for a connection or for the
// storage.
class Resizer {
 public:
  // `backend` and `ownership` must outlive the object.
  Resizer(std::string volume, Backend* backend, Ownership* ownership);

  // From now on the member takes part: whoever looks at the size after this is told of any change.
  // True: a resize is under way, and the member is paused from the start.
  bool Join(ResizeMember* member);
  // Nothing of the member can reach the storage any more, and no more calls to it are made.
  void Leave(ResizeMember* member);
  void Paused(ResizeMember* member);

  // Followed by AnswerResize, unless the member leaves first. A member has one under way.
  // `who` is for the log.
  void Resize(ResizeMember* member, const wire::Resize& request, std::string who);

  // Nothing is being carried out. Any thread.
  bool idle() const { return worker_.idle(); }

 private:
  struct Operation {
    ResizeMember* member;  // null: it left
    wire::Resize request;
    std::string who;
  };

  // Below: with mutex_ held.
  void Advance();
  ResizeAnswer Judge(const wire::Resize& request) const;
  void StartWhenQuiet();
  void Finish(uint64_t size_before, const ResizeAnswer& answer);

  // On the worker.
  void Work(uint64_t size);
  ResizeAnswer CarryOut(uint64_t size);

  const std::string volume_;
  Backend* const backend_;
  Ownership* const ownership_;

  std::mutex mutex_;
  std::set<ResizeMember*> members_;
  std::deque<Operation> queue_;
  std::optional<Operation> current_;
  std::set<ResizeMember*> waiting_for_;  // to be paused
  bool working_ = false;                 // everybody is paused

  WorkerPool worker_{1};  // last: its thread ends before anything it uses
};

}  // namespace cloudblk::proxy

#endif  // CLOUDBLK_PROXY_RESIZER_H_
