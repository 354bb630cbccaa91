# SPDX-License-Identifier: GPL-2.0-or-later
"""The device in each QEMU on NBD servers, without a guest: load, servers that die, migration."""

import json
import time

import pytest

from tests.migration import pair
from tests.support.nbd_server import Nbdkit, QemuNbdQcow2
from tests.support.paths import RELEASES, qemu_command
from tests.support.qtest import Machine
from tests.support.relay import Cable
from tests.support.stream import Closed, Timeout
from tests.support.virtio import (
    BLK_DISCARD, BLK_FLUSH, BLK_MQ, BLK_WRITE_ZEROES, S_IOERR, S_OK, T_DISCARD, T_FLUSH, T_IN, T_OUT, T_WRITE_ZEROES, BlockDriver, Request, poll, ranges,
)  # fmt: skip

BLOCK = 4096


class Machines:
    def __init__(self, release):
        self.release = release
        self._all = []

    def start(self, uri, source=None, arguments=(), **properties):
        machine = pair.start(qemu_command(self.release), uri, source, arguments, **properties)
        self._all.append(machine)
        return machine

    def disk(self, uri, **properties):
        return BlockDriver(self.start(uri, **properties), 4, (BLK_FLUSH, BLK_DISCARD, BLK_WRITE_ZEROES))

    def end(self):
        while self._all:
            self._all.pop().__exit__()


@pytest.fixture(params=RELEASES)
def release(request):
    return request.param


@pytest.fixture
def machines(release):
    made = Machines(release)
    yield made
    made.end()


def write(driver, sector, letter):
    return Request(driver, T_OUT, sector, letter * BLOCK).submit().wait()


def read(driver, sector, length=BLOCK):
    request = Request(driver, T_IN, sector, length).submit()
    assert request.wait() == S_OK
    return request.bytes


def flush(driver):
    return Request(driver, T_FLUSH).submit().wait()


@pytest.mark.feature("READ, WRITE, WRITE_ZEROES, TRIM, FLUSH")
def test_every_operation(machines, server):
    driver = machines.disk(server.uri())
    load = pair.Load(driver)
    load.run(1)
    load.verify()
    assert write(driver, 2048, b"a") == write(driver, 2056, b"b") == S_OK
    assert Request(driver, T_WRITE_ZEROES, 0, ranges((2048, 4, 0))).submit().wait() == S_OK
    assert read(driver, 2048) == bytes(2048) + b"a" * 2048
    assert Request(driver, T_WRITE_ZEROES, 0, ranges((2052, 4, 1), (2056, 8, 0))).submit().wait() == S_OK
    assert read(driver, 2048, 2 * BLOCK) == bytes(2 * BLOCK)
    if driver.has(BLK_DISCARD):
        assert Request(driver, T_DISCARD, 0, ranges((0, 64, 0), (128, 8, 0))).submit().wait() == S_OK
    assert flush(driver) == S_OK


def check_that_it_is_refused(driver, server, end):
    """A server that keeps nothing is known by that, and nobody is given its zeros."""
    getattr(server, end)()
    server.start()
    waiting = Request(driver, T_IN, 0, BLOCK).submit()
    poll(lambda: "does not hold what was flushed" in driver.machine.messages(), "message")
    assert waiting.status not in (S_OK, S_IOERR)


@pytest.mark.feature("restart and SIGKILL under load")
@pytest.mark.parametrize("end", ["kill", "stop"])
def test_a_restart_under_load(machines, server, end, outcome):
    """The outcome that each server can give."""
    options = "&".join(filter(None, [server.options, "quarantine=1"]))
    driver = machines.disk(server.uri(options))
    load = pair.Load(driver)
    if not server.keeps_flushed:
        load.run(0.7)
        load.verify()
        outcome("has lost all, and is refused")
        return check_that_it_is_refused(driver, server, end)
    for _ in range(2):
        load.run(0.7)
        getattr(server, end)()
        load.start()
        server.start()
    load.run(0.7)
    if server.keeps_unflushed:
        outcome("no error, nothing lost")
        return load.verify()
    outcome("the next FLUSH fails, nothing that was flushed is lost")
    load.drain()
    assert flush(driver) == S_IOERR
    if end == "stop":
        load.verify()  # it was not so, but that cannot be known


def test_what_was_flushed_is_there_when_the_rest_is_lost(machines, tmp_path):
    with QemuNbdQcow2(tmp_path) as server:
        driver = machines.disk(server.uri())
        assert write(driver, 0, b"f") == S_OK and flush(driver) == S_OK
        assert write(driver, 8, b"u") == S_OK
        server.kill()
        server.start()
        assert flush(driver) == S_IOERR
        assert flush(driver) == S_OK
        assert read(driver, 0) == b"f" * BLOCK
        assert read(driver, 8) in (b"u" * BLOCK, bytes(BLOCK))


def test_errors_reach_exactly_their_requests(machines, tmp_path):
    class Faulty(Nbdkit):
        def plugin(self):
            return ["file", self.path, f"error-file={tmp_path}/faulty", "error-pread=EIO", "error-pread-rate=100%"]

        filters = ("error",)

    with Faulty(tmp_path) as server:
        driver = machines.disk(server.uri())
        assert write(driver, 0, b"x") == S_OK
        assert read(driver, 0) == b"x" * BLOCK
        (tmp_path / "faulty").touch()
        reads = [Request(driver, T_IN, 0, BLOCK).submit() for _ in range(4)]
        writes = [Request(driver, T_OUT, 8 * (i + 1), b"y" * BLOCK).submit() for i in range(4)]
        assert [request.wait() for request in reads] == [S_IOERR] * 4
        assert [request.wait() for request in writes] == [S_OK] * 4
        (tmp_path / "faulty").unlink()
        assert read(driver, 0) == b"x" * BLOCK


