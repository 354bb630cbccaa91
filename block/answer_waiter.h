// SPDX-License-Identifier: GPL-2.0-or-later
//
// For a question that is asked on a session's first channel, and waited for on a loop of one's own.
#ifndef CLOUDBLK_BLOCK_ANSWER_WAITER_H_
#define CLOUDBLK_BLOCK_ANSWER_WAITER_H_

#include <optional>
#include <string>
#include <string_view>

#include "block/channel.h"

namespace cloudblk {

// Whoever waits for a RELEASE_REPLY or a RESIZE_REPLY. Called on the channel's loop.
class AnswerWaiter final : public ChannelObserver {
 public:
  // Nothing, as long as there is none.
  const std::optional<wire::StatusCode>& answer() const { return answer_; }
  // A connection was lost meanwhile.
  bool cut() const { return cut_; }
  // The server's, or why the connection was lost.
  const std::string& text() const { return text_; }

  void OnReady(Channel*) override {}
  void OnFailure(Channel*, const ConnectionFailure& failure) override {
    cut_ = true;
    text_ = failure.text;
  }
  void OnClosed(Channel*) override {}
  void OnResized(Channel*, wire::StatusCode status, std::string_view text) override {
    Note(status, text);
  }
  void OnReleased(Channel*, wire::StatusCode status, std::string_view text) override {
    Note(status, text);
  }

 private:
  void Note(wire::StatusCode status, std::string_view text) {
    answer_ = status;
    text_ = text;
  }

  std::optional<wire::StatusCode> answer_;
  bool cut_ = false;
  std::string text_;
};

}  // namespace cloudblk

#endif  // CLOUDBLK_BLOCK_ANSWER_WAITER_H_
