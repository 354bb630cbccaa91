// SPDX-License-Identifier: GPL-2.0-or-later
//
// UUIDs, and what becomes of texts that others sent.
#include <gtest/gtest.h>

#include <optional>
#include <string>

#include "base/printable.h"
#include "base/uuid.h"

namespace cloudblk {
namespace {

constexpr char kText[] = "00112233-4455-6677-8899-aabbccddeeff";

TEST(Uuid, IsWrittenAndReadInItsUsualForm) {
  const std::optional<Uuid> uuid = ParseUuid(kText);
  ASSERT_TRUE(uuid.has_value());
  for (size_t i = 0; i < 16; ++i) EXPECT_EQ(uuid->bytes[i], i * 0x11);
  EXPECT_EQ(ToString(*uuid), kText);
  EXPECT_EQ(ParseUuid("00112233-4455-6677-8899-AABBCCDDEEFF"), uuid);
  EXPECT_TRUE(ParseUuid("00000000-0000-0000-0000-000000000000")->IsNil());
  EXPECT_FALSE(uuid->IsNil());
}

TEST(Uuid, NothingElseIsOne) {
  const std::string good = kText;
  for (size_t i = 0; i < good.size(); ++i) {
    EXPECT_FALSE(ParseUuid(good.substr(0, i))) << i;
    for (const char wrong : {'g', '+', ' ', '\0'}) {
      std::string bad = good;
      bad[i] = wrong;
      EXPECT_FALSE(ParseUuid(bad)) << bad;
    }
  }
  EXPECT_FALSE(ParseUuid(good + "0"));
  EXPECT_FALSE(ParseUuid("00112233445566778899aabbccddeeff"));
}

TEST(Uuid, ANewOneIsRandomAndOfVersion4) {
  const Uuid a = RandomUuid();
  const Uuid b = RandomUuid();
  EXPECT_FALSE(a == b);
  EXPECT_EQ(a.bytes[6] >> 4, 4);
  EXPECT_EQ(a.bytes[8] >> 6, 2);
}

TEST(Printable, StaysOnOneLineWithoutEscapes) {
  EXPECT_EQ(Printable(std::string_view("a\nb\x1b[1m\0\x7f", 9)), "a?b?[1m??");
  EXPECT_EQ(Printable("K\xc3\xb6ln"), "K\xc3\xb6ln");
}

}  // namespace
}  // namespace cloudblk
