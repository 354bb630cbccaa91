# SPDX-License-Identifier: GPL-2.0-or-later
"""Faults on each kind of storage: its own volume shows them, another volume of the same loop does not."""

import contextlib
import os
import types

import pytest

from tests.chaos import wire_client as wire
from tests.chaos.daemon import Daemon, file_uri
from tests.chaos.test_hung_storage import IO, TURN, rounds
from tests.chaos.wire_client import opened
from tests.support.nbd_server import Nbdkit
from tests.support.paths import BUILD

SIZE = 64 << 20
FAULTY_PROXY = BUILD / "tests/cloudblk-proxy-faulty"
BACKENDS = ["memory", "file libaio", "file io_uring", "file buffered", "nbd", "cloudblk"]


@pytest.fixture(params=BACKENDS)
def backend(request, tmp_path):
    """URI of a volume of that kind."""
    folder = tmp_path / "storage"
    folder.mkdir()
    kind, _, how = request.param.partition(" ")
    with contextlib.ExitStack() as stack:
        if kind == "memory":
            yield f"memory:?size={SIZE}"
        elif kind == "file":
            option = "&direct=off" if how == "buffered" else f"&aio={how}"
            yield file_uri(folder / "faulty.img", "64M", option)
        elif kind == "nbd":
            yield stack.enter_context(Nbdkit(folder, SIZE)).uri()
        else:
            yield stack.enter_context(Daemon(folder, {"up": f"memory:?size={SIZE}"})).uri("up")


@contextlib.contextmanager
def proxy_with(tmp_path, backend, fault):
    volumes = {"faulty": f"fault:{fault}:{backend}", "disk": file_uri(tmp_path / "disk.img")}
    with Daemon(tmp_path, volumes, program=FAULTY_PROXY) as proxy:
        yield proxy


def load(one, count=40):
    """The tags of so many requests."""
    data = os.urandom(4096)
    return [
        one.submit(wire.READ, i * 8192, 4096) if i % 2 else one.submit(wire.WRITE, i * 8192, data=data)
        for i in range(count)
    ]


def not_noticed(proxy, under_way):
    """The volume beside it, while requests of the faulty one are under way."""
    measured = []
    for _ in range(5):
        under_way()
        measured += rounds(types.SimpleNamespace(proxy=proxy), count=1, seconds=0.3)
    assert sum(turn < TURN for turn, _ in measured) >= 3, measured
    assert sum(io < IO for _, io in measured) >= 3, measured


def test_it_is_slow(tmp_path, backend):
    with proxy_with(tmp_path, backend, "delay=200") as proxy:
        one = opened(proxy, volume="faulty")
        tags = []
        not_noticed(proxy, lambda: tags.extend(load(one)))
        assert all(one.wait(tag)[0] == wire.OK for tag in tags)


def test_some_operations_fail(tmp_path, backend):
    with proxy_with(tmp_path, backend, "error-nth=3") as proxy:
        one = opened(proxy, volume="faulty")
        tags = []
        not_noticed(proxy, lambda: tags.extend(load(one, 42)))
        statuses = [one.wait(tag)[0] for tag in tags]
        assert statuses == [wire.IO_ERROR if i % 3 == 2 else wire.OK for i in range(len(tags))]


def test_it_goes_away(tmp_path, backend):
    with proxy_with(tmp_path, backend, "disconnect-nth=11") as proxy:
        one = opened(proxy, volume="faulty")
        tags = []
        not_noticed(proxy, lambda: tags.extend(load(one)))
        statuses = [one.wait(tag)[0] for tag in tags]
        assert statuses == [wire.OK] * 10 + [wire.IO_ERROR] * (len(tags) - 10)


def test_it_hangs_and_goes_on(tmp_path, backend):
    hung = tmp_path / "hung"
    with proxy_with(tmp_path, backend, f"hang-file={hung}") as proxy:
        one = opened(proxy, volume="faulty")
        assert one.write(0, bytes(4096)) == wire.OK
        hung.touch()
        tags = []
        not_noticed(proxy, lambda: tags.extend(load(one)))
        assert not one.replies
        hung.unlink()
        assert all(one.wait(tag)[0] == wire.OK for tag in tags)
