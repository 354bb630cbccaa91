// SPDX-License-Identifier: GPL-2.0-or-later
//
// What fuzz targets share.
#ifndef CLOUDBLK_TESTS_FUZZ_CHECK_H_
#define CLOUDBLK_TESTS_FUZZ_CHECK_H_

#include <fuzzer/FuzzedDataProvider.h>
#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>

namespace cloudblk::testing {

inline void Check(bool holds) {
  if (!holds) abort();
}

// What the supports of the tests expect counts too. At the end of an input.
inline void CheckExpectations() {
  Check(!::testing::UnitTest::GetInstance()->ad_hoc_test_result().Failed());
}

// Of a message: mostly as they should be, in an odd message some are not.
class Fields {
 public:
  explicit Fields(FuzzedDataProvider* in) : in_(in), odd_(in->ConsumeIntegral<uint8_t>() >= 176) {}

  // `usual`; in an odd message now and then another number, below 2^16 (Small) or any (Any).
  uint32_t Small(uint32_t usual) { return Differs() ? Other() : usual; }
  template <typename T>
  T Any(T usual) {
    return Differs() ? in_->ConsumeIntegral<T>() : usual;
  }

 private:
  bool Differs() { return odd_ && in_->ConsumeIntegral<uint8_t>() >= 192; }
  uint32_t Other() {
    return in_->ConsumeBool() ? in_->ConsumeIntegral<uint8_t>() : in_->ConsumeIntegral<uint16_t>();
  }

  FuzzedDataProvider* const in_;
  const bool odd_;
};

// A number below 2^16 which is often one of the few that matter.
inline uint32_t Small(FuzzedDataProvider* in, uint32_t usual) {
  const auto choice = in->ConsumeIntegral<uint8_t>();
  if (choice < 224) return usual;
  return choice < 240 ? in->ConsumeIntegral<uint8_t>() : in->ConsumeIntegral<uint16_t>();
}

// `usual`, unless the input has another one.
template <typename T>
T Maybe(FuzzedDataProvider* in, T usual) {
  return in->ConsumeIntegral<uint8_t>() < 224 ? usual : in->ConsumeIntegral<T>();
}

inline std::string SomeBytes(FuzzedDataProvider* in) {
  return in->ConsumeBytesAsString(in->ConsumeIntegral<uint8_t>());
}

}  // namespace cloudblk::testing

#endif  // CLOUDBLK_TESTS_FUZZ_CHECK_H_
