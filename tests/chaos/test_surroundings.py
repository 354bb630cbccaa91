# SPDX-License-Identifier: GPL-2.0-or-later
"""What the proxy's surroundings can do to it: closed descriptors, limits, namespaces, odd devices, silence."""

import concurrent.futures
import contextlib
import ctypes
import os
import signal
import subprocess
import time

import pytest

from tests.chaos import wire_client as wire
from tests.chaos.daemon import Daemon, file_uri
from tests.chaos.wire_client import opened
from tests.support.loop_device import loop_device

ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def shell(commands):
    """A prefix: runs the commands, then becomes the proxy."""
    return ["sh", "-c", commands + '; exec "$0" "$@"']


def few_threads(tmp_path, user):
    """A prefix: becomes the proxy as a user of its own, who may have ten threads, and gets to the folder."""
    for folder in (tmp_path, *tmp_path.parents[:-1]):
        if not folder.stat().st_mode & 1:
            folder.chmod(folder.stat().st_mode | 0o11)
    return ["setpriv", "--reuid", str(user), "--clear-groups", "prlimit", "--nproc=10"]


def test_a_volume_never_stands_in_for_a_closed_standard_error(tmp_path):
    path = tmp_path / "disk.img"
    with Daemon(tmp_path, {"disk": file_uri(path, "1M", "&direct=off")}, prefix=shell("exec 2>&-")) as proxy:
        opened(proxy).close()
        proxy.stop()
    assert path.read_bytes() == bytes(1 << 20)


@ROOT
def test_a_limit_of_threads_slows_the_proxy_and_does_not_end_it(tmp_path):
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(1 << 20))
    path.chmod(0o666)
    prefix = few_threads(tmp_path, 64321)
    with Daemon(tmp_path, {"disk": f"file://{path}?direct=off"}, prefix=prefix) as proxy:
        one = opened(proxy)
        for tag in [one.submit(wire.WRITE, 4096 * i, data=bytes(4096)) for i in range(64)]:
            assert one.wait(tag)[0] == wire.OK
        assert one.flush() == wire.OK
        assert one.wait(one.submit(wire.DISCARD, ranges=[(0, 4096)]))[0] == wire.OK
        assert proxy.process.poll() is None, proxy.log()


def test_a_block_device_s_failed_flush_is_known_after_a_restart(tmp_path):
    """10.2. Another session of a shared volume was told of it; the one that wrote must be as well."""
    folder = tmp_path / "small"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", folder]).returncode != 0:
        pytest.skip("no file system can be mounted here")
    try:
        # Its writes beyond 2 MiB fail when the page cache is written back
        with loop_device(folder / "backing.img", 64 << 20) as device:
            with Daemon(tmp_path, {"disk": f"file://{device}?direct=off"}) as proxy:
                shared = {"flags": wire.ACTIVE | wire.SHARE_RW}
                writer, other = opened(proxy, **shared), opened(proxy, **shared)
                for part in range(4):
                    assert writer.write(part << 20, b"x" * (1 << 20)) == wire.OK
                assert other.flush() == wire.IO_ERROR
                proxy.kill()
                subprocess.run(["mount", "-o", "remount,size=100m", folder], check=True)
                proxy.start()
                again = opened(proxy, session=writer.session, incarnation=2,
                               flags=wire.ACTIVE | wire.SHARE_RW | wire.RESUME,
                               volume_uuid=writer.info["volume"], generation=writer.info["generation"])
                told = again.info["generation"] != writer.info["generation"] or again.flush() != wire.OK
                proxy.kill()
                subprocess.run(["sync"], check=True)
                subprocess.run(["blockdev", "--flushbufs", device], check=True)
                with open(device, "rb") as disk:
                    there = disk.read(4 << 20).count(b"x")
                assert told, f"flushed, but only {there} of {4 << 20} bytes are there"
    finally:
        subprocess.run(["umount", folder], check=True)


def test_who_lost_a_block_device_to_a_takeover_has_lost_it_after_a_restart_too(tmp_path):
    with loop_device(tmp_path / "backing.img", 16 << 20) as device:
        with Daemon(tmp_path, {"disk": f"file://{device}"}) as proxy:
            first = opened(proxy, name="the first")
            assert first.write(0, b"1" * 4096) == wire.OK
            first.close_socket()  # cut off
            second = opened(proxy, name="the second", flags=wire.ACTIVE | wire.TAKEOVER)
            assert second.write(0, b"2" * 4096) == wire.OK and second.flush() == wire.OK
            proxy.kill()
            proxy.start()
            with pytest.raises(wire.Refused) as refused:
                opened(proxy, name="the first", session=first.session, incarnation=2,
                       flags=wire.ACTIVE | wire.RESUME, volume_uuid=first.info["volume"],
                       generation=first.info["generation"])
            assert refused.value.status == wire.FENCED


