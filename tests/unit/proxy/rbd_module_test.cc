// SPDX-License-Identifier: GPL-2.0-or-later
//
// The module of rbd:, loaded as the proxy loads it. What it does with a cluster is in tests/ceph/,
// and what refuses it in tests/tools/test_module.py.
#include <gmock/gmock.h>

#include "proxy/backends/backends.h"
#include "proxy/backends/module.h"

namespace cloudblk::proxy {
namespace {

TEST(RbdModule, IsLoadedOnce) {
  Result<const BackendModule*> module = RbdModule();
  ASSERT_TRUE(module.ok()) << module.status().message();
  EXPECT_EQ(*module, *RbdModule());
}

TEST(RbdModule, OpensWhatNamesIt) {
  StartUp start_up;
  const Result<std::unique_ptr<Backend>> opened =
      OpenBackend("disk", "rbd:///rbd/image?conf=/nowhere/ceph.conf", &start_up);
  ASSERT_FALSE(opened.ok());
  EXPECT_EQ(opened.status().error(), ENOENT);
  EXPECT_THAT(opened.status().message(),
              testing::HasSubstr("volume 'disk': cannot read conf=/nowhere/ceph.conf"));
}

}  // namespace
}  // namespace cloudblk::proxy
