// SPDX-License-Identifier: GPL-2.0-or-later
//
// One of a session's ways to its server, as the host uses it: the requests that go over it and the
// link that carries them.
#ifndef CLOUDBLK_BLOCK_CHANNEL_H_
#define CLOUDBLK_BLOCK_CHANNEL_H_

#include <cstdint>
#include <string>

#include "base/event_loop.h"
#include "base/transport.h"
#include "block/include/cloudblk.h"
#include "block/link.h"
#include "block/request_queue.h"
#include "block/session_state.h"
#include "block/types.h"

namespace cloudblk {

class Channel;

// Who opens and closes channels. Called from the loop; must not detach or destroy the channel.
class ChannelObserver {
 public:
  virtual void OnReady(Channel* channel) = 0;
  // The channel tries again by itself, unless it is in kEnded now.
  virtual void OnFailure(Channel* channel, const Failure& failure) = 0;
  // After Close.
  virtual void OnClosed(Channel*) {}
  // The answer to Release or Resize. `error`: a positive errno, 0: done.
  virtual void OnAnswered(Channel*, Command::Kind, int, const std::string&) {}

 protected:
  ~ChannelObserver() = default;
};

// Everything is called on the thread of the loop that it is attached to, or of the session while
// it is not.
class Channel final : private LinkObserver {
 public:
  using State = LinkState;

  // What a channel is attached to.
  struct Host {
    EventLoop* loop = nullptr;
    CloudblkCompleteFn* complete = nullptr;
    void* opaque = nullptr;
    Link::LogFn log = nullptr;
  };

  // All outlive the channel.
  Channel(SessionState* session, uint32_t index, Connector* connector)
      : session_(session),
        queue_(session, index),
        link_(session, index, connector, &queue_, this) {}
  // Precondition: detached and nothing in flight.
  ~Channel();
  Channel(const Channel&) = delete;
  Channel& operator=(const Channel&) = delete;

  State state() const { return link_.state(); }
  const Link& link() const { return link_; }
  void set_observer(ChannelObserver* observer) { observer_ = observer; }

  // As cloudblk.h describes them.
  void Attach(const Host& host);
  void Detach();
  bool attached() const { return link_.attached(); }
  int Submit(const CloudblkRequest& request);
  void Kick() { link_.Pump(); }
  uint32_t in_flight() const { return queue_.in_flight(); }
  void Revoke();
  void FillStats(CloudblkStats* stats) const;

  // As Link has them.
  void SetRequestTimeout(int64_t ns) { link_.SetRequestTimeout(ns); }
  void Start() { link_.Start(); }
  void Reopen() { link_.Reopen(); }
  void Close(bool end_session) { link_.Close(end_session); }
  void Release() { link_.Release(); }
  void Resize(uint64_t size, bool force) { link_.Resize(size, force); }
  void ForgetResize() { link_.ForgetResize(); }
  void Abandon() { link_.Abandon(); }

  // As RequestQueue has it, of what Revoke gave up.
  bool given_up_flush_fails() const { return queue_.given_up_flush_fails(); }

 private:
  void OnReady() override;
  void OnFailure(const Failure& failure) override;
  void OnClosed() override;
  void OnAnswered(Command::Kind kind, int error, const std::string& text) override;

  SessionState* const session_;
  ChannelObserver* observer_ = nullptr;
  RequestQueue queue_;
  Link link_;
};

}  // namespace cloudblk

#endif  // CLOUDBLK_BLOCK_CHANNEL_H_
