# SPDX-License-Identifier: GPL-2.0-or-later
"""Data goes to the volume and comes back, whatever was negotiated."""

import random

import pytest

from tests.support import virtio
from tests.support.virtio import (
    EVENT_IDX,
    IN_ORDER,
    INDIRECT,
    PACKED,
    S_OK,
    T_FLUSH,
    T_IN,
    T_OUT,
    BlockDriver,
    Request,
)

RINGS = {
    "split": (),
    "split-indirect": (INDIRECT,),
    "split-event-idx": (EVENT_IDX,),
    "split-all": (INDIRECT, EVENT_IDX),
    "packed": (PACKED,),
    "packed-indirect": (PACKED, INDIRECT),
    "packed-event-idx": (PACKED, EVENT_IDX),
    "packed-all": (PACKED, INDIRECT, EVENT_IDX),
}
TWO_IOTHREADS = ("-object", "iothread,id=io0", "-object", "iothread,id=io1")


@pytest.fixture(params=RINGS)
def ring(request):
    return {"features": RINGS[request.param], "packed": PACKED in RINGS[request.param]}


def write_and_verify(driver, seed, count=48, queues=1, first_sector=0):
    """Writes `count` pieces of random size in batches over the queues and reads them back through
    other queues, in pieces of other sizes."""
    rng = random.Random(seed)
    indirect = driver.has(INDIRECT)
    written, sector, batch = {}, first_sector, []
    for i in range(count):
        data = rng.randbytes(512 * rng.choice((1, 1, 8, 8, 64)))
        written[sector] = data
        request = Request(driver, T_OUT, sector, data, i % queues, segments=rng.choice((1, 2, 5)))
        sector += len(data) // 512
        batch.append(request.submit(indirect, kick=False))
        if len(batch) == 8 or i + 1 == count:
            for queue in driver.queues:
                driver.kick(queue)
            assert [request.wait() for request in batch] == [S_OK] * len(batch)
            batch = []
    content = b"".join(written.values())
    for i, begin in enumerate(range(0, len(content), 12 * 512)):
        piece = content[begin : begin + 12 * 512]
        request = Request(driver, T_IN, first_sector + begin // 512, len(piece), (i + 1) % queues, segments=3)
        assert request.submit(indirect).wait() == S_OK
        assert request.bytes == piece
        assert request.length == len(piece) + 1


def test_every_ring(bench, ring):
    driver = bench.disk(features=ring["features"], packed=ring["packed"])
    write_and_verify(driver, 1)
    # Through the ring's wrap-around several times
    for _ in range(3 * driver.queues[0].size // 8):
        batch = [Request(driver, T_IN, i, 512).submit(kick=False) for i in range(8)]
        driver.kick(driver.queues[0])
        assert all(request.wait() == S_OK for request in batch)


@pytest.mark.parametrize("packed", (False, True), ids=("split", "packed"))
def test_queues_over_two_iothreads(bench, packed):
    features = {virtio.BLK_MQ, EVENT_IDX, INDIRECT, *([PACKED] if packed else [])}
    driver = bench.disk(*TWO_IOTHREADS, features=features, queues=4, packed=packed, iothreads="io0:io1")
    write_and_verify(driver, 2, count=96, queues=4)
    assert Request(driver, T_FLUSH, queue=3).submit().wait() == S_OK


def test_one_iothread(bench):
    driver = bench.disk("-object", "iothread,id=io0", features=(EVENT_IDX,), iothread="io0")
    write_and_verify(driver, 3)


def test_iothread_vq_mapping(bench):
    version = bench.machine().qmp.command("query-version")["qemu"]["major"]
    bench.quit()
    if version < 9:
        pytest.skip("this QEMU has no iothread-vq-mapping")
    mapping = [{"iothread": "io0", "vqs": [0, 2]}, {"iothread": "io1", "vqs": [1]}]
    driver = bench.disk(*TWO_IOTHREADS, features=(virtio.BLK_MQ,), queues=3, iothread_vq_mapping=mapping)
    write_and_verify(driver, 4, queues=3)


def test_in_order_is_not_offered(bench):
    version = bench.machine().qmp.command("query-version")["qemu"]["major"]
    bench.quit()
    # 7.2 knows no such property
    driver = bench.disk(**({"in_order": True} if version >= 10 else {}))
    assert not driver.offered >> IN_ORDER & 1


def test_without_ioeventfd(bench):
    write_and_verify(bench.disk(ioeventfd=False), 5)


@pytest.mark.parametrize("iothread", (False, True), ids=("main-loop", "iothread"))
def test_legacy_driver(bench, iothread):
    more = {"iothread": "io0"} if iothread else {}
    driver = bench.disk("-object", "iothread,id=io0", device="cloudblk-pci-transitional", **more)
    assert not driver.offered >> 32
    write_and_verify(driver, 6)


def test_small_queue_and_non_transitional(bench):
    driver = bench.disk(device="cloudblk-pci-non-transitional", ring_size=4)
    assert driver.queues[0].size == 4
    for sector in range(9):
        assert Request(driver, T_OUT, sector, bytes([sector]) * 512).submit().wait() == S_OK
    request = Request(driver, T_IN, 8, 512)
    assert request.submit().wait() == S_OK and request.bytes == bytes([8]) * 512


def test_long_chains(bench, ring):
    """Requests of very many buffers, between small ones."""
    driver = bench.disk(features=ring["features"], packed=ring["packed"])
    content = random.Random(9).randbytes(200 * 512)
    for count in (200, 1, 37, 36, 35, 2, 100):
        data, indirect = content[: count * 512], driver.has(INDIRECT)
        write = Request(driver, T_OUT, count, data, segments=count).submit(indirect)
        assert write.wait() == S_OK
        # Some of them at a time, each in buffers of its own
        half = -(-count // 2) * 512
        reads = [Request(driver, T_IN, count, size, segments=size // 512) for size in (half, 512)]
        assert [read.submit(indirect).wait() for read in reads] == [S_OK] * 2
        whole = Request(driver, T_IN, count, len(data), segments=count).submit(indirect)
        assert whole.wait() == S_OK and whole.length == len(data) + 1
        assert (reads[0].bytes, reads[1].bytes, whole.bytes) == (data[:half], data[:512], data)


def test_any_layout(bench):
    """Header, data and status cut into pieces, or in one, as virtio 1.0 lets the driver choose."""
    driver = bench.disk()
    memory = driver.machine.memory
    write = Request(driver, T_OUT, 7, b"x" * 512)
    # 16 bytes of header and 512 of data side by side, then cut as no sane driver would
    at = driver.machine.alloc(528)
    memory[at : at + 16] = memory[write.header : write.header + 16]
    memory[at + 16 : at + 528] = b"y" * 512
    write.buffers = [(at, 3, False), (at + 3, 17, False), (at + 20, 508, False), (write.status_at, 1, True)]
    assert write.submit().wait() == S_OK
    read = Request(driver, T_IN, 7, 513)
    # Data and status in one descriptor
    read.buffers = [(read.header, 16, False), (read.data, 513, True)]
    assert read.submit() and driver.wait(read.queue, [read.token]) == [513]
    assert read.bytes == b"y" * 512 + b"\0"


def test_large_requests(bench):
    """More than a frame on the wire may carry, and more segments than a descriptor table usually has."""
    driver = bench.disk(features=(INDIRECT,))
    data = random.Random(7).randbytes(8 << 20)
    assert Request(driver, T_OUT, 100, data, segments=200).submit(indirect=True).wait() == S_OK
    read = Request(driver, T_IN, 100, len(data), segments=3)
    assert read.submit(indirect=True).wait() == S_OK
    assert read.bytes == data


def test_kick_before_driver_ok(bench):
    """Some old drivers kick before they say that they are ready."""
    machine = bench.machine(device="cloudblk-pci-transitional")
    driver = BlockDriver(machine, 4, legacy=True)
    driver.reset()
    driver.registers.status = virtio.ACKNOWLEDGE | virtio.DRIVER
    driver.registers.set_features(0)
    driver._add_queue(0, None)
    assert Request(driver, T_IN, 0, 512).submit().wait() == S_OK


def test_checked_payloads(bench):
    write_and_verify(bench.disk(payload_crc=True), 9)
