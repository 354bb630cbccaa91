# SPDX-License-Identifier: GPL-2.0-or-later
"""What a guest can do to the disk itself."""

import pytest

from tests.support.guest import Guest

MIB = 1 << 20


def allocated(path):
    """Bytes that the file takes on its file system, as du counts them."""
    return path.stat().st_blocks * 512


def test_verified_random_io(qemu, disk):
    with Guest(qemu, disk.arguments()) as guest:
        guest.run(
            "fio --name=verify --filename=/dev/vda --rw=randwrite --bsrange=512-1m --bs_unaligned=0"
            " --blockalign=512 --direct=1 --ioengine=libaio --iodepth=32 --numjobs=2 --size=96m"
            " --offset_increment=128m --verify=crc32c --verify_fatal=1 --random_generator=tausworthe64"
            " --group_reporting",
            timeout=300,
        )
        guest.poweroff()


def test_discard_gives_space_back(qemu, disk):
    with Guest(qemu, disk.arguments()) as guest:
        guest.run("dd if=/dev/urandom of=/dev/vda bs=1M count=64 oflag=direct conv=fsync 2>/dev/null")
        assert allocated(disk.path) >= 64 * MIB
        guest.run("blkdiscard --offset 0 --length 48M /dev/vda; sync")
        assert 16 * MIB <= allocated(disk.path) < 18 * MIB
        guest.run("blkdiscard /dev/vda")
        assert allocated(disk.path) < MIB
        guest.poweroff()


def test_zeroing(qemu, disk):
    with Guest(qemu, disk.arguments()) as guest:
        guest.run(
            "yes data | dd of=/dev/vda bs=1M count=16 iflag=fullblock oflag=direct conv=fsync 2>/dev/null;"
            "dd if=/dev/vda of=/tmp/before bs=1M count=16 2>/dev/null;"
            "blkdiscard -z --offset 4M --length 8M /dev/vda;"
            "echo 3 >/proc/sys/vm/drop_caches;"
            # What lies around the range stays.
            "cmp -n 4194304 /dev/vda /tmp/before;"
            "cmp -n 8388608 -i 4194304:0 /dev/vda /dev/zero;"
            "cmp -n 4194304 -i 12582912 /dev/vda /tmp/before"
        )
        guest.poweroff()


def test_serial_and_size(qemu, disk):
    with Guest(qemu, disk.arguments(serial="disk-0123456789abcd")) as guest:
        assert guest.run("cat /sys/block/vda/serial") == "disk-0123456789abcd"
        assert guest.run("blockdev --getsize64 /dev/vda") == str(1 << 30)
        guest.poweroff()


def test_read_only_disk_refuses_writes(qemu, disk):
    content = bytes(range(256)) * 16
    with open(disk.path, "r+b") as file:
        file.write(content)
    with Guest(qemu, disk.arguments(read_only=True)) as guest:
        assert guest.run("blockdev --getro /dev/vda") == "1"
        status, output = guest.try_run("dd if=/dev/zero of=/dev/vda bs=4k count=1 oflag=direct 2>&1")
        assert status != 0 and "not permitted" in output
        guest.run("test $(dd if=/dev/vda bs=4k count=1 iflag=direct 2>/dev/null | wc -c) = 4096")
        guest.poweroff()
    assert disk.path.read_bytes()[:4096] == content


@pytest.mark.parametrize("queues", [1, 4])
def test_flush_reaches_the_disk(qemu, disk, queues):
    with Guest(qemu, disk.arguments(num_queues=queues)) as guest:
        assert guest.run("ls /sys/block/vda/mq | wc -l") == str(min(queues, 2))
        assert guest.run("cat /sys/block/vda/queue/write_cache") == "write back"
        guest.run("dd if=/dev/urandom of=/dev/vda bs=4k count=256 conv=fsync 2>/dev/null")
        guest.poweroff()
