// SPDX-License-Identifier: GPL-2.0-or-later
//
// A remote volume's operations on one loop: requests of a channel of the engine, on that loop.
#ifndef CLOUDBLK_PROXY_BACKENDS_REMOTE_QUEUE_H_
#define CLOUDBLK_PROXY_BACKENDS_REMOTE_QUEUE_H_

#include <utility>
#include <vector>

#include "block/session.h"
#include "proxy/backend.h"
#include "proxy/loop_context.h"

namespace cloudblk::proxy {

class Remote;

class RemoteQueue final : public BackendQueue {
 public:
  // All outlive the object. `carrier`: whose channel carries the operations, where the server has
  // room for fewer connections than there are loops; null: it has one of its own. `observing`:
  // which is to Observe; null: this one.
  RemoteQueue(Remote* remote, LoopContext* context, RemoteQueue* carrier, RemoteQueue* observing)
      : remote_(remote),
        context_(context),
        carrier_(carrier != nullptr ? carrier : this),
        observing_(observing != nullptr ? observing : this) {}
  // On the loop's thread, or after it. Takes its channels off the loop.
  ~RemoteQueue() override;

  bool Submit(IoOp* op) override;
  void Kick() override;

  // On the loop's thread, or before it runs.
  void Observe(Channel* channel);
  void Serve(const SessionState* state, Channel* channel);
  // Any thread: the same, and its end, soon.
  void PostServe(const SessionState* state, Channel* channel);
  void PostLeave();
  void PostSubmit(IoOp* op);

 private:
  static void OnComplete(void* opaque, const CloudblkCompletion* done, uint32_t count);
  // Of the observer's channel.
  static void OnLooked(void* opaque, const CloudblkCompletion* done, uint32_t count);
  void Leave();
  // False: it is done already.
  bool Prepare(IoOp* op);
  bool Start(IoOp* op);
  // A result, or kUnderWay.
  int SubmitRequest(IoOp* op);
  void Finish(IoOp* op, const CloudblkCompletion& done);
  // It is done: tells its sink, or adds it to those of other loops.
  void Tell(IoOp* op, IoOp** elsewhere) const {
    if (op->context == context_) {
      op->sink->OnIoDone(op);
    } else {
      op->next = std::exchange(*elsewhere, op);
    }
  }
  // A BLOCK_STATUS that the observer is asked; LookHere on the observing queue's loop. True: it is
  // done already.
  bool Look(IoOp* op);
  bool LookHere(IoOp* op);

  Remote* const remote_;
  LoopContext* const context_;
  RemoteQueue* const carrier_;
  RemoteQueue* const observing_;
  const SessionState* state_ = nullptr;  // of the session that channel_ is of
  Channel* channel_ = nullptr;
  Channel* observer_ = nullptr;
  std::vector<IoOp*> waiting_;         // for a channel
  IoOp* forwarded_ = nullptr;          // to the carrier, at the end of the turn
  std::vector<CloudblkRange> ranges_;  // of the operation that is being submitted
};

}  // namespace cloudblk::proxy

#endif  // CLOUDBLK_PROXY_BACKENDS_REMOTE_QUEUE_H_
