# SPDX-License-Identifier: GPL-2.0-or-later
"""What each request does."""

import pytest

from tests.support.virtio import (
    BLK_CONFIG_WCE,
    BLK_DISCARD,
    BLK_FLUSH,
    BLK_RO,
    BLK_WRITE_ZEROES,
    PACKED,
    RING_RESET,
    S_IOERR,
    S_OK,
    S_UNSUPP,
    T_DISCARD,
    T_FLUSH,
    T_GET_ID,
    T_IN,
    T_OUT,
    T_WRITE_ZEROES,
    Request,
    ranges,
)


UNMAP = 1
BARRIER = 1 << 31


def run(driver, *arguments, **keywords):
    return Request(driver, *arguments, **keywords).submit().wait()


def read(driver, sector, size):
    request = Request(driver, T_IN, sector, size)
    assert request.submit().wait() == S_OK
    return request.bytes


@pytest.mark.parametrize("packed", (False, True), ids=("split", "packed"))
@pytest.mark.parametrize(
    "kind, flags", ((T_DISCARD, 0), (T_WRITE_ZEROES, 0), (T_WRITE_ZEROES, UNMAP)), ids=("discard", "zero", "zero-unmap")
)
def test_several_ranges(bench, packed, kind, flags):
    features = (BLK_DISCARD, BLK_WRITE_ZEROES, *([PACKED] if packed else []))
    driver = bench.disk(features=features, packed=packed)
    assert run(driver, T_OUT, 0, b"\xaa" * 65536) == S_OK
    assert run(driver, kind, 0, ranges((8, 8, flags), (0, 0, flags), (32, 16, flags), (64, 64, flags))) == S_OK
    expected = bytearray(b"\xaa" * 65536)
    for first, count in ((8, 8), (32, 16), (64, 64)):
        expected[512 * first : 512 * (first + count)] = bytes(512 * count)
    assert read(driver, 0, 65536) == expected


@pytest.mark.parametrize("kind", (T_DISCARD, T_WRITE_ZEROES), ids=("discard", "zero"))
def test_as_many_ranges_as_the_guest_is_told(bench, kind):
    driver = bench.disk(features=(BLK_DISCARD, BLK_WRITE_ZEROES))
    most = driver.registers.config(40 if kind == T_DISCARD else 52, 4)
    assert run(driver, T_OUT, 0, b"\xaa" * 512 * 2 * (most + 1)) == S_OK
    each = [(2 * i, 1, 0) for i in range(most + 1)]
    assert run(driver, kind, 0, ranges(*each)) == S_UNSUPP
    assert run(driver, kind, 0, ranges(*each[:most])) == S_OK
    assert read(driver, 0, 512 * 2 * (most + 1)) == (bytes(512) + b"\xaa" * 512) * most + b"\xaa" * 1024


def test_as_long_a_range_as_the_guest_is_told(bench):
    driver = bench.disk(features=(BLK_DISCARD, BLK_WRITE_ZEROES), max_discard_sectors=16, max_write_zeroes_sectors=8)
    for kind, most in ((T_DISCARD, 16), (T_WRITE_ZEROES, 8)):
        assert run(driver, kind, 0, ranges((0, most, 0))) == S_OK
        assert run(driver, kind, 0, ranges((0, most + 1, 0))) == S_IOERR


@pytest.mark.parametrize("kind", (T_DISCARD, T_WRITE_ZEROES), ids=("discard", "zero"))
def test_nothing_but_empty_ranges(bench, kind):
    driver = bench.disk(features=(BLK_DISCARD, BLK_WRITE_ZEROES))
    assert run(driver, kind, 0, ranges((0, 0, 0), (8, 0, 0))) == S_OK


@pytest.mark.parametrize("serial", ("", "disk-7", "exactly-twenty-chars", "more-than-twenty-characters"))
def test_serial(bench, serial):
    driver = bench.disk(**({"serial": serial} if serial else {}))
    request = Request(driver, T_GET_ID, 0, 20)
    assert request.submit().wait() == S_OK
    assert request.bytes == serial.encode()[:20].ljust(20, b"\0")


def test_serial_into_a_short_buffer(bench):
    driver = bench.disk(serial="abcdefgh")
    request = Request(driver, T_GET_ID, 0, 4)
    assert request.submit().wait() == S_OK
    assert request.bytes == b"abcd"


def test_flush(bench):
    driver = bench.disk(features=(BLK_FLUSH,))
    assert run(driver, T_OUT, 0, b"f" * 4096) == S_OK
    assert run(driver, T_FLUSH) == S_OK


def test_write_cache_can_be_switched(bench):
    driver = bench.disk(features=(BLK_FLUSH, BLK_CONFIG_WCE), write_cache="on")
    assert driver.registers.config(32, 1) == 1
    driver.registers.set_config(32, 1, 0)
    assert driver.registers.config(32, 1) == 0
    assert run(driver, T_OUT, 0, b"w" * 4096) == S_OK
    driver.start((BLK_FLUSH, BLK_CONFIG_WCE))
    assert driver.registers.config(32, 1) == 1, "a reset brings the default back"


def test_driver_without_flush_gets_write_through(bench):
    driver = bench.disk(write_cache="on")
    assert driver.registers.config(32, 1) == 0
    assert run(driver, T_OUT, 0, b"t" * 512) == S_OK


def test_read_only(bench):
    writer = bench.disk()
    assert run(writer, T_OUT, 0, b"r" * 512) == S_OK
    writer.machine.qmp.command("quit")
    assert writer.machine.wait() == 0

    driver = bench.disk(features=(BLK_RO, BLK_DISCARD, BLK_WRITE_ZEROES), read_only=True)
    for request in (
        Request(driver, T_OUT, 0, b"x" * 512),
        Request(driver, T_DISCARD, 0, ranges((0, 8, 0))),
        Request(driver, T_WRITE_ZEROES, 0, ranges((0, 8, 0))),
    ):
        assert request.submit().wait() == S_IOERR
    assert run(driver, T_FLUSH) == S_OK
    assert read(driver, 0, 512) == b"r" * 512


def test_blocks_of_4096_bytes(bench):
    driver = bench.disk(logical_block_size=4096, physical_block_size=4096)
    assert driver.registers.config(20, 4) == 4096
    assert run(driver, T_OUT, 8, b"4" * 4096) == S_OK
    assert run(driver, T_OUT, 4, b"4" * 4096) == S_IOERR
    assert run(driver, T_OUT, 8, b"4" * 512) == S_IOERR


def test_queue_reset_is_not_offered(bench):
    assert not bench.disk().offered >> RING_RESET & 1


@pytest.mark.parametrize("kind, other", ((T_DISCARD, BLK_WRITE_ZEROES), (T_WRITE_ZEROES, BLK_DISCARD)), ids=("discard", "zero"))
def test_discard_and_zero_that_were_not_negotiated(bench, kind, other):
    driver = bench.disk(features=(other,))
    assert run(driver, kind, 0, ranges((0, 8, 0))) == S_UNSUPP


def test_barrier_of_old_drivers(bench):
    driver = bench.disk()
    assert run(driver, T_OUT | BARRIER, 8, b"b" * 512) == S_OK
    request = Request(driver, T_IN | BARRIER, 8, 512)
    assert request.submit().wait() == S_OK and request.bytes == b"b" * 512


def test_empty_read_and_write(bench):
    driver = bench.disk()
    assert run(driver, T_IN, 0, 0) == S_OK
    assert run(driver, T_OUT, 0, b"") == S_OK
