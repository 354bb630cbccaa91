# SPDX-License-Identifier: GPL-2.0-or-later
"""What `cloudblk write` makes of holes and zeros, and of a file that changes under it."""

import os
import random
import subprocess

import pytest

from tests.chaos.daemon import Daemon
from tests.chaos.wire_client import opened
from tests.support.paths import CLIENT
from tests.support.proxy import Proxy
from tests.tools.test_commands import MIB, allocated, as_json, noise, output

SIZE = 64 * MIB


@pytest.fixture
def path(tmp_path):
    return tmp_path / "disk.img"


@pytest.fixture
def proxy(path):
    volumes = {"d0": f"file://{path}?size={SIZE}&create=on", "big": f"memory:?size={SIZE}&logical-block-size=4096"}
    with Proxy(volumes) as started:
        yield started


def sparse_image(path, size, pieces):
    with path.open("wb") as file:
        os.truncate(path, size)
        for offset, data in pieces:
            file.seek(offset)
            file.write(data)
    return path


def test_holes_of_a_file_and_zeros_take_up_no_room(proxy, path, tmp_path):
    output("write", proxy.uri("d0"), data=noise(SIZE))
    assert allocated(path) >= SIZE
    pieces = [(0, noise(4096)), (9 * MIB, noise(MIB, 2)), (20 * MIB, bytes(8 * MIB)), (40 * MIB - 512, noise(1024, 3))]
    image = sparse_image(tmp_path / "image.raw", SIZE, pieces)
    assert as_json("write", proxy.uri("d0"), image) == {"bytes": SIZE}
    assert output("read", proxy.uri("d0")) == image.read_bytes()
    assert allocated(path) < 3 * MIB


def test_zeros_of_a_pipe_take_up_no_room(proxy, path):
    data = noise(MIB) + bytes(20 * MIB) + noise(MIB, 2)
    output("write", proxy.uri("d0"), data=noise(SIZE, 3))
    output("write", "--offset", "8M", proxy.uri("d0"), data=data)
    assert output("read", "--offset", "8M", "--length", str(len(data)), proxy.uri("d0")) == data
    assert allocated(path) <= SIZE - 19 * MIB


def test_unless_they_are_wanted_to(proxy, path, tmp_path):
    image = sparse_image(tmp_path / "image.raw", 16 * MIB, [(0, noise(4096))])
    output("write", "--no-sparse", proxy.uri("d0"), image)
    assert allocated(path) >= 16 * MIB
    assert output("read", "--length", "16M", proxy.uri("d0")) == image.read_bytes()


@pytest.mark.parametrize("volume", ["d0", "big"])
@pytest.mark.parametrize("seed", range(4))
def test_any_holes(proxy, tmp_path, volume, seed):
    """Whatever they begin and end at, and wherever it is copied to; what was there before is gone."""
    draw = random.Random(seed)
    size = draw.randrange(1, 4096) * 4096
    pieces = []
    for _ in range(draw.randrange(40)):
        length = draw.choice([1, 512, 4096, 70000, 600000])
        data = bytes(length) if draw.random() < 0.3 else draw.randbytes(length)
        pieces.append((draw.randrange(max(1, size - length)), data))
    image = sparse_image(tmp_path / "image.raw", size, [(at, data[: size - at]) for at, data in pieces])
    before = noise(SIZE, seed)
    output("write", proxy.uri(volume), data=before)
    offset = draw.randrange((SIZE - size) // 4096 + 1) * 4096
    output("write", "--offset", str(offset), proxy.uri(volume), image)
    expected = before[:offset] + image.read_bytes() + before[offset + size :]
    assert output("read", proxy.uri(volume)) == expected


def test_a_file_that_shrinks_meanwhile_is_no_success(tmp_path):
    """The part that the file has lost is told, as that of a pipe that ends early."""
    image = tmp_path / "image.raw"
    image.write_bytes(noise(SIZE))
    with Daemon(tmp_path, {"d0": "memory:?size=64M"}, "--lease", "3") as proxy:
        opened(proxy, volume="d0").close_socket()
        with subprocess.Popen([CLIENT, "write", proxy.uri("d0"), image], stderr=subprocess.PIPE) as writer:
            # It has looked at the file, and waits for the lease of the one before.
            proxy.wait_for_log("refused: volume 'd0' is in use")
            os.truncate(image, 4096)
            said = writer.stderr.read().decode()
        assert writer.returncode == 1, said
        assert f"the input ended after 4096 of {SIZE} bytes" in said
