// SPDX-License-Identifier: GPL-2.0-or-later
//
// SPEC.md is the truth for people, wire_table.h the truth for the compiler: they must agree.
#include <gtest/gtest.h>

#include <fstream>
#include <map>
#include <sstream>
#include <string>

#include "proxy-protocol/wire.h"

namespace cloudblk::wire {
namespace {

using Numbers = std::map<int, std::string>;

std::string Trim(const std::string& text) {
  const size_t first = text.find_first_not_of(' ');
  return first == std::string::npos ? ""
                                    : text.substr(first, text.find_last_not_of(' ') - first + 1);
}

// The rows `| number | NAME | ...` of the first table behind the line that starts with `clause`.
// `column` counts the cells in front of the name.
Numbers Table(const std::string& clause) {
  std::ifstream spec(CLOUDBLK_SPEC);
  EXPECT_TRUE(spec.is_open());
  Numbers rows;
  bool found = false;
  for (std::string line; std::getline(spec, line);) {
    if (line.starts_with(clause)) found = true;
    if (!found) continue;
    if (!line.starts_with("|")) {
      if (!rows.empty()) break;
      continue;
    }
    std::stringstream cells(line.substr(1));
    std::string number, name;
    std::getline(cells, number, '|');
    std::getline(cells, name, '|');
    if (Trim(number).find_first_not_of("0123456789") == std::string::npos) {
      rows[std::stoi(number)] = Trim(name);
    }
  }
  EXPECT_TRUE(found) << clause;
  return rows;
}

#define CLOUDBLK_ROW(name, value, text) {value, text},

TEST(SpecTest, FrameTypes) {
  EXPECT_EQ(Table("3.2 "), (Numbers{CLOUDBLK_FRAME_TYPES(CLOUDBLK_ROW)}));
}
TEST(SpecTest, Operations) {
  EXPECT_EQ(Table("8.3 "), (Numbers{CLOUDBLK_OPERATIONS(CLOUDBLK_ROW)}));
}
TEST(SpecTest, Statuses) { EXPECT_EQ(Table("12.1 "), (Numbers{CLOUDBLK_STATUSES(CLOUDBLK_ROW)})); }
TEST(SpecTest, Events) { EXPECT_EQ(Table("13.4 "), (Numbers{CLOUDBLK_EVENTS(CLOUDBLK_ROW)})); }
TEST(SpecTest, Features) { EXPECT_EQ(Table("5.4 "), (Numbers{CLOUDBLK_FEATURES(CLOUDBLK_ROW)})); }
TEST(SpecTest, RequestFlags) {
  EXPECT_EQ(Table("8.4 "), (Numbers{CLOUDBLK_REQUEST_FLAGS(CLOUDBLK_ROW)}));
}
TEST(SpecTest, RangeFlags) {
  EXPECT_EQ(Table("8.5 "), (Numbers{CLOUDBLK_RANGE_FLAGS(CLOUDBLK_ROW)}));
}
TEST(SpecTest, ReplyFlags) {
  EXPECT_EQ(Table("8.7 "), (Numbers{CLOUDBLK_REPLY_FLAGS(CLOUDBLK_ROW)}));
}
TEST(SpecTest, ExtentFlags) {
  EXPECT_EQ(Table("8.17 "), (Numbers{CLOUDBLK_EXTENT_FLAGS(CLOUDBLK_ROW)}));
}
TEST(SpecTest, OpenFlags) {
  EXPECT_EQ(Table("6.2 "), (Numbers{CLOUDBLK_OPEN_FLAGS(CLOUDBLK_ROW)}));
}
TEST(SpecTest, VolumeFlags) {
  EXPECT_EQ(Table("6.4 "), (Numbers{CLOUDBLK_VOLUME_FLAGS(CLOUDBLK_ROW)}));
}
TEST(SpecTest, CloseFlags) {
  EXPECT_EQ(Table("13.5 "), (Numbers{CLOUDBLK_CLOSE_FLAGS(CLOUDBLK_ROW)}));
}

TEST(SpecTest, ResizeFlags) {
  EXPECT_EQ(Table("14.2 "), (Numbers{CLOUDBLK_RESIZE_FLAGS(CLOUDBLK_ROW)}));
}

// The header section sizes of clause 3.2.
TEST(SpecTest, HeaderSectionSizes) {
  std::ifstream spec(CLOUDBLK_SPEC);
  const std::map<std::string, size_t> sizes = {
      {"HELLO", kHelloSize},
      {"HELLO_REPLY", kHelloReplySize},
      {"OPEN", kOpenSize},
      {"OPEN_REPLY", kOpenReplySize},
      {"REQUEST", kRequestHeaderSize},
      {"REPLY", kReplyHeaderSize},
      {"PING", kPingSize},
      {"PONG", kPingSize},
      {"RELEASE", kTokenMessageSize},
      {"CLAIM", kTokenMessageSize},
      {"RELEASE_REPLY", kStatusMessageSize},
      {"CLAIM_REPLY", kStatusMessageSize},
      {"CLOSE_REPLY", kStatusMessageSize},
      {"ERROR", kStatusMessageSize},
      {"EVENT", kEventSize},
      {"CLOSE", kCloseSize},
      {"RESIZE", kResizeSize},
      {"RESIZE_REPLY", kStatusMessageSize},
  };
  bool in_table = false;
  size_t rows = 0;
  for (std::string line; std::getline(spec, line);) {
    if (line.starts_with("3.2 ")) in_table = true;
    if (line.starts_with("3.3 ")) break;
    if (!in_table || !line.starts_with("| ") || line.starts_with("| value")) continue;
    std::stringstream cells(line.substr(1));
    std::string number, name, sender, size;
    std::getline(cells, number, '|');
    std::getline(cells, name, '|');
    std::getline(cells, sender, '|');
    std::getline(cells, size, '|');
    ASSERT_TRUE(sizes.contains(Trim(name))) << name;
    EXPECT_EQ(std::stoul(size), sizes.at(Trim(name))) << name;
    ++rows;
  }
  EXPECT_EQ(rows, sizes.size());
}

}  // namespace
}  // namespace cloudblk::wire
