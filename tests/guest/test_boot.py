# SPDX-License-Identifier: GPL-2.0-or-later
"""The firmware finds a boot loader on the disk, and that one the kernel."""

import pytest

from tests.support import boot_disk
from tests.support.guest import Guest


@pytest.mark.parametrize("firmware", ["seabios", "ovmf"])
def test_guest_boots_from_the_disk(qemu, disk_type, firmware, tmp_path):
    image = tmp_path / "boot.img"
    make = boot_disk.make if firmware == "seabios" else boot_disk.make_efi
    make(image, "booted-from-this-disk")
    with disk_type(image) as disk:
        with Guest(qemu, disk.arguments(bootindex=1), memory="768M", firmware=firmware) as guest:
            assert "booted-from-this-disk" in guest.run("cat /proc/cmdline")
            assert guest.run("ls /sys/block") == "vda"
            # The kernel has a word for each firmware that started it.
            assert guest.run("test -d /sys/firmware/efi && echo ovmf || echo seabios") == firmware
            guest.poweroff()
