# SPDX-License-Identifier: GPL-2.0-or-later
"""A disk that changes its size at the proxy while a guest uses it."""

import time

import pytest

from tests.support.guest import Guest

GIB = 1 << 30
SECTORS = "/sys/block/vda/size"


@pytest.fixture
def guest(qemu, disk):
    if not disk.proxy:
        pytest.skip("it is the proxy that resizes")
    with Guest(qemu, disk.arguments()) as booted:
        yield booted


def seconds_until_seen(guest, disk, size):
    """From the start of the command until a process in the guest reads the new size."""
    guest.send(f"echo waiting; while read -r s <{SECTORS}; [ $s != {size // 512} ]; do :; done; echo seen")
    guest.line(lambda line: line == "waiting")
    start = time.monotonic()
    disk.proxy.resize("d0", size, force=True)
    guest.line(lambda line: line == "seen", timeout=30)
    seconds = time.monotonic() - start
    guest.finish()
    return seconds


def test_linux_sees_the_new_size_within_a_second(guest, disk):
    assert guest.run(f"cat {SECTORS}") == str(GIB // 512)
    # The machine may be busy with other tests: the best of several.
    assert min(seconds_until_seen(guest, disk, size) for size in (2 * GIB, GIB // 2, 3 * GIB)) < 1
    log = guest.run("dmesg")
    for size in (2 * GIB, GIB // 2, 3 * GIB):
        assert f"[vda] new size: {size // 512} 512-byte logical blocks" in log
    guest.poweroff()


def test_a_file_system_grows_into_it(guest, disk):
    guest.run(
        "mkfs.ext4 -q /dev/vda; mount -t ext4 /dev/vda /mnt;"
        "head -c 16000000 /dev/urandom >/mnt/file; sync; sha256sum /mnt/file >/tmp/sums"
    )
    disk.proxy.resize("d0", 2 * GIB)
    guest.run(
        f"while read -r s <{SECTORS}; [ $s != {2 * GIB // 512} ]; do :; done;"
        "resize2fs /dev/vda; fallocate -l 1200M /mnt/large; sha256sum -c /tmp/sums; umount /mnt; e2fsck -fn /dev/vda"
    )
    guest.poweroff()
