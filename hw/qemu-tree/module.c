/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What QEMU's list of modules says about the device, when it is a module: by
 * which types it is found and which targets have it.
 */
#include "qemu/osdep.h"
#include "qemu/module.h"

module_obj("cloudblk-device");
module_obj("cloudblk-pci-base");
module_obj("cloudblk-pci");
module_obj("cloudblk-pci-transitional");
module_obj("cloudblk-pci-non-transitional");
module_kconfig(CLOUDBLK);
