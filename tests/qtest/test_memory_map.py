# SPDX-License-Identifier: GPL-2.0-or-later
"""The memory map changes under the disk: what it knows of guest memory has to change with it."""

import pathlib

import pytest

from tests.support.standstill import hanging
from tests.support.qtest import PciDevice
from tests.support.virtio import BLK_MQ, EVENT_IDX, INDIRECT, NEEDS_RESET, PACKED, S_OK, T_IN, T_OUT, Request, poll

from .life import IOTHREADS

# Local APICs: no memory, and large enough for any ring
REGISTERS = 0xFEE00000
THREADS = pytest.mark.parametrize("more", ({}, {"iothread": "io0"}), ids=("main-loop", "iothread"))


def start(bench, more, packed=False, *arguments):
    features = (EVENT_IDX, INDIRECT, *([PACKED] if packed else []))
    driver = bench.disk("-object", "iothread,id=io0", *arguments, features=features, packed=packed, **more)
    driver.wanted = features
    return driver


class Screen:
    """A graphics card's memory, which can be moved about."""

    def __init__(self, driver):
        self._pci = PciDevice(driver.machine, 5)
        self._driver = driver
        self.address = self._pci.bars[0]

    def move(self, to):
        self._pci.set_config(0x10, 4, to)
        self.address = to

    def request(self, kind, sector, address, queue=0):
        made = Request(self._driver, kind, sector, 512 if kind == T_IN else bytes(512), queue)
        made.buffers[1] = (address, 512, kind == T_IN)
        return made.submit()


def start_with_screen(bench, more, packed):
    driver = start(bench, more, packed, "-device", "VGA,addr=5")
    screen = Screen(driver)
    assert Request(driver, T_OUT, 0, b"pixels".ljust(512, b".")).submit().wait() == S_OK
    assert screen.request(T_IN, 0, screen.address).wait() == S_OK
    assert driver.machine.read(screen.address, 2) == int.from_bytes(b"pi", "little")
    return driver, screen


def stopped(driver):
    poll(lambda: driver.registers.status & NEEDS_RESET, "NEEDS_RESET")
    return True


def works(driver):
    driver.reset()
    driver.start(driver.wanted)
    check = Request(driver, T_OUT, 8, b"x" * 512)
    return check.submit().wait() == S_OK


@THREADS
def test_memory_that_moves(bench, more, packed):
    driver, screen = start_with_screen(bench, more, packed)
    before, after = screen.address, screen.address + (64 << 20)
    screen.move(after)
    driver.machine.write(after, 4, 0)
    assert screen.request(T_IN, 0, after).wait() == S_OK
    assert driver.machine.read(after, 2) == int.from_bytes(b"pi", "little")
    screen.request(T_OUT, 8, before)
    assert stopped(driver) and works(driver)


@THREADS
def test_memory_that_moves_with_requests_in_flight(bench, more, packed):
    driver, screen = start_with_screen(bench, more, packed)
    before, after = screen.address, screen.address + (64 << 20)
    driver.machine.write(before, 4, 0)
    with hanging(bench.proxy):
        request = screen.request(T_IN, 0, before)
        poll(driver.queues[0].all_taken, "taking of the request")
        screen.move(after)
    assert request.wait() == S_OK
    # They hold the memory that they were given, wherever it is now
    assert driver.machine.read(after, 2) == int.from_bytes(b"pi", "little")
    assert Request(driver, T_OUT, 8, bytes(4096)).submit().wait() == S_OK


def test_memory_that_moves_under_two_iothreads(bench):
    """Each knows where the memory is."""
    driver = bench.disk(*IOTHREADS, "-device", "VGA,addr=5", features=(BLK_MQ,), queues=2, iothreads="io0:io1")
    screen = Screen(driver)
    before, after = screen.address, screen.address + (64 << 20)
    for queue in (0, 1):
        assert screen.request(T_IN, 0, before, queue).wait() == S_OK
    screen.move(after)
    for queue in (0, 1):
        assert screen.request(T_IN, 0, after, queue).wait() == S_OK
    for queue in (0, 1):
        screen.request(T_OUT, 8, before, queue)
        assert stopped(driver)
        driver.start((BLK_MQ,), queues=2)


@THREADS
def test_memory_that_was_used_can_be_taken_away(bench, tmp_path, more, packed):
    """Nothing holds on to it: not what was answered, and not what a reset gave up."""
    path = tmp_path / "memory"
    driver = start(
        bench,
        more,
        packed,
        *("-object", f"memory-backend-file,id=mem,mem-path={path},size=1M,share=on"),
        *("-device", "ivshmem-plain,id=shared,memdev=mem,addr=5"),
    )
    machine = driver.machine
    shared = PciDevice(machine, 5).bars[2]

    def request():
        made = Request(driver, T_IN, 0, 512)
        made.buffers[1] = (shared, 512, True)
        return made.submit()

    assert request().wait() == S_OK
    with hanging(bench.proxy):
        request()
        poll(driver.queues[0].all_taken, "taking of the request")
        driver.reset()
    machine.qmp.command("device_del", id="shared")
    machine.port_out(0xAE08, 4, 1 << 5)
    machine.qmp.wait_event("DEVICE_DELETED")
    machine.qmp.command("object-del", id="mem")
    maps = pathlib.Path(f"/proc/{machine.process.pid}/maps")
    poll(lambda: str(path) not in maps.read_text(), "end of the mapping", 5)
    assert works(driver)


# Not the two other areas, and no packed rings: QEMU reads them too (docs/security.md)
@THREADS
def test_descriptors_that_move_into_registers(bench, more):
    driver = start(bench, more)
    queue = driver.queues[0]
    for at_once in (False, True):
        where = driver.registers.set_queue(0, queue.size, REGISTERS, queue.driver, queue.device)
        driver.registers.notify(where, 0)
        assert at_once or stopped(driver)
        assert works(driver)
        queue = driver.queues[0]


@THREADS
@pytest.mark.parametrize("place", ("header", "indirect table"))
def test_reset_while_a_request_in_registers_is_read(bench, more, place):
    """With QEMU's own reading, the IOThread waits for the lock that the reset holds, and the reset for it."""
    driver = start(bench, more)
    for _ in range(20):
        request = Request(driver, T_OUT, 0, bytes(512))
        if place == "header":
            request.buffers[0] = (REGISTERS, 16, False)
            request.submit()
        else:
            queue = driver.queues[0]
            queue.write_descriptor(0, REGISTERS, 48, 4)
            queue.make_available(0)
            driver.registers.notify(queue.place, 0)
        assert works(driver)
