// SPDX-License-Identifier: GPL-2.0-or-later
#include "proxy/options.h"

#include <gmock/gmock.h>

#include <cstdlib>
#include <cstring>
#include <fstream>

#include "proxy/backend_uri.h"
#include "tests/unit/proxy/support.h"

namespace cloudblk::proxy {
namespace {

using testing::HasSubstr;

class ConfigTest : public testing::Test {
 protected:
  // "" if the file was read.
  std::string Read(const std::string& text) {
    const std::string path = folder_ / "proxy.toml";
    std::ofstream(path) << text;
    return ReadConfig(path, &options_).message();
  }

  TempFolder folder_;
  Options options_;
};

TEST_F(ConfigTest, SaysWhatTheCommandLineSays) {
  EXPECT_EQ(Read("listen = [\"tcp://127.0.0.1:9810\", \"unix:///run/cloudblk.sock\"]\n"
                 "threads = 4\n"
                 "lease = 30\n"
                 "max-connections = 7\n"
                 "max-memory = \"1G\"\n"
                 "log-level = \"debug\"\n"
                 "[volumes]\n"
                 "disk1 = \"file:///var/lib/disk1.img\"\n"
                 "\"disk two\" = \"memory:?size=1G\"\n"),
            "");
  ASSERT_EQ(options_.listen.size(), 2u);
  EXPECT_EQ(options_.listen[0].ToString(), "tcp://127.0.0.1:9810");
  EXPECT_EQ(options_.listen[1].ToString(), "unix:///run/cloudblk.sock");
  EXPECT_EQ(options_.threads, 4u);
  EXPECT_EQ(options_.lease_s, 30u);
  EXPECT_EQ(options_.max_connections, 7u);
  EXPECT_EQ(options_.max_memory, uint64_t{1} << 30);
  EXPECT_EQ(options_.log_level, "debug");
  ASSERT_EQ(options_.volumes.size(), 2u);
  EXPECT_EQ(options_.volumes[0].name, "disk two");
  EXPECT_EQ(options_.volumes[1].backend, "file:///var/lib/disk1.img");
  EXPECT_TRUE(CheckOptions(options_).ok());
}

TEST_F(ConfigTest, AnErrorNamesItsLine) {
  EXPECT_THAT(Read("threads = 2\n\nthraeds = 3\n"), HasSubstr("proxy.toml:3: unknown setting"));
  EXPECT_THAT(Read("threads = 0\n"), HasSubstr(":1: threads is a number from 1 to"));
  EXPECT_THAT(Read("threads = \"2\"\n"), HasSubstr(":1: threads is a number"));
  EXPECT_THAT(Read("\nlisten = \"localhost\"\n"), HasSubstr(":2: address 'localhost'"));
  EXPECT_THAT(Read("listen = [\"tcp://x:1\",\n 5]\n"), HasSubstr(":2: an address or a list"));
  EXPECT_THAT(Read("log-level = \"loud\"\n"), HasSubstr(":1: log-level is"));
  EXPECT_THAT(Read("max-memory = \"1M\"\n"), HasSubstr(":1: max-memory '1M': write a size of"));
  EXPECT_THAT(Read("max-connections = 0\n"), HasSubstr(":1: max-connections is a number from 1"));
  EXPECT_THAT(Read("volumes = 3\n"), HasSubstr(":1: volumes is a table"));
  EXPECT_THAT(Read("[volumes]\nx = 1\n"), HasSubstr(":2: the volume 'x' needs"));
  EXPECT_THAT(Read("a = \n"), HasSubstr("proxy.toml:1: "));
}

// Found by fuzzing: the library's assertion.
TEST_F(ConfigTest, ATableWithAStrangeNameIsAnError) {
  for (const std::string start : {"=", "(", ",", "#", "\x02", "\u00e9"}) {
    EXPECT_THAT(Read("[" + start + "volumes]\n"), HasSubstr("proxy.toml:1: "));
    EXPECT_THAT(Read("[[" + start + "access]]\n"), HasSubstr("proxy.toml:1: "));
  }
}

// Found by fuzzing, with UndefinedBehaviorSanitizer: the library's look for whitespace.
TEST_F(ConfigTest, LettersAreAnErrorOutsideOfStringsAlone) {
  for (const std::string letter : {"\u00e9", "\ufeef"}) {
    EXPECT_THAT(Read("\n" + letter + " = 1\n"), HasSubstr("proxy.toml:2: "));
    EXPECT_THAT(Read("threads = 1 " + letter + "\n"), HasSubstr("proxy.toml:1: "));
    EXPECT_EQ(Read("# " + letter + "\n[volumes]\n\"" + letter + "\" = \"memory:\"\n"), "");
  }
}

TEST_F(ConfigTest, ReadsTheRulesOfAccess) {
  ASSERT_EQ(Read("admin = \"unix:///run/admin\"\n"
                 "[[access]]\nuser = \"root\"\nvolumes = [\"a*\", \"b\"]\nrights = [\"write\"]\n"
                 "[[access]]\ngroup = 7\nvolumes = \"*\"\nrights = \"observe\"\n"
                 "[[access]]\ncertificate = \"*.org\"\nvolumes = \"*\"\nrights = [\"resize\", "
                 "\"takeover\"]\n"
                 "[[access]]\npsk = \"host\"\nvolumes = \"*\"\nrights = [\"administer\"]\n"
                 "[[access]]\nanyone = true\nvolumes = \"*\"\nrights = [\"read\"]\n"),
            "");
  ASSERT_EQ(options_.admin.size(), 1u);
  EXPECT_EQ(options_.admin[0].ToString(), "unix:///run/admin");
  const std::vector<AccessRule>& rules = options_.access;
  ASSERT_EQ(rules.size(), 5u);
  EXPECT_EQ(rules[0].uid, 0u);
  EXPECT_THAT(rules[0].volumes, testing::ElementsAre("a*", "b"));
  EXPECT_TRUE(rules[0].rights.has(Right::kWrite));
  EXPECT_FALSE(rules[0].rights.has(Right::kResize));
  EXPECT_EQ(rules[1].gid, 7u);
  EXPECT_EQ(rules[2].certificate, "*.org");
  EXPECT_TRUE(rules[2].rights.has(Right::kTakeover));
  EXPECT_EQ(rules[3].psk, "host");
  EXPECT_TRUE(rules[4].anyone);
}

TEST_F(ConfigTest, AnErrorOfARuleNamesItsLine) {
  const auto said = [this](const std::string& rule) { return Read("[[access]]\n" + rule); };
  const std::string rest = "volumes = \"*\"\nrights = \"read\"\n";
  EXPECT_THAT(said(rest), HasSubstr("proxy.toml:1: who a rule is about"));
  EXPECT_THAT(said("user = 1\ngroup = 1\n" + rest), HasSubstr(":1: who a rule is about"));
  EXPECT_THAT(said("user = \"no such user\"\n" + rest), HasSubstr(":2: there is no user 'no"));
  EXPECT_THAT(said("user = -1\n" + rest), HasSubstr(":2: user is a name or a number"));
  EXPECT_THAT(said("group = 1.5\n" + rest), HasSubstr(":2: group is a name or a number"));
  EXPECT_THAT(said("psk = 1\n" + rest), HasSubstr(":2: psk is a name"));
  EXPECT_THAT(said("anyone = false\n" + rest), HasSubstr(":2: anyone is true"));
  EXPECT_THAT(said("usr = 1\n" + rest), HasSubstr(":2: unknown setting 'usr' of a rule"));
  EXPECT_THAT(said("user = 1\nrights = \"read\"\n"), HasSubstr(":1: a rule needs volumes"));
  EXPECT_THAT(said("user = 1\nvolumes = \"*\"\n"), HasSubstr(":1: a rule needs rights"));
  EXPECT_THAT(said("user = 1\nvolumes = \"*\"\nrights = [\"read\",\n\"rite\"]\n"),
              HasSubstr(":5: no right 'rite'; there are observe, read"));
  EXPECT_THAT(Read("access = 3\n"), HasSubstr(":1: access is a list of tables"));
  EXPECT_THAT(Read("admin = \"tcp://127.0.0.1:1\"\n"), HasSubstr(":1: admin address 'tcp:"));
}

TEST_F(ConfigTest, TheExampleIsUnderstood) {
  const Status read = ReadConfig(CLOUDBLK_EXAMPLE_CONFIG, &options_);
  EXPECT_TRUE(read.ok()) << read.message();
  EXPECT_TRUE(CheckOptions(options_).ok());
  for (const VolumeOptions& volume : options_.volumes) {
    EXPECT_TRUE(BackendUri::Parse(volume.backend).ok()) << volume.backend;
  }
}

TEST_F(ConfigTest, AMissingFileIsNamed) {
  EXPECT_THAT(ReadConfig(folder_ / "none.toml", &options_).message(), HasSubstr("none.toml"));
}

TEST_F(ConfigTest, AnEmptyFileSaysNothing) { EXPECT_EQ(Read(""), ""); }

TEST(ParseVolumeTest, WantsANameAndAUri) {
  const Result<VolumeOptions> volume = ParseVolume("disk=memory:?size=1G");
  ASSERT_TRUE(volume.ok());
  EXPECT_EQ(volume.value().name, "disk");
  EXPECT_EQ(volume.value().backend, "memory:?size=1G");
  for (const char* bad : {"disk", "=memory:", "memory:?size=1G", "file:///x?size=1G"}) {
    EXPECT_FALSE(ParseVolume(bad).ok()) << bad;
  }
}

TEST(CheckOptionsTest, SaysWhatIsMissing) {
  Options options;
  EXPECT_THAT(CheckOptions(options).message(), HasSubstr("--listen"));
  options.listen.emplace_back();
  EXPECT_THAT(CheckOptions(options).message(), HasSubstr("--volume"));
  options.volumes = {{"a", "memory:?size=1M"}, {"a", "memory:?size=1M"}};
  EXPECT_THAT(CheckOptions(options).message(), HasSubstr("'a' is given twice"));
}

TEST(CheckOptionsTest, WantsNamesForOneLine) {
  Options options;
  options.listen.emplace_back();
  for (const char* bad : {"a\nb", "\x1b[2J", "\x7f"}) {
    options.volumes = {{bad, "memory:?size=1M"}};
    EXPECT_THAT(CheckOptions(options).message(), HasSubstr("control character")) << bad;
  }
  options.volumes = {{"größe 1/a", "memory:?size=1M"}};
  EXPECT_TRUE(CheckOptions(options).ok());
}

TEST(ParseSizeTest, TakesUnits) {
  EXPECT_EQ(ParseSize("512"), 512u);
  EXPECT_EQ(ParseSize("4K"), 4096u);
  EXPECT_EQ(ParseSize("1g"), 1u << 30);
  EXPECT_EQ(ParseSize("2T"), uint64_t{2} << 40);
  for (const char* bad : {"", "G", "-1", "1GB", "1.5G", "99999999999G", "1 G"}) {
    EXPECT_FALSE(ParseSize(bad)) << bad;
  }
}

TEST(BackendUriTest, DecodesItsParts) {
  Result<BackendUri> uri = BackendUri::Parse("file:///a%20b?size=1M&x=%26");
  ASSERT_TRUE(uri.ok());
  EXPECT_EQ(uri->scheme(), "file");
  EXPECT_EQ(uri->path(), "/a b");
  EXPECT_EQ(uri->TakeSize("size").value(), 1u << 20);
  EXPECT_EQ(uri->Take("x"), "&");
  EXPECT_TRUE(uri->CheckAllTaken().ok());
  for (const char* bad : {"file:///a%2", "file:///%00", "x:?a", "x:?a=1&a=2", ":x"}) {
    EXPECT_FALSE(BackendUri::Parse(bad).ok()) << bad;
  }
}

TEST(BufferPoolTest, ReusesAndTrims) {
  BufferPool pool;
  Buffer first = pool.Get(5000);
  EXPECT_EQ(first.capacity, 8192u);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(first.data) % BufferPool::kAlignment, 0u);
  uint8_t* const address = first.data;
  pool.Put(&first);
  EXPECT_EQ(first.data, nullptr);
  EXPECT_EQ(pool.kept(), 8192u);
  Buffer again = pool.Get(8192);
  EXPECT_EQ(again.data, address);
  EXPECT_EQ(pool.kept(), 0u);
  EXPECT_EQ(pool.handed_out(), 8192u);
  pool.Put(&again);
  pool.Trim();
  EXPECT_EQ(pool.kept(), 0u);
}

TEST(BufferPoolTest, ForgetsWhatItGivesAway) {
  BufferPool pool;
  Buffer buffer = pool.Get(5000);
  uint8_t* const data = buffer.data;
  pool.GiveAway(&buffer);
  EXPECT_EQ(buffer.data, nullptr);
  EXPECT_EQ(pool.handed_out(), 0u);
  EXPECT_EQ(pool.kept(), 0u);
  memset(data, 1, 5000);
  free(data);
  pool.GiveAway(&buffer);
  EXPECT_EQ(pool.handed_out(), 0u);
}

TEST(BufferPoolTest, WhatItKeepsIsBounded) {
  BufferPool pool;
  std::vector<Buffer> buffers(20);
  for (Buffer& buffer : buffers) buffer = pool.Get(BufferPool::kLargest);
  for (Buffer& buffer : buffers) pool.Put(&buffer);
  EXPECT_LE(pool.kept(), BufferPool::kMaxKept);
  EXPECT_EQ(pool.handed_out(), 0u);
}

}  // namespace
}  // namespace cloudblk::proxy
