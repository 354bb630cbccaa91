# SPDX-License-Identifier: GPL-2.0-or-later
"""What the tests of a disk's life share: a disk under load on each kind of loop."""

import contextlib
import time

from tests.support import virtio
from tests.support.qemu import SANITIZER_OPTIONS
from tests.support.virtio import EVENT_IDX, PACKED, S_OK, T_FLUSH, T_IN, T_OUT, Request, poll

DEPTH = 128
# Any command must be done in this time, whatever the server does. Looking for leaks takes time too.
AT_ONCE = 1.0 if SANITIZER_OPTIONS is None else 10.0
LOOPS = {
    "main-loop": {},
    "iothreads": {"iothreads": "io0:io1"},
    "no-ioeventfd": {"ioeventfd": False},
}
IOTHREADS = ("-object", "iothread,id=io0", "-object", "iothread,id=io1")


@contextlib.contextmanager
def at_once():
    begin = time.monotonic()
    yield
    assert time.monotonic() - begin < AT_ONCE


def two_queues(bench, loops, packed=False, **properties):
    """A disk whose two queues are served by that kind of loop."""
    features = (virtio.BLK_MQ, virtio.BLK_FLUSH, EVENT_IDX, *([PACKED] if packed else []))
    return bench.disk(*IOTHREADS, features=features, queues=2, queue_size=512, packed=packed, **loops, **properties)


def submit_many(driver, kind=T_IN):
    data = 4096 if kind == T_IN else b"o" * 4096
    return [Request(driver, kind, 8 * i, data, i % 2).submit() for i in range(DEPTH)]


def stay_in_flight(driver, kind=T_IN):
    """DEPTH requests to a server that hangs. The device has taken all of them off its queues."""
    requests = submit_many(driver, kind)
    for queue in driver.queues:
        poll(queue.all_taken, "taking of the requests")
    return requests


def works(driver):
    for queue in range(2):
        pattern = bytes([queue + 7]) * 8192
        assert Request(driver, T_OUT, 2048, pattern, queue).submit().wait() == S_OK
        read = Request(driver, T_IN, 2048, len(pattern), 1 - queue)
        assert read.submit().wait() == S_OK and read.bytes == pattern
    assert Request(driver, T_FLUSH).submit().wait() == S_OK


def untouched(requests):
    """No request was answered. None of the reads among them got data."""
    return all(request.status == 0xFF and not (request.reads and any(request.bytes)) for request in requests)


def restart(driver):
    """Takes the disk into use again, after a reset or as the first of a machine that was reset."""
    features = [bit for bit in range(64) if driver.features >> bit & 1]
    driver.start(features, queues=2)


def eject(machine, slot):
    """What a guest does when it is asked to let a device go."""
    machine.qmp.command("device_del", id="disk")
    machine.port_out(0xAE08, 4, 1 << slot)
    machine.qmp.wait_event("DEVICE_DELETED")
