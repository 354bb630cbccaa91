# SPDX-License-Identifier: GPL-2.0-or-later
"""What a hostile guest may do: QEMU lives on, and a reset brings the disk back."""

import struct

import pytest

from tests.support.proxy import Proxy
from tests.support.qtest import RAM_SIZE, PciDevice
from tests.support.standstill import hanging
from tests.support.stream import Timeout
from tests.support.virtio import (
    BLK_DISCARD,
    BLK_MQ,
    BLK_WRITE_ZEROES,
    DRIVER_OK,
    EVENT_IDX,
    F_INDIRECT,
    F_NEXT,
    F_WRITE,
    INDIRECT,
    NEEDS_RESET,
    PACKED,
    PACKED_AVAIL,
    PACKED_USED,
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
    poll,
    ranges,
)

from .conftest import VOLUME_SIZE, Bench

SECTORS = VOLUME_SIZE // 512
# Offsets in the common configuration
DRIVER_FEATURES, MSIX_CONFIG, QUEUE_SELECT, QUEUE_SIZE, QUEUE_MSIX = 12, 16, 22, 24, 26
QUEUE_ENABLE, QUEUE_DESC, QUEUE_RESET = 28, 32, 58
UNMAP = 1
# The device stops until it is reset, or takes no notice
BROKEN, IGNORED = "needs reset", "ignored"
# It answers, but not where the test keeps the status
NO_STATUS = "no status"
REACTION = 10  # seconds
ROM = 0xFFFF0000
# Buffers of one request
MOST_BUFFERS = 1024
FAR = {
    "behind memory": RAM_SIZE + (1 << 20),
    "in no device": 0xD0000000,
    "at an interrupt controller": 0xFEE00000,
    "behind all addresses": 1 << 52,
    "at the last address": (1 << 64) - 512,
    "across the end of memory": RAM_SIZE - 256,
}

# ---- Requests that say something wrong: type, sector, data, answer

REQUESTS = {
    "read past the end": (T_IN, SECTORS, 512, S_IOERR),
    "read across the end": (T_IN, SECTORS - 1, 1024, S_IOERR),
    "write past the end": (T_OUT, SECTORS, bytes(512), S_IOERR),
    "write across the end": (T_OUT, SECTORS - 1, bytes(1024), S_IOERR),
    "sector that overflows": (T_IN, (1 << 64) - 1, 1024, S_IOERR),
    "sector that overflows in bytes": (T_OUT, 1 << 55, bytes(512), S_IOERR),
    "odd size of a read": (T_IN, 0, 700, S_IOERR),
    "odd size of a write": (T_OUT, 0, bytes(513), S_IOERR),
    "unknown type": (77, 0, b"", S_UNSUPP),
    "unknown type, all bits": (0x7FFFFFFF, 0, b"", S_UNSUPP),
    "SCSI command": (2, 0, bytes(16), S_UNSUPP),
    "get lifetime": (10, 0, 24, S_UNSUPP),
    "zone report": (16, 0, 4096, S_UNSUPP),
    "discard as a read": (T_DISCARD & ~1, 0, 16, S_UNSUPP),
    "discard without range": (T_DISCARD, 0, b"", S_IOERR),
    "discard with half a range": (T_DISCARD, 0, bytes(8), S_IOERR),
    "discard with one byte more": (T_DISCARD, 0, ranges((0, 8, 0)) + b"x", S_IOERR),
    "discard past the end": (T_DISCARD, 0, ranges((SECTORS - 8, 16, 0)), S_IOERR),
    "discard that overflows": (T_DISCARD, 0, ranges(((1 << 64) - 8, 16, 0)), S_IOERR),
    "discard with unmap": (T_DISCARD, 0, ranges((0, 8, UNMAP)), S_UNSUPP),
    "discard with unknown flag": (T_DISCARD, 0, ranges((0, 8, 1 << 31)), S_UNSUPP),
    "write-zeroes with unknown flag": (T_WRITE_ZEROES, 0, ranges((0, 8, 2)), S_UNSUPP),
    "write-zeroes with a bad second range": (T_WRITE_ZEROES, 0, ranges((0, 8, 0), (SECTORS, 1, 0)), S_IOERR),
    "too many ranges": (T_DISCARD, 0, ranges(*[(i, 1, 0) for i in range(300)]), S_UNSUPP),
    "too long a range": (T_DISCARD, 0, ranges((0, 0xFFFFFFFF, 0)), S_IOERR),
    "serial into no buffer": (T_GET_ID, 0, 0, S_OK),
    "flush of a sector past the end": (T_FLUSH, SECTORS + 1, b"", S_OK),
}

