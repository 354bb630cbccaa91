# SPDX-License-Identifier: GPL-2.0-or-later
"""What the device asks of the server, as seen on the wire."""

import pytest

from tests.support.proxy import Proxy
from tests.support.relay import DISCARD, FLUSH, FUA, READ, UNMAP, WRITE, WRITE_ZEROES, Relay
from tests.support.virtio import (
    BLK_CONFIG_WCE,
    BLK_DISCARD,
    BLK_FLUSH,
    BLK_WRITE_ZEROES,
    S_OK,
    T_DISCARD,
    T_FLUSH,
    T_IN,
    T_OUT,
    T_WRITE_ZEROES,
    Request,
    ranges,
)

from .conftest import Bench

ALL = (BLK_FLUSH, BLK_DISCARD, BLK_WRITE_ZEROES)


@pytest.fixture
def relay(tmp_path):
    """In front of a volume that has a write cache."""
    with Proxy({"d0": f"file://{tmp_path}/disk?size=64M&create=on"}) as proxy, Relay(proxy.address) as made:
        yield made


@pytest.fixture
def bench(qemu, relay):
    made = Bench(qemu, relay)
    yield made
    made.end()


def requests(driver, relay):
    """Operation and flags of what each request to the device becomes."""
    relay.entries()
    for kind, data in (
        (T_OUT, b"w" * 512),
        (T_WRITE_ZEROES, ranges((8, 8, 0))),
        (T_WRITE_ZEROES, ranges((8, 8, UNMAP))),
        (T_DISCARD, ranges((8, 8, 0))),
        (T_IN, 512),
        (T_FLUSH, b""),
    ):
        assert Request(driver, kind, 0, data).submit().wait() == S_OK
    return [(entry.operation, entry.flags, entry.range_flags) for entry in relay.entries()]


def expected(flags):
    return [
        (WRITE, flags, []),
        (WRITE_ZEROES, flags, [0]),
        (WRITE_ZEROES, flags, [UNMAP]),
        (DISCARD, 0, [0]),
        (READ, 0, []),
        (FLUSH, 0, []),
    ]


def test_write_back(bench, relay):
    assert requests(bench.disk(features=ALL), relay) == expected(0)


def test_write_through(bench, relay):
    driver = bench.disk(features=(BLK_CONFIG_WCE, *ALL), write_cache="off")
    assert requests(driver, relay) == expected(FUA)


def test_write_cache_is_switched(bench, relay):
    driver = bench.disk(features=(BLK_CONFIG_WCE, *ALL))
    assert requests(driver, relay) == expected(0)
    driver.registers.set_config(32, 1, 0)
    assert requests(driver, relay) == expected(FUA)
    driver.registers.set_config(32, 1, 1)
    assert requests(driver, relay) == expected(0)


def test_driver_that_cannot_flush(bench, relay):
    driver = bench.disk(features=(BLK_DISCARD, BLK_WRITE_ZEROES))
    assert requests(driver, relay) == expected(FUA)


def test_driver_that_switches_what_it_did_not_ask_for(bench, relay):
    """It cannot flush, so its writes must not wait for that."""
    driver = bench.disk(features=(BLK_DISCARD, BLK_WRITE_ZEROES))
    driver.registers.set_config(32, 1, 1)
    assert driver.registers.config(32, 1) == 0
    assert requests(driver, relay) == expected(FUA)


def test_each_stop_and_unplug_flush(bench, relay):
    driver = bench.disk()
    for _ in range(3):
        assert Request(driver, T_OUT, 0, b"w" * 512).submit().wait() == S_OK
        relay.entries()
        driver.machine.qmp.command("stop")
        assert [entry.operation for entry in relay.entries()] == [FLUSH]
        driver.machine.qmp.command("cont")
    driver.machine.qmp.command("device_del", id="disk")
    driver.machine.port_out(0xAE08, 4, 1 << 4)
    driver.machine.qmp.wait_event("DEVICE_DELETED")
    assert [entry.operation for entry in relay.entries()] == [FLUSH]


def test_quit_flushes(bench, relay):
    driver = bench.disk()
    assert Request(driver, T_OUT, 0, b"w" * 512).submit().wait() == S_OK
    relay.entries()
    bench.quit()
    assert [entry.operation for entry in relay.entries()] == [FLUSH]


def test_read_only_disk_is_not_flushed(bench, relay):
    driver = bench.disk(read_only=True)
    driver.machine.qmp.command("stop")
    assert relay.entries() == []


def test_a_batch_is_one_frame(bench, relay):
    driver = bench.disk()
    driver.machine.qmp.command("stop")
    relay.entries()
    batch = [Request(driver, T_IN, 8 * i, 4096).submit(kick=False) for i in range(32)]
    driver.machine.qmp.command("cont")
    assert [request.wait() for request in batch] == [S_OK] * 32
    assert [len(frame) for frame in relay.frames] == [32]
