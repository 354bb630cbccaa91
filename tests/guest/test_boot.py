# SPDX-License-Identifier: GPL-2.0-or-later
"""The firmware finds a boot loader on the disk, and that one the kernel."""

from tests.support import boot_disk
from tests.support.guest import Guest


def test_guest_boots_from_the_disk(qemu, disk_type, tmp_path):
    image = tmp_path / "boot.img"
    boot_disk.make(image, "booted-from-this-disk")
    with disk_type(image) as disk:
        with Guest(qemu, disk.arguments(bootindex=1), memory="768M", from_disk=True) as guest:
            assert "booted-from-this-disk" in guest.run("cat /proc/cmdline")
            assert guest.run("ls /sys/block") == "vda"
            guest.poweroff()
