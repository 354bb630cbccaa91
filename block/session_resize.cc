// SPDX-License-Identifier: GPL-2.0-or-later
//
// A session that asks for another size of its volume (SPEC.md 14).
#include <cerrno>
#include <optional>

#include "block/epoll_loop.h"
#include "block/session.h"
#include "block/wire_errno.h"

namespace cloudblk {
namespace {

// Whoever waits for the RESIZE_REPLY.
class ResizeWaiter final : public ChannelObserver {
 public:
  const std::optional<wire::Status>& answer() const { return answer_; }
  bool lost() const { return lost_; }
  const std::string& text() const { return text_; }

  void OnReady(Channel*) override {}
  void OnFailure(Channel*, const ConnectionFailure& failure) override {
    lost_ = true;
    text_ = failure.text;
  }
  void OnClosed(Channel*) override {}
  void OnResized(Channel*, wire::Status status, std::string_view text) override {
    answer_ = status;
    text_ = text;
  }

 private:
  std::optional<wire::Status> answer_;
  bool lost_ = false;
  std::string text_;
};

Status Outcome(const ResizeWaiter& waiter, bool sent) {
  if (!waiter.answer()) {
    const std::string why = waiter.lost() ? waiter.text() : "the server does not answer in time";
    return Status(ETIMEDOUT,
                  why + (sent ? "; whether the volume was resized is not known, try again"
                              : "; the volume was not resized, try again"));
  }
  if (*waiter.answer() == wire::Status::kOk) return Status::Ok();
  return Status(ErrnoOf(*waiter.answer()), "the server refuses: " + waiter.text());
}

}  // namespace

Status Session::Resize(const wire::Resize& request, int64_t timeout_ns) {
  if (state_.revoked()) return Status(EIO, "the volume was lost to another client");
  Result<std::unique_ptr<EpollLoop>> loop = EpollLoop::Create();
  if (!loop.ok()) return loop.status();
  const int64_t deadline = (*loop)->NowNs() + timeout_ns;
  Channel* channel = channels_[0].get();
  ResizeWaiter waiter;
  bool sent = false;
  channel->set_observer(&waiter);
  channel->Attach({loop->get(), nullptr, nullptr, nullptr});
  while (!waiter.answer() && !waiter.lost() && channel->state() != Channel::State::kFailed) {
    if (!sent && channel->state() == Channel::State::kReady) {
      channel->Resize(request);
      sent = true;
      continue;
    }
    const int64_t left = deadline - (*loop)->NowNs();
    if (left <= 0) break;
    (*loop)->RunOnce(left);
  }
  channel->Detach();
  channel->set_observer(nullptr);
  return Outcome(waiter, sent);
}

}  // namespace cloudblk
