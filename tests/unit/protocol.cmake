# SPDX-License-Identifier: GPL-2.0-or-later
cloudblk_test(protocol_test
  SOURCES
    protocol/decode_test.cc
    protocol/errno_test.cc
    protocol/golden_test.cc
    protocol/spec_test.cc
  LIBS cloudblk_protocol)
target_compile_definitions(protocol_test PRIVATE
  CLOUDBLK_SPEC="${CMAKE_SOURCE_DIR}/proxy-protocol/SPEC.md")
