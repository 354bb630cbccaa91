// SPDX-License-Identifier: GPL-2.0-or-later
#include "tests/support/cpp/fault_filter.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <deque>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "proxy/backends/backends.h"
#include "proxy/loop_context.h"

namespace cloudblk::proxy {

// What the programs have without this file.
Result<std::unique_ptr<Backend>> OpenWithoutFaults(const std::string& volume,
                                                   const std::string& uri, StartUp* start_up);

}  // namespace cloudblk::proxy

#define OpenBackend OpenWithoutFaults
#include "proxy/backends/backends.cc"  // NOLINT(bugprone-suspicious-include)
#undef OpenBackend

namespace cloudblk::proxy {
namespace {

// How often it is seen whether what made an operation hang is gone.
constexpr int64_t kLookAgainNs = 5 * kNsPerMs;

class FaultQueue final : public BackendQueue, private IoSink {
 public:
  FaultQueue(FaultFilter* filter, LoopContext* context, std::unique_ptr<BackendQueue> inner)
      : filter_(filter),
        context_(context),
        inner_(std::move(inner)),
        timer_(context->loop().NewTimer([this] { OnTimer(); })) {}

  bool Submit(IoOp* op) override {
    const bool fails = filter_->NextFails();
    if (filter_->hangs()) {
      held_.push_back({op, fails});
      Arm();
      return false;
    }
    return Begin(op, fails);
  }
  void Kick() override { inner_->Kick(); }

 private:
  struct Held {
    IoOp* op;
    bool fails;
  };
  struct Late {
    IoOp* op;
    int64_t due_ns;
  };
  // An operation that the inner queue has; what it tells is told to us.
  struct Begun {
    IoOp* op;
    IoSink* sink;
  };

  // True: it is done, and nobody is told.
  bool Begin(IoOp* op, bool fails) {
    if (fails) {
      op->result = -EIO;
    } else {
      begun_.push_back({op, op->sink});
      op->sink = this;
      if (!inner_->Submit(op)) return false;
      TakeBack(op);
    }
    return Done(op);
  }

  void TakeBack(IoOp* op) {
    const auto begun = std::find_if(begun_.begin(), begun_.end(),
                                    [op](const Begun& each) { return each.op == op; });
    op->sink = begun->sink;
    begun_.erase(begun);
    filter_->Follow();
  }

  bool Done(IoOp* op) {
    const int64_t delay = filter_->faults().delay_ms * kNsPerMs;
    if (delay == 0) return true;
    late_.push_back({op, context_->loop().NowNs() + delay});
    Arm();
    return false;
  }

  // IoSink
  void OnIoDone(IoOp* op) override {
    TakeBack(op);
    if (Done(op)) op->sink->OnIoDone(op);
  }

  void Arm() {
    if (armed_ || (held_.empty() && late_.empty())) return;
    armed_ = true;
    const int64_t look = context_->loop().NowNs() + kLookAgainNs;
    timer_->Arm(held_.empty() ? late_.front().due_ns : look);
  }

  void OnTimer() {
    armed_ = false;
    if (!held_.empty() && !filter_->hangs()) {
      for (const Held& held : std::exchange(held_, {})) {
        if (Begin(held.op, held.fails)) held.op->sink->OnIoDone(held.op);
      }
      inner_->Kick();
    }
    while (!late_.empty() && late_.front().due_ns <= context_->loop().NowNs()) {
      IoOp* op = late_.front().op;
      late_.pop_front();
      op->sink->OnIoDone(op);
    }
    Arm();
  }

  FaultFilter* const filter_;
  LoopContext* const context_;
  const std::unique_ptr<BackendQueue> inner_;
  const std::unique_ptr<Timer> timer_;
  bool armed_ = false;
  std::deque<Held> held_;
  std::deque<Late> late_;
  std::vector<Begun> begun_;
};

bool TakeNumber(std::string_view text, uint64_t* number) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), *number);
  return error == std::errc() && end == text.data() + text.size() && *number != 0;
}

}  // namespace

Result<Faults> ParseFaults(std::string_view text) {
  Faults faults;
  while (!text.empty()) {
    const std::string_view fault = text.substr(0, text.find(','));
    text.remove_prefix(std::min(text.size(), fault.size() + 1));
    const std::string_view name = fault.substr(0, fault.find('='));
    const std::string_view value = fault.substr(std::min(fault.size(), name.size() + 1));
    uint64_t number = 0;
    if (name == "hang-file" && value.starts_with('/')) {
      faults.hang_file = value;
    } else if (name == "delay" && TakeNumber(value, &number)) {
      faults.delay_ms = static_cast<uint32_t>(number);
    } else if (name == "error-nth" && TakeNumber(value, &number)) {
      faults.error_nth = number;
    } else if (name == "disconnect-nth" && TakeNumber(value, &number)) {
      faults.disconnect_nth = number;
    } else {
      return Status(EINVAL, fmt::format("'{}' is no fault; there are delay=MS, error-nth=N, "
                                        "disconnect-nth=N and hang-file=/PATH",
                                        fault));
    }
  }
  return faults;
}

FaultFilter::FaultFilter(const Faults& faults, std::unique_ptr<Backend> inner)
    : faults_(faults), inner_(std::move(inner)) {
  size_ = inner_->size();
  geometry_ = inner_->geometry();
  uuid_ = inner_->uuid();
  Follow();
  inner_->WatchSize([this] { NoteOtherSize(); });
  inner_->WatchLock([this](std::function<void()> done) { NoteLetGo(std::move(done)); });
}

Result<std::unique_ptr<BackendQueue>> FaultFilter::Attach(LoopContext& context) {
  Result<std::unique_ptr<BackendQueue>> inner = inner_->Attach(context);
  if (!inner.ok()) return inner.status();
  return std::unique_ptr<BackendQueue>(
      std::make_unique<FaultQueue>(this, &context, std::move(*inner)));
}

Status FaultFilter::Resize(uint64_t size) {
  Status resized = inner_->Resize(size);
  size_ = inner_->size();
  return resized;
}

void FaultFilter::LookAtSize() {
  inner_->LookAtSize();
  size_ = inner_->size();
}

bool FaultFilter::NextFails() {
  const uint64_t number = ++operations_;
  return (faults_.disconnect_nth != 0 && number >= faults_.disconnect_nth) ||
         (faults_.error_nth != 0 && number % faults_.error_nth == 0);
}

bool FaultFilter::hangs() const {
  return !faults_.hang_file.empty() && access(faults_.hang_file.c_str(), F_OK) == 0;
}

Result<std::unique_ptr<Backend>> OpenBackend(const std::string& volume, const std::string& uri,
                                             StartUp* start_up) {
  constexpr std::string_view kScheme = "fault:";
  if (!uri.starts_with(kScheme)) return OpenWithoutFaults(volume, uri, start_up);
  const size_t end = uri.find(':', kScheme.size());
  if (end == std::string::npos) return Status(EINVAL, "fault: names no backend");
  Result<Faults> faults =
      ParseFaults(std::string_view(uri).substr(kScheme.size(), end - kScheme.size()));
  if (!faults.ok()) return faults.status();
  Result<std::unique_ptr<Backend>> inner = OpenBackend(volume, uri.substr(end + 1), start_up);
  if (!inner.ok()) return inner;
  return std::unique_ptr<Backend>(std::make_unique<FaultFilter>(*faults, std::move(*inner)));
}

}  // namespace cloudblk::proxy
