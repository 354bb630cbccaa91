# SPDX-License-Identifier: GPL-2.0-or-later
cloudblk_test(proxy_backend_test
  SOURCES
    proxy/async_io_test.cc
    proxy/backend_test.cc
    proxy/backend_resize_test.cc
    proxy/file_sync_test.cc
    proxy/options_test.cc
    proxy/reply_writer_test.cc
    proxy/sync_queue_test.cc
  LIBS cloudblk_proxy_lib
)
target_compile_definitions(proxy_backend_test PRIVATE
  CLOUDBLK_EXAMPLE_CONFIG="${CMAKE_SOURCE_DIR}/docs/examples/cloudblk-proxy.toml")

cloudblk_test(proxy_remote_test
  SOURCES
    proxy/remote_test.cc
  LIBS cloudblk_proxy_lib
)

cloudblk_test(proxy_ownership_test
  SOURCES
    proxy/ownership_claimer_test.cc
    proxy/ownership_lock_test.cc
    proxy/ownership_move_test.cc
    proxy/ownership_readers_test.cc
    proxy/ownership_test.cc
    proxy/ownership_yield_test.cc
    proxy/resizer_test.cc
  LIBS cloudblk_proxy_lib
)

cloudblk_test(proxy_server_test
  SOURCES
    proxy/hostile_test.cc
    proxy/limits_test.cc
    proxy/resize_test.cc
    proxy/server_test.cc
  LIBS cloudblk_block_fakes cloudblk_proxy_lib
)
