# SPDX-License-Identifier: GPL-2.0-or-later
cloudblk_test(tools_test
  SOURCES tools/histogram_test.cc tools/stamps_test.cc
  LIBS cloudblk_tools)