# ---- Chains of which each descriptor is right: what becomes of a write of 512 bytes

CHAINS = {
    "no status": (lambda r: r.buffers[:-1], BROKEN),
    "no header": (lambda r: r.buffers[-1:], BROKEN),
    "no header, but data": (lambda r: [(r.data, 512, True), r.buffers[-1]], BROKEN),
    "short header": (lambda r: [(r.header, 15, False), r.buffers[-1]], BROKEN),
    "header of one byte": (lambda r: [(r.header, 1, False), r.buffers[-1]], BROKEN),
    "header that the device writes": (lambda r: [(r.header, 16, True), (r.data, 512, True), r.buffers[-1]], BROKEN),
    "status not writable": (lambda r: [*r.buffers[:-1], (r.status_at, 1, False)], BROKEN),
    "status empty": (lambda r: [*r.buffers[:-1], (r.status_at, 0, True)], BROKEN),
    "empty descriptor": (lambda r: [r.buffers[0], (r.data, 0, False), r.buffers[-1]], BROKEN),
    "empty header": (lambda r: [(r.header, 0, False), *r.buffers[1:]], BROKEN),
    "readable after writable": (lambda r: [r.buffers[0], r.buffers[-1], (r.data, 512, False)], BROKEN),
    "huge length": (lambda r: [r.buffers[0], (r.data, 0xFFFFFFFF, False), r.buffers[-1]], BROKEN),
    "huge status": (lambda r: [*r.buffers[:-1], (r.status_at, 0xFFFFFFFF, True)], BROKEN),
    # Begins with zeros: a read of nothing
    "header over all memory": (lambda r: [(0, RAM_SIZE, False), r.buffers[-1]], S_OK),
    "data is the status too": (lambda r: [r.buffers[0], (r.status_at, 1, False), r.buffers[-1]], S_IOERR),
    "header is the status too": (lambda r: [r.buffers[0], (r.data, 512, False), (r.header, 1, True)], NO_STATUS),
}


def at_place(place, address):
    """A write (a read, if place is "read") of which one part is at that address."""

    def chain(request):
        header, data, status = request.buffers
        return {
            "header": [(address, 16 if address + 512 <= 1 << 64 else 512, False), data, status],
            "write": [header, (address, 512, False), status],
            "read": [header, (address, 512, True), status],
            "status": [header, data, (address, 512, True)],
        }[place]

    return chain


CHAINS |= {
    f"{place} {name}": (at_place(place, address), BROKEN) for name, address in FAR.items() for place in ("write", "read", "status")
}
# The firmware's: memory for who only reads it
CHAINS |= {
    f"{place} in ROM": (at_place(place, ROM), expected)
    for place, expected in (("write", S_OK), ("read", BROKEN), ("status", BROKEN))
}
CHAINS |= {f"header {name}": (at_place("header", FAR[name]), BROKEN) for name in ("behind memory", "behind all addresses")}
CHAINS |= {
    "several buffers in no device": (
        lambda r: [r.buffers[0], *((0xD0000000 + 4096 * i, 4096, True) for i in range(4)), r.buffers[-1]],
        BROKEN,
    )
}

# ---- Rings: descriptors as the device finds them. (address, length, flags, next or number)


def split_ring(descriptors, head=0):
    def make(driver, request):
        queue = driver.queues[0]
        for index, (address, length, flags, following) in enumerate(descriptors(driver, request)):
            queue.write_descriptor(index, address, length, flags, following)
        queue.make_available(head)

    return make


