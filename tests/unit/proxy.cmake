# SPDX-License-Identifier: GPL-2.0-or-later
cloudblk_test(proxy_backend_test
  SOURCES
    proxy/async_io_test.cc
    proxy/backend_test.cc
    proxy/backend_resize_test.cc
    proxy/extents_test.cc
    proxy/file_sync_test.cc
    proxy/options_test.cc
    proxy/reply_writer_test.cc
    proxy/sync_queue_test.cc
  LIBS cloudblk_proxy_lib
)
target_compile_definitions(proxy_backend_test PRIVATE
  CLOUDBLK_EXAMPLE_CONFIG="${CMAKE_SOURCE_DIR}/docs/examples/cloudblk-proxy.toml")

# Without librbd there is no module. As the proxy does, tests look for it beside themselves.
if(TARGET cloudblk-proxy-rbd)
  target_sources(proxy_backend_test PRIVATE proxy/rbd_module_test.cc)
  add_dependencies(proxy_backend_test cloudblk-proxy-rbd)
  foreach(folder IN ITEMS ${CMAKE_CURRENT_BINARY_DIR} ${CMAKE_BINARY_DIR}/tests)
    file(CREATE_LINK ${CMAKE_BINARY_DIR}/cloudblk-proxy-rbd.so ${folder}/cloudblk-proxy-rbd.so SYMBOLIC)
  endforeach()
endif()

cloudblk_test(proxy_remote_test
  SOURCES
    proxy/remote_status_test.cc
    proxy/remote_test.cc
  LIBS cloudblk_proxy_lib
)

cloudblk_test(proxy_fault_test
  SOURCES
    ${CMAKE_CURRENT_LIST_DIR}/../support/cpp/fault_filter.cc
    proxy/fault_filter_test.cc
  LIBS cloudblk_proxy_lib
)

# The proxy with volumes that have faults: see fault_filter.h.
add_executable(cloudblk-proxy-faulty
  ${CMAKE_SOURCE_DIR}/proxy/main.cc ${CMAKE_CURRENT_LIST_DIR}/../support/cpp/fault_filter.cc)
target_compile_definitions(cloudblk-proxy-faulty PRIVATE CLOUDBLK_VERSION="${PROJECT_VERSION}")
target_link_libraries(cloudblk-proxy-faulty PRIVATE cloudblk_proxy_lib)
set_target_properties(cloudblk-proxy-faulty PROPERTIES
                      RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)

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
    proxy/access_test.cc
    proxy/block_status_test.cc
    proxy/hostile_test.cc
    proxy/limits_test.cc
    proxy/resize_test.cc
    proxy/server_test.cc
  LIBS cloudblk_block_fakes cloudblk_proxy_lib
)