@ROOT
def test_without_a_boot_id_each_start_counts_as_one(tmp_path):
    """What systemd's ProcSubset=pid and a chroot do: a crash of the host would go unnoticed."""
    uri = file_uri(tmp_path / "disk.img")
    prefix = ["unshare", "--mount", *shell("mount -t proc -o subset=pid proc /proc")]
    seen = set()
    for _ in range(2):
        with Daemon(tmp_path, {"disk": uri}, prefix=prefix) as proxy:
            one = opened(proxy)
            seen.add(one.info["generation"])
            one.close()
    assert len(seen) == 2


def test_two_names_of_a_block_device_are_one_volume(tmp_path):
    """Each container has its own device nodes."""
    with loop_device(tmp_path / "backing.img", 16 << 20) as device:
        node = tmp_path / "node"
        os.mknod(node, 0o60600, os.stat(device).st_rdev)
        with Daemon(tmp_path, {"disk": f"file://{device}"}) as first:
            one = opened(first)
            assert one.write(0, b"1" * 4096) == wire.OK
            other_folder = tmp_path / "other"
            other_folder.mkdir()
            with Daemon(other_folder, {"disk": f"file://{node}"}) as second:
                with pytest.raises(wire.Refused) as refused:
                    opened(second)
                assert refused.value.status == wire.BUSY
            assert one.read(0, 4096) == (wire.OK, b"1" * 4096)


@pytest.mark.parametrize("operation", [wire.WRITE_ZEROES, wire.DISCARD])
def test_ranges_smaller_than_the_device_s_blocks(tmp_path, operation):
    """The volume has blocks of 512 bytes, so that 8.12 allows it."""
    with loop_device(tmp_path / "backing.img", 16 << 20, "--sector-size", "4096") as device:
        with Daemon(tmp_path, {"disk": f"file://{device}?direct=off"}) as proxy:
            one = opened(proxy)
            assert one.info["block"] == 512
            assert one.write(0, b"x" * 16384) == wire.OK
            assert one.wait(one.submit(operation, ranges=[(512, 8192)]))[0] == wire.OK
            if operation == wire.WRITE_ZEROES:
                assert one.read(0, 16384)[1] == b"x" * 512 + bytes(8192) + b"x" * 7680


def test_a_block_device_that_shrank_is_not_full(tmp_path):
    backing = tmp_path / "backing.img"
    with loop_device(backing, 16 << 20) as device:
        with Daemon(tmp_path, {"disk": f"file://{device}"}) as proxy:
            one = opened(proxy)
            os.truncate(backing, 8 << 20)
            subprocess.run(["losetup", "--set-capacity", device], check=True)
            assert one.write(12 << 20, bytes(4096)) == wire.IO_ERROR
            assert one.wait(one.submit(wire.WRITE_ZEROES, ranges=[(12 << 20, 4096)]))[0] == wire.IO_ERROR


def test_a_discard_of_many_pieces_holds_up_no_other_volume(tmp_path):
    """It holds the file's lock in the kernel, for which a write's io_submit waits on the loop."""
    path = tmp_path / "disk.img"
    path.write_bytes(b"")
    subprocess.run(["fallocate", "--length", "1G", path], check=True)
    with open(path, "r+b") as file:
        fallocate = ctypes.CDLL(None).fallocate
        fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_long, ctypes.c_long]
        for offset in range(0, 1 << 30, 16384):
            if fallocate(file.fileno(), 3, offset, 8192) != 0:
                pytest.skip("no holes can be made here")
        os.fsync(file.fileno())
    with Daemon(tmp_path, {"disk": f"file://{path}", "other": "memory:?size=1M"}) as proxy:
        # A slow disk takes its time for so many pieces, and may: it is the others that do not wait
        one, other = opened(proxy, timeout=300), opened(proxy, volume="other")
        discard = one.submit(wire.DISCARD, ranges=[(0, 1 << 30)])
        write = one.submit(wire.WRITE, 8192, data=bytes(4096))
        with concurrent.futures.ThreadPoolExecutor(1) as executor:
            statuses = executor.submit(lambda: [one.wait(tag)[0] for tag in (write, discard)])
            longest = 0
            while not statuses.done():
                asked = time.monotonic()
                assert other.read(0, 512)[0] == wire.OK
                longest = max(longest, time.monotonic() - asked)
            assert statuses.result() == [wire.OK, wire.OK]
        assert longest < 1


def test_the_end_of_a_proxy_leaves_its_successor_s_socket(tmp_path):
    path = tmp_path / "proxy.sock"
    other_folder = tmp_path / "other"
    other_folder.mkdir()
    where = {"listen": (f"unix://{path}",)}
    with Daemon(tmp_path, {"disk": "memory:?size=1M"}, **where) as first:
        path.unlink()
        with Daemon(other_folder, {"disk": "memory:?size=1M"}, **where) as second:
            first.stop()
            assert opened(second).write(0, bytes(512)) == wire.OK


def test_a_file_that_was_begun_is_made(tmp_path):
    """A crash may come between its name and its size."""
    path = tmp_path / "disk.img"
    path.touch()
    with Daemon(tmp_path, {"disk": file_uri(path, "1M")}) as proxy:
        assert opened(proxy).info["size"] == 1 << 20