def packed_ring(descriptors):
    def make(driver, request):
        queue = driver.queues[0]
        written = descriptors(driver, request)
        for index, (address, length, flags, number) in reversed(list(enumerate(written, queue._next))):
            mark = PACKED_AVAIL if index < queue.size else PACKED_USED
            mark = flags & (PACKED_AVAIL | PACKED_USED) or mark
            queue.write_descriptor(index % queue.size, address, length, number, flags | mark)

    return make


def table(driver, entries):
    """An indirect table in memory: its address."""
    address = driver.machine.alloc(16 * len(entries), 16)
    for index, entry in enumerate(entries):
        struct.pack_into("<QIHH", driver.machine.memory, address + 16 * index, *entry)
    return address


def three(r, last=F_WRITE):
    return [(r.header, 16, F_NEXT, 1), (r.data, 512, F_NEXT, 2), (r.status_at, 1, last, 0)]


def nested(driver, r, packed=False):
    inner = table(driver, [(r.data, 512, 0, 0)])
    entries = [(r.header, 16, F_NEXT, 1), (inner, 16, F_INDIRECT | F_NEXT, 2), (r.status_at, 1, F_WRITE, 0)]
    if packed:
        entries = [(address, length, 0, flags & ~F_NEXT) for address, length, flags, _ in entries]
    return [(table(driver, entries), 48, F_INDIRECT, 0)]


def indirect(address, length):
    return lambda d, r: [(address, length, F_INDIRECT, 0)]


def moved_index(by):
    def make(driver, _):
        queue = driver.queues[0]
        queue._set_word(queue.driver + 2, by)

    return make


def ahead(extra):
    """The index is the whole ring ahead, and more, where each entry asks for the serial number."""

    def make(driver, r):
        queue = driver.queues[0]
        struct.pack_into("<I", driver.machine.memory, r.header, T_GET_ID)
        for index, entry in enumerate(three(r)):
            queue.write_descriptor(index, *entry[:2], entry[2] | (F_WRITE if index else 0), entry[3])
        for entry in range(queue.size):
            queue._set_word(queue.driver + 4 + 2 * entry, 0)
        queue._set_word(queue.driver + 2, queue._avail + queue.size + extra)

    return make


