# SPDX-License-Identifier: GPL-2.0-or-later
cloudblk_test(sim_test
  SOURCES
    ../sim/cut_test.cc
    ../sim/generation_test.cc
    ../sim/owner_test.cc
    ../sim/server_end.cc
    ../sim/storage.cc
    ../sim/storm_test.cc
    ../sim/world.cc
  LIBS cloudblk_block_fakes cloudblk_tls_fakes cloudblk_proxy_lib)
