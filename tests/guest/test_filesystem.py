# SPDX-License-Identifier: GPL-2.0-or-later
"""File systems on the disk: made, written, checked, and found the same by a second boot."""

import pytest

from tests.support.guest import Guest

FILE_SYSTEMS = {
    "ext4": ("mkfs.ext4 -q /dev/vda", "e2fsck -fn /dev/vda"),
    "xfs": ("mkfs.xfs -q /dev/vda", "xfs_repair -n /dev/vda"),
}

# Sizes from none to several megabytes, odd ones too, in more than one folder.
WRITE_FILES = """
for size in 0 1 511 512 4096 65537 1048576 5000001; do
  mkdir -p /mnt/folder-$size
  head -c $size /dev/urandom >/mnt/folder-$size/file
done
for number in $(seq 200); do echo $number >/mnt/small-$number; done
"""
SUMS = "cd /mnt; find . -type f | sort | xargs sha256sum; cd /"


@pytest.mark.parametrize("kind", FILE_SYSTEMS)
def test_second_boot_finds_the_same_sums(qemu, disk, kind):
    make, check = FILE_SYSTEMS[kind]
    with Guest(qemu, disk.arguments()) as guest:
        guest.run(f"{make}; mount -t {kind} /dev/vda /mnt; {WRITE_FILES}")
        written = guest.run(SUMS)
        guest.run(f"umount /mnt; {check} >/tmp/check 2>&1 || {{ cat /tmp/check; exit 1; }}")
        guest.poweroff()
    assert len(written.splitlines()) == 208

    with Guest(qemu, disk.arguments()) as guest:
        guest.run(f"{check} >/tmp/check 2>&1 || {{ cat /tmp/check; exit 1; }}")
        guest.run(f"mount -t {kind} /dev/vda /mnt")
        assert guest.run(SUMS) == written
        guest.run("umount /mnt")
        guest.poweroff()
