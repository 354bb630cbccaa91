# SPDX-License-Identifier: GPL-2.0-or-later
cloudblk_test(base_test
  SOURCES
    base/epoll_loop_test.cc
    base/socket_test.cc
    base/text_test.cc
    base/transport_test.cc
  LIBS cloudblk_base)
