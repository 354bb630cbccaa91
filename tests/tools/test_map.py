# SPDX-License-Identifier: GPL-2.0-or-later
"""Where a volume has data: `cloudblk map`, and the copies that leave out the rest."""

import contextlib
import json
import os
import random
import subprocess

import pytest

from tests.chaos.daemon import Daemon
from tests.chaos.wire_client import opened
from tests.support.nbd_server import NbdkitMemory
from tests.support.paths import CLIENT
from tests.support.proxy import Proxy
from tests.tools.test_commands import MIB, allocated, as_json, cloudblk, noise, output
from tests.tools.test_sparse import sparse_image

SIZE = 64 * MIB
HUGE = 100 << 30


@pytest.fixture
def path(tmp_path):
    return tmp_path / "disk.img"


@pytest.fixture
def proxy(path):
    volumes = {
        "file": f"file://{path}?size={SIZE}&create=on",
        "memory": f"memory:?size={SIZE}&logical-block-size=4096",
        "huge": f"file://{path.with_name('huge.img')}?size={HUGE}&create=on",
    }
    with Proxy(volumes) as started:
        yield started


def extent(offset, length, data):
    return {"offset": offset, "length": length, "hole": not data, "zero": not data}


@pytest.mark.parametrize("volume", ("file", "memory"))
def test_map(proxy, volume):
    uri = proxy.uri(volume)
    assert as_json("map", uri) == [extent(0, SIZE, False)]
    output("write", "--offset", "1M", uri, data=noise(MIB))
    output("write", "--offset", "63M", uri, data=noise(MIB))
    assert as_json("map", uri) == [
        extent(0, MIB, False), extent(MIB, MIB, True), extent(2 * MIB, 61 * MIB, False), extent(63 * MIB, MIB, True)
    ]
    assert as_json("map", "--offset", "1M", "--length", "1M", uri) == [extent(MIB, MIB, True)]
    assert [line.split() for line in output("map", uri).decode().splitlines()] == [
        ["offset", "length"],
        ["0", str(MIB), "hole"],
        [str(MIB), str(MIB), "data"],
        [str(2 * MIB), str(61 * MIB), "hole"],
        [str(63 * MIB), str(MIB), "data"],
        "2.0 MiB of 64.0 MiB have data".split(),
    ]
    output("discard", "--offset", "1M", "--length", "1M", uri)
    assert as_json("map", uri) == [extent(0, 63 * MIB, False), extent(63 * MIB, MIB, True)]


def test_more_extents_than_one_answer_has(proxy, path):
    """So many that the server is asked several times."""
    uri, step, count = proxy.uri("file"), 65536, 700
    with path.open("r+b") as file:
        for i in range(0, count, 2):
            os.pwrite(file.fileno(), b"x" * step, i * step)
    found = as_json("map", "--length", str(count * step), uri)
    assert found == [extent(i * step, step, i % 2 == 0) for i in range(count)]


def test_map_disturbs_nobody(tmp_path):
    with Daemon(tmp_path, {"d0": f"memory:?size={SIZE}"}) as proxy:
        with contextlib.closing(opened(proxy, volume="d0")):
            assert as_json("map", proxy.uri("d0")) == [extent(0, SIZE, False)]


@pytest.mark.parametrize("volume", ("file", "memory"))
def test_read_leaves_holes_and_makes_no_more_of_them(proxy, tmp_path, volume):
    pieces = [(0, noise(4096)), (9 * MIB, noise(MIB, 2)), (20 * MIB, noise(8192, 3)), (40 * MIB - 4096, noise(8192, 4))]
    image, copy = sparse_image(tmp_path / "image.raw", SIZE, pieces), tmp_path / "copy.raw"
    output("write", proxy.uri(volume), image)
    copy.write_bytes(noise(1000))  # what was there before is gone
    assert as_json("read", proxy.uri(volume), copy) == {"bytes": SIZE}
    assert copy.read_bytes() == image.read_bytes()
    assert allocated(copy) < 3 * MIB
    assert output("read", proxy.uri(volume)) == image.read_bytes()


def test_read_of_any_part(proxy, tmp_path):
    draw, uri, copy = random.Random(1), proxy.uri("file"), tmp_path / "copy.raw"
    pieces = [(draw.randrange(SIZE - 70000), draw.randbytes(draw.choice((1, 512, 70000)))) for _ in range(60)]
    image = sparse_image(tmp_path / "image.raw", SIZE, pieces)
    output("write", uri, image)
    content = image.read_bytes()
    for i in range(12):
        offset = draw.randrange(SIZE)
        length = draw.choice((1, 4096, draw.randrange(SIZE))) % (SIZE - offset) + 1
        target = () if i % 2 else (copy,)
        read = output("read", "--offset", str(offset), "--length", str(length), uri, *target)
        assert (copy.read_bytes() if target else read) == content[offset : offset + length]


