# SPDX-License-Identifier: GPL-2.0-or-later
"""What clients take of the proxy is bounded in all: its memory, its descriptors, its time, its log."""

import contextlib
import multiprocessing
import os
import socket
import statistics
import struct
import time
import uuid

import pytest

from tests.chaos import wire_client as wire
from tests.chaos.daemon import Daemon, file_uri, wait_for
from tests.chaos.wire_client import Client, opened

# Of the whole process, with defaults.
MOST_RSS = 256 << 20
NON_READERS, MID_WRITERS, DISCARDERS = 60, 200, 16
BATCH, PIECE = 32, 1 << 20
ROUNDS, ROUND_SECONDS = 5, 0.5
# So many lines of a kind are logged of a volume before they are only counted.
AT_ONCE = 32
MANY = 400


def requests(entries, payload=b""):
    """A REQUEST frame of (operation, offset, length, ranges)."""
    section = b"".join(
        struct.pack("<QQIBBH8x", 1 << 32 | tag, offset, length, operation, 0, ranges)
        for tag, (operation, offset, length, ranges) in enumerate(entries))
    return wire.frame(wire.REQUEST, section, payload, len(entries))


def rss(proxy):
    """Bytes: now, and the most there ever was."""
    fields = dict(line.split(":", 1) for line in open(f"/proc/{proxy.process.pid}/status"))
    return [int(fields[name].split()[0]) << 10 for name in ("VmRSS", "VmHWM")]


def settled(proxy):
    """Once the proxy has dealt with all that it can."""
    def idle():
        before = proxy.cpu_seconds()
        time.sleep(0.3)  # an interval to measure in, not a time to wait for something
        return proxy.cpu_seconds() - before < 0.05
    wait_for(idle, "the proxy idle")


def descriptors(proxy):
    return len(os.listdir(f"/proc/{proxy.process.pid}/fd"))


def reopen_in_time(proxy, one, volume, flags=wire.ACTIVE):
    """The holder comes back on a new connection; within a second it has read and written."""
    before = time.monotonic()
    again = opened(proxy, volume=volume, session=one.session, incarnation=2, flags=flags | wire.RESUME,
                   volume_uuid=one.info["volume"], generation=one.info["generation"])
    assert again.write(0, b"\1" * 65536) == wire.OK
    assert again.read(0, 65536) == (wire.OK, b"\1" * 65536)
    assert time.monotonic() - before < 1
    return again


@pytest.fixture
def clients():
    with contextlib.ExitStack() as stack:
        def keep(one):
            stack.callback(one.close_socket)
            return one
        yield keep


@pytest.fixture
def volumes(tmp_path):
    image = tmp_path / "image"
    with open(image, "wb") as file:
        for _ in range(64):
            file.write(os.urandom(1 << 20))
    return {"image": f"file://{image}", "mine": file_uri(tmp_path / "mine", "16M")}


def test_clients_that_read_nothing(tmp_path, volumes, clients):
    with Daemon(tmp_path, volumes) as proxy:
        mine = clients(opened(proxy, volume="mine"))
        for _ in range(NON_READERS):
            one = clients(opened(proxy, volume="image", flags=wire.ACTIVE | wire.OPEN_READ_ONLY))
            one.sock.sendall(requests([(wire.READ, i * PIECE, PIECE, 0) for i in range(BATCH)]))
        settled(proxy)
        assert rss(proxy)[1] < MOST_RSS
        mine.close_socket()
        again = clients(reopen_in_time(proxy, mine, "mine"))
        # And it goes on: more than the floor of a holder, again and again.
        for i in range(64):
            assert again.read(i % 16 << 20, PIECE)[0] == wire.OK
        assert rss(proxy)[1] < MOST_RSS


def test_clients_that_may_not_write_stop_in_the_middle_of_it(tmp_path, volumes, clients):
    with Daemon(tmp_path, volumes) as proxy:
        mine = clients(opened(proxy, volume="mine"))
        for number in range(MID_WRITERS):
            flags = 0 if number % 2 else wire.ACTIVE | wire.OPEN_READ_ONLY
            one = clients(Client(proxy.address))
            payload = one.hello(payload=4 << 20)[1]
            one.open(volume="image", flags=flags)
            whole = requests([(wire.WRITE, 0, payload, 0)], bytes(payload))
            one.sock.sendall(whole[:-1])
        settled(proxy)
        assert rss(proxy)[1] < MOST_RSS / 2
        mine.close_socket()
        clients(reopen_in_time(proxy, mine, "mine"))


