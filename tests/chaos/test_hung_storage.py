# SPDX-License-Identifier: GPL-2.0-or-later
"""A storage that hangs takes nothing with it: not the loop, not other volumes, not the end of the process."""

import contextlib
import os
import struct
import threading
import time

import pytest

from tests.chaos import wire_client as wire
from tests.chaos.daemon import Daemon, file_uri, run_client
from tests.chaos.wire_client import opened
from tests.support.fuse_server import Mounted
from tests.support.loop_device import loop_device

SIZE = 64 << 20
REQUESTS = 500
# Of a turn of the loop, as a PING sees it; and of an I/O of another volume.
TURN, IO = 0.020, 0.100


class Hanging:
    """A proxy with a volume `hung`, whose storage a test can make hang, and a volume `disk` beside it."""

    def __init__(self, proxy, server, kind, aio):
        self.proxy, self.server, self.kind, self.aio = proxy, server, kind, aio

    def hang(self):
        """A client of `hung` with many requests in flight, none of which is answered."""
        one = opened(self.proxy, volume="hung", timeout=60)
        assert one.write(0, bytes(4096)) == wire.OK
        self.server.freeze()
        for i in range(REQUESTS):
            if i % 2:
                one.submit(wire.READ, i * 65536 % SIZE, 4096)
            else:
                one.submit(wire.WRITE, i * 65536 % SIZE, data=bytes(4096))
        return one


@pytest.fixture(params=["file", "block device"])
def storage(request, tmp_path):
    """(URI of a volume without options, its server, its kind)."""
    back, front = tmp_path / "back", tmp_path / "front"
    back.mkdir()
    front.mkdir()
    image = back / "disk.img"
    with open(image, "wb") as file:
        # No holes: these need no memory of the kernel's to be found.
        for _ in range(SIZE >> 20):
            file.write(os.urandom(1 << 20))
        os.fsync(file.fileno())
    with Mounted(back, front) as server, contextlib.ExitStack() as stack:
        if request.param == "file":
            yield f"file://{front}/disk.img", server, request.param
        else:
            yield f"file://{stack.enter_context(loop_device(front / 'disk.img', SIZE))}", server, request.param
            server.thaw()


@pytest.fixture(params=["io_uring", "libaio"])
def hanging(request, tmp_path, storage):
    uri, server, kind = storage
    volumes = {
        "hung": f"{uri}?aio={request.param}",
        "disk": file_uri(tmp_path / "disk.img", "64M", f"&aio={request.param}"),
    }
    with Daemon(tmp_path, volumes) as proxy:
        yield Hanging(proxy, server, kind, request.param)
        server.thaw()
        if proxy.process.poll() is None:
            proxy.kill()


def longest(seconds, act):
    """Of what was done again and again for so long."""
    worst, end = 0, time.monotonic() + seconds
    while (before := time.monotonic()) < end:
        act()
        worst = max(worst, time.monotonic() - before)
        time.sleep(0.001)
    return worst


def rounds(hanging, count=5, seconds=1):
    """[(longest turn, longest I/O)]: both beside each other."""
    pings, disk = wire.Client(hanging.proxy.address), opened(hanging.proxy)
    pings.hello()
    pings.open("disk", flags=0)
    data = os.urandom(4096)

    def ping():
        pings.send(wire.PING, struct.pack("<Q", 1))
        pings.expect(wire.PONG)

    def write_and_read():
        offset = int.from_bytes(os.urandom(2), "little") % 1024 * 4096
        assert disk.write(offset, data) == wire.OK
        assert disk.read(offset, 4096) == (wire.OK, data)

    found = []
    for _ in range(count):
        turn = []
        pinging = threading.Thread(target=lambda: turn.append(longest(seconds, ping)))
        pinging.start()
        io = longest(seconds, write_and_read) / 2
        pinging.join()
        found.append((turn[0], io))
    pings.close_socket()
    disk.close()
    disk.close_socket()
    return found


def test_other_volumes_do_not_notice(hanging):
    one = hanging.hang()
    measured = rounds(hanging)
    assert sum(turn < TURN for turn, _ in measured) >= 3, measured
    assert sum(io < IO for _, io in measured) >= 3, measured
    uri = hanging.proxy.uri("disk")
    for arguments in (["info", uri], ["discard", uri, "--length", "64K"], ["resize", uri, "128M"]):
        before = time.monotonic()
        status, output = run_client(*arguments)
        assert status == 0, output
        assert time.monotonic() - before < 1, arguments
    # Nothing was lost: it goes on where it stood.
    hanging.server.thaw()
    flush = one.submit(wire.FLUSH)
    assert one.wait(flush)[0] == wire.OK
    assert all(status == wire.OK for status, _, _ in one.replies.values())


def successor(hanging):
    """Serves at the same address what does not hang."""
    folder = hanging.proxy.folder / "next"
    folder.mkdir()
    return Daemon(folder, {"disk": hanging.proxy.volumes["disk"]}, listen=hanging.proxy.listen)


def can_be_killed(hanging):
    """The kernel ends a process only when what libaio handed to a device has come back."""
    return hanging.aio == "io_uring" or hanging.kind == "file"


def test_the_proxy_ends_by_itself(hanging):
    hanging.hang()
    disk = opened(hanging.proxy)
    assert disk.write(0, bytes(4096)) == wire.OK
    before = time.monotonic()
    hanging.proxy.process.terminate()
    # The port and what does not hang are somebody else's at once.
    with successor(hanging) as following:
        opened(following, session=disk.session, epoch=disk.epoch, incarnation=2, flags=wire.ACTIVE)
        assert time.monotonic() - before < 5
        if not can_be_killed(hanging):
            hanging.server.thaw()
        hanging.proxy.process.wait(31 - (time.monotonic() - before))


def test_a_killed_proxy_lets_go(hanging):
    hanging.hang()
    disk = opened(hanging.proxy)
    assert disk.write(0, bytes(4096)) == wire.OK
    hanging.proxy.process.kill()
    before = time.monotonic()
    if not can_be_killed(hanging):
        hanging.server.thaw()
    with successor(hanging) as following:
        opened(following, session=disk.session, epoch=disk.epoch, incarnation=2)
        assert time.monotonic() - before < 1


def test_a_proxy_that_starts_serves_what_does_not_hang(tmp_path, storage):
    uri, server, kind = storage
    server.freeze()
    begun = time.monotonic()
    with Daemon(tmp_path, {"hung": uri, "disk": file_uri(tmp_path / "disk.img")}) as proxy:
        assert time.monotonic() - begun < 8
        assert opened(proxy).write(0, bytes(4096)) == wire.OK
        if kind == "file":
            with pytest.raises(wire.Refused) as early:
                opened(proxy, volume="hung")
            assert early.value.status == wire.SHUTTING_DOWN
            assert "has not answered since the proxy started" in early.value.text
            assert "volume 'hung': its storage does not answer" in proxy.log()
        before = time.monotonic()
        assert proxy.stop() == 0
        assert time.monotonic() - before < 2
        proxy.start()
        server.thaw()
        if kind == "file":
            proxy.wait_for_log("volume 'hung': its storage has answered")
        assert opened(proxy, volume="hung").write(0, bytes(4096)) == wire.OK
