# SPDX-License-Identifier: GPL-2.0-or-later
cloudblk_test(block_test
  SOURCES
    block/epoll_loop_test.cc
    block/socket_test.cc
    block/uri_test.cc
  LIBS cloudblk_engine
)
