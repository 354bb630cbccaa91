# SPDX-License-Identifier: GPL-2.0-or-later
"""Guest memory that the host cannot provide (its file was cut off, its tmpfs is full, a page is poisoned): the request
that needs it fails, as with virtio-blk, and no other."""

import os

import pytest

from tests.support.proxy import Proxy
from tests.support.qtest import RAM_SIZE
from tests.support.virtio import PACKED, S_IOERR, S_OK, T_IN, T_OUT, Request

from .conftest import VOLUME_SIZE, Bench

PAGE = 4096
REQUESTS, BAD = 32, 13
SIZES = pytest.mark.parametrize("size", (4096, 128 << 10), ids=("small", "large"))
CRC = pytest.mark.parametrize("crc", (False, True), ids=("plain", "crc"))


def ram_size(driver, size):
    os.truncate(driver.machine.folder / "ram", size)


def start(bench, packed, crc, **more):
    features = [PACKED] if packed else []
    return bench.disk("-object", "iothread,id=io0", features=features, packed=packed, payload_crc=crc, **more)


def content(index, size, version):
    return bytes((version, index)) * (size // 2)


def sector(index, size):
    return index * size // 512


def into_last_page(request):
    """Of its data one part lies in the last page of memory, with good ones before and behind."""
    data, size = request.data, request.size
    part = min(size // 2, PAGE)
    (_, _, writable), first = request.buffers[1], (size - part) // 2
    request.buffers[1:2] = [
        (data, first, writable),
        (RAM_SIZE - PAGE, part, writable),
        (data + first, size - part - first, writable),
    ]


def prepare(driver, kind, size, version, bad=(BAD,)):
    """A request for each place of the volume, of which these have data in the last page."""
    made = []
    for index in range(REQUESTS):
        data = size if kind == T_IN else content(index, size, version)
        made.append(Request(driver, kind, sector(index, size), data))
        if index in bad:
            into_last_page(made[-1])
    return made


def run(driver, requests):
    """Status of each; all are there before the device is told of any."""
    for request in requests:
        request.submit(kick=False)
    driver.kick(requests[0].queue)
    return [request.wait() for request in requests]


def fill(driver, size, version):
    assert run(driver, prepare(driver, T_OUT, size, version, bad=())) == [S_OK] * REQUESTS


def expected(bad=(BAD,)):
    return [S_IOERR if index in bad else S_OK for index in range(REQUESTS)]


@CRC
@SIZES
def test_of_many_reads_one_fails(bench, packed, size, crc):
    driver = start(bench, packed, crc, iothread="io0")
    fill(driver, size, 1)
    requests = prepare(driver, T_IN, size, 1)
    ram_size(driver, RAM_SIZE - PAGE)
    assert run(driver, requests) == expected()
    for index, request in enumerate(requests):
        if index != BAD:
            assert request.bytes == content(index, size, 1)
    ram_size(driver, RAM_SIZE)
    assert run(driver, requests) == [S_OK] * REQUESTS


@CRC
@SIZES
def test_of_many_writes_one_fails(bench, packed, size, crc):
    driver = start(bench, packed, crc, iothread="io0")
    fill(driver, size, 1)
    requests = prepare(driver, T_OUT, size, 2)
    ram_size(driver, RAM_SIZE - PAGE)
    assert run(driver, requests) == expected()
    reads = prepare(driver, T_IN, size, 0, bad=())
    assert run(driver, reads) == [S_OK] * REQUESTS
    for index, request in enumerate(reads):
        # Nothing but the guest's data gets onto the disk, and of a request that failed none has to
        assert request.bytes == content(index, size, 1 if index == BAD else 2)
    ram_size(driver, RAM_SIZE)
    assert run(driver, requests) == [S_OK] * REQUESTS


@CRC
@SIZES
def test_of_many_holes_one_fails(bench, packed, size, crc):
    driver = start(bench, packed, crc, iothread="io0")
    requests = prepare(driver, T_IN, size, 0)
    for request in requests:
        driver.machine.memory[request.data : request.data + size] = b"\xee" * size
    ram_size(driver, RAM_SIZE - PAGE)
    assert run(driver, requests) == expected()
    for index, request in enumerate(requests):
        if index != BAD:
            assert request.bytes == bytes(size)


@CRC
@SIZES
@pytest.mark.parametrize("kind", (T_IN, T_OUT), ids=("reads", "writes"))
def test_all_that_need_the_page_fail(bench, packed, kind, size, crc):
    bad = (0, 1, 7, 8, 9, 20, 31)
    driver = start(bench, packed, crc)
    fill(driver, size, 1)
    requests = prepare(driver, kind, size, 2, bad)
    ram_size(driver, RAM_SIZE - PAGE)
    assert run(driver, requests) == expected(bad)
    assert run(driver, requests) == expected(bad)


@pytest.mark.parametrize("kind", (T_IN, T_OUT), ids=("reads", "writes"))
def test_over_a_unix_socket(qemu, tmp_path, kind):
    path, size = tmp_path / "socket", 128 << 10
    with Proxy({"d0": f"memory:?size={VOLUME_SIZE}"}, listen=f"unix://{path}") as proxy, Bench(qemu, proxy) as bench:
        driver = start(bench, False, False, server=f"cloudblk+unix:///d0?socket={path}")
        fill(driver, size, 1)
        requests = prepare(driver, kind, size, 2)
        ram_size(driver, RAM_SIZE - PAGE)
        assert run(driver, requests) == expected()
