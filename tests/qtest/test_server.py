# SPDX-License-Identifier: GPL-2.0-or-later
"""What a user sees of a server that is away: in QEMU's log, by qom-get, and at the start."""

import concurrent.futures
import time

from tests.support.proxy import Proxy
from tests.support.standstill import hanging
from tests.support.virtio import S_OK, T_OUT, Request, poll

DISK = "/machine/peripheral/disk"


def server_status(machine, path=DISK):
    return machine.qmp.command("qom-get", path=path, property="server-status")


def write(driver):
    return Request(driver, T_OUT, 0, bytes(4096)).submit()


def test_why_a_disk_does_not_come_back(bench, loops):
    driver = bench.disk("-object", "iothread,id=io0", "-object", "iothread,id=io1", **loops)
    machine = driver.machine
    assert server_status(machine) == server_status(machine, f"{DISK}/virtio-backend") == "connected"
    bench.proxy.kill()
    begun = time.monotonic()
    request = write(driver)
    poll(lambda: server_status(machine).startswith("away for "), "news of the loss")
    poll(lambda: "not back after" in machine.messages(), "the reason")
    assert time.monotonic() - begun < 5
    assert "Connection refused" in machine.messages() and "Connection refused" in server_status(machine)
    # Another one, without the volume
    with Proxy({"other": "memory:?size=1M"}, listen=f"tcp://{bench.proxy.address}"):
        poll(lambda: "there is no volume 'd0'" in machine.messages(), "the new reason")
        assert "there is no volume 'd0'" in server_status(machine)
    assert machine.messages().count("\n") <= 4
    machine.qmp.command("quit")
    assert machine.wait() == 0
    assert not request.queue.used()


def test_the_time_that_a_server_may_be_silent(bench):
    driver = bench.disk(server_timeout=2)
    with hanging(bench.proxy):
        request = write(driver)
        poll(lambda: "no answer for 2 s; reconnecting" in driver.machine.messages(), "the end of patience", 20)
    assert request.wait() == S_OK
    poll(lambda: server_status(driver.machine) == "connected", "the return")


def test_nobody_listens(bench):
    """It is said what is waited for, and not for long."""
    begun = time.monotonic()
    status, messages = bench.fails(server="cloudblk://127.0.0.1:1/d0")
    assert 5 <= time.monotonic() - begun < 15
    lines = messages.strip().splitlines()
    assert status == 1 and len(lines) == 2, messages
    assert "waiting (30000 ms at most): cannot connect to tcp://127.0.0.1:1" in lines[0]
    assert "start cloudblk-proxy there" in lines[1]


def test_a_proxy_that_restarts_while_a_machine_starts(bench):
    """Opening waits for it: the proxy comes when QEMU has said that it waits."""
    bench.proxy.kill()
    with concurrent.futures.ThreadPoolExecutor(1) as executor:
        started = executor.submit(bench.machine)
        poll(lambda: "waiting (" in bench.messages(), "the line")
        bench.proxy.start()
        assert server_status(started.result()) == "connected"
