# SPDX-License-Identifier: GPL-2.0-or-later
# Makes QEMU's tests/qtest/virtio-blk-test.c a test of cloudblk-pci. Only the disk's set-up and its
# resizing are replaced; the assertions about the device stay.

# A volume of a proxy instead of an image file.
/^static void drive_destroy(/,/^}/d
/^static char \*drive_create(/,/^}/d
/^static void \*virtio_blk_test_setup(/,/^}/d
s/virtio_blk_test_setup/cloudblk_test_setup/
s/'drive': 'drive1'/'server': %s/
s/stringify(PCI_SLOT_HP) "\.0")/stringify(PCI_SLOT_HP) ".0", cloudblk_test_uri("drive1"))/
s/^#include "libqos\/virtio-blk\.h"$/&\n#include "hw\/block\/cloudblk\/tests\/qemu\/volumes.h"/

# A resize at the proxy instead of block_resize.
/^ *qtest_qmp_assert_success(global_qtest,$/,/;$/c\
    cloudblk_test_resize("drive0", n_size);

# The device and its node in the graph.
s/"virtio-blk-pci"/"cloudblk-pci"/
s/"virtio-blk"/"cloudblk"/

# A global variable that the original, linked into the same program, has too.
s/^const bool host_is_big_endian/static &/