def test_the_end_of_a_volume_may_be_a_hole(proxy, tmp_path):
    copy = tmp_path / "copy.raw"
    output("write", proxy.uri("huge"), data=noise(MIB))
    assert as_json("read", proxy.uri("huge"), copy) == {"bytes": HUGE}
    assert copy.stat().st_size == HUGE and allocated(copy) <= 2 * MIB
    assert as_json("map", proxy.uri("huge")) == [extent(0, MIB, True), extent(MIB, HUGE - MIB, False)]


@pytest.mark.parametrize("kind", ("raw", "qcow2"))
def test_export_and_import(proxy, tmp_path, kind):
    image = tmp_path / f"image.{kind}"
    source = sparse_image(tmp_path / "source.raw", SIZE, [(5 * MIB, noise(MIB)), (SIZE - 4096, noise(4096))])
    option = ("--format", kind)
    output("write", proxy.uri("file"), source)
    assert as_json("export", *option, proxy.uri("file"), image) == {"bytes": SIZE}
    info = json.loads(subprocess.check_output(["qemu-img", "info", "--output=json", image]))
    assert (info["format"], info["virtual-size"]) == (kind, SIZE)
    assert allocated(image) < 3 * MIB
    subprocess.run(["qemu-img", "compare", "-f", kind, "-F", "raw", image, source], check=True, stdout=subprocess.DEVNULL)
    assert as_json("import", *option, image, proxy.uri("memory")) == {"bytes": SIZE}
    assert output("read", proxy.uri("memory")) == source.read_bytes()
    data = [extent["length"] for extent in as_json("map", proxy.uri("memory")) if not extent["zero"]]
    assert sum(data) < 3 * MIB


def test_import_takes_no_other_format_for_raw(proxy, tmp_path):
    image = tmp_path / "image"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", image, "1M"], check=True)
    refused = cloudblk("import", image, proxy.uri("memory"))
    assert refused.returncode == 1 and b"looks like qcow2: say --format qcow2, or --format raw" in refused.stderr
    assert as_json("map", proxy.uri("memory")) == [extent(0, SIZE, False)]
    image.write_bytes(image.read_bytes()[: MIB // 8])
    output("import", "--format", "raw", image, proxy.uri("memory"))
    assert output("read", "--length", "4", proxy.uri("memory")) == b"QFI\xfb"


def test_what_is_wrong_with_an_image_is_said(proxy, tmp_path, monkeypatch):
    image, uri = tmp_path / "image.qcow2", proxy.uri("memory")
    for arguments, text in (
        (("import", "--format", "qcow2", image, uri), b"qemu-img could not convert qcow2 to raw"),
        (("import", image, uri), b"No such file"),
        (("export", "--format", "nonsense", uri, image), b"qemu-img could not convert raw to nonsense"),
        (("export", uri, tmp_path), b"Is a directory"),
    ):
        failed = cloudblk(*arguments)
        assert failed.returncode == 1 and text in failed.stderr, failed
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", image, "65M"], check=True)
    assert b"longer than the volume" in cloudblk("import", "--format", "qcow2", image, uri).stderr
    monkeypatch.setenv("TMPDIR", str(tmp_path / "none"))
    assert b"set TMPDIR" in cloudblk("import", "--format", "qcow2", image, uri).stderr
    monkeypatch.delenv("TMPDIR")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert b"cannot run qemu-img" in cloudblk("import", "--format", "qcow2", image, uri).stderr


def test_nothing_is_left_of_a_conversion(proxy, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    image = tmp_path / "image.qcow2"
    before = set(tmp_path.iterdir())
    output("export", "--format", "qcow2", proxy.uri("memory"), image)
    assert set(tmp_path.iterdir()) - before == {image}


def test_the_volume_is_free_while_its_image_is_converted(proxy, tmp_path, monkeypatch):
    """A qemu-img that waits until somebody else has had the volume."""
    fifo, program = tmp_path / "go", tmp_path / "bin" / "qemu-img"
    program.parent.mkdir()
    os.mkfifo(fifo)
    program.write_text(f"#!/bin/sh\nread line <{fifo}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    with subprocess.Popen([CLIENT, "export", "--format", "qcow2", proxy.uri("file"), tmp_path / "out"]) as exporter:
        with fifo.open("w") as go:  # it waits for us there
            output("flush", proxy.uri("file"))
            go.write("\n")
    assert exporter.returncode == 0


class Simple(NbdkitMemory):
    """Without structured replies, by which alone it can be told."""

    def command(self):
        return [*super().command(), "--no-sr"]


def test_a_server_that_cannot_tell(tmp_path):
    with Simple(tmp_path, size=4 * MIB) as server:
        failed = cloudblk("map", server.uri())
        assert failed.returncode == 1 and b"does not tell where the volume has data" in failed.stderr
        output("write", server.uri(), data=noise(MIB))
        assert output("read", server.uri()) == noise(MIB) + bytes(3 * MIB)
