# SPDX-License-Identifier: GPL-2.0-or-later
# Makes QEMU's tests/qtest/libqos/virtio-blk.c, its driver of virtio-blk-pci, one of cloudblk-pci.

s/^#include "\.\.\/libqtest\.h"$/#include "libqtest.h"/
s/^#include "\(qgraph\|virtio-blk\)\.h"$/#include "libqos\/\1.h"/

# There is no device on a bare virtio bus.
/^static void \*qvirtio_blk_device_get_driver(/,/^}/d
/^static void \*virtio_blk_device_create(/,/^}/d
/"drive=drive0"/d
/"virtio-blk-device"/d

# Its server comes with cloudblk_test_setup().
s/,drive=drive0//
s/"virtio-blk-pci"/"cloudblk-pci"/
s/"virtio-blk"/"cloudblk"/
