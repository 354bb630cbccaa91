# SPDX-License-Identifier: GPL-2.0-or-later
add_library(cloudblk_tls_fakes STATIC ../support/cpp/certificates.cc)
target_link_libraries(cloudblk_tls_fakes PUBLIC cloudblk_base GTest::gtest)

cloudblk_test(base_test
  SOURCES
    base/epoll_loop_test.cc
    base/socket_test.cc
    base/text_test.cc
    base/tls_refusal_test.cc
    base/tls_test.cc
    base/transport_test.cc
  LIBS cloudblk_base cloudblk_tls_fakes)