@pytest.mark.feature("ten live migrations under load")
def test_ten_migrations(machines, server):
    """Two QEMUs, one server: the disk moves when all is answered and flushed."""
    here = machines.start(server.uri())
    load = pair.Load(pair.new_driver(here))
    for _ in range(10):
        load.run(0.1)
        there = machines.start(server.uri(), here)
        pair.migrate(here, there, load)
        pair.go_on(load, there)
        here.qmp.quit()
        here.wait()
        here = there
    load.verify()


class Holds(Nbdkit):
    """While a file `hold` exists, the next WRITE is held, until there is a file `release`."""

    SCRIPT = """
        if mv {0}/hold {0}/held 2>/dev/null; then
            cat >{0}/data
            until [ -e {0}/release ]; do sleep 0.02; done
            dd if={0}/data of={0}/nbd.img bs=64k conv=notrunc oflag=seek_bytes seek=$4 2>/dev/null
            touch {0}/landed
        else
            dd of={0}/nbd.img bs=64k conv=notrunc oflag=seek_bytes seek=$4 2>/dev/null
        fi"""

    def plugin(self):
        return [
            "eval", f"get_size=echo {self.size}", "thread_model=echo parallel", "can_write=exit 0",
            "can_flush=exit 0", "flush=exit 0", "can_multi_conn=exit 0", f"pwrite={self.SCRIPT.format(self.folder)}",
            f"pread=dd if={self.path} iflag=skip_bytes,count_bytes skip=$4 count=$3 bs=64k 2>/dev/null",
        ]  # fmt: skip


@pytest.mark.parametrize("quarantine", [2, 0])
def test_a_write_of_a_lost_connection_lands_late(machines, tmp_path, quarantine):
    """It is not in the way of a newer one from another queue, and without the quarantine it is."""
    with Holds(tmp_path) as server, Cable(f"127.0.0.1:{server.port}") as cable:
        driver = BlockDriver(
            machines.start(
                f"nbd://{cable.address}/?quarantine={quarantine}",
                arguments=["-object", "iothread,id=io0", "-object", "iothread,id=io1"],
                iothreads="io0:io1",
                num_queues=2,
            ),
            4, (BLK_FLUSH, BLK_MQ), queues=2,
        )  # fmt: skip
        (tmp_path / "hold").touch()
        first = Request(driver, T_OUT, 0, b"1" * BLOCK).submit()
        poll((tmp_path / "data").exists, "write at the server")
        poll(lambda: (tmp_path / "data").stat().st_size == BLOCK, "its data")
        cable.cut()
        assert first.wait() == S_OK  # when it was sent again
        began = time.monotonic()
        second = Request(driver, T_OUT, 0, b"2" * 2 * BLOCK, queue=1).submit()
        if quarantine == 0:
            assert second.wait() == S_OK
        (tmp_path / "release").touch()
        poll((tmp_path / "landed").exists, "late write")
        if quarantine:
            assert second.wait() == S_OK
            assert time.monotonic() - began > quarantine / 2
        assert read(driver, 0) == (b"2" if quarantine else b"1") * BLOCK
        assert read(driver, 8) == b"2" * BLOCK


class Single(Nbdkit):
    filters = ("limit",)

    def plugin(self):
        return ["file", self.path, "limit=1"]


def test_a_server_for_one_client_is_enough(machines, tmp_path):
    """To look what a disk is like, and to use it, are two openings."""
    with Single(tmp_path) as server:
        driver = machines.disk(server.uri(), open_timeout=10000)
        assert write(driver, 0, b"x") == S_OK


def test_the_destination_of_a_migration_says_that_there_is_no_room_for_it(machines, tmp_path):
    with Single(tmp_path) as server:
        here = machines.start(server.uri())
        driver = pair.new_driver(here)
        assert write(driver, 0, b"x") == S_OK
        with pytest.raises((Closed, ConnectionError, Timeout)) as error:
            machines.start(server.uri(), here, open_timeout=3000)
        assert "serve fewer clients than there are" in str(error.value)
        assert write(driver, 0, b"y") == S_OK


def test_several_iothreads_want_a_promise(release, tmp_path):
    class Promiseless(Nbdkit):
        filters = ("multi-conn",)

        def plugin(self):
            return ["file", self.path, "multi-conn-mode=disable"]

    with Promiseless(tmp_path) as server:
        options = {"driver": "cloudblk-pci", "server": server.uri(), "iothreads": "io0:io1", "num-queues": 2}
        words = ["-object", "iothread,id=io0", "-object", "iothread,id=io1", "-device", json.dumps(options)]
        machine = Machine(qemu_command(release), words)
        with pytest.raises((Closed, ConnectionError)):
            machine.start()
        assert "use one IOThread" in machine.messages()
        machine.__exit__()


def test_takeover_is_refused(release):
    options = {"driver": "cloudblk-pci", "server": "nbd://127.0.0.1:1/", "takeover": True}
    machine = Machine(qemu_command(release), ["-device", json.dumps(options)])
    with pytest.raises((Closed, ConnectionError)):
        machine.start()
    assert "NBD has nothing for takeover" in machine.messages()
    machine.__exit__()
