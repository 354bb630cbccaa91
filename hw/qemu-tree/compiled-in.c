/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Always part of QEMU's program, also when the device is a module. */
#include "qemu/osdep.h"

/* Tells cloudblk.so that it is not needed here. */
extern const char cloudblk_compiled_in[];
const char cloudblk_compiled_in[] = "the device is compiled in";