def test_what_hangs_behind_an_open_does_not_outlast_the_proxy_s_patience(tmp_path):
    source = tmp_path / "hang.c"
    source.write_text("#include <unistd.h>\nint fsync(int fd) { (void)fd; for (;;) pause(); }\n")
    library = tmp_path / "hang.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source], check=True)
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(1 << 20))
    with Daemon(tmp_path, {"disk": f"file://{path}"}, prefix=["env", f"LD_PRELOAD={library}"]) as proxy:
        one = wire.Client(proxy.address)
        one.hello()
        one.open(wait=False)
        proxy.wait_for_log("active for")
        proxy.process.terminate()
        assert proxy.process.wait(45) in (0, 1)


def test_a_file_that_was_used_and_is_empty_is_not_made_anew(tmp_path):
    path = tmp_path / "disk.img"
    with Daemon(tmp_path, {"disk": file_uri(path, "1M")}) as proxy:
        one = opened(proxy)
        proxy.kill()
        os.truncate(path, 0)
        assert proxy.launch().process.wait(30) == 1
        assert "somebody has used it" in proxy.log()
        assert one.info["size"] == 1 << 20 and path.stat().st_size == 0


def test_parts_of_a_file_as_devices_are_different_volumes(tmp_path):
    path = tmp_path / "backing.img"
    with contextlib.ExitStack() as stack:
        parts = [stack.enter_context(loop_device(path, 32 << 20, "--offset", offset, "--sizelimit", "16M"))
                 for offset in ("0", "16M")]
        with Daemon(tmp_path, {f"d{i}": f"file://{part}" for i, part in enumerate(parts)}) as proxy:
            holders = [opened(proxy, volume=f"d{i}") for i in range(2)]
            proxy.kill()
            proxy.start()
            for i, holder in enumerate(holders):
                opened(proxy, volume=f"d{i}", session=holder.session, incarnation=2, flags=wire.ACTIVE | wire.RESUME,
                       volume_uuid=holder.info["volume"], generation=holder.info["generation"])


@ROOT
def test_a_block_device_without_proc(tmp_path):
    prefix = ["unshare", "--mount", *shell("mount -t tmpfs none /proc")]
    with loop_device(tmp_path / "backing.img", 16 << 20) as device:
        with Daemon(tmp_path, {"disk": f"file://{device}"}, prefix=prefix) as proxy:
            assert opened(proxy).write(0, bytes(4096)) == wire.OK


@ROOT
def test_too_few_threads_for_the_loops_are_an_error(tmp_path):
    """Shown by the line that says so, and no abort."""
    prefix = few_threads(tmp_path, 64322)
    proxy = Daemon(tmp_path, {"disk": "memory:?size=1M"}, "--threads", "16", prefix=prefix).launch()
    assert proxy.process.wait(30) == 1
    assert "cannot start a thread" in proxy.log()


def test_who_does_not_open_a_volume_in_time_is_dropped(tmp_path):
    """4.3. Else whoever connects and says nothing would take the proxy's descriptors for good."""
    with Daemon(tmp_path, {"disk": "memory:?size=1M"}) as proxy:
        user = opened(proxy)
        begun = time.monotonic()
        late = [wire.Client(proxy.address, timeout=60) for _ in range(3)]
        late[1].sock.sendall(wire.frame(wire.HELLO)[:20])
        late[2].hello()
        for one in late:
            with pytest.raises(wire.Refused, match="within 30 seconds"):
                one.expect(wire.OPEN_REPLY)
            with pytest.raises(wire.Disconnected):
                one.receive()
        # They were given the time that the protocol grants them
        assert time.monotonic() - begun >= 29.5
        assert user.write(0, bytes(4096)) == wire.OK


def test_the_end_of_its_terminal_ends_it_in_order(tmp_path):
    """Unless it was told not to mind."""
    with Daemon(tmp_path, {"disk": "memory:?size=1M"}) as proxy:
        opened(proxy)
        proxy.process.send_signal(signal.SIGHUP)
        assert proxy.process.wait(30) == 0
        assert "stopping on signal 1" in proxy.log()
    with Daemon(tmp_path, {"disk": "memory:?size=1M"}, prefix=["nohup"]) as proxy:
        proxy.process.send_signal(signal.SIGHUP)
        assert opened(proxy).write(0, bytes(4096)) == wire.OK
        assert proxy.stop() == 0


def test_an_output_that_takes_no_line_is_told_of(tmp_path):
    listen = [f"unix://{tmp_path}/socket"]
    proxy = Daemon(tmp_path, {"disk": "memory:?size=1M"}, listen=listen, prefix=shell("exec >/dev/full")).launch()
    proxy.wait_for_log("nobody is told of the addresses")
    one = wire.Client(f"{tmp_path}/socket")
    one.hello()
    assert one.open().write(0, bytes(4096)) == wire.OK
    assert proxy.stop() == 0
