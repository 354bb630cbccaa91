# SPDX-License-Identifier: GPL-2.0-or-later
"""What goes along with a disk: the memory that it wrote, and the requests that it has not answered."""

import contextlib
import json
import select
import socket
import threading

import pytest

from tests.migration import pair
from tests.support.paths import RELEASES, qemu_command
from tests.support.standstill import hanging
from tests.support.shrinking import MIB, Shrinking
from tests.support.virtio import (
    BLK_CONFIG_WCE,
    BLK_FLUSH,
    BLK_MQ,
    PACKED,
    S_IOERR,
    S_OK,
    T_FLUSH,
    T_IN,
    T_OUT,
    Request,
    poll,
)

IOTHREADS = ("-object", "iothread,id=io0", "-object", "iothread,id=io1")
FILLED = 32 * MIB  # from here on memory holds what takes time to send


class Relay:
    """Passes a migration stream on, and holds it after `limit` bytes until it is let go."""

    def __init__(self, folder, target, limit):
        self._path, self._target, self._limit = f"{folder}/relay", target, limit
        self.holds, self._go, self._stop = threading.Event(), threading.Event(), threading.Event()
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self._path)
        self._listener.listen(1)
        self._thread = threading.Thread(target=self._run)
        self.uri = f"unix:{self._path}"

    def _run(self):
        with self._listener, socket.socket(socket.AF_UNIX) as target:
            while not select.select([self._listener], [], [], 0.1)[0]:
                if self._stop.is_set():
                    return
            source, _ = self._listener.accept()
            with source, contextlib.suppress(OSError):
                target.connect(self._target)
                passed = 0
                while data := source.recv(65536):
                    target.sendall(data)
                    passed += len(data)
                    if passed >= self._limit and not self._go.is_set():
                        self.holds.set()
                        self._go.wait()

    def let_go(self):
        self._go.set()

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._go.set()
        self._thread.join()


@pytest.fixture
def apart(machines):
    """Starts a source and a destination that share no memory."""
    made = []

    def start(release):
        source = machines.start(release)
        pair.capability(source, "x-ignore-shared", False)
        options = {"driver": "cloudblk-pci", "id": "disk", "addr": "0x4", "server": machines.proxy.uri("d0")}
        destination = pair.MovingMachine(qemu_command(release), ["-device", json.dumps(options)])
        destination._arguments += ["-incoming", "defer", "-S"]
        made.append(destination)
        destination.start()
        return source, destination

    yield start
    for machine in made:
        machine.__exit__()


@pytest.mark.parametrize("release", RELEASES)
def test_what_was_read_while_memory_was_sent_arrives(apart, release):
    source, destination = apart(release)
    driver = pair.new_driver(source)
    content = bytes(range(1, 251)) * 4096
    content = content[: 512 << 10]
    assert Request(driver, T_OUT, 0, content).submit().wait() == S_OK
    reads = [Request(driver, T_IN, 0, len(content), segments=segments) for segments in (1, 7)]
    assert source.used < 8 * MIB
    for read in reads:
        source.memory[read.data : read.data + read.size] = b"\xee" * read.size
    with open("/dev/urandom", "rb") as random:
        source.memory[FILLED:] = random.read(len(source.memory) - FILLED)
    uri = pair.listen(destination)
    with Relay(source.folder, uri.removeprefix("unix:"), 8 * MIB) as relay:
        source.qmp.command("migrate", uri=relay.uri)
        assert relay.holds.wait(60), pair.status(source)
        # Their memory has been sent already
        for read in reads:
            assert read.submit().wait() == S_OK
        relay.let_go()
        assert pair.wait_status(source, "completed", "failed") == "completed", source.messages() + destination.messages()
    pair.wait_arrived(destination)
    for read in reads:
        assert destination.memory[read.data : read.data + read.size] == content
        assert destination.memory[read.status_at] == S_OK
    used = driver.queues[0].device
    assert destination.memory[used : used + 64] == source.memory[used : used + 64]


