// SPDX-License-Identifier: GPL-2.0-or-later
//
// What a host with several sessions asks of them while it migrates, through cloudblk.h.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "block/include/cloudblk.h"
#include "tests/support/cpp/tcp_fake_server.h"

namespace cloudblk::testing {
namespace {

using ::testing::HasSubstr;

constexpr uint32_t kTimeoutMs = 10'000;

CloudblkSession* OpenAt(const TcpFakeServer& server, bool observe = false) {
  const std::string uri = server.uri();
  CloudblkOptions options{};
  options.size = sizeof(options);
  options.abi_version = CLOUDBLK_ABI_VERSION;
  options.server = uri.c_str();
  options.channels = 1;
  options.observe = observe;
  CloudblkSession* session = nullptr;
  char error[512] = "";
  EXPECT_EQ(cloudblk_session_open(&options, &session, error, sizeof(error)), 0) << error;
  return session;
}

class ReleaseAllTest : public ::testing::Test {
 protected:
  static constexpr size_t kCount = 5;

  ReleaseAllTest() {
    for (size_t i = 0; i < kCount; ++i) {
      servers.push_back(std::make_unique<TcpFakeServer>(1 << 20));
      releases.push_back({OpenAt(*servers[i]), 1, ""});
    }
  }
  ~ReleaseAllTest() override {
    for (const CloudblkRelease& release : releases) cloudblk_session_close(release.session, 100);
  }

  std::vector<std::unique_ptr<TcpFakeServer>> servers;
  std::vector<CloudblkRelease> releases;
};

// Each server answers only when all have been asked.
TEST_F(ReleaseAllTest, NoneWaitsForAnother) {
  std::mutex mutex;
  std::condition_variable all;
  size_t asked = 0;
  for (const auto& server : servers) {
    server->Do([&](FakeServer* fake) {
      fake->judge_release = [&](const wire::TokenMessage&) {
        std::unique_lock lock(mutex);
        ++asked;
        all.notify_all();
        all.wait_for(lock, std::chrono::seconds(5), [&] { return asked == kCount; });
        return asked == kCount ? wire::StatusCode::kOk : wire::StatusCode::kNotActive;
      };
    });
  }
  cloudblk_session_release_all(releases.data(), kCount, kTimeoutMs);
  for (const CloudblkRelease& release : releases) EXPECT_EQ(release.result, 0) << release.error;
}

TEST_F(ReleaseAllTest, EachHasItsOwnResult) {
  servers[1]->Do([](FakeServer* fake) {
    fake->judge_release = [](const wire::TokenMessage&) { return wire::StatusCode::kNotActive; };
    fake->refusal = "not you";
  });
  servers[2]->Do([](FakeServer* fake) { fake->silent = true; });
  cloudblk_session_release_all(releases.data(), kCount, 300);
  EXPECT_EQ(releases[0].result, 0);
  EXPECT_EQ(releases[1].result, -EPERM);
  EXPECT_THAT(releases[1].error, HasSubstr("not you"));
  EXPECT_EQ(releases[2].result, -ETIMEDOUT);
  EXPECT_EQ(releases[3].result, 0);
  EXPECT_EQ(releases[4].result, 0);
  servers[2]->Do([](FakeServer* fake) { fake->silent = false; });
}

TEST_F(ReleaseAllTest, WhatWasGivenUpIsNotResized) {
  cloudblk_session_release_all(releases.data(), 1, kTimeoutMs);
  ASSERT_EQ(releases[0].result, 0);
  char error[512] = "";
  // At once, and not when the time is up.
  EXPECT_EQ(cloudblk_session_resize(releases[0].session, 2 << 20, false, UINT32_MAX, error,
                                    sizeof(error)),
            -EPERM);
  EXPECT_THAT(error, HasSubstr("has given the volume up"));
}

// Found by ThreadSanitizer.
TEST_F(ReleaseAllTest, ASessionMayBeLookedAtFromAnyThread) {
  CloudblkSession* observer = OpenAt(*servers[1], true);
  std::atomic<bool> end = false;
  std::thread looker([&] {
    while (!end) {
      for (CloudblkSession* session : {releases[0].session, observer}) {
        CloudblkInfo info{};
        info.size = sizeof(info);
        cloudblk_session_info(session, &info);
        EXPECT_EQ(info.size_bytes, 1u << 20);
        char text[64];
        cloudblk_session_status(session, text, sizeof(text));
      }
    }
  });
  cloudblk_session_release_all(releases.data(), 1, kTimeoutMs);
  CloudblkIdentity identity{};
  identity.size = sizeof(identity);
  cloudblk_session_export(releases[0].session, &identity);
  char error[512] = "";
  EXPECT_EQ(cloudblk_session_adopt(observer, &identity, error, sizeof(error)), 0) << error;
  CloudblkInfo info{};
  info.size = sizeof(info);
  cloudblk_session_info(observer, &info);
  EXPECT_TRUE(std::equal(info.session_uuid, info.session_uuid + 16, identity.session_uuid));
  end = true;
  looker.join();
  cloudblk_session_close(observer, 100);
}

TEST_F(ReleaseAllTest, AnIdentityOfAnotherVersionIsRefused) {
  CloudblkSession* observer = OpenAt(*servers[1], true);
  cloudblk_session_release_all(releases.data(), 1, kTimeoutMs);
  CloudblkIdentity identity{};
  identity.size = sizeof(identity);
  cloudblk_session_export(releases[0].session, &identity);
  identity.size = sizeof(identity) - 1;
  char error[512] = "";
  EXPECT_EQ(cloudblk_session_adopt(observer, &identity, error, sizeof(error)), -EINVAL);
  EXPECT_THAT(error, HasSubstr("another version's"));
  cloudblk_session_close(observer, 100);
}

}  // namespace
}  // namespace cloudblk::testing
