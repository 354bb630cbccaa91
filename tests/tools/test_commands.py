# SPDX-License-Identifier: GPL-2.0-or-later
"""The cloudblk command line against a proxy."""

import contextlib
import fcntl
import json
import os
import pathlib
import pty
import random
import select
import signal
import socket
import subprocess
import termios
import time

import pytest

from tests.support.paths import CLIENT
from tests.support.proxy import Proxy
from tests.support.virtio import poll

MIB = 1 << 20
SIZE = 8 * MIB


@pytest.fixture
def path(tmp_path):
    return tmp_path / "disk.img"


@pytest.fixture
def proxy(path):
    volumes = {"d0": f"file://{path}?size={SIZE}&create=on", "reader": f"file://{path}?read-only=on"}
    with Proxy(volumes) as started:
        yield started


def cloudblk(*arguments, data=b""):
    return subprocess.run(
        [str(word) for word in (CLIENT, *arguments)], input=data, capture_output=True, timeout=120, check=False
    )


def output(*arguments, data=b""):
    """What a command that must succeed prints."""
    result = cloudblk(*arguments, data=data)
    assert result.returncode == 0 and result.stderr == b"", result
    return result.stdout


def as_json(*arguments, data=b""):
    return json.loads(output("--json", *arguments, data=data))


def noise(size, seed=1):
    return random.Random(seed).randbytes(size)


def allocated(path):
    return path.stat().st_blocks * 512


def test_info(proxy):
    uri = proxy.uri("d0")
    found = as_json("info", uri)
    assert found["size"] == SIZE and found["logical-block-size"] in (512, 4096)
    assert not found["read-only"] and found["write-cache"] and len(found["uuid"]) == 36
    text = output("info", uri).decode()
    assert f"{SIZE} (8.0 MiB)" in text and found["uuid"] in text
    assert len(text.splitlines()) == len(found)
    assert as_json("info", proxy.uri("reader"))["read-only"]


def test_a_proxy_without_a_host_serves_every_address(path):
    with Proxy({"d0": f"file://{path}?size={SIZE}&create=on"}, ["--insecure"], "tcp://:0") as proxy:
        port = proxy.address.rpartition(":")[2]
        hosts = ["127.0.0.1"]
        if pathlib.Path("/proc/net/if_inet6").exists():
            hosts.append("[::1]")
        for host in hosts:
            assert as_json("info", f"cloudblk://{host}:{port}/d0")["size"] == SIZE, host


