// SPDX-License-Identifier: GPL-2.0-or-later
//
// One opened volume: its channels, and the calls that wait for its servers.
#ifndef CLOUDBLK_BLOCK_SESSION_H_
#define CLOUDBLK_BLOCK_SESSION_H_

#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "base/transport.h"
#include "block/channel.h"
#include "block/session_state.h"

namespace cloudblk {

class Session {
 public:
  // Opens the volume with all channels and leaves them detached. Blocks until the servers' names
  // are looked up, and then at most timeout_ns.
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
  Status Resize(uint64_t size, bool force, int64_t timeout_ns);
  // Gives the volume away: afterwards only the token opens it. Blocks at most timeout_ns. On
  // failure the session still holds it, or cannot know and finds out by Claim. EBUSY: something is
  // in flight; EPERM: it observes, or the server refuses; EIO: the volume was lost;
  // ETIMEDOUT; EOPNOTSUPP. Precondition: every channel is detached.
  Status Release(int64_t timeout_ns);
  // The same for several at once, within the same time. One result for each.
  static std::vector<Status> Release(const std::vector<Session*>& sessions, int64_t timeout_ns);
  // Becomes the session that another client released; the observing ends. Claim makes it active.
  // Preconditions: the session observes, and its channels are on this thread.
  Status Adopt(const CloudblkIdentity& identity);
  void Export(CloudblkIdentity* identity) const;
  // Takes back what was released, or takes what was adopted: every channel connects, and requests
  // wait until it has. Nothing happens to a session that holds its volume. Preconditions: every
  // channel is attached and on this thread, and nothing is in flight.
  Status Claim();

  // If the volume was lost, opens it anew as a session that nobody knows, without taking it from
  // anybody: every channel connects, and requests wait. If it is refused, it stays lost.
  // Preconditions: as Claim.
  void Reopen();

  // Tells the server that the session is over, and waits for its answer, but at most timeout_ns.
  // Same preconditions as the destructor, which is all that may follow.
  void Close(int64_t timeout_ns);

 private:
  Session(SessionConfig config, std::unique_ptr<Connector> connector);
  void AbandonAll();
  Status MayRelease();

  const std::unique_ptr<Connector> connector_;
  SessionState state_;
  std::vector<std::unique_ptr<Channel>> channels_;
  std::vector<Channel*> all_;  // the same
};

}  // namespace cloudblk

#endif  // CLOUDBLK_BLOCK_SESSION_H_