def test_clients_that_share_a_volume_stop_in_the_middle_of_a_write(tmp_path, volumes, clients):
    """These may write: each has the floor of a holder, the pool is theirs together."""
    volumes["shared"] = file_uri(tmp_path / "shared", "64M")
    with Daemon(tmp_path, volumes) as proxy:
        mine = clients(opened(proxy, volume="mine"))
        for _ in range(NON_READERS):
            one = clients(opened(proxy, volume="shared", flags=wire.ACTIVE | wire.SHARE_RW))
            reads = [(wire.READ, i * PIECE, PIECE, 0) for i in range(BATCH - 1)]
            one.sock.sendall(requests(reads))
            one.sock.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                one.sock.send(requests([(wire.WRITE, 0, PIECE, 0)], bytes(PIECE))[:-1])
        settled(proxy)
        assert rss(proxy)[1] < MOST_RSS
        mine.close_socket()
        clients(reopen_in_time(proxy, mine, "mine"))


def test_memory_comes_back(tmp_path, volumes, clients):
    with Daemon(tmp_path, volumes) as proxy:
        before = rss(proxy)[0]
        busy = [clients(opened(proxy, volume="image", flags=wire.ACTIVE | wire.OPEN_READ_ONLY))
                for _ in range(8)]
        for one in busy:
            for i in range(BATCH):
                one.submit(wire.READ, i * PIECE, PIECE)
        wait_for(lambda: rss(proxy)[0] > before + (64 << 20), "memory taken")
        for one in busy:
            for tag in list(one.lengths):
                assert one.wait(tag)[0] == wire.OK
        # All of them are still connected.
        wait_for(lambda: rss(proxy)[0] < before + (16 << 20), "memory given back")


class Reads:
    """One read after the other of 4 KiB, on a connection of its own."""

    def __init__(self, proxy, volume):
        self.one = opened(proxy, volume=volume)

    def iops(self, seconds=ROUND_SECONDS):
        frame = requests([(wire.READ, 0, 4096, 0)])
        sock, count, end = self.one.sock, 0, time.monotonic() + seconds
        while time.monotonic() < end:
            sock.sendall(frame)
            left = 32 + 24 + 4096
            while left:
                left -= len(sock.recv(left))
            count += 1
        return count / seconds


@pytest.mark.parametrize("shared", [True, False])
def test_discards_leave_time_for_others(tmp_path, clients, shared):
    names = ["loud"] * DISCARDERS if shared else [f"loud{i}" for i in range(DISCARDERS)]
    volumes = {"quiet": "memory:?size=16M", **{name: "memory:?size=1G" for name in names}}
    ranges = [(0, 1 << 30)] * 64
    payload = b"".join(struct.pack("<QQI4x", *r, 0) for r in ranges)
    frame = requests([(wire.DISCARD, 0, len(payload), len(ranges))] * 32, payload * 32)

    with Daemon(tmp_path, volumes) as proxy:
        for name in sorted(set(names)):
            # What was written once is what a discard has to look for.
            one = opened(proxy, volume=name)
            for i in range(0, 1 << 30, 64 << 20):
                assert one.write(i, b"\1" * 65536) == wire.OK
            one.close()
        reads = Reads(proxy, "quiet")
        clients(reads.one)
        calm, loud = [], []
        for _ in range(ROUNDS):
            calm.append(reads.iops())
            with Discards(proxy, names, frame):
                loud.append(reads.iops())
            settled(proxy)
    calm, loud = statistics.median(calm), statistics.median(loud)
    assert loud > calm / 4, f"{loud} of {calm} IOPS"


class Discards:
    """Clients that have DISCARDs under way all the time, in a process of their own."""

    def __init__(self, proxy, names, frame):
        self.clients = [opened(proxy, volume=name, flags=wire.ACTIVE | wire.SHARE_RW) for name in names]
        self.frame = frame
        context = multiprocessing.get_context("fork")
        self.under_way = context.Event()
        self.process = context.Process(target=self._feed, daemon=True)

    def _feed(self):
        """Sixteen frames of 32 are all the credits; for each that is answered another one goes out."""
        answered = {one: 0 for one in self.clients}
        for one in self.clients:
            with contextlib.suppress(OSError):
                one.sock.sendall(self.frame * 16)
            one.sock.settimeout(0.01)
        while True:
            for one in self.clients:
                with contextlib.suppress(OSError, wire.Disconnected):
                    answered[one] += one.expect(wire.REPLY)[2]
                    self.under_way.set()
                    while answered[one] >= 32:
                        answered[one] -= 32
                        one.sock.sendall(self.frame)

    def __enter__(self):
        self.process.start()
        assert self.under_way.wait(60)
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.join()
        for one in self.clients:
            one.close_socket()


def strangers(proxy, count):
    """Connections that say nothing."""
    found = []
    for _ in range(count):
        sock = socket.socket()
        sock.settimeout(20)
        sock.connect(proxy.address)
        found.append(sock)
    return found


