# SPDX-License-Identifier: GPL-2.0-or-later
"""The cloudblk command line against NBD servers."""

import contextlib
import json
import pathlib
import random
import socket
import subprocess
import tempfile
import threading
import time

import pytest

from tests.support.nbd_server import Nbdkit, QemuNbd, ReferenceServer, free_port
from tests.support.paths import CLIENT
from tests.support.virtio import poll
from tests.tools.test_commands import MIB, allocated, as_json, cloudblk, noise, output


def test_what_the_server_promises_is_shown(server):
    found = as_json("info", server.uri())
    assert found["protocol"] == "NBD" and found["size"] == server.size
    assert found["promises-flush"] and not found["promises-fencing"] and not found["promises-one-holder"]
    assert b"answered in" in output("ping", "--count", "2", server.uri())


def test_what_is_written_is_read(server, tmp_path):
    data = noise(server.size)
    assert as_json("write", server.uri(), data=data) == {"bytes": server.size}
    assert output("read", server.uri()) == data
    output("write", "--offset", "1M", server.uri(), data=bytes(MIB))
    data = data[:MIB] + bytes(MIB) + data[2 * MIB :]
    assert output("read", server.uri()) == data
    output("flush", server.uri())
    if server.path and server.path.stat().st_size == server.size:
        assert server.path.read_bytes() == data


@pytest.mark.feature("TRIM gives room back")
def test_a_discard_gives_room_back(server):
    if not server.path or not as_json("info", server.uri())["max-discard"]:
        pytest.skip("this server does not discard, or shows nothing of it")
    output("write", server.uri(), data=noise(8 * MIB))
    before = allocated(server.path)
    output("discard", "--length", "8M", server.uri())
    output("flush", server.uri())
    assert allocated(server.path) <= before - 7 * MIB


def joined(extents):
    """(offset, length, hole, zero), neighbours that are alike as one."""
    found = []
    for offset, length, hole, zero in extents:
        if found and found[-1][2:] == (hole, zero):
            offset, before, _, _ = found.pop()
            length += before
        found.append((offset, length, hole, zero))
    return found


def theirs(uri):
    listed = json.loads(subprocess.check_output(["nbdinfo", "--map", "--json", uri.split("?")[0]]))
    return joined((e["offset"], e["length"], bool(e["type"] & 1), bool(e["type"] & 2)) for e in listed)


def ours(uri, *arguments):
    return [tuple(extent[k] for k in ("offset", "length", "hole", "zero")) for extent in as_json("map", *arguments, uri)]


@pytest.mark.feature("cloudblk map is what nbdinfo --map says")
def test_where_there_is_data_is_told(server):
    uri = server.uri()
    refused = cloudblk("map", uri)
    if refused.returncode:
        assert b"does not tell where the volume has data" in refused.stderr
        assert isinstance(server, ReferenceServer)
        pytest.skip("this server does not tell")
    assert ours(uri) == theirs(uri)
    for i in range(40):
        output("write", "--offset", str(i * MIB), uri, data=noise(65536, i))
    output("write", "--no-sparse", "--offset", "50M", uri, data=bytes(MIB))
    output("flush", uri)
    found = ours(uri)
    assert found == theirs(uri)
    assert sum(not zero for *_, zero in found) >= 40
    assert ours(uri, "--offset", str(MIB), "--length", "65536") == [(MIB, 65536, False, False)]


@pytest.mark.feature("cloudblk bench --verify, 512 bytes to 1 MiB")
@pytest.mark.parametrize("pattern", ["randrw", "rw"])
@pytest.mark.parametrize("size", ["512", "4k", "64k", "1M"])
def test_verified_load(server, pattern, size):
    depth = "4" if size == "1M" else "32"
    said = as_json("bench", "--pattern", pattern, "--size", size, "--depth", depth, "--seconds", "0.5", "--verify",
                   server.uri())  # fmt: skip
    assert said["verified-reads"] > 0 and said["reconnects"] == 0


