# SPDX-License-Identifier: GPL-2.0-or-later
"""The IOThread's processor time per I/O under a real Linux guest. The guest runs under TCG, whose speed
bounds the rate: only the processor time says something of the disk."""

import contextlib
import pathlib
import statistics

from tests.support.guest import ONE_PROCESSOR, Guest

from .machine import iothread
from .measure import say
from .rows import nbdkit_server, proxy_server, volume_uri

ROWS = ("cloudblk", "nbd")
FIO = (
    "fio --name=load --filename=/dev/vda --rw=randread --bs=4k --iodepth=32 --direct=1 --ioengine=libaio"
    " --time_based --runtime={seconds} >/dev/null"
)
# What fio has written it reads back and checks, in the end all of it
VERIFIED = (
    "fio --name=load --filename=/dev/vda --size=16M --rw=randrw --bs=4k --iodepth=32 --direct=1 --ioengine=libaio"
    " --verify=crc32c --verify_fatal=1 >/dev/null"
)


def _disk(stack, row):
    if row == "cloudblk":
        return ["-device", f"cloudblk-pci,server={volume_uri(proxy_server(stack))},iothread=io0"]
    port = nbdkit_server(stack, "memory", 256 << 20, "allocator=malloc")[1]
    blockdev = f"nbd,node-name=d0,server.type=inet,server.host=127.0.0.1,server.port={port},export="
    return ["-blockdev", blockdev, "-device", "virtio-blk-pci,drive=d0,iothread=io0"]


def _iothread_ns(pid):
    for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
        if (task / "comm").read_text().startswith("IO "):
            return int((task / "schedstat").read_text().split()[0])
    raise RuntimeError("QEMU has no IOThread")


def _requests(guest):
    """Reads that the disk has completed, by the guest's own count."""
    return int(guest.run("cat /sys/block/vda/stat").split()[0])


def _start(stack, setup, row):
    devices = ["-name", "bench,debug-threads=on", *iothread(0, setup.iothread), *_disk(stack, row)]
    guest = stack.enter_context(Guest(setup.qemu, devices, processors=ONE_PROCESSOR))
    # Ranges that were never written are answered without data
    guest.run("dd if=/dev/urandom of=/dev/vda bs=1M count=256 oflag=direct 2>/dev/null")
    return guest


def _one_run(guest, seconds):
    requests, used = _requests(guest), _iothread_ns(guest.process.pid)
    guest.run(FIO.format(seconds=seconds))
    return (_iothread_ns(guest.process.pid) - used) / 1e3 / (_requests(guest) - requests)


def cpu_per_io(setup, seconds, rounds):
    """{row: microseconds of the IOThread per 4 KiB read at depth 32}, medians. The guests are all up and take turns."""
    with contextlib.ExitStack() as stack:
        guests = {row: _start(stack, setup, row) for row in ROWS}
        runs = {row: [] for row in ROWS}
        for turn in range(rounds):
            say(f"Linux guests, round {turn + 1} of {rounds}")
            for row, guest in guests.items():
                runs[row].append(_one_run(guest, seconds))
    return {row: round(statistics.median(all_), 2) for row, all_ in runs.items()}


def verify(setup):
    """The same disks with content that fio checks. Raises GuestError if it is wrong."""
    for row in ROWS:
        with contextlib.ExitStack() as stack:
            _start(stack, setup, row).run(VERIFIED)
        say(f"Linux guest, {row}: content is right")
