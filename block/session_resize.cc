// SPDX-License-Identifier: GPL-2.0-or-later
//
// A session that asks for another size of its volume (SPEC.md 14).
#include <cerrno>

#include "base/epoll_loop.h"
#include "block/answer_waiter.h"
#include "block/session.h"
#include "proxy-protocol/wire_errno.h"

namespace cloudblk {
namespace {

Status Outcome(const AnswerWaiter& waiter, bool sent) {
  if (!waiter.answer()) {
    const std::string why = waiter.cut() ? waiter.text() : "the server does not answer in time";
    return Status(ETIMEDOUT,
                  why + (sent ? "; whether the volume was resized is not known, try again"
                              : "; the volume was not resized, try again"));
  }
  if (*waiter.answer() == wire::StatusCode::kOk) return Status::Ok();
  return Status(wire::ErrnoOf(*waiter.answer()), "the server refuses: " + waiter.text());
}

}  // namespace

Status Session::Resize(const wire::Resize& request, int64_t timeout_ns) {
  if (state_.revoked()) return Status(EIO, "the volume was lost to another client");
  Result<std::unique_ptr<EpollLoop>> loop = EpollLoop::Create();
  if (!loop.ok()) return loop.status();
  const int64_t deadline = (*loop)->NowNs() + timeout_ns;
  Channel* channel = channels_[0].get();
  AnswerWaiter waiter;
  bool sent = false;
  channel->set_observer(&waiter);
  channel->Attach({loop->get(), nullptr, nullptr, nullptr});
  while (!waiter.answer() && !waiter.cut() && channel->state() != Channel::State::kFailed) {
    if (!sent && channel->state() == Channel::State::kReady) {
      channel->Resize(request);
      sent = true;
      continue;
    }
    const int64_t left = deadline - (*loop)->NowNs();
    if (left <= 0) break;
    (*loop)->RunOnce(left);
  }
  Status outcome = Outcome(waiter, sent);
  channel->set_observer(nullptr);
  // Its answer would be taken for the next one's.
  channel->ForgetResize();
  channel->Detach();
  return outcome;
}

}  // namespace cloudblk
