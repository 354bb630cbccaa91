// SPDX-License-Identifier: GPL-2.0-or-later
//
// One opened volume: its channels, how they are opened together and closed.
#ifndef CLOUDBLK_BLOCK_SESSION_H_
#define CLOUDBLK_BLOCK_SESSION_H_

#include <cstdint>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "base/transport.h"
#include "block/channel.h"
#include "block/session_state.h"

namespace cloudblk {

class EpollLoop;

class Session {
 public:
  // Opens the volume with all channels and leaves them detached. Blocks at most timeout_ns.
  static Result<std::unique_ptr<Session>> Open(std::string_view server, SessionConfig config,
                                               int64_t timeout_ns);

  // Precondition: every channel is detached and nothing is in flight.
  ~Session();

  SessionState& state() { return state_; }
  const SessionState& state() const { return state_; }
  size_t channels() const { return channels_.size(); }
  Channel* channel(size_t index) { return channels_[index].get(); }

  // Gives the volume another size. Waits at most timeout_ns for the server's answer. Preconditions:
  // every channel is detached and nothing is in flight.
  Status Resize(const wire::Resize& request, int64_t timeout_ns);
  // Gives the volume away: afterwards only the token opens it. Blocks at most timeout_ns. On
  // failure the session still holds it, or cannot know and finds out by Claim. EBUSY: something is
  // in flight. Precondition: every channel is detached.
  Status Release(int64_t timeout_ns);
  // Becomes the session that another client released; the observing ends. Claim makes it active.
  // Preconditions: the session observes, and its channels are on this thread.
  Status Adopt(const CloudblkIdentity& identity);
  void Export(CloudblkIdentity* identity) const;
  // Takes back what was released, or takes what was adopted: every channel connects, and requests
  // wait until it has. Nothing happens to a session that holds its volume. Preconditions: every
  // channel is attached and on this thread, and nothing is in flight.
  Status Claim();

  // Tells the server that the session is over, and waits for its answer, but at most timeout_ns.
  // Same preconditions as the destructor, which is all that may follow.
  void Close(int64_t timeout_ns);

 private:
  Status WaitReady(EpollLoop* loop, int64_t deadline_ns);
  Status SendRelease(EpollLoop* loop, int64_t deadline_ns);
  void AbandonAll();

  Session(SessionConfig config, std::unique_ptr<Connector> connector);

  const std::unique_ptr<Connector> connector_;
  SessionState state_;
  std::vector<std::unique_ptr<Channel>> channels_;
};

// Opens channels on any loop: the first alone, for it decides, then the others together.
class SessionOpener final : public ChannelObserver {
 public:
  SessionOpener(SessionState* state, std::vector<Channel*> channels);

  // Attaches the channels and starts the first.
  void Start(const Channel::Host& host);
  // Opened, or failed for good.
  bool done() const { return done_; }
  const Status& status() const { return status_; }
  // The time is up: fails with what was last wrong.
  void GiveUp(int64_t waited_ns);
  // Detaches the channels. After a failure it ends their connections too.
  void Finish();

  void OnReady(Channel* channel) override;
  void OnFailure(Channel* channel, const ConnectionFailure& failure) override;
  void OnClosed(Channel*) override {}

 private:
  std::string Describe(const ConnectionFailure& failure) const;

  SessionState* const state_;
  const std::vector<Channel*> channels_;
  bool started_others_ = false;
  std::set<size_t> failed_;  // addresses, in a row without one that may take us later
  ConnectionFailure last_;
  std::string last_server_;
  bool done_ = false;
  Status status_;
};

}  // namespace cloudblk

#endif  // CLOUDBLK_BLOCK_SESSION_H_