def test_a_holder_gets_in_when_strangers_have_the_descriptors(tmp_path, volumes):
    with Daemon(tmp_path, volumes, prefix=("prlimit", "--nofile=128:128")) as proxy:
        mine = opened(proxy, volume="mine")
        mine.close_socket()
        many = strangers(proxy, 400)
        reopen_in_time(proxy, mine, "mine").close_socket()
        # The oldest are gone, the newest are not.
        assert many[0].recv(100) == b""
        many[-1].setblocking(False)
        with pytest.raises(BlockingIOError):
            many[-1].recv(1)
        for sock in many:
            sock.close()
        assert "limited (ulimit -n)" in proxy.log()
        assert len(proxy.log().splitlines()) < 30


def test_more_connections_than_allowed_are_told_so(tmp_path, volumes, clients):
    with Daemon(tmp_path, volumes, "--max-connections", "4") as proxy:
        mine = clients(opened(proxy, volume="mine"))
        others = [clients(opened(proxy, volume="image", flags=0)) for _ in range(3)]
        with pytest.raises(wire.Refused, match="--max-connections") as refused:
            opened(proxy, volume="image", flags=0)
        assert refused.value.status == wire.TOO_MANY
        # Who holds a volume is let in.
        mine.close_socket()
        mine = clients(reopen_in_time(proxy, mine, "mine"))
        others.pop().close_socket()
        wait_for(lambda: [True for _ in [0] if try_open(proxy, clients)], "room again")


def try_open(proxy, clients):
    try:
        return clients(opened(proxy, volume="image", flags=0))
    except wire.Refused as refused:
        assert refused.status == wire.TOO_MANY
        return None


def test_a_storm_of_strangers_is_a_few_lines(tmp_path, volumes):
    with Daemon(tmp_path, volumes) as proxy:
        for _ in range(300):
            with socket.create_connection(proxy.address, 20) as sock:
                sock.sendall(b"GET / HTTP/1.1\r\n\r\n" * 4)
                while sock.recv(4096):
                    pass
        # Refusals, as somebody gets who waits for a lease.
        mine = opened(proxy, volume="mine")
        for _ in range(100):
            with pytest.raises(wire.Refused):
                opened(proxy, volume="mine")
        mine.close_socket()
        assert proxy.stop() == 0
        lines = proxy.log().splitlines()
        assert len(lines) < 40, proxy.log()
        assert any("not a cloudblk peer" in line and "(and 294 more like it)" in line for line in lines), lines
        assert any("refused" in line and "(and 94 more like it)" in line for line in lines), lines


def test_what_clients_do_with_a_volume_is_a_few_lines(tmp_path, clients):
    """Anybody who reaches the port can: take it from one another, give it away and claim it, resize it."""
    with Daemon(tmp_path, {"mine": "memory:?size=16M", "other": "memory:?size=16M"}) as proxy:
        for number in range(MANY):
            one = clients(opened(proxy, volume="mine", flags=wire.ACTIVE | wire.TAKEOVER, name=f"taker{number}"))
        for epoch in range(1, MANY):
            token = uuid.uuid4().bytes
            assert one.release(token, epoch)[0] == wire.OK
            assert one.claim(token, epoch + 1)[0] == wire.OK
            assert one.resize((16 + epoch % 2) << 20)[0] == wire.OK
            assert one.resize(1)[0] == wire.INVALID
        # Not so of another volume
        clients(opened(proxy, volume="other", name="quiet"))
        assert proxy.stop() == 0
        lines = proxy.log().splitlines()
    assert len(lines) < MANY, len(lines)
    assert sum("quiet" in line for line in lines) >= 1
    # The first of them, and the last: who has it.
    taken = [line for line in lines if "volume 'mine': active for" in line]
    assert [f"taker{number} " in line for number, line in enumerate(taken[:-1])] == [True] * AT_ONCE
    assert f"taker{MANY - 1} " in taken[-1] and f"(and {MANY - AT_ONCE - 1} more like it)" in taken[-1]
    for what in "was given to", "released by", "resized from", "refused: the size":
        assert "more like it)" in [line for line in lines if what in line][-1], what


def test_used_up_descriptors_are_not_a_missing_boot_id(tmp_path):
    """Whichever of the proxy's files it is that cannot be opened."""
    image = tmp_path / "disk"
    image.write_bytes(bytes(1 << 20))
    for limit in range(4, 16):
        proxy = Daemon(tmp_path, {"disk": f"file://{image}"},
                       prefix=("prlimit", f"--nofile={limit}:{limit}"))
        proxy.launch()
        try:
            wait_for(lambda: proxy.process.poll() is not None or proxy.out.read_text(), "the end or a start")
            assert "is /proc/sys there" not in proxy.log(), limit
        finally:
            if proxy.process.poll() is None:
                proxy.kill()
