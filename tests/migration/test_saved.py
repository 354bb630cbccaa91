# SPDX-License-Identifier: GPL-2.0-or-later
"""A machine that was saved to a file is resumed from it once, however often somebody tries."""

import json
import os
import socket

import pytest

from tests.chaos.daemon import Daemon, file_uri, run_client, wait_for
from tests.migration import pair
from tests.support.old_peer import OldServer
from tests.support.paths import RELEASES, qemu_command
from tests.support.virtio import S_OK, T_IN, T_OUT, Request, poll

BLOCK = 4096
RECORD = "user.cloudblk.owner"


def write(driver, letter):
    return Request(driver, T_OUT, 0, letter * BLOCK).submit().wait()


def read(driver):
    request = Request(driver, T_IN, 0, BLOCK).submit()
    assert request.wait() == S_OK
    return request.bytes


class Saved:
    """Saves a machine that has written "s" to its disk, and resumes it."""

    def __init__(self, folder, release):
        self._state, self._release = folder / "machine", release
        self._machines = []
        self._driver = None

    def _start(self, server, *arguments):
        options = {"driver": "cloudblk-pci", "id": "disk", "addr": "0x4", "server": server}
        machine = pair.MovingMachine(qemu_command(self._release), ["-device", json.dumps(options)])
        machine._arguments += arguments
        self._machines.append(machine)
        machine.start()
        return machine

    def save(self, server):
        source = self._start(server)
        self._driver = pair.new_driver(source)
        assert write(self._driver, b"s") == S_OK
        source.qmp.command("migrate", uri=f"exec:cat >{self._state}")
        assert pair.wait_status(source, "completed", "failed") == "completed", source.messages()
        source.qmp.quit()
        source.wait()

    def load(self, server):
        """A machine that has the state and has not run."""
        machine = self._start(server, "-incoming", "defer", "-S")
        machine.qmp.command("migrate-incoming", uri=f"exec:cat {self._state}")
        pair.wait_arrived(machine)
        return machine

    def resume(self, server):
        """A machine that runs, and the driver in it."""
        machine = self.load(server)
        machine.qmp.command("cont")
        pair.move_driver(self._driver, machine)
        return machine, self._driver

    def end(self):
        for machine in self._machines:
            machine.__exit__()


@pytest.fixture(params=RELEASES)
def saved(request, tmp_path):
    made = Saved(tmp_path, request.param)
    yield made
    made.end()


@pytest.fixture
def proxy(tmp_path):
    with Daemon(tmp_path, {"d0": file_uri(tmp_path / "disk.img")}, "--lease", "1") as daemon:
        yield daemon


