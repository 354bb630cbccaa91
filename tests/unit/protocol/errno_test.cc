// SPDX-License-Identifier: GPL-2.0-or-later
#include <gtest/gtest.h>

#include <cerrno>

#include "proxy-protocol/wire_errno.h"

namespace cloudblk::wire {
namespace {

TEST(WireErrno, ErrorsOfRequestsSurviveTheRoundTrip) {
  for (const int error : {0, EIO, ENOSPC, EINVAL, ENOTSUP, EROFS, ENOMEM}) {
    EXPECT_EQ(ErrnoOf(StatusCodeOf(error)), error);
  }
  EXPECT_EQ(StatusCodeOf(EPERM), StatusCode::kIoError);
  EXPECT_EQ(StatusCodeOf(EDQUOT), StatusCode::kNoSpace);
}

}  // namespace
}  // namespace cloudblk::wire