def head_behind_the_ring(driver, r):
    """There is memory behind the descriptors, and what is in it would do."""
    queue = driver.queues[0]
    driver.registers.set_common(QUEUE_SELECT, 2, 0)
    driver.registers.set_common(QUEUE_SIZE, 2, queue.size // 2)
    queue.write_descriptor(queue.size // 2, table(driver, three(r)), 48, F_INDIRECT)
    queue.make_available(queue.size // 2)


def next_behind_the_table(driver, r):
    return [(table(driver, [(r.header, 16, F_NEXT, 2), (0, 0, 0, 0), (r.status_at, 1, F_WRITE, 0)]), 32, F_INDIRECT, 0)]


def many_buffers(count):
    """A write of 1024 bytes in that many buffers, header and status among them."""

    def make(driver, r):
        sizes = [1024 - (count - 3), *[1] * (count - 3)]
        buffers = [(r.header, 16, False), *((r.data, size, False) for size in sizes), (r.status_at, 1, True)]
        entries = [
            (address, length, (F_WRITE if writes else 0) | (F_NEXT if i + 1 < count else 0), i + 1)
            for i, (address, length, writes) in enumerate(buffers)
        ]
        return [(table(driver, entries), 16 * count, F_INDIRECT, 0)]

    return make


def whole_packed(driver, r):
    size = driver.queues[0].size
    return [(r.header, 16, F_NEXT, 0)] * size


SPLIT = {
    "loop of one": (split_ring(lambda d, r: [(r.header, 16, F_NEXT, 0)]), BROKEN),
    "loop of two": (split_ring(lambda d, r: [(r.header, 16, F_NEXT, 1), (r.data, 512, F_NEXT, 0)]), BROKEN),
    "writable loop": (split_ring(lambda d, r: [(r.header, 16, F_NEXT, 1), (r.data, 512, F_NEXT | F_WRITE, 1)]), BROKEN),
    "next outside the ring": (split_ring(lambda d, r: [(r.header, 16, F_NEXT, 60000)]), BROKEN),
    "head outside the ring": (split_ring(lambda d, r: three(r), head=60000), BROKEN),
    "index far ahead": (moved_index(5000), BROKEN),
    "index behind": (moved_index(0xFFFF), BROKEN),
    "index the whole ring ahead": (ahead(0), S_OK),
    "index one more ahead": (ahead(1), BROKEN),
    "head right behind the ring": (head_behind_the_ring, BROKEN),
    "indirect inside indirect": (split_ring(nested), S_IOERR),
    "indirect that goes on": (split_ring(lambda d, r: [(table(d, three(r)), 48, F_INDIRECT | F_NEXT, 0)]), S_OK),
    "loop in an indirect table": (split_ring(lambda d, r: [(table(d, [(r.header, 16, F_NEXT, 0)]), 16, F_INDIRECT, 0)]), BROKEN),
    "next outside an indirect table": (
        split_ring(lambda d, r: [(table(d, [(r.header, 16, F_NEXT, 9)]), 16, F_INDIRECT, 0)]),
        BROKEN,
    ),
    "next right behind an indirect table": (split_ring(next_behind_the_table), BROKEN),
    "as many buffers as there may be": (split_ring(many_buffers(MOST_BUFFERS)), S_OK),
    "one buffer more": (split_ring(many_buffers(MOST_BUFFERS + 1)), BROKEN),
    "empty indirect table": (split_ring(indirect(1 << 20, 0)), BROKEN),
    "odd indirect table": (split_ring(indirect(1 << 20, 17)), BROKEN),
    "indirect table and a byte more": (split_ring(lambda d, r: [(table(d, three(r)), 49, F_INDIRECT, 0)]), BROKEN),
    "huge indirect table": (split_ring(indirect(1 << 20, 0xFFFFFFF0)), BROKEN),
    "indirect table behind memory": (split_ring(indirect(RAM_SIZE + 4096, 48)), BROKEN),
    "indirect table behind all addresses": (split_ring(indirect(1 << 60, 48)), BROKEN),
}
PACKED_RINGS = {
    "chain as long as the ring": (packed_ring(whole_packed), BROKEN),
    "chain that does not end": (packed_ring(lambda d, r: three(r, F_WRITE | F_NEXT)), BROKEN),
    "wrong wrap": (packed_ring(lambda d, r: [(r.header, 16, PACKED_USED, 0)]), IGNORED),
    "available and used": (packed_ring(lambda d, r: [(r.header, 16, PACKED_AVAIL | PACKED_USED, 0)]), IGNORED),
    "number outside the ring": (packed_ring(lambda d, r: [(a, n, f, 60000) for a, n, f, _ in three(r)]), S_OK),
    "indirect inside indirect": (packed_ring(lambda d, r: nested(d, r, True)), S_IOERR),
    "odd indirect table": (packed_ring(indirect(1 << 20, 17)), BROKEN),
    "huge indirect table": (packed_ring(indirect(1 << 20, 0xFFFFFFF0)), BROKEN),
    "indirect table behind memory": (packed_ring(indirect(RAM_SIZE + 4096, 48)), BROKEN),
    "indirect table behind all addresses": (packed_ring(indirect(1 << 60, 48)), BROKEN),
    "empty table entry": (packed_ring(lambda d, r: [(table(d, [(0, 0, 0, 0)]), 16, F_INDIRECT, 0)]), BROKEN),
}


@pytest.fixture(params=({}, {"iothread": "io0"}), ids=("main-loop", "iothread"))
def driver(bench, packed, request):
    features = (BLK_DISCARD, BLK_WRITE_ZEROES, INDIRECT, *([PACKED] if packed else []))
    made = bench.disk("-object", "iothread,id=io0", features=features, packed=packed, **request.param)
    made.wanted, made.proxy = features, bench.proxy
    return made


def outcome(driver, request, expected):
    """What the device made of it."""

    def happened():
        if driver.registers.status & NEEDS_RESET:
            return BROKEN
        came_back = request.token is not None and driver.queues[0].used()
        return str(request.status) if request.status != 0xFF else came_back and NO_STATUS

    if expected is IGNORED:
        # What the device would have done, it would have done before the next register is read
        driver.machine.qmp.command("query-status")
        return happened() or IGNORED
    try:
        return poll(happened, "reaction", REACTION)
    except Timeout:
        return "no reaction"


def comes_back(driver):
    """The disk works after a reset."""
    assert driver.machine.qmp.command("query-status")["status"] == "running"
    driver.reset()
    driver.machine.forget(driver.floor)
    driver.start(driver.wanted)
    pattern = struct.pack("<Q", driver.offered) * 64
    assert Request(driver, T_OUT, 1000, pattern).submit().wait() == S_OK
    check = Request(driver, T_IN, 1000, 512)
    assert check.submit().wait() == S_OK and check.bytes == pattern


def run_table(driver, cases, inject):
    """Each case on a disk just reset; what became of it must be what the case says."""
    found, expected = {}, {}
    driver.floor = driver.machine.used
    for name, case in cases.items():
        comes_back(driver)
        request = Request(driver, T_OUT, 0, bytes(512))
        inject(driver, request, case[0], name)
        driver.registers.notify(driver.queues[0].place, 0)
        found[name], expected[name] = outcome(driver, request, case[1]), str(case[1])
    comes_back(driver)
    assert found == expected


def test_table_is_long_enough():
    for ring in (SPLIT, PACKED_RINGS):
        assert len(REQUESTS) + len(CHAINS) + len(ring) >= 40


def test_wrong_requests(driver):
    driver.floor = driver.machine.used
    assert Request(driver, T_OUT, 0, b"k" * 65536).submit().wait() == S_OK
    for name, (kind, sector, data, answer) in REQUESTS.items():
        comes_back(driver)
        assert Request(driver, kind, sector, data).submit().wait() == answer, name
        assert not driver.registers.status & NEEDS_RESET, name
    check = Request(driver, T_IN, 0, 65536)
    assert check.submit().wait() == S_OK and check.bytes == b"k" * 65536, "nothing of it was written"


def test_wrong_chains(driver):
    def inject(driver, request, make, name):
        if name.startswith("read "):
            struct.pack_into("<I", driver.machine.memory, request.header, T_IN)
        request.buffers = make(request)
        request.submit(kick=False)

    run_table(driver, CHAINS, inject)


def test_wrong_rings(driver, packed):
    run_table(driver, PACKED_RINGS if packed else SPLIT, lambda driver, request, make, _: make(driver, request))


def test_data_in_the_devices_own_registers(driver):
    """A read that would reset the device from within, if it were carried out."""
    driver.floor = driver.machine.used
    for region in ("_common", "_notify", "_config"):
        comes_back(driver)
        request = Request(driver, T_IN, 0, 512)
        request.buffers = [request.buffers[0], (getattr(driver.registers, region), 512, True), request.buffers[-1]]
        request.submit()
        poll(lambda: driver.registers.status & NEEDS_RESET, "NEEDS_RESET")
        assert driver.registers.status & DRIVER_OK
    comes_back(driver)


def start_with_area_at(driver, place, address, queues=1):
    """Takes the disk into use, with a request, and that part of its last queue in that place."""
    driver.start(driver.wanted, queues)
    *others, queue = driver.queues
    driver.reset()
    driver.registers.status = 1
    driver.registers.status = 3
    driver.registers.features()
    driver.registers.set_features(driver.features)
    areas = [queue.desc, queue.driver, queue.device]
    areas[place] = address
    for other in others:
        driver.registers.set_queue(other.index, other.size, other.desc, other.driver, other.device)
    where = driver.registers.set_queue(queue.index, queue.size, *areas)
    driver.registers.status |= DRIVER_OK
    driver.queues = [*others, queue]
    Request(driver, T_IN, 0, 512, queue.index).submit(kick=False)
    driver.registers.notify(where, queue.index)


@pytest.mark.parametrize("place", range(3), ids=("descriptors", "driver area", "device area"))
def test_ring_outside_memory(driver, place):
    driver.floor = driver.machine.used
    comes_back(driver)
    for name, address in FAR.items():
        if place and name == "across the end of memory":
            continue  # some areas are too small for that
        start_with_area_at(driver, place, address & ~15)
        assert driver.registers.status & NEEDS_RESET
        comes_back(driver)


def test_second_ring_outside_memory(bench, packed):
    features = (BLK_MQ, *([PACKED] if packed else []))
    driver = bench.disk("-object", "iothread,id=io0", features=features, queues=2, iothread="io0", packed=packed)
    driver.wanted = features
    for place in range(3):
        start_with_area_at(driver, place, FAR["at an interrupt controller"], queues=2)
        assert driver.registers.status & NEEDS_RESET
    driver.start(driver.wanted, 2)
    assert Request(driver, T_IN, 0, 512, 1).submit().wait() == S_OK


def test_answers_into_rom(driver, packed):
    """With a packed ring they go into the descriptors too."""
    driver.floor = driver.machine.used
    for place in (0, 2) if packed else (2,):
        comes_back(driver)
        start_with_area_at(driver, place, ROM)
        assert driver.registers.status & NEEDS_RESET
    comes_back(driver)


def test_every_register_written(driver):
    """All of the common and the device configuration, in all sizes, before and while it is in use."""
    driver.floor = driver.machine.used
    registers = driver.registers
    for value in (0, 0xFFFFFFFF, 0x5A5A5A5A):
        for size in (1, 2, 4):
            for offset in range(0, 64, size):
                registers.set_common(offset, size, value & (1 << 8 * size) - 1)
            comes_back(driver)
            for offset in range(0, 128, size):
                registers.set_config(offset, size, value & (1 << 8 * size) - 1)
            Request(driver, T_IN, 0, 512).submit()
            comes_back(driver)


def test_kicks_of_queues_that_do_not_exist(driver):
    driver.floor = driver.machine.used
    for queue in (1, 2, 255, 1023, 1024, 0xFFFF):
        driver.registers.notify(driver.queues[0].place, queue)
        driver.machine.write(driver.registers._notify + 4 * (queue & 255), 2, queue)
    comes_back(driver)


def test_queue_registers_written_with_requests_in_flight(driver, packed):
    """Reset, disabled, moved, shrunk: registers that the disk does not offer or that are to be left alone."""
    driver.floor = driver.machine.used
    registers = driver.registers
    for offset, size, value in (
        *((QUEUE_RESET, 2, value) for value in (1, 0, 0xFFFF)),
        *((QUEUE_ENABLE, 2, value) for value in (0, 1, 0xFFFF)),
        # docs/security.md: not a ring that shrinks, if it is packed
        *((QUEUE_SIZE, 2, value) for value in ((0, 0xFFFF) if packed else (0, 1, 4, 0xFFFF))),
        *((QUEUE_DESC + at, 4, value) for at in range(0, 24, 4) for value in (0, 0xFFFFFFFF)),
        (MSIX_CONFIG, 2, 0),
        (QUEUE_MSIX, 2, 0x1234),
        (DRIVER_FEATURES, 4, 0),
    ):
        comes_back(driver)
        with hanging(driver.proxy):
            for i in range(16):
                Request(driver, T_OUT if i % 2 else T_IN, 8 * i, bytes(4096) if i % 2 else 4096).submit()
            registers.set_common(QUEUE_SELECT, 2, 0)
            registers.set_common(offset, size, value)
            driver.machine.write(driver.queues[0].place, 2, 0)
    comes_back(driver)


@pytest.mark.parametrize("more", ({}, {"iothread": "io0"}), ids=("main-loop", "iothread"))
def test_a_request_made_available_again_and_again(bench, more):
    """What the disk keeps of its requests is bounded by the ring."""
    driver = bench.disk("-object", "iothread,id=io0", features=(EVENT_IDX,), **more)
    queue = driver.queues[0]
    request = Request(driver, T_IN, 0, 512)
    with hanging(bench.proxy):
        for index, (address, length, flags, following) in enumerate(three(request)):
            queue.write_descriptor(index, address, length, flags | (F_WRITE if index else 0), following)
        for _ in range(queue.size):
            queue.make_available(0)
        driver.registers.notify(queue.place, 0)
        poll(queue.all_taken, "taking of the requests")
        assert not driver.registers.status & NEEDS_RESET
        queue.make_available(0)
        driver.registers.notify(queue.place, 0)
        poll(lambda: driver.registers.status & NEEDS_RESET, "NEEDS_RESET")
    driver.start()
    assert Request(driver, T_IN, 0, 512).submit().wait() == S_OK


def test_a_legacy_driver_finds_no_bit_that_it_does_not_know(bench):
    driver = bench.disk(device="cloudblk-pci-transitional")
    request = Request(driver, T_IN, 0, 512)
    request.buffers = request.buffers[:1]
    request.submit()
    poll(lambda: "request without status" in driver.machine.messages(), "mistake to be seen")
    driver.machine.qmp.command("query-status")
    assert not driver.registers.status & NEEDS_RESET
    driver.start()
    assert Request(driver, T_IN, 0, 512).submit().wait() == S_OK


def test_queues_that_the_driver_does_not_use(bench):
    """There is memory at address 0, but no queue."""
    driver = bench.disk(num_queues=2, ioeventfd=False)
    assert Request(driver, T_IN, 0, 512).submit().wait() == S_OK
    driver.machine.memory[:4096] = b"\xff" * 4096
    driver.machine.qmp.command("stop")
    driver.machine.qmp.command("cont")
    assert Request(driver, T_IN, 0, 512).submit().wait() == S_OK
    assert not driver.registers.status & NEEDS_RESET


def test_a_request_of_two_gibibytes(qemu):
    """Longer than QEMU's block layer takes. Its buffers lie on top of each other."""
    size = 32 << 20
    with Proxy({"d0": "memory:?size=4G"}) as proxy, Bench(qemu, proxy) as bench:
        driver = bench.disk(features=(INDIRECT,))
        request = Request(driver, T_IN, 0, 0)
        header, status = request.buffers
        request.buffers = [header, *[(RAM_SIZE - size, size, True)] * ((2 << 30) // size), status]
        assert request.submit(indirect=True).wait() == S_IOERR
        assert Request(driver, T_IN, 0, 512).submit().wait() == S_OK


def test_a_ring_made_larger_than_the_disks(bench, packed):
    """What QEMU keeps of a packed ring's requests has room for queue-size of them."""
    features = (PACKED, INDIRECT) if packed else (INDIRECT,)
    driver = bench.disk(features=features, packed=packed, ring_size=1024)
    driver.registers.set_common(QUEUE_SELECT, 2, 0)
    assert driver.registers.common(QUEUE_SIZE, 2) == 1024
    # All in one batch: nobody is told before, and nobody polls
    requests = [Request(driver, T_GET_ID, 0, 20).submit(indirect=True, kick=False) for _ in range(1000)]
    driver.machine.write(driver.queues[0].place, 2, 0)
    for request in requests:
        assert request.wait() == S_OK
    driver.reset()
    driver.start(features)
    assert Request(driver, T_IN, 0, 512).submit().wait() == S_OK
    bench.quit()


def test_data_in_video_memory(bench, packed):
    """Memory, though a device's: data goes there as to any other."""
    features = [PACKED] if packed else []
    driver = bench.disk("-device", "VGA,addr=5", features=features, packed=packed)
    screen = PciDevice(driver.machine, 5).bars[0]
    assert Request(driver, T_OUT, 0, b"pixels".ljust(512, b".")).submit().wait() == S_OK
    for kind, sector in ((T_IN, 0), (T_OUT, 8)):
        request = Request(driver, kind, sector, 512 if kind == T_IN else bytes(512))
        request.buffers[1] = (screen, 512, kind == T_IN)
        assert request.submit().wait() == S_OK
    assert driver.machine.read(screen, 8).to_bytes(8, "little") == b"pixels.."
    check = Request(driver, T_IN, 8, 512)
    assert check.submit().wait() == S_OK and check.bytes == b"pixels".ljust(512, b".")