@pytest.fixture
def dead():
    """HOST:PORT that nobody listens at, nor will."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield "127.0.0.1:%d" % sock.getsockname()[1]


def check_refused(machine, *words):
    """It stands still, and its message says why."""
    poll(lambda: machine.qmp.command("query-status")["status"] == "io-error", f"refusal; {machine.messages()}")
    message = next(line for line in machine.messages().splitlines() if "is lost" in line)
    assert all(word in message for word in (*words, "from its disk")), message


def record(tmp_path):
    return os.getxattr(tmp_path / "disk.img", RECORD).decode()


def test_a_second_resume_is_refused_while_the_first_runs(saved, proxy, dead):
    saved.save(proxy.uri("d0"))
    first, driver = saved.resume(proxy.uri("d0"))
    assert write(driver, b"1") == S_OK
    # It connects one time more than the first did
    second = saved.load(proxy.uri("d0").replace("://", f"://{dead},"))
    second.qmp.command("cont")
    check_refused(second, f"pid {first.process.pid}", "once only")
    assert read(driver) == b"1" * BLOCK
    assert write(driver, b"2") == S_OK
    assert first.qmp.command("query-status")["running"]
    for words in ("replaced by a newer connection", f"lost the last connection of vm pid {first.process.pid}"):
        assert words not in proxy.log(), proxy.log()


def test_a_second_resume_is_refused_when_the_first_and_the_proxy_have_crashed(saved, proxy):
    saved.save(proxy.uri("d0"))
    first, driver = saved.resume(proxy.uri("d0"))
    assert write(driver, b"1") == S_OK
    pid = first.process.pid
    first.kill()
    proxy.kill()
    proxy.start()
    second = saved.load(proxy.uri("d0"))
    second.qmp.command("cont")
    check_refused(second, f"pid {pid}", "once only")
    # What it wrote is there for whoever starts from the disk
    assert run_client("read", "--takeover", "--length", BLOCK, proxy.uri("d0"), proxy.folder / "out")[0] == 0
    assert (proxy.folder / "out").read_bytes() == b"1" * BLOCK


def test_a_second_resume_is_refused_when_the_first_has_ended(saved, proxy):
    saved.save(proxy.uri("d0"))
    first, driver = saved.resume(proxy.uri("d0"))
    assert write(driver, b"1") == S_OK
    first.qmp.quit()
    first.wait()
    second = saved.load(proxy.uri("d0"))
    second.qmp.command("cont")
    check_refused(second, "resumed already")


def test_the_first_goes_on_over_a_restart_of_the_proxy_and_the_second_does_not(saved, proxy):
    saved.save(proxy.uri("d0"))
    first, driver = saved.resume(proxy.uri("d0"))
    assert write(driver, b"1") == S_OK
    second = saved.load(proxy.uri("d0"))
    proxy.kill()
    # Both are at the door when it opens
    second.qmp.command("cont")
    flying = Request(driver, T_OUT, 0, b"2" * BLOCK).submit()
    proxy.start()
    assert flying.wait() == S_OK
    check_refused(second, "once only")
    assert read(driver) == b"2" * BLOCK
    assert first.qmp.command("query-status")["running"]


def test_a_proxy_that_is_upgraded_takes_who_comes_back_first(saved, proxy, tmp_path):
    """The record is as the release of 57be3b1 kept it, which did not know who had claimed."""
    saved.save(proxy.uri("d0"))
    first, driver = saved.resume(proxy.uri("d0"))
    assert write(driver, b"1") == S_OK
    second = saved.load(proxy.uri("d0"))
    proxy.kill()
    lines = [line.split() for line in record(tmp_path).splitlines()]
    assert [(line[0], len(line)) for line in lines if line[0] == "spent"] == [("spent", 4)]
    old = "".join(" ".join(line[:3] if line[0] == "spent" else line) + "\n" for line in lines)
    os.setxattr(tmp_path / "disk.img", RECORD, old.encode())
    proxy.start()
    assert write(driver, b"2") == S_OK
    second.qmp.command("cont")
    check_refused(second, f"pid {first.process.pid}", "once only")
    assert read(driver) == b"2" * BLOCK
    assert [len(line.split()) for line in record(tmp_path).splitlines() if line.startswith("spent")] == [4]


def test_a_proxy_of_the_release_before_serves_it(saved):
    """It is told of no claimer: that part of the OPEN is reserved there."""
    with OldServer() as server:
        saved.save(server.uri)
        _, driver = saved.resume(server.uri)
        assert read(driver) == b"s" * BLOCK
        assert write(driver, b"1") == S_OK
        assert server.epoch == 3
        assert not server.violations


def test_a_state_that_is_thrown_away_gives_its_disk_back(saved, proxy):
    saved.save(proxy.uri("d0"))
    assert run_client("flush", "--timeout", "1000", proxy.uri("d0"))[0] == 1
    # So soon after it was given up, it might be on its way to another host.
    assert "may be on its way" in run_client("release", "--force", proxy.uri("d0"))[1]
    wait_for(lambda: run_client("release", "--force", proxy.uri("d0"))[0] == 0, "six leases", 10)
    assert run_client("flush", proxy.uri("d0"))[0] == 0
    late = saved.load(proxy.uri("d0"))
    late.qmp.command("cont")
    poll(lambda: late.qmp.command("query-status")["status"] == "io-error", f"refusal; {late.messages()}")
    assert "is lost" in late.messages()
