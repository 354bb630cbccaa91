# SPDX-License-Identifier: GPL-2.0-or-later
"""Two clients want the same volume."""

import signal
import socket
import time

import pytest

from tests.chaos import wire_client as wire
from tests.chaos.daemon import Daemon, client, file_uri, run_client, wait_for
from tests.chaos.wire_client import opened
from tests.support.standstill import hanging

WRITES = ("--pattern", "randwrite")
# Of struct tcp_info's tcpi_state: the peer's kernel has acknowledged the FIN
FIN_WAIT2 = 5


@pytest.fixture
def proxy(tmp_path):
    with Daemon(tmp_path, {"disk": file_uri(tmp_path / "disk.img")}, "--lease", "1") as daemon:
        yield daemon


def test_a_second_client_is_told_who_holds_the_volume(proxy):
    holder = client("bench", proxy.uri("disk"), *WRITES, "--seconds", "60")
    try:
        proxy.wait_for_log("active for")
        status, output = run_client("bench", proxy.uri("disk"), *WRITES, "--count", "1")
        assert status != 0
        assert str(holder.pid) in output and "connected" in output and "takeover" in output
        assert len(output.strip().splitlines()) == 1, output
        # To look at it is no offence.
        assert run_client("info", proxy.uri("disk"))[0] == 0
        assert holder.poll() is None
    finally:
        holder.kill()
        holder.wait()


def test_a_crashed_holders_lease_ends(proxy):
    holder = client("bench", proxy.uri("disk"), *WRITES, "--seconds", "60")
    proxy.wait_for_log("active for")
    proxy.wait_until_busy(0.05)
    holder.kill()
    holder.wait()
    proxy.wait_for_log("lost the last connection")
    second = wire.Client(proxy.address)
    second.hello()
    try:
        second.open()
    except wire.Refused as refused:
        assert refused.status == wire.BUSY and "not connected" in refused.text
        assert 0 < refused.reply["retry_ms"] <= 1000
        time.sleep(refused.reply["retry_ms"] / 1000)
        second = wire.Client(proxy.address)
        second.hello()
        second.open()
    assert second.flush() == wire.OK


def test_a_takeover_ends_the_holder_and_it_stays_ended(proxy):
    holder = client("bench", proxy.uri("disk"), *WRITES, "--seconds", "60")
    proxy.wait_for_log("active for")
    proxy.wait_until_busy(0.05)
    status, output = run_client("bench", proxy.uri("disk"), "--takeover", "--pattern", "randrw",
                                "--verify", "--count", "2000")
    assert status == 0, output
    output, _ = holder.communicate(timeout=60)
    assert holder.returncode != 0, output


def test_sharers_write_side_by_side(proxy):
    """Each writes to its half, all the time, and sees what the other has written to its own."""
    ours, theirs = (opened(proxy, flags=wire.ACTIVE | wire.SHARE_RW) for _ in range(2))
    for round_ in range(200):
        written = {}
        for one, start in (ours, 0), (theirs, 1 << 20):
            for i in range(8):
                offset = start + (round_ * 8 + i) % 256 * 4096
                written[offset] = (one.submit(wire.WRITE, offset, data=bytes([round_, i]) * 2048), one, bytes([round_, i]) * 2048)
        for tag, one, _ in written.values():
            assert one.wait(tag)[0] == wire.OK
        for offset, (_, one, data) in written.items():
            other = theirs if one is ours else ours
            assert other.read(offset, 4096) == (wire.OK, data)


def test_an_orderly_end_frees_the_volume_at_once(tmp_path):
    """The lease is longer than any of them waits."""
    with Daemon(tmp_path, {"disk": file_uri(tmp_path / "disk.img")}, "--lease", "60") as proxy:
        for _ in range(5):
            status, output = run_client("bench", proxy.uri("disk"), *WRITES, "--count", "10", "--timeout", "5000")
            assert status == 0, output


def test_who_gave_up_waiting_does_not_hold_the_volume(tmp_path):
    """The server stood still when it was asked, and learns of both at once: the OPEN, and that its sender has gone."""
    with Daemon(tmp_path, {"disk": file_uri(tmp_path / "disk.img")}) as proxy:
        one = wire.Client(proxy.address)
        one.hello()
        with hanging(proxy):
            one.open(wait=False)
            one.sock.shutdown(socket.SHUT_WR)
            state = lambda: one.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
            wait_for(lambda: state() == FIN_WAIT2, "the end of the stream at the server")
        # A lease would be 10 s
        status, output = run_client("flush", proxy.uri("disk"), "--timeout", "5000")
        assert status == 0, output + proxy.log()


def test_a_thousand_idle_clients_take_little_memory(tmp_path):
    volumes = {"disk": file_uri(tmp_path / "disk.img"), "memory": "memory:?size=64M"}

    def resident():
        for line in open(f"/proc/{proxy.process.pid}/status"):
            if line.startswith("RssAnon"):
                return int(line.split()[1]) * 1024

    with Daemon(tmp_path, volumes, "--log-level", "warning") as proxy:
        before = resident()
        clients = []
        data = bytes(65536)
        for _ in range(1000):
            one = wire.Client(proxy.address)
            one.hello()
            one.open(flags=wire.ACTIVE | wire.SHARE_RW)
            assert one.write(0, data) == wire.OK
            assert one.read(0, 65536)[0] == wire.OK
            clients.append(one)
        # Buffers go back some seconds after their last use.
        limit = before + (100 << 20)
        wait_for(lambda: resident() < limit, f"{resident() >> 20} MiB to become less")
        print(f"{(resident() - before) >> 10} KiB for {len(clients)} clients")
