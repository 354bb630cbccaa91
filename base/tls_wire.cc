// SPDX-License-Identifier: GPL-2.0-or-later
#include "base/tls_wire.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

namespace cloudblk {
namespace {

// RFC 8446, 5.1 and 5.2.
constexpr size_t kRecordHeader = 5;
constexpr size_t kMostOfRecord = (16 << 10) + 256;
constexpr uint8_t kAlert = 21;
constexpr uint8_t kHandshake = 22;
constexpr uint8_t kMajorVersion = 3;

// Its pages are taken as they are used: an idle connection takes one or two.
constexpr size_t kIn = 128 << 10;
// What a burst has grown beyond this is given back.
constexpr size_t kKeptReady = 256 << 10;

}  // namespace

TlsWire::TlsWire(std::unique_ptr<Transport> below)
    : below_(std::move(below)), in_(std::make_unique_for_overwrite<uint8_t[]>(kIn)) {}

ssize_t TlsWire::Fill() {
  if (begin_ == end_) {
    begin_ = whole_ = end_ = 0;
  } else if (kIn - begin_ < kRecordHeader + kMostOfRecord) {
    std::memmove(in_.get(), in_.get() + begin_, end_ - begin_);
    whole_ -= begin_;
    end_ -= begin_;
    begin_ = 0;
  }
  // Full of records that nobody took.
  if (end_ == kIn) return -EAGAIN;
  const iovec room{in_.get() + end_, kIn - end_};
  const ssize_t n = below_->Readv(&room, 1);
  drained_ = n < static_cast<ssize_t>(room.iov_len);
  if (n == 0) ended_ = true;
  if (n <= 0) return n;
  if (!heard_) {
    heard_ = true;
    tls_ = in_[0] == kHandshake || in_[0] == kAlert;
  }
  end_ += static_cast<size_t>(n);
  if (tls_ && end_ >= 2 && begin_ == 0 && whole_ == 0) tls_ = in_[1] == kMajorVersion;
  Scan();
  return n;
}

void TlsWire::Scan() {
  while (end_ - whole_ >= kRecordHeader) {
    const size_t length = static_cast<size_t>(in_[whole_ + 3]) << 8 | in_[whole_ + 4];
    if (length > kMostOfRecord) {
      // GnuTLS says what is wrong with it.
      whole_ = end_;
      return;
    }
    if (end_ - whole_ < kRecordHeader + length) return;
    whole_ += kRecordHeader + length;
  }
}

ssize_t TlsWire::Pull(void* to, size_t size) {
  const size_t bytes = std::min(size, whole_ - begin_);
  if (bytes == 0) return ended_ ? 0 : -EAGAIN;
  std::memcpy(to, in_.get() + begin_, bytes);
  begin_ += bytes;
  return static_cast<ssize_t>(bytes);
}

void TlsWire::Push(const iovec* iov, int count) {
  for (int i = 0; i < count; ++i) {
    const auto* from = static_cast<const uint8_t*>(iov[i].iov_base);
    ready_.insert(ready_.end(), from, from + iov[i].iov_len);
  }
}

int TlsWire::Flush() {
  while (!sent_all()) {
    const iovec rest{ready_.data() + sent_, ready_.size() - sent_};
    const ssize_t n = below_->Writev(&rest, 1);
    if (n < 0) return static_cast<int>(n);
    sent_ += static_cast<size_t>(n);
  }
  flushed_ += ready_.size();
  ready_.clear();
  sent_ = 0;
  if (ready_.capacity() > kKeptReady) ready_.shrink_to_fit();
  return 0;
}

}  // namespace cloudblk
