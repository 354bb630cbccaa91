# SPDX-License-Identifier: GPL-2.0-or-later
"""A volume that changes its size at the proxy while the device is in use."""

import os

import pytest

from tests.support.proxy import Proxy
from tests.support.virtio import S_IOERR, S_OK, T_DISCARD, T_IN, T_OUT, BLK_DISCARD, Request, poll, ranges

from .conftest import VOLUME_SIZE, Bench

CONFIG_INTERRUPT = 2
NAME = "d0"
LOOPS = {
    "main-loop": {},
    "iothread": {"iothread": "io0"},
    "two-iothreads": {"iothreads": "io0:io1", "queues": 2},
    "no-ioeventfd": {"ioeventfd": False},
}
IOTHREADS = ("-object", "iothread,id=io0", "-object", "iothread,id=io1")


@pytest.fixture(params=LOOPS)
def loops(request):
    return LOOPS[request.param]


def capacity(driver):
    return driver.registers.config(0, 8) * 512


def interrupted(driver):
    """Waits until the device says that its configuration changed."""
    poll(lambda: driver.registers.isr() & CONFIG_INTERRUPT, "config interrupt")


def wait_for_capacity(driver, size):
    poll(lambda: capacity(driver) == size, "new capacity")


def request(driver, kind, offset, data):
    return Request(driver, kind, offset // 512, data).submit().wait()


def written_and_read(driver, offset):
    data = bytes(i % 251 for i in range(4096))
    assert request(driver, T_OUT, offset, data) == S_OK
    read = Request(driver, T_IN, offset // 512, 4096)
    assert read.submit().wait() == S_OK and read.bytes == data


def test_growing(bench, loops):
    driver = bench.disk(*IOTHREADS, **loops)
    generation = driver.registers.common(21, 1)
    assert request(driver, T_OUT, VOLUME_SIZE, bytes(4096)) == S_IOERR
    bench.proxy.resize(NAME, 2 * VOLUME_SIZE)
    interrupted(driver)
    assert capacity(driver) == 2 * VOLUME_SIZE
    assert driver.registers.common(21, 1) != generation
    written_and_read(driver, VOLUME_SIZE - 2048)
    written_and_read(driver, 2 * VOLUME_SIZE - 4096)
    assert request(driver, T_OUT, 2 * VOLUME_SIZE, bytes(4096)) == S_IOERR
    bench.quit()


@pytest.mark.parametrize("device", ["cloudblk-pci", "cloudblk-pci-transitional"])
def test_shrinking(bench, device):
    driver = bench.disk(device=device, features=(BLK_DISCARD,))
    written_and_read(driver, 2 * VOLUME_SIZE // 4)
    bench.proxy.resize(NAME, VOLUME_SIZE // 2, force=True)
    interrupted(driver)
    assert capacity(driver) == VOLUME_SIZE // 2
    assert request(driver, T_IN, VOLUME_SIZE // 2, 512) == S_IOERR
    assert request(driver, T_IN, VOLUME_SIZE // 2 - 512, 1024) == S_IOERR
    assert request(driver, T_DISCARD, 0, ranges((VOLUME_SIZE // 1024, 8, 0))) == S_IOERR
    written_and_read(driver, VOLUME_SIZE // 2 - 4096)
    # What was cut off is gone.
    bench.proxy.resize(NAME, VOLUME_SIZE)
    interrupted(driver)
    read = Request(driver, T_IN, VOLUME_SIZE // 1024, 4096)
    assert read.submit().wait() == S_OK and read.bytes == bytes(4096)


def test_every_resize_of_many_is_told(bench):
    driver = bench.disk(*IOTHREADS, iothreads="io0:io1", queues=2)
    for step in range(1, 9):
        size = VOLUME_SIZE + step % 3 * (1 << 20)
        bench.proxy.resize(NAME, size, force=True)
        wait_for_capacity(driver, size)
    assert driver.registers.isr() & CONFIG_INTERRUPT


def test_a_stopped_machine_learns_of_it(bench):
    driver = bench.disk(*IOTHREADS, iothread="io0")
    qmp = driver.machine.qmp
    qmp.command("stop")
    bench.proxy.resize(NAME, 2 * VOLUME_SIZE)
    wait_for_capacity(driver, 2 * VOLUME_SIZE)
    qmp.command("cont")
    interrupted(driver)
    written_and_read(driver, 2 * VOLUME_SIZE - 4096)


def test_who_has_not_looked_is_told_again_at_cont(bench):
    """As after a migration in which the volume was resized: what the guest knows came with it, and the interrupt
    may have gone to nobody."""
    driver = bench.disk()
    qmp = driver.machine.qmp
    assert capacity(driver) == VOLUME_SIZE
    qmp.command("stop")
    bench.proxy.resize(NAME, 2 * VOLUME_SIZE)
    interrupted(driver)
    qmp.command("cont")
    interrupted(driver)
    assert capacity(driver) == 2 * VOLUME_SIZE
    qmp.command("stop")
    qmp.command("cont")
    written_and_read(driver, 0)
    assert not driver.registers.isr() & CONFIG_INTERRUPT


class Restarted:
    """A file volume whose proxy is down while the file changes."""

    def __init__(self, path):
        self.path = path
        path.touch()
        os.truncate(path, VOLUME_SIZE)
        self.proxy = Proxy({NAME: f"file://{path}"})

    def resize(self, size):
        os.truncate(self.path, size)
        self.proxy.start()


@pytest.fixture
def restarted(tmp_path):
    return Restarted(tmp_path / "disk.img")


@pytest.fixture
def file_bench(qemu, restarted):
    with restarted.proxy as proxy:
        made = Bench(qemu, proxy)
        yield made
        made.end()


def test_a_reconnect_finds_the_new_size(file_bench, restarted, loops):
    driver = file_bench.disk(*IOTHREADS, **loops)
    restarted.proxy.kill()
    restarted.resize(2 * VOLUME_SIZE)
    interrupted(driver)
    assert capacity(driver) == 2 * VOLUME_SIZE
    written_and_read(driver, 2 * VOLUME_SIZE - 4096)


def test_a_request_that_was_cut_off_is_no_failure_of_the_storage(file_bench, restarted):
    """It would fail again at every `cont`."""
    driver = file_bench.disk(werror="stop", rerror="stop")
    restarted.proxy.kill()
    cut_off = Request(driver, T_OUT, VOLUME_SIZE // 512 - 8, bytes(4096)).submit()
    within = Request(driver, T_OUT, 0, bytes(4096)).submit()
    restarted.resize(VOLUME_SIZE // 2)
    assert (cut_off.wait(), within.wait()) == (S_IOERR, S_OK)
    assert driver.machine.qmp.command("query-status")["running"]
    assert capacity(driver) == VOLUME_SIZE // 2
