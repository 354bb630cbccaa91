# SPDX-License-Identifier: GPL-2.0-or-later
add_library(cloudblk_block_fakes STATIC
  ${CMAKE_CURRENT_LIST_DIR}/../support/cpp/channel_fixture.cc
  ${CMAKE_CURRENT_LIST_DIR}/../support/cpp/chunk_codec.cc
  ${CMAKE_CURRENT_LIST_DIR}/../support/cpp/chunk_server.cc
  ${CMAKE_CURRENT_LIST_DIR}/../support/cpp/nbd_fake_server.cc
  ${CMAKE_CURRENT_LIST_DIR}/../support/cpp/fake_server.cc
  ${CMAKE_CURRENT_LIST_DIR}/../support/cpp/manual_loop.cc
  ${CMAKE_CURRENT_LIST_DIR}/../support/cpp/memory_link.cc
  ${CMAKE_CURRENT_LIST_DIR}/../support/cpp/tcp_fake_server.cc
)
target_link_libraries(cloudblk_block_fakes PUBLIC cloudblk_engine cloudblk_protocol GTest::gtest)

cloudblk_test(block_test
  SOURCES
    block/block_status_test.cc
    block/bulk_window_test.cc
    block/capi_test.cc
    block/channel_cut_test.cc
    block/channel_fairness_test.cc
    block/channel_generation_test.cc
    block/channel_host_test.cc
    block/channel_hostile_test.cc
    block/channel_reconnect_test.cc
    block/channel_reopen_test.cc
    block/channel_test.cc
    block/channel_timeout_test.cc
    block/chunk_test.cc
    block/codec_test.cc
    block/fault_test.cc
    block/header_c99.c
    block/nbd_status_test.cc
    block/nbd_test.cc
    block/outage_test.cc
    block/parts_test.cc
    block/poll_test.cc
    block/quarantine_test.cc
    block/witness_test.cc
    block/session_move_test.cc
    block/session_release_test.cc
    block/session_test.cc
    block/session_threads_test.cc
    block/starttls_test.cc
    block/uri_test.cc
  LIBS cloudblk_block_fakes
)
set_source_files_properties(block/header_c99.c PROPERTIES COMPILE_OPTIONS "-std=c99;-pedantic")
