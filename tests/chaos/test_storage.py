# SPDX-License-Identifier: GPL-2.0-or-later
"""The storage under the proxy is full, shrinks, or is not there."""

import os
import subprocess

import pytest

from tests.chaos import wire_client as wire
from tests.chaos.daemon import Daemon, file_uri
from tests.chaos.wire_client import opened
from tests.support.loop_device import loop_device
from tests.support.paths import CLIENT


@pytest.fixture
def small(tmp_path):
    """A file system of 4 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", folder])
    if mounted.returncode != 0:
        pytest.skip("no file system can be mounted here")
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.mark.parametrize("options", ["", "&aio=io_uring", "&direct=off"])
def test_a_full_disk_is_told_as_such_and_nothing_is_lost(tmp_path, small, options):
    with Daemon(tmp_path, {"disk": file_uri(small / "disk.img", "64M", options)}) as proxy:
        one = opened(proxy)
        data = os.urandom(1 << 20)
        assert one.write(0, data) == wire.OK
        statuses = [one.write(offset << 20, data) for offset in range(1, 8)]
        assert wire.NO_SPACE in statuses and set(statuses) <= {wire.OK, wire.NO_SPACE}
        assert one.read(0, 1 << 20) == (wire.OK, data)
        assert one.wait(one.submit(wire.DISCARD, ranges=[(1 << 20, 7 << 20)]))[0] == wire.OK
        assert one.write(9 << 20, data) == wire.OK
        assert one.close()[0] == wire.OK


def test_a_file_that_shrinks_gives_errors_and_not_zeros(tmp_path):
    path = tmp_path / "disk.img"
    with Daemon(tmp_path, {"disk": file_uri(path)}) as proxy:
        one = opened(proxy)
        data = os.urandom(65536)
        assert one.write(0, data) == wire.OK
        assert one.write(32 << 20, data) == wire.OK
        os.truncate(path, 1 << 20)
        assert one.read(32 << 20, 65536)[0] == wire.IO_ERROR
        assert one.write(48 << 20, data) == wire.IO_ERROR
        assert one.read(0, 65536) == (wire.OK, data)
        assert "shrank to 1048576 bytes" in proxy.log()


@pytest.fixture
def crashing(tmp_path):
    """A folder in an ext4, and what gives the folder as it is found after a crash of the host."""
    image, folder = tmp_path / "host.img", tmp_path / "host"
    image.write_bytes(b"")
    os.truncate(image, 256 << 20)
    subprocess.run(["mkfs.ext4", "-q", image], check=True)
    mounted = []

    def mount(what, where):
        where.mkdir()
        # Nothing is written before somebody asks for it
        if subprocess.run(["mount", "-o", "loop,commit=300", what, where]).returncode != 0:
            pytest.skip("no file system can be mounted here")
        mounted.append(where)
        return where

    def crash():
        # What the disk has by now; what is in memory is lost
        subprocess.run(["cp", "--sparse=always", image, tmp_path / "crashed.img"], check=True)
        return mount(tmp_path / "crashed.img", tmp_path / "crashed")

    yield mount(image, folder), crash
    for where in mounted:
        subprocess.run(["umount", where], check=True)


def test_who_was_told_that_it_has_the_volume_has_it_after_a_crash(tmp_path, crashing):
    folder, crash = crashing
    with Daemon(tmp_path, {"disk": file_uri(folder / "disk.img")}) as proxy:
        first = opened(proxy, name="the first")
        assert first.write(0, bytes(4096)) == wire.OK and first.flush() == wire.OK
        subprocess.run(["sync", "--file-system", folder], check=True)
        second = opened(proxy, name="the second", flags=wire.ACTIVE | wire.TAKEOVER)
        holder = os.getxattr(crash() / "disk.img", "user.cloudblk.owner")
        assert b"the second" in holder and b"the first" not in holder
        assert second.close()[0] == wire.OK


def test_discard_gives_space_back(tmp_path):
    path = tmp_path / "disk.img"
    with Daemon(tmp_path, {"disk": file_uri(path)}) as proxy:
        one = opened(proxy)
        for offset in range(8):
            assert one.write(offset << 20, os.urandom(1 << 20)) == wire.OK
        assert one.flush() == wire.OK
        assert path.stat().st_blocks * 512 >= 8 << 20
        assert one.wait(one.submit(wire.DISCARD, ranges=[(0, 8 << 20)]))[0] == wire.OK
        assert path.stat().st_blocks * 512 <= 1 << 20


@pytest.fixture
def block_device(tmp_path):
    """A block device, and the file behind it."""
    path = tmp_path / "backing.img"
    with loop_device(path, 64 << 20) as device:
        yield device, path


@pytest.mark.parametrize("options", ["", "?aio=io_uring", "?direct=off"])
def test_a_block_device_serves_as_well(tmp_path, block_device, options):
    device, backing = block_device
    with Daemon(tmp_path, {"disk": f"file://{device}{options}"}) as proxy:
        one = opened(proxy)
        assert one.info["size"] == 64 << 20
        data = os.urandom(4 << 20)
        for part in range(4):
            assert one.write(part << 20, data[part << 20:part + 1 << 20]) == wire.OK
        assert one.write(8 << 20, data[:4096], wire.FUA) == wire.OK
        assert one.flush() == wire.OK
        assert backing.stat().st_blocks * 512 >= 4 << 20
        assert one.wait(one.submit(wire.WRITE_ZEROES, ranges=[(512, 1024)]))[0] == wire.OK
        expected = data[:512] + bytes(1024) + data[1536:1 << 20]
        assert one.read(0, 1 << 20) == (wire.OK, expected)
        assert one.wait(one.submit(wire.DISCARD, ranges=[(1 << 20, 3 << 20)]))[0] == wire.OK
        assert backing.stat().st_blocks * 512 < 3 << 20
        assert "survive" not in proxy.log()
        assert one.close()[0] == wire.OK


def test_a_volume_follows_its_block_device(tmp_path, block_device):
    """Which is resized where it comes from, and not by us."""
    device, backing = block_device
    with Daemon(tmp_path, {"disk": f"file://{device}"}) as proxy:
        one = opened(proxy)
        resize = [CLIENT, "resize", proxy.uri("disk"), "128M"]
        refused = subprocess.run(resize, stderr=subprocess.PIPE, text=True, check=False)
        assert refused.returncode == 1
        assert f"{device} is a block device of {64 << 20} bytes" in refused.stderr
        os.truncate(backing, 128 << 20)
        subprocess.run(["losetup", "--set-capacity", device], check=True)
        assert one.write(100 << 20, bytes(4096)) == wire.OUT_OF_RANGE
        subprocess.run(resize, check=True)
        assert one.write(100 << 20, b"x" * 4096) == wire.OK
        assert one.read(100 << 20, 4096) == (wire.OK, b"x" * 4096)


@pytest.mark.parametrize("arguments, status, text", [
    (["--volume", "a=file:///no/such/file"], 1, "does not exist"),
    (["--volume", "a=file:///no/such/file?size=1M&create=on"], 1, "make its folder first"),
    (["--volume", "a=file:///dev/no-such-device?size=1M&create=on"], 1, "make the device available first"),
    (["--volume", "a=file:///dev/no-such-device"], 1, "make the device available first"),
    (["--volume", "a=memory:"], 1, "size= is missing"),
    (["--volume", "memory:?size=1M"], 1, "NAME=BACKEND-URI"),
    (["--volume", "a=memory:?size=1M", "--volume", "a=memory:?size=1M"], 1, "given twice"),
    ([], 1, "--volume"),
    (["--config", "/no/such/file"], 1, "/no/such/file"),
    (["--sideways"], 2, "--sideways"),
    (["--threads", "0x10"], 2, "0x10 is not a number"),
    # 3600 if it were octal
    (["--lease", "07020"], 2, "not in range"),
])
def test_a_mistake_of_the_user_is_one_line(tmp_path, arguments, status, text):
    proxy = Daemon(tmp_path, {}, *arguments).launch()
    assert proxy.process.wait(30) == status
    assert text in proxy.log()
    assert len(proxy.log().strip().splitlines()) == 1


def test_a_file_of_a_wrong_size_is_not_made(tmp_path):
    path = tmp_path / "disk.img"
    for size, more in ((1000, ""), (1024, "&logical-block-size=4096")):
        proxy = Daemon(tmp_path, {"a": f"file://{path}?size={size}&create=on{more}"}).launch()
        assert proxy.process.wait(30) == 1
        assert f"size={size}: write a multiple of" in proxy.log()
        assert not path.exists()


def test_a_state_dir_that_is_a_file(tmp_path):
    (tmp_path / "state").touch()
    proxy = Daemon(tmp_path, {"a": "memory:?size=1M"}).launch()
    assert proxy.process.wait(30) == 1
    assert "is not a folder" in proxy.log()


def test_settings_come_from_a_file_and_its_errors_name_the_line(tmp_path):
    config = tmp_path / "proxy.toml"
    config.write_text('threads = 2\n[volumes]\ndisk = "memory:?size=1M"\n')
    with Daemon(tmp_path, {}, "--config", str(config)) as proxy:
        assert opened(proxy).info["size"] == 1 << 20
        assert proxy.stop() == 0
    config.write_text("threads = 2\nthraeds = 3\n")
    broken = Daemon(tmp_path, {}, "--config", str(config)).launch()
    assert broken.process.wait(30) == 1
    assert "proxy.toml:2: unknown setting 'thraeds'" in broken.log()
