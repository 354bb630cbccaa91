// SPDX-License-Identifier: GPL-2.0-or-later
//
// UUIDs, and what becomes of texts that others sent.
#include "base/text.h"

#include <gtest/gtest.h>

#include <iterator>
#include <optional>
#include <string>
#include <string_view>

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

TEST(Text, OnlyUtf8WithoutNul) {
  EXPECT_TRUE(IsText(std::string_view("")));
  EXPECT_TRUE(IsText(std::string_view("plain")));
  EXPECT_TRUE(IsText(std::string_view("\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80")));
  EXPECT_FALSE(IsText(std::string_view("a\0b", 3)));
  for (const char* bad :
       {"\x80", "\xc3", "\xc0\x80", "\xe2\x82", "\xe0\x80\x80", "\xed\xa0\x80", "\xf0\x80\x80\x80",
        "\xf4\x90\x80\x80", "\xff", "\xc3(", "\xf5\x80\x80\x80"}) {
    EXPECT_FALSE(IsText(std::string_view(bad))) << bad;
  }
}

TEST(Text, IsCutBetweenCharacters) {
  const std::string_view text = "a\xc3\xa4\xf0\x9f\x98\x80";
  const size_t expected[] = {0, 1, 1, 3, 3, 3, 3, 7, 7};
  for (size_t max = 0; max < std::size(expected); ++max) {
    EXPECT_EQ(CutText(text, max), text.substr(0, expected[max])) << max;
  }
}

TEST(Printable, StaysOnOneLineWithoutEscapes) {
  EXPECT_EQ(Printable(std::string_view("a\nb\x1b[1m\0\x7f", 9)), "a?b?[1m??");
  EXPECT_EQ(Printable("K\xc3\xb6ln"), "K\xc3\xb6ln");
  EXPECT_EQ(Printable("K\xf6ln \xc3"), "K?ln ?");
  EXPECT_TRUE(IsText(Printable("\xff\xed\xa0\x80\xf4\x90\x80\x80")));
}

}  // namespace
}  // namespace cloudblk
