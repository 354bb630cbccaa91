# SPDX-License-Identifier: GPL-2.0-or-later
"""The disk's life in a real guest: its driver leaves and comes back, the machine reboots, the disk is
unplugged and plugged, under load and also while the server answers nothing."""

import contextlib
import time

import pytest

from tests.support.guest import Guest
from tests.support.standstill import hanging

# Anything QEMU is asked for must be done in this time, whatever the server does
AT_ONCE = 1.0
LOAD = (
    "fio --name=load --filename=/dev/vda --rw=randrw --bsrange=4k-64k --direct=1 --ioengine=libaio --iodepth=16"
    " --numjobs=2 --size=64m --offset_increment=64m --time_based --runtime=600 >/tmp/fio.log 2>&1 &"
)
IN_FLIGHT = "until read -r r w </sys/block/vda/inflight && [ $((r + w)) -gt 0 ]; do :; done"
LOAD_ENDS = "while pidof fio >/dev/null; do :; done"
UNBIND = "d=$(basename $(readlink -f /sys/block/vda/device)); echo $d >/sys/bus/virtio/drivers/virtio_blk/unbind"
BIND = "echo $d >/sys/bus/virtio/drivers/virtio_blk/bind"
APPEARS = "until [ -b /dev/vda ]; do :; done"
VERIFY = (
    "dd if=/dev/urandom of=/tmp/data bs=1M count=8 2>/dev/null;"
    "dd if=/tmp/data of=/dev/vda bs=1M oflag=direct conv=fsync 2>/dev/null;"
    "echo 3 >/proc/sys/vm/drop_caches; cmp -n 8388608 /tmp/data /dev/vda"
)


@pytest.fixture(params=(False, True), ids=("alive", "silent"))
def silent(request, disk):
    """Whether the server hangs from the moment that requests are in flight."""
    if request.param and not disk.proxy:
        pytest.skip("needs a proxy that hangs")
    return request.param


@pytest.fixture
def guest(qemu, disk):
    """Its disk has load. The tests without a guest do the like with all kinds of loops."""
    arguments = ["-object", "iothread,id=io0", "-action", "reboot=reset", *disk.arguments(id="disk", iothread="io0")]
    with Guest(qemu, arguments) as started:
        started.run(f"{LOAD} {IN_FLIGHT}")
        yield started


def outage(disk, silent):
    return hanging(disk.proxy) if silent else contextlib.nullcontext()


def at_once(guest, command, **arguments):
    begin = time.monotonic()
    guest.qmp.command(command, **arguments)
    assert time.monotonic() - begin < AT_ONCE


def test_driver_leaves_and_comes_back(guest, disk, silent):
    with outage(disk, silent):
        guest.send(f"echo leaving; {UNBIND}; {LOAD_ENDS}; {BIND}; {APPEARS}")
        guest.line(lambda line: line == "leaving")
        at_once(guest, "query-status")
    status, output = guest.finish()
    assert status == 0, output
    guest.run(VERIFY)
    guest.poweroff()


def test_reboot(guest, disk, silent):
    with outage(disk, silent):
        guest.send("echo b >/proc/sysrq-trigger")
        guest.qmp.wait_event("RESET")
        at_once(guest, "query-status")
    guest.wait_ready()
    guest.run(VERIFY)
    guest.poweroff()


def test_unplug_and_plug(guest, disk, silent):
    with outage(disk, silent):
        at_once(guest, "device_del", id="disk")
        at_once(guest, "query-status")
    guest.qmp.wait_event("DEVICE_DELETED")
    guest.run(LOAD_ENDS)
    guest.qmp.command("device_add", driver="cloudblk-pci", id="again", server=disk.proxy.uri("d0"))
    guest.run(f"{APPEARS}; {VERIFY}")
    guest.poweroff()
