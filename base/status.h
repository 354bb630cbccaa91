// SPDX-License-Identifier: GPL-2.0-or-later
//
// Results of set-up work: an errno for programs and one line for people. Not for the data path,
// which uses plain 0/-errno.
#ifndef CLOUDBLK_BASE_STATUS_H_
#define CLOUDBLK_BASE_STATUS_H_

#include <cassert>
#include <string>
#include <utility>
#include <variant>

namespace cloudblk {

class [[nodiscard]] Status {
 public:
  Status() = default;
  // `error` is a positive errno; `message` one line that says what was wrong and what to do.
  Status(int error, std::string message) : error_(error), message_(std::move(message)) {
    assert(error > 0);
  }
  static Status Ok() { return Status(); }

  bool ok() const { return error_ == 0; }
  int error() const { return error_; }
  const std::string& message() const { return message_; }

 private:
  int error_ = 0;
  std::string message_;
};

template <typename T>
class [[nodiscard]] Result {
 public:
  Result(T value) : held_(std::move(value)) {}        // NOLINT: implicit, so `return value;`
  Result(Status status) : held_(std::move(status)) {  // NOLINT: implicit, so `return status;`
    assert(!std::get<Status>(held_).ok());
  }

  bool ok() const { return std::holds_alternative<T>(held_); }
  // Precondition: !ok().
  const Status& status() const { return std::get<Status>(held_); }
  // Precondition: ok().
  T& value() { return std::get<T>(held_); }
  const T& value() const { return std::get<T>(held_); }
  T* operator->() { return &value(); }
  T& operator*() { return value(); }

 private:
  std::variant<T, Status> held_;
};

}  // namespace cloudblk

#endif  // CLOUDBLK_BASE_STATUS_H_
