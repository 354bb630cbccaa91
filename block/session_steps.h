// SPDX-License-Identifier: GPL-2.0-or-later
//
// What a session asks of its servers as a whole, step by step: nothing here blocks, so that it runs
// on any loop. session.h has the calls that wait for them.
#ifndef CLOUDBLK_BLOCK_SESSION_STEPS_H_
#define CLOUDBLK_BLOCK_SESSION_STEPS_H_

#include <cstdint>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "base/status.h"
#include "block/channel.h"
#include "block/session_state.h"

namespace cloudblk {

// Start, then turns of the loop until done(), GiveUp if that takes too long, then Finish.
// Precondition of Start: every channel is detached. Afterwards they are again.
class SessionStep : public ChannelObserver {
 public:
  // All outlive the step. At least one channel.
  SessionStep(SessionState* state, std::vector<Channel*> channels)
      : state_(state), channels_(std::move(channels)) {}
  virtual ~SessionStep() = default;
  SessionStep(const SessionStep&) = delete;
  SessionStep& operator=(const SessionStep&) = delete;

  virtual void Start(const Channel::Host& host) = 0;
  bool done() const { return done_; }
  const Status& status() const { return status_; }
  // The time is up, after `waited_ns`: the step is done.
  virtual void GiveUp(int64_t waited_ns) = 0;
  // What it waits for, for people; empty: that is not worth a line.
  virtual std::string WaitsFor() const { return {}; }
  // Detaches the channels.
  virtual void Finish() = 0;

 protected:
  void Done(Status status) {
    done_ = true;
    status_ = std::move(status);
  }
  // The one that speaks for the session.
  Channel* first() const { return channels_.front(); }
  void AttachFirst(const Channel::Host& host);
  void DetachFirst();
  void AbandonAll();

  SessionState* const state_;
  const std::vector<Channel*> channels_;

 private:
  bool done_ = false;
  Status status_;
};

// Opens the volume: the first channel alone, for it decides, then the others together.
class OpenStep final : public SessionStep {
 public:
  using SessionStep::SessionStep;

  void Start(const Channel::Host& host) override;
  // Fails with what was last wrong.
  void GiveUp(int64_t waited_ns) override;
  std::string WaitsFor() const override;
  // After a failure it ends their connections too.
  void Finish() override;

  void OnReady(Channel* channel) override;
  void OnFailure(Channel* channel, const Failure& failure) override;

 private:
  std::string Describe(const Failure& failure) const;

  EventLoop* loop_ = nullptr;
  bool started_others_ = false;
  // Addresses that failed for good since one last failed in a way that may pass
  // (Failure::may_pass).
  std::set<size_t> exhausted_;
  // Since when nothing but IsUnreachable was found; 0: something else was.
  int64_t unreachable_since_ns_ = 0;
  Failure last_;
  std::string last_server_;
};

// Gives the volume away (SPEC.md 11): afterwards only the token opens it. After a failure the
// session still holds it, or does not know. Precondition: nothing is in flight.
class ReleaseStep final : public SessionStep {
 public:
  using SessionStep::SessionStep;

  void Start(const Channel::Host& host) override;
  void GiveUp(int64_t waited_ns) override;
  void Finish() override;

  void OnReady(Channel* channel) override;
  void OnFailure(Channel* channel, const Failure& failure) override;
  void OnAnswered(Channel* channel, Command::Kind kind, int error,
                  const std::string& text) override;

 private:
  void Send();

  // The session had released it before. Whoever has the token of that must not be able to use it
  // any more, so it is claimed first.
  bool reclaims_ = false;
  bool sent_ = false;
};

// Asks for another size of the volume (SPEC.md 14). Precondition: nothing is in flight.
class ResizeStep final : public SessionStep {
 public:
  ResizeStep(SessionState* state, std::vector<Channel*> channels, uint64_t size, bool force)
      : SessionStep(state, std::move(channels)), size_(size), force_(force) {}

  void Start(const Channel::Host& host) override;
  void GiveUp(int64_t waited_ns) override;
  void Finish() override;

  void OnReady(Channel* channel) override;
  void OnFailure(Channel* channel, const Failure& failure) override;
  void OnAnswered(Channel* channel, Command::Kind kind, int error,
                  const std::string& text) override;

 private:
  void Send();
  void Unknown(const std::string& why);

  const uint64_t size_;
  const bool force_;
  bool sent_ = false;
};

// Tells the server that the session is over. Precondition: nothing is in flight.
class CloseStep final : public SessionStep {
 public:
  using SessionStep::SessionStep;

  void Start(const Channel::Host& host) override;
  void GiveUp(int64_t) override { Done(Status::Ok()); }
  void Finish() override;

  void OnReady(Channel*) override {}
  void OnFailure(Channel* channel, const Failure& failure) override;
  void OnClosed(Channel*) override { Done(Status::Ok()); }
};

}  // namespace cloudblk

#endif  // CLOUDBLK_BLOCK_SESSION_STEPS_H_
