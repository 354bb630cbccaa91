// SPDX-License-Identifier: GPL-2.0-or-later
//
// The connection's part in a resize of its volume (SPEC.md 14).
#include <array>
#include <utility>

#include "proxy/connection.h"

namespace cloudblk::proxy {

bool Connection::OnResize(std::span<const uint8_t> section) {
  wire::Resize request;
  const wire::DecodeError error = wire::Decode(section, &request);
  if (error != wire::DecodeError::kOk) return Violation(wire::Describe(error));
  if (resizing_) return Violation("RESIZE while another is under way");
  resizing_ = true;
  volume_->resizer.Resize(this, request, Who());
  return true;
}

void Connection::Pause() {
  thread_->Post([thread = thread_, id = id_] {
    if (Connection* connection = thread->Find(id)) connection->OnPause();
  });
}

void Connection::Resume(uint64_t size) {
  thread_->Post([thread = thread_, id = id_, size] {
    if (Connection* connection = thread->Find(id)) connection->OnResume(size);
  });
}

void Connection::AnswerResize(const ResizeAnswer& answer) {
  thread_->Post([thread = thread_, id = id_, answer] {
    if (Connection* connection = thread->Find(id)) connection->OnResizeAnswer(answer);
  });
}

// A frame may be half received: the rest of it waits in the socket, so that none of its requests
// becomes ready to be handed over.
void Connection::OnPause() {
  paused_ = true;
  if (at_backend_ == 0) volume_->resizer.Paused(this);
  MarkDirty();
}

void Connection::OnResume(uint64_t size) {
  paused_ = false;
  MarkDirty();
  if (size == 0 || (state_ != State::kReady && state_ != State::kClosing)) return;
  if (writer_.control_size() > kMaxControl) {
    BeginStop("does not read what it is sent");
    return;
  }
  std::array<uint8_t, wire::kEventSize> out;
  wire::Encode(wire::Event{wire::EventKind::kResized, size}, out);
  writer_.AddMessage(wire::FrameType::kEvent, out, {});
}

void Connection::OnResizeAnswer(const ResizeAnswer& answer) {
  resizing_ = false;
  if (state_ != State::kReady) return;
  SendStatus(wire::FrameType::kResizeReply, {answer.status, answer.text, 0, 0});
}

}  // namespace cloudblk::proxy