@pytest.mark.parametrize("packed", [False, True], ids=["split", "packed"])
@pytest.mark.parametrize("way", [("7.2", "10.0"), ("10.0", "10.0")], ids="-".join)
def test_requests_of_all_queues_go_on(machines, way, packed):
    """Two queues on two IOThreads, each with reads and writes that the server has not answered."""
    properties = {"arguments": IOTHREADS, "iothreads": "io0:io1", "num_queues": 2, "packed": packed}
    source = machines.start(way[0], **properties)
    destination = machines.start(way[1], source, **properties)
    driver = pair.BlockDriver(source, 4, (BLK_MQ, *([PACKED] if packed else [])), queues=2)
    assert Request(driver, T_OUT, 0, b"r" * 4096).submit().wait() == S_OK
    requests = []
    with hanging(machines.proxy):
        for i in range(40):
            queue = i % 2
            if i % 4 < 2:
                requests.append(Request(driver, T_OUT, 8 * (i + 1), bytes([i + 1]) * 4096, queue).submit())
            else:
                requests.append(Request(driver, T_IN, 0, 4096, queue).submit())
        source.qmp.command("stop")
        assert [request.status for request in requests] == [0xFF] * len(requests)
    pair.migrate_without_load(source, destination)
    assert [request.status for request in requests] == [0xFF] * len(requests)
    pair.move_driver(driver, destination)
    destination.qmp.command("cont")
    for request in requests:
        assert request.wait() == S_OK
        assert not request.reads or request.bytes == b"r" * 4096
    for i, request in enumerate(requests):
        if not request.reads:
            back = Request(driver, T_IN, 8 * (i + 1), 4096, i % 2).submit()
            assert back.wait() == S_OK
            assert back.bytes == request.bytes
    machines.check_owners(1)


def move(source, destination, driver):
    pair.migrate_without_load(source, destination)
    pair.move_driver(driver, destination)
    destination.qmp.command("cont")


@pytest.mark.parametrize("way", [("7.2", "10.0"), ("10.0", "10.0")], ids="-".join)
def test_a_write_cache_that_was_switched_off_stays_off(machines, way):
    source = machines.start(way[0], write_cache="on")
    destination = machines.start(way[1], source, write_cache="on")
    driver = pair.BlockDriver(source, 4, (BLK_FLUSH, BLK_CONFIG_WCE))
    driver.registers.set_config(32, 1, 0)
    move(source, destination, driver)
    assert driver.registers.config(32, 1) == 0


@pytest.mark.parametrize("release", RELEASES)
def test_a_server_that_hangs_during_the_switch_over(machines, release):
    """It comes back before, while or after the source gives up: whoever has the disk then has all of
    it, and alone."""
    source = machines.start(release)
    destination = machines.start(release, source)
    load = pair.Load(pair.new_driver(source))
    load.run(0.1)
    load.drain()
    uri = pair.listen(destination)
    with hanging(machines.proxy):
        load.start()
        source.qmp.command("migrate", uri=uri)
        source.qmp.wait_event("STOP")
    if pair.wait_status(source, "completed", "failed") == "completed":
        pair.wait_arrived(destination)
        assert load.flying
        pair.go_on(load, destination)
    else:
        poll(lambda: source.qmp.command("query-status")["running"], "the source to run again")
    load.run(0.1)
    load.verify()
    machines.check_owners(0)


class TestStopped:
    """A machine whose storage has failed, and mostly stands still for that."""

    @pytest.fixture
    def storage(self, tmp_path):
        return Shrinking(tmp_path / "disk.img")

    @pytest.fixture
    def proxy(self, storage):
        with storage.proxy as started:
            yield started

    @pytest.mark.parametrize("way", [("7.2", "10.0"), ("10.0", "10.0")], ids="-".join)
    def test_a_flush_tells_of_writes_that_were_lost_at_the_source(self, machines, storage, way):
        source = machines.start(way[0])
        destination = machines.start(way[1], source)
        driver = pair.BlockDriver(source, 4, (BLK_FLUSH,))
        assert Request(driver, T_OUT, 0, bytes(4096)).submit().wait() == S_OK
        storage.lose_writes()
        # It is connected again, and knows
        assert Request(driver, T_IN, 0, 4096).submit().wait() == S_OK
        move(source, destination, driver)
        assert Request(driver, T_FLUSH).submit().wait() == S_IOERR
        assert Request(driver, T_FLUSH).submit().wait() == S_OK

    @pytest.mark.parametrize("way", [("7.2", "10.0"), ("10.0", "10.0")], ids="-".join)
    def test_a_write_that_failed_is_repeated_elsewhere(self, machines, storage, way):
        source = machines.start(way[0], werror="stop", rerror="stop")
        destination = machines.start(way[1], source, werror="stop", rerror="stop")
        driver = pair.new_driver(source)
        storage.fail()
        write = Request(driver, T_OUT, 2 * MIB // 512, b"w" * 4096).submit()
        poll(lambda: source.qmp.command("query-status")["status"] == "io-error", "stop of the source")
        storage.repair()
        source.qmp.command("migrate", uri=pair.listen(destination))
        assert pair.wait_status(source, "completed", "failed") == "completed", source.messages() + destination.messages()
        pair.wait_status(destination, "completed")
        assert write.status == 0xFF
        pair.move_driver(driver, destination)
        destination.qmp.command("cont")
        assert write.wait() == S_OK
        back = Request(driver, T_IN, 2 * MIB // 512, 4096).submit()
        assert back.wait() == S_OK
        assert back.bytes == b"w" * 4096
