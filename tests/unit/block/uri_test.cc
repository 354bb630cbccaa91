// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/uri.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cerrno>

namespace cloudblk {
namespace {

using ::testing::HasSubstr;

TEST(ServerUri, SeveralHostsWithAndWithoutPort) {
  Result<ServerUri> uri = ParseServerUri("cloudblk://a,b:7,[::1],[fe80::2%25eth0]:9/disk%201");
  ASSERT_TRUE(uri.ok()) << uri.status().message();
  EXPECT_EQ(uri->volume, "disk 1");
  ASSERT_EQ(uri->endpoints.size(), 4u);
  EXPECT_EQ(uri->endpoints[0].ToString(), "tcp://a:9810");
  EXPECT_EQ(uri->endpoints[1].ToString(), "tcp://b:7");
  EXPECT_EQ(uri->endpoints[2].ToString(), "tcp://[::1]:9810");
  EXPECT_EQ(uri->endpoints[3].ToString(), "tcp://[fe80::2%eth0]:9");
}

TEST(ServerUri, UnixSocket) {
  Result<ServerUri> uri = ParseServerUri("cloudblk+unix:///pool/disk?socket=/run/a%2Cb");
  ASSERT_TRUE(uri.ok()) << uri.status().message();
  EXPECT_EQ(uri->volume, "pool/disk");
  ASSERT_EQ(uri->endpoints.size(), 1u);
  EXPECT_EQ(uri->endpoints[0].ToString(), "unix:///run/a,b");
}

TEST(ServerUri, AnSAsksForTls) {
  for (const char* text : {"nbds://h/x", "nbds+unix:///x?socket=/s", "cloudblks://h/x",
                           "cloudblks+unix:///x?socket=/s"}) {
    const Result<ServerUri> uri = ParseServerUri(text);
    ASSERT_TRUE(uri.ok()) << text;
    EXPECT_TRUE(uri.value().tls) << text;
    EXPECT_EQ(uri.value().protocol, text[0] == 'n' ? Protocol::kNbd : Protocol::kNative);
    EXPECT_EQ(uri.value().volume, "x");
  }
  EXPECT_FALSE(ParseServerUri("cloudblk://h/x").value().tls);
  EXPECT_FALSE(ParseServerUri("nbd://h/x").value().tls);
  EXPECT_EQ(ParseServerUri("nbds://h/x").value().endpoints.front().port, 10809);
}

TEST(ServerUri, RefusesWhatItCannotRead) {
  for (const char* text :
       {"", "host/volume", "http://host/volume", "cloudblk://host", "cloudblk://host/",
        "cloudblk:///volume", "cloudblk://a,/volume", "cloudblk://a:0/volume",
        "cloudblk://a:x/volume", "cloudblk://a/v%2", "cloudblk://a/v%00", "cloudblk://a/v%zz",
        "cloudblk://a/v%ff", "cloudblk://a/v?x=1", "cloudblk+unix://h/v?socket=/s",
        "cloudblk+unix:///v", "cloudblk+unix:///v?socket=s", "cloudblk+unix:///?socket=/s",
        "cloudblk+unix:///v?socket=/s&x=1"}) {
    const Result<ServerUri> uri = ParseServerUri(text);
    ASSERT_FALSE(uri.ok()) << text;
    EXPECT_EQ(uri.status().error(), EINVAL) << text;
    EXPECT_THAT(uri.status().message(), HasSubstr("write cloudblk://")) << text;
    EXPECT_EQ(uri.status().message().find('\n'), std::string::npos);
  }
}

TEST(ServerUri, Nbd) {
  Result<ServerUri> uri = ParseServerUri("nbd://a,[::1]:7//srv/d%201?unflushed=lost&quarantine=0");
  ASSERT_TRUE(uri.ok()) << uri.status().message();
  EXPECT_EQ(uri->protocol, Protocol::kNbd);
  EXPECT_EQ(uri->volume, "/srv/d 1");
  ASSERT_EQ(uri->endpoints.size(), 2u);
  EXPECT_EQ(uri->endpoints[0].ToString(), "tcp://a:10809");
  EXPECT_EQ(uri->endpoints[1].ToString(), "tcp://[::1]:7");
  EXPECT_TRUE(uri->nbd.loses_unflushed);
  EXPECT_EQ(uri->nbd.quarantine_s, 0u);
  EXPECT_FALSE(uri->nbd.accept_no_flush || uri->nbd.unfenced_failover);
  uri =
      ParseServerUri("nbd+unix:///?noflush=accept&socket=/run/s&unflushed=kept&failover=unfenced");
  ASSERT_TRUE(uri.ok()) << uri.status().message();
  EXPECT_EQ(uri->volume, "");
  EXPECT_EQ(uri->endpoints[0].ToString(), "unix:///run/s");
  EXPECT_TRUE(uri->nbd.accept_no_flush && uri->nbd.unfenced_failover);
  EXPECT_FALSE(uri->nbd.loses_unflushed);
  // The default export, in all forms that other programs write it.
  for (const char* text :
       {"nbd://a", "nbd://a/", "nbd+unix://?socket=/s", "nbd+unix:///?socket=/s"}) {
    EXPECT_TRUE(ParseServerUri(text).ok()) << text;
  }
}

TEST(ServerUri, RefusesWhatNbdHasNot) {
  for (const char* text :
       {"nbd:///x", "nbd://a/x?y", "nbd://a/x?socket=/s", "nbd+unix:///x",
        "nbd+unix://h/x?socket=/s", "nbd+unix:///x?socket=s", "nbd://a/x?unflushed=maybe",
        "nbd://a/x?unflushed", "nbd://a/x?noflush=on", "nbd://a/x?failover=on",
        "nbd://a/x?quarantine=", "nbd://a/x?quarantine=-1", "nbd://a/x?quarantine=3601",
        "nbd://a/x?quarantine=1s", "nbd://a/x?unflushed=lost&unflushed=lost", "nbd://a/x%ff",
        "nbd://a/x#y"}) {
    const Result<ServerUri> uri = ParseServerUri(text);
    ASSERT_FALSE(uri.ok()) << text;
    EXPECT_EQ(uri.status().error(), EINVAL) << text;
    EXPECT_THAT(uri.status().message(), HasSubstr("write nbd://")) << text;
    EXPECT_EQ(uri.status().message().find('\n'), std::string::npos);
  }
}

TEST(ServerUri, VolumeNameLengthIsBounded) {
  EXPECT_TRUE(ParseServerUri("cloudblk://a/" + std::string(255, 'x')).ok());
  EXPECT_FALSE(ParseServerUri("cloudblk://a/" + std::string(256, 'x')).ok());
}

}  // namespace
}  // namespace cloudblk