@pytest.mark.parametrize("end", ["kill", "stop"])
def test_a_server_that_is_started_anew_is_come_back_to(server, end):
    """Raw files lose nothing, so that the load sees no error and no other content."""
    if not server.keeps_unflushed:
        pytest.skip("this server loses what was not flushed")
    uri = server.uri("quarantine=1")
    with subprocess.Popen(
        [CLIENT, "--json", "bench", "--pattern", "randrw", "--seconds", "6", "--verify", uri],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as load:
        for _ in range(2):
            time.sleep(1.5)  # of load
            getattr(server, end)()
            server.start()
        said, errors = load.communicate(timeout=60)
    assert load.returncode == 0, errors
    assert b'"reconnects": 2' in said, said


# --- What is wrong is one line that says what to do.


def line_of(*arguments):
    result = cloudblk(*arguments)
    lines = result.stderr.decode().splitlines()
    assert result.returncode == 1 and len(lines) == 1, result
    return lines[0]


@contextlib.contextmanager
def nbdkit(*words):
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        # It is written once the port is open. To connect would be a first client.
        pid = pathlib.Path(folder, "pid")
        command = ["nbdkit", "-f", "--log=null", "-P", pid, "-i", "127.0.0.1", "-p", str(port), *words]
        with subprocess.Popen(command, stdin=subprocess.DEVNULL) as process:
            try:
                poll(lambda: pid.exists() or process.poll() is not None, "nbdkit")
                assert process.poll() is None, f"{command} ended"
                yield port
            finally:
                process.kill()


def test_an_unknown_export(tmp_path):
    with QemuNbd(tmp_path) as server:
        line = line_of("info", f"nbd://127.0.0.1:{server.port}/other")
        assert "there is no export 'other' there" in line


def test_a_server_that_wants_tls(tmp_path):
    (tmp_path / "keys.psk").write_text("alice:" + "00" * 32 + "\n")
    with nbdkit("--tls=require", f"--tls-psk={tmp_path}/keys.psk", "memory", "1M") as port:
        assert "wants TLS" in line_of("info", f"nbd://127.0.0.1:{port}/")


def test_an_oldstyle_server():
    with nbdkit("--oldstyle", "memory", "1M") as port:
        assert "oldstyle" in line_of("info", f"nbd://127.0.0.1:{port}/")


def test_an_export_of_nothing():
    with nbdkit("memory", "0") as port:
        assert "has 0 bytes" in line_of("info", f"nbd://127.0.0.1:{port}/")


def test_an_odd_size_is_rounded_down_and_said():
    with nbdkit("memory", "1000000") as port:
        result = cloudblk("info", "--json", f"nbd://127.0.0.1:{port}/")
        assert result.returncode == 0 and b'"size": 999936' in result.stdout
        assert b"the last 64 bytes of the export" in result.stderr
        result = cloudblk("write", f"nbd://127.0.0.1:{port}/", data=noise(999936))
        assert result.returncode == 0 and result.stderr.count(b"\n") == 1
        assert cloudblk("read", f"nbd://127.0.0.1:{port}/").stdout == noise(999936)


def test_a_port_that_speaks_something_else():
    with socket.create_server(("127.0.0.1", 0)) as other:

        def greet():
            for _ in range(2):
                with contextlib.suppress(OSError), other.accept()[0] as connection:
                    connection.sendall(b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n")
                    connection.recv(1)

        threading.Thread(target=greet, daemon=True).start()
        line = line_of("info", f"nbd://127.0.0.1:{other.getsockname()[1]}/")
        assert "no NBD server" in line and "check the port" in line


def test_a_server_without_flush():
    words = ["get_size=echo 1048576", "pread=head -c $3 /dev/zero", "pwrite=cat >/dev/null", "can_write=exit 0",
             "can_flush=exit 3"]  # fmt: skip
    with nbdkit("eval", *words) as port:
        uri = f"nbd://127.0.0.1:{port}/"
        assert as_json("info", uri)["promises-flush"] is False
        assert output("read", "--length", "4k", uri) == bytes(4096)
        assert "noflush=accept" in line_of("write", uri, "/dev/null")
        output("write", uri + "?noflush=accept", data=noise(4096))


def test_a_read_only_export():
    with nbdkit("-r", "memory", "1M") as port:
        uri = f"nbd://127.0.0.1:{port}/"
        assert as_json("info", uri)["read-only"]
        assert "read-only" in line_of("write", uri, "/etc/hostname")
        assert output("read", uri) == bytes(MIB)


@pytest.mark.parametrize("sizes", [(512, 4096, 65536), (4096, 4096, 4096), (1, 512, 1 << 20)])
def test_block_sizes_are_kept_to(sizes):
    """The filter refuses what does not."""
    least, preferred, most = sizes
    words = [f"blocksize-minimum={least}", f"blocksize-preferred={preferred}", f"blocksize-maximum={most}",
             "blocksize-error-policy=error"]  # fmt: skip
    with nbdkit("--filter=blocksize-policy", "memory", "8M", *words) as port:
        uri = f"nbd://127.0.0.1:{port}/"
        data = noise(8 * MIB)
        output("write", uri, data=data)
        assert output("read", uri) == data
        said = as_json("bench", "--pattern", "randrw", "--size", "128k", "--seconds", "0.3", "--verify", uri)
        assert said["verified-reads"] > 0


def test_errors_of_the_server_are_those_of_the_request():
    with nbdkit("--filter=error", "memory", "1M", "error-pwrite=ENOSPC", "error-pwrite-rate=100%") as port:
        uri = f"nbd://127.0.0.1:{port}/"
        assert output("read", uri) == bytes(MIB)
        result = cloudblk("write", uri, data=noise(4096))
        assert result.returncode == 1 and b"No space left" in result.stderr


def test_errors_that_the_server_tries_again_itself_are_not_seen():
    words = ["--filter=retry-request", "--filter=error", "memory", "1M", "retry-request-delay=1",
             "retry-request-retries=20", "error-pread=EIO", "error-pread-rate=50%"]  # fmt: skip
    with nbdkit(*words) as port:
        assert output("read", f"nbd://127.0.0.1:{port}/") == bytes(MIB)


def test_a_server_with_a_limited_rate():
    with nbdkit("--filter=rate", "memory", "1M", "rate=8M") as port:
        uri = f"nbd://127.0.0.1:{port}/"
        output("write", uri, data=noise(MIB))
        assert output("read", uri) == noise(MIB)


def test_a_server_that_ends_with_its_last_client():
    with nbdkit("--filter=exitlast", "memory", "1M") as port:
        assert as_json("info", f"nbd://127.0.0.1:{port}/")["size"] == MIB
        with pytest.raises(ConnectionRefusedError):
            while True:
                socket.create_connection(("127.0.0.1", port)).close()


def test_a_server_that_is_slow_is_not_taken_for_dead():
    """Liveness is TCP's alone: no answer for longer than server-timeout is no reason to leave."""
    with nbdkit("--filter=noextents", "--filter=delay", "memory", "1M", "delay-read=3") as port:
        uri = f"nbd://127.0.0.1:{port}/"
        began = time.monotonic()
        result = cloudblk("read", "--server-timeout", "1", "--length", "4096", uri)
        assert result.returncode == 0 and result.stdout == bytes(4096)
        assert b"has not answered for 1 s" in result.stderr and b"lost" not in result.stderr
        assert time.monotonic() - began >= 3


def test_what_only_cloudblk_has_is_refused():
    uri = f"nbd://127.0.0.1:{free_port()}/"
    assert "takeover" in line_of("flush", "--takeover", uri)
    assert "payload-crc" in line_of("flush", "--payload-crc", uri)
    assert "failover=unfenced" in line_of("flush", f"nbd://127.0.0.1:{free_port()},127.0.0.1:{free_port()}/")


def test_resize_is_the_server_s(server):
    assert "cannot be asked for another size" in line_of("resize", server.uri(), "128M")


def test_random_positions_and_lengths(server):
    draw = random.Random(7)
    content = bytearray(noise(8 * MIB))
    output("write", server.uri(), data=bytes(content))
    for _ in range(20):
        offset = draw.randrange(0, 8 * MIB // 4096) * 4096
        length = min(draw.choice([4096, 12288, 1 << 20]), 8 * MIB - offset)
        data = draw.choice([bytes(length), draw.randbytes(length)])
        output("write", "--offset", str(offset), server.uri(), data=data)
        content[offset : offset + length] = data
    assert output("read", "--length", "8M", server.uri()) == bytes(content)


# --- nbd-check


@pytest.mark.feature("cloudblk nbd-check --write finds nothing")
def test_what_a_server_promises_is_tried(server):
    found = as_json("nbd-check", "--write", server.uri())
    assert found["size"]["promised"] == f"{server.size} bytes"
    assert found["FLUSH"] == {"promised": "yes", "tried": "works", "broken": False}
    assert found["READ"]["tried"] == "works"
    assert not any(finding["broken"] for finding in found.values()), found
    text = output("nbd-check", server.uri()).decode()
    assert "several connections" in text and "promised" in text


def test_what_a_server_only_claims_is_told():
    words = ["get_size=echo 1048576", "pread=head -c $3 /dev/zero", "can_write=exit 0", "pwrite=cat >/dev/null",
             "can_flush=exit 0", "flush=echo EIO no >&2; exit 1", "can_multi_conn=exit 0"]  # fmt: skip
    with nbdkit("eval", *words) as port:
        result = cloudblk("nbd-check", f"nbd://127.0.0.1:{port}/")
        assert result.returncode == 1
        assert any(b"FLUSH" in line and b"not as promised" in line for line in result.stdout.splitlines()), result


def test_nbd_check_is_for_nbd():
    assert "nbd://" in line_of("nbd-check", "cloudblk://127.0.0.1:1/x")
    assert "cannot open" in line_of("nbd-check", f"nbd://127.0.0.1:{free_port()}/x")