def test_info_does_not_disturb_the_holder(proxy):
    uri = proxy.uri("d0")
    with subprocess.Popen([CLIENT, "write", uri], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        holder.stdin.write(noise(MIB))
        holder.stdin.flush()
        # It waits for the rest, and has the volume as soon as somebody else is refused.
        while b"in use" not in cloudblk("flush", uri).stderr:
            pass
        assert as_json("info", uri)["size"] == SIZE
        assert as_json("ping", "--count", "2", uri)["count"] == 2
        out, _ = holder.communicate(noise(MIB))
        assert out == b"%d bytes written and flushed\n" % (2 * MIB) and holder.returncode == 0


@pytest.mark.parametrize("command", ("write", "read"))
def test_a_holder_that_waits_for_a_pipe_is_still_there(proxy, command):
    """Somebody else asks for the volume for longer than a silent holder keeps it."""
    uri = proxy.uri("d0")
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([CLIENT, command, uri], **pipes) as holder:
        if command == "write":
            holder.stdin.write(noise(MIB))
            holder.stdin.flush()
        while b"in use" not in cloudblk("flush", uri).stderr:
            pass
        end = time.monotonic() + 8
        while time.monotonic() < end:
            assert b"in use" in cloudblk("flush", uri).stderr
        out, _ = holder.communicate(noise(MIB) if command == "write" else None)
        assert holder.returncode == 0
        assert len(out) == SIZE or b"flushed" in out


def test_ping(proxy):
    lines = output("ping", "--count", "3", proxy.uri("d0")).decode().splitlines()
    assert len(lines) == 3 and all("answered in" in line for line in lines)
    found = as_json("ping", "--count", "3", proxy.uri("d0"))
    assert found["count"] == 3 and 0 < found["median-ms"] <= found["max-ms"]


def test_what_is_written_is_read(proxy, path, tmp_path):
    uri, data = proxy.uri("d0"), noise(SIZE)
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(data)
    assert output("write", uri, source) == b"%d bytes written and flushed\n" % SIZE
    assert path.read_bytes() == data
    assert as_json("read", uri, target) == {"bytes": SIZE}
    assert target.read_bytes() == data
    assert output("read", uri) == data


def test_a_part_at_any_place(proxy):
    uri, data = proxy.uri("d0"), noise(SIZE)
    output("write", uri, data=data)
    for offset, length in ((0, 1), (1, 511), (4095, 2), (MIB - 3, MIB + 7), (SIZE - 1, 1)):
        assert output("read", "--offset", offset, "--length", length, uri) == data[offset : offset + length]
    assert output("read", "--offset", "4M", uri, "-") == data[4 * MIB :]
    fresh = noise(8192, seed=2)
    assert as_json("write", "--offset", "64k", uri, data=fresh) == {"bytes": 8192}
    assert output("read", uri) == data[:65536] + fresh + data[65536 + 8192 :]
    # Of a longer input, only so much.
    assert as_json("write", "--length", "4k", uri, data=noise(MIB, seed=3)) == {"bytes": 4096}
    assert output("read", "--length", "8k", uri) == noise(MIB, seed=3)[:4096] + data[4096:8192]


def test_discard(proxy, path):
    uri, data = proxy.uri("d0"), noise(SIZE)
    output("write", uri, data=data)
    assert allocated(path) >= SIZE
    assert as_json("discard", "--offset", "1M", "--length", "6M", uri) == {"bytes": 6 * MIB}
    assert allocated(path) < 3 * MIB
    assert output("read", uri) == data[:MIB] + bytes(6 * MIB) + data[-MIB:]


def test_who_has_the_volume_is_named(proxy):
    with subprocess.Popen([CLIENT, "write", proxy.uri("d0"), "-"], stdin=subprocess.PIPE) as holder:
        holder.stdin.write(bytes(1 << 20))
        holder.stdin.flush()

        def refused():
            return cloudblk("flush", "--timeout", "1000", proxy.uri("d0")).stderr.decode()

        poll(lambda: f"cloudblk write, pid {holder.pid}" in refused(), "the holder's name")
        holder.stdin.close()
        assert holder.wait(30) == 0


def test_a_server_that_is_not_there_is_waited_for_and_named():
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        uri = f"cloudblk://127.0.0.1:{nobody.getsockname()[1]}/d0"
        lines = cloudblk("info", uri).stderr.decode().splitlines()
    assert len(lines) == 2, lines
    assert lines[0].startswith("cloudblk: waiting (30000 ms at most): ") and "Connection refused" in lines[0]
    assert lines[1].endswith("Connection refused; start cloudblk-proxy there, or correct the server URI")


def test_flush(proxy):
    assert output("flush", proxy.uri("d0")) == b"flushed\n"
    assert as_json("flush", proxy.uri("d0")) == {"flushed": True}


def test_resize(proxy, path):
    uri, data = proxy.uri("d0"), noise(SIZE)
    output("write", uri, data=data)
    assert as_json("resize", uri, "16M") == {"size": 2 * SIZE, "size-before": SIZE}
    assert path.stat().st_size == as_json("info", uri)["size"] == 2 * SIZE
    refused = cloudblk("resize", uri, "4M")
    assert refused.returncode == 1 and b"add --force" in refused.stderr
    assert path.stat().st_size == 2 * SIZE
    assert output("resize", "--force", uri, "4M") == b"%d bytes, was %d\n" % (SIZE // 2, 2 * SIZE)
    output("resize", uri, SIZE)
    assert output("read", uri) == data[: SIZE // 2] + bytes(SIZE // 2)


def test_a_resize_survives_the_proxy(proxy):
    """Which is started with the size that the volume was made with."""
    uri = proxy.uri("d0")
    output("resize", uri, "16M")
    proxy.kill()
    proxy.start()
    assert as_json("info", uri)["size"] == 2 * SIZE


# Arguments ({uri} is the volume's), standard input, and what the one line says
MISTAKES = {
    "no such volume": (["info", "{uri}x"], b"", "there is no volume 'd0x'"),
    "no URI": (["info", "d0"], b"", "cloudblk://"),
    "read beyond the end": (["read", "--offset", "8M", "--length", "1", "{uri}"], b"", "beyond the end"),
    "input too long": (["write", "{uri}"], bytes(SIZE + 512), "longer than the volume"),
    "input in no blocks": (["write", "{uri}"], bytes(700), "block size"),
    "input ends early": (["write", "--length", "1M", "{uri}"], bytes(512), "the input ended after 512"),
    "odd offset": (["write", "--offset", "100", "{uri}"], bytes(512), "multiple of"),
    "no such file": (["write", "{uri}", "/nonexistent/file"], b"", "cannot open /nonexistent/file"),
    "discard of what": (["discard", "{uri}"], b"", "--length"),
    "discard of half a block": (["discard", "--length", "100", "{uri}"], b"", "multiples of the volume's block size"),
    "discard of nothing": (["discard", "--length", "0", "{uri}"], b"", "not 0"),
    "discard from half a block": (["discard", "--offset", "3", "--length", "1k", "{uri}"], b"", "multiples of"),
    "discard beyond the end": (["discard", "--offset", "4M", "--length", "5M", "{uri}"], b"", "beyond the end"),
    "read-only discard": (["discard", "--length", "1k", "{reader}"], b"", "is read-only"),
    "read-only": (["write", "{reader}"], bytes(512), "read-only"),
    "odd size": (["resize", "{uri}", "1000"], b"", "multiple of"),
    "no time": (["bench", "--seconds", "nan", "{uri}"], b"", "no time to measure"),
    "time back": (["bench", "--seconds", "-1", "{uri}"], b"", "no time to measure"),
    "huge buffers": (["bench", "--depth", "65536", "--size", "64k", "{uri}"], b"", "of memory"),
    "size 0": (["resize", "--force", "{uri}", "0"], b"", "not 0"),
    "read-only resize": (["resize", "{reader}", "16M"], b"", "is read-only"),
}


@pytest.mark.parametrize(
    "size, options, says",
    [
        (2 * MIB + 700, [], "block size"),
        (SIZE + 512, [], "longer than the volume"),
        (SIZE, ["--offset", "7M"], "longer than the volume"),
        (MIB, ["--length", "2M"], f"ended after {MIB} of {2 * MIB}"),
        (MIB, ["--length", "700"], "block size"),
    ],
)
@pytest.mark.parametrize("kind", ["file", "stdin", "pipe"])
def test_what_was_written_of_a_wrong_input_is_told(proxy, tmp_path, kind, size, options, says):
    """Nothing if that is known before; of a pipe all whole blocks that there is room for."""
    uri, before, data = proxy.uri("d0"), noise(SIZE, seed=2), noise(size)
    output("write", uri, data=before)
    source = tmp_path / "source"
    source.write_bytes(data)
    if kind == "file":
        result = cloudblk("write", *options, uri, source)
    elif kind == "stdin":
        # What comes before is not part of it.
        source.write_bytes(bytes(1000) + data)
        with source.open("rb") as opened:
            opened.seek(1000)
            result = subprocess.run([CLIENT, "write", *options, uri], stdin=opened, capture_output=True, check=False)
    else:
        result = cloudblk("write", *options, uri, data=data)
    assert result.returncode == 1 and result.stdout == b"" and says in result.stderr.decode(), result
    at = 7 * MIB if "--offset" in options else 0
    block = as_json("info", uri)["logical-block-size"]
    begun = kind == "pipe" and "700" not in options
    written = min(size, SIZE - at) // block * block if begun else 0
    told = f"; {written} bytes were written and flushed\n" if begun else "; nothing was written\n"
    assert result.stderr.decode().endswith(told), result
    assert output("read", uri) == before[:at] + data[:written] + before[at + written :]


@pytest.mark.parametrize(
    "command", [["read"], ["info"], ["--json", "info"], ["ping", "--count", "300"], ["flush"]], ids=" ".join
)
@pytest.mark.parametrize("kind", ["full", "closed"])
def test_what_cannot_be_written_to_stdout_is_no_success(proxy, command, kind):
    line = [CLIENT, *command, proxy.uri("d0")]
    with open("/dev/full", "wb") as full:
        if kind == "closed":
            line = ["sh", "-c", 'exec "$@" >&-', "sh", *line]
        result = subprocess.run(line, stdout=full, stderr=subprocess.PIPE, check=False)
    assert result.returncode == 1, result
    says = b"No space left" if kind == "full" else b"Bad file descriptor"
    assert says in result.stderr and result.stderr.count(b"\n") == 1


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_one_line(proxy, mistake):
    arguments, data, says = MISTAKES[mistake]
    uris = {"uri": proxy.uri("d0"), "reader": proxy.uri("reader")}
    result = cloudblk(*(word.format(**uris) for word in arguments), data=data)
    lines = result.stderr.decode().splitlines()
    assert result.returncode == 1 and len(lines) == 1 and result.stdout == b"", result
    assert lines[0].startswith("cloudblk: ") and says in lines[0]


@contextlib.contextmanager
def holding(uri, path):
    """A client that has the volume of that file, and still has it at the end."""
    chunk = b"h" * (256 << 10)
    holder = subprocess.Popen([CLIENT, "write", uri], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        holder.stdin.write(chunk)
        holder.stdin.flush()
        while not path.read_bytes().startswith(chunk):
            assert holder.poll() is None
        yield
        said, errors = holder.communicate(chunk)
        assert holder.returncode == 0 and said == b"%d bytes written and flushed\n" % (2 * len(chunk)), errors
    finally:
        holder.kill()
        holder.communicate()


WRITABLE = {name: case for name, case in MISTAKES.items() if "{reader}" not in case[0]}
TAKERS = [name for name, case in WRITABLE.items() if case[0][0] in ("read", "write", "discard", "bench")]


@pytest.mark.parametrize("mistake", [*TAKERS, "a folder", "no room for the output"])
def test_a_mistake_costs_the_holder_nothing(proxy, path, tmp_path, mistake):
    others = {
        "a folder": (["write", "{uri}", str(tmp_path)], b"", "Is a directory"),
        "no room for the output": (["read", "{uri}", "/nonexistent/file"], b"", "cannot open"),
    }
    arguments, data, says = {**MISTAKES, **others}[mistake]
    if data:  # of a file it is known before
        source = tmp_path / "source"
        source.write_bytes(data)
        arguments = [*arguments, source]
    with holding(proxy.uri("d0"), path):
        result = cloudblk(*(str(word).format(uri=proxy.uri("d0")) for word in arguments), "--takeover")
        assert result.returncode == 1 and says in result.stderr.decode(), result


def test_an_unknown_command_is_named():
    assert cloudblk("--json", "resise", "x").stderr == b"cloudblk: there is no command 'resise'; see --help\n"


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["frobnicate"],
        ["info"],
        ["read", "--offset", "big", "{uri}"],
        ["resize", "{uri}"],
        ["resize", "{uri}", "big"],
        ["ping", "--count", "0", "{uri}"],
        ["bench", "--count", "-1", "{uri}"],
        ["bench", "--depth", "0", "{uri}"],
        ["bench", "--depth", "65537", "{uri}"],
        ["read", "--length", "-1", "{uri}"],
        ["read", "--offset", "-512", "{uri}"],
        ["resize", "{uri}", "--", "-512"],
        ["resize", "{uri}", "9223372036854775808"],
        ["resize", "{uri}", "9999999999T"],
        ["write", "--length", "99999999999999999999", "{uri}"],
        ["read", "--length", "0x10", "{uri}"],
        ["info", "--timeout", "-1", "{uri}"],
        ["info", "--timeout", "0x10", "{uri}"],
        ["bench", "--depth", "", "{uri}"],
    ],
)
def test_what_cannot_be_parsed_is_told_with_the_way_to_the_help(proxy, arguments):
    result = cloudblk(*(word.format(uri=proxy.uri("d0")) for word in arguments))
    lines = result.stderr.decode().splitlines()
    assert result.returncode == 2 and len(lines) == 1 and result.stdout == b"", result
    assert lines[0].startswith("cloudblk: ") and lines[0].endswith("; see --help") and len(lines[0]) < 200


def test_numbers_are_decimal(proxy):
    assert "depth 10:" in output("bench", "--depth", "010", "--count", "010", proxy.uri("d0")).decode()
    assert len(output("read", "--length", "010", proxy.uri("d0"))) == 10
    assert len(output("read", "--length", "010k", proxy.uri("d0"))) == 10 << 10


def test_no_input_is_not_an_empty_one(proxy):
    command = ["sh", "-c", 'exec "$0" "$@" <&-', *map(str, (CLIENT, "write", proxy.uri("d0"), "-"))]
    result = subprocess.run(command, capture_output=True, check=False, timeout=60)
    assert result.returncode == 1 and b"cannot read -" in result.stderr and not result.stdout


# The first waits for input, the second for somebody who takes its output
ENDLESS = {"write": (), "read": (), "bench": ("--pattern", "randrw", "--seconds", "1000")}


@contextlib.contextmanager
def busy_command(command, uri, path):
    """A command that has the volume, whose file is at `path`, and does not end by itself."""
    pipes = {name: subprocess.PIPE for name in ("stdin", "stdout", "stderr")}
    before = path.stat().st_mtime_ns
    process = subprocess.Popen([str(word) for word in (CLIENT, command, uri, *ENDLESS[command])], **pipes)
    try:
        if command == "read":
            process.stdout.read(1)
        elif command == "write":
            # More than a pipe holds
            process.stdin.write(noise(MIB))
            process.stdin.flush()
        else:
            while path.stat().st_mtime_ns == before:
                assert process.poll() is None
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("command", ENDLESS)
def test_an_interrupted_command_gives_the_volume_back(proxy, path, command, number):
    uri = proxy.uri("d0")
    with busy_command(command, uri, path) as process:
        process.send_signal(number)
        assert process.wait(timeout=30) == -number
        assert process.stderr.read() == b"cloudblk: interrupted\n"
    # Long before its lease would have expired
    output("flush", uri, "--timeout", "3000")


def test_a_command_whose_server_is_gone_can_be_interrupted(proxy, path):
    with busy_command("bench", proxy.uri("d0"), path) as process:
        proxy.kill()
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == -signal.SIGINT
        assert process.stderr.read().endswith(b"cloudblk: interrupted\n")


def test_an_alarm_that_was_set_before_ends_it(proxy):
    def limit():
        signal.alarm(1)

    command = [CLIENT, "bench", proxy.uri("d0"), "--pattern", "randread", "--seconds", "30"]
    assert subprocess.run(command, preexec_fn=limit, check=False, timeout=20).returncode == -signal.SIGALRM


def test_what_nohup_ignores_does_not_interrupt(proxy, path):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with busy_command("write", proxy.uri("d0"), path) as process:
            process.send_signal(signal.SIGHUP)
            out, _ = process.communicate(noise(MIB), timeout=60)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert process.returncode == 0 and out == b"%d bytes written and flushed\n" % (2 * MIB)


class Terminal:
    """What a program writes to its terminal."""

    def __init__(self):
        self._master, self.slave = pty.openpty()
        self.text = ""

    def read(self, timeout):
        while select.select([self._master], [], [], timeout)[0]:
            self.text += os.read(self._master, 65536).decode()
            timeout = 0

    def close(self):
        os.close(self._master)
        os.close(self.slave)


@pytest.fixture
def terminal():
    made = Terminal()
    yield made
    made.close()


def test_a_long_copy_has_a_progress_bar(proxy, terminal):
    command = [CLIENT, "write", "--length", str(SIZE), proxy.uri("d0")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=terminal.slave) as copy:
        written = 0
        # So slowly that it is a long copy before half of it is done.
        while "% " not in terminal.text and written < SIZE // 2:
            copy.stdin.write(bytes(65536))
            copy.stdin.flush()
            written += 65536
            terminal.read(timeout=0.05)
        assert "[=" in terminal.text and "/s" in terminal.text and "s left" in terminal.text
        out, _ = copy.communicate(bytes(SIZE - written))
    terminal.read(timeout=0)
    assert copy.returncode == 0 and out == b"%d bytes written and flushed\n" % SIZE
    # The line is left clean.
    assert terminal.text.endswith("\r\x1b[K")


def test_a_copy_whose_terminal_closes_gives_the_volume_back(proxy):
    master, slave = pty.openpty()

    def control():
        """The terminal is its controlling one, so that its end is a SIGHUP."""
        os.setsid()
        fcntl.ioctl(slave, termios.TIOCSCTTY, 0)

    command = [CLIENT, "write", proxy.uri("d0")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=slave, stderr=slave, preexec_fn=control) as copy:
        os.close(slave)
        text = b""
        while b"KiB" not in text:
            copy.stdin.write(bytes(4096))
            copy.stdin.flush()
            while select.select([master], [], [], 0.02)[0]:
                text += os.read(master, 4096)
        os.close(master)
        assert copy.wait(timeout=30) == -signal.SIGHUP
        with contextlib.suppress(BrokenPipeError):
            copy.stdin.close()
    output("flush", proxy.uri("d0"), "--timeout", "3000")


def test_a_short_copy_and_one_without_a_terminal_have_none(proxy, terminal):
    uri = proxy.uri("d0")
    subprocess.run(
        [CLIENT, "read", "--length", "4k", uri], stdout=subprocess.DEVNULL, stderr=terminal.slave, check=True
    )
    terminal.read(timeout=0)
    assert terminal.text == ""
    assert cloudblk("write", uri, data=bytes(SIZE)).stderr == b""
