// SPDX-License-Identifier: GPL-2.0-or-later
//
// What the encoders and decoders of messages are made of. For proxy-protocol/ only.
#ifndef CLOUDBLK_PROXY_PROTOCOL_WIRE_FIELDS_H_
#define CLOUDBLK_PROXY_PROTOCOL_WIRE_FIELDS_H_

#include <algorithm>

#include "proxy-protocol/wire.h"

namespace cloudblk::wire {

// Writes fields one after the other; Pad writes the reserved bytes, which are zero.
class Writer {
 public:
  explicit Writer(std::span<uint8_t> out) : out_(out) {}
  void U8(uint8_t v) { out_[at_++] = v; }
  void U16(uint16_t v) { Store16(&out_[at_], v), at_ += 2; }
  void U32(uint32_t v) { Store32(&out_[at_], v), at_ += 4; }
  void U64(uint64_t v) { Store64(&out_[at_], v), at_ += 8; }
  void Id(const Uuid& v) { std::ranges::copy(v.bytes, &out_[at_]), at_ += 16; }
  void Pad(size_t n) { std::fill_n(&out_[at_], n, uint8_t{0}), at_ += n; }
  size_t size() const { return at_; }

 private:
  std::span<uint8_t> out_;
  size_t at_ = 0;
};

// Reads what Writer writes. Precondition: the span is as long as the message. Pad remembers whether
// a reserved byte was set, which Finish tells.
class Reader {
 public:
  explicit Reader(std::span<const uint8_t> in) : in_(in) {}
  uint8_t U8() { return in_[at_++]; }
  uint16_t U16() { return at_ += 2, Load16(&in_[at_ - 2]); }
  uint32_t U32() { return at_ += 4, Load32(&in_[at_ - 4]); }
  uint64_t U64() { return at_ += 8, Load64(&in_[at_ - 8]); }
  Uuid Id() {
    Uuid v;
    std::copy_n(&in_[at_], 16, v.bytes.begin());
    at_ += 16;
    return v;
  }
  void Pad(size_t n) {
    for (size_t i = 0; i < n; ++i) reserved_ |= in_[at_++];
  }
  bool reserved_clear() const { return reserved_ == 0; }

 private:
  std::span<const uint8_t> in_;
  size_t at_ = 0;
  uint8_t reserved_ = 0;
};

inline DecodeError Finish(const Reader& in) {
  return in.reserved_clear() ? DecodeError::kOk : DecodeError::kReservedSet;
}

#define CLOUDBLK_CASE(name, value, text) case value:
inline bool IsStatusCode(uint32_t v) {
  switch (v) {
    CLOUDBLK_STATUSES(CLOUDBLK_CASE)
    return true;
  }
  return false;
}
#undef CLOUDBLK_CASE

}  // namespace cloudblk::wire

#endif  // CLOUDBLK_PROXY_PROTOCOL_WIRE_FIELDS_H_
