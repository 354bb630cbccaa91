# SPDX-License-Identifier: GPL-2.0-or-later
"""Figures that need another set-up than a row under load: the proxy on a file beside fio on the same
file, what an idle disk costs, what memory is used."""

import contextlib
import json
import pathlib
import statistics
import subprocess
import time

from tests.chaos.wire_client import ACTIVE, SHARE_RW, Client
from tests.support.paths import CLIENT, PROXY

from .machine import BenchMachine, Server, require, version_of
from .measure import is_iothread, run, say
from .rows import ROWS, device, started

FILE_SIZE = 256 << 20
ENGINES = ("libaio", "io_uring")
# Seconds after which all that a disk did before has its end: the proxy frees its buffers after two times 2 s, and
# the engine's timer for answers is left armed for 3 s and then rests.
SETTLED = 20
READY = r"listening on tcp://(\S+)"


def _fio(path, engine, seconds):
    command = [
        "fio", "--name=read", f"--filename={path}", f"--size={FILE_SIZE}", "--direct=1", "--rw=randread", "--bs=4k",
        "--iodepth=32", f"--ioengine={engine}", f"--runtime={seconds}", "--time_based", "--output-format=json",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)["jobs"][0]["read"]["iops"], " ".join(command)


def _cpu_ns(pid):
    return sum(int((task / "schedstat").read_text().split()[0]) for task in pathlib.Path(f"/proc/{pid}/task").iterdir())


def _through_proxy(server, seconds, pattern="randread", *more):
    command = [
        CLIENT, "--json", "bench", f"cloudblk://{server.match.group(1)}/d0", "--pattern", pattern,
        "--size", "4k", "--depth", "32", "--seconds", seconds, *more,
    ]  # fmt: skip
    before = _cpu_ns(server.pid)
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=True)
    report = json.loads(done.stdout)
    return report["iops"], (_cpu_ns(server.pid) - before) / 1e3 / report["reads"]


@contextlib.contextmanager
def _file(folder):
    path = pathlib.Path(folder) / "bench-volume"
    try:
        subprocess.run(["dd", "if=/dev/urandom", f"of={path}", "bs=1M", f"count={FILE_SIZE >> 20}", "conv=fsync",
                        "status=none"], check=True)  # fmt: skip
        yield path
    finally:
        path.unlink(missing_ok=True)


def _proxy_on(path, engine):
    # One at a time: the proxy that serves a file locks it
    return Server([PROXY, "--listen", "tcp://127.0.0.1:0", "--volume", f"d0=file://{path}?aio={engine}"], ready=READY)


def proxy_on_a_file(folder, seconds, rounds):
    """4 KiB random reads with O_DIRECT: fio itself, and a client of a proxy on the same file."""
    require("fio", "fio")
    runs = {engine: [] for engine in ENGINES}
    commands = set()
    with _file(folder) as path:
        for turn in range(rounds):
            say(f"proxy on a file, round {turn + 1} of {rounds}")
            for engine in ENGINES:
                plain, command = _fio(path, engine, seconds)
                commands.add(command)
                with _proxy_on(path, engine) as server:
                    served, cpu = _through_proxy(server, seconds)
                    commands.add(" ".join(server.command))
                runs[engine].append({"fio-iops": plain, "proxy-iops": served, "proxy-cpu-us": cpu})
    result = {
        engine: {name: round(statistics.median(one[name] for one in all_), 3) for name in all_[0]}
        for engine, all_ in runs.items()
    }
    return {**result, "versions": {"fio": version_of("fio")}, "options": sorted(commands)}


def verify_proxy_on_a_file(folder, seconds):
    """The same with content that is checked. Raises subprocess.CalledProcessError if it is wrong."""
    with _file(folder) as path:
        for engine in ENGINES:
            with _proxy_on(path, engine) as server:
                _through_proxy(server, seconds, "randrw", "--verify")
            say(f"proxy on a file, {engine}: content is right")


def _anonymous_mb(pid):
    for line in pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Anonymous:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("no Anonymous line")


def _resident_mb(pid):
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("no VmRSS line")


def _wakeups(setup, seconds):
    """Of the IOThread and the proxy, per second, of a disk whose driver is there and does nothing."""
    with started([ROWS["cloudblk"]], setup) as running:
        report = run(running["cloudblk"], "--depth", 0, "--seconds", seconds, "--warmup", SETTLED)
    threads = [thread for thread in report["threads"] if is_iothread(thread) or thread["process"] == "server"]
    return sum(thread["voluntary-switches-per-io"] for thread in threads) / seconds


def _memory_per_disk(setup, disks=10):
    volumes = [word for i in range(disks + 1) for word in ("--volume", f"d{i}=memory:?size=16M")]
    with Server([PROXY, "--listen", "tcp://127.0.0.1:0", *volumes], ready=READY) as server:

        def resident(count):
            arguments = []
            for i in range(count):
                disk = device("cloudblk-pci", f"server=cloudblk://{server.match.group(1)}/d{i}", "iothread=io0")
                arguments += [disk[0], disk[1].replace("addr=4.0", f"addr={4 + i:x}.0")]
            with BenchMachine(setup, arguments, cloudblk=True) as machine:
                return _anonymous_mb(machine.process.pid)

        return (resident(disks + 1) - resident(1)) / disks


def _proxy_with_sessions(count=1000):
    command = [PROXY, "--listen", "tcp://127.0.0.1:0", "--volume", "disk=memory:?size=16M"]
    with Server(command, ready=READY) as server:
        host, port = server.match.group(1).rsplit(":", 1)
        clients = []
        for _ in range(count):
            client = Client((host, int(port)))
            client.hello()
            clients.append(client.open(flags=ACTIVE | SHARE_RW))
        resident = _resident_mb(server.pid)
        for client in clients:
            client.close_socket()
        return resident


def footprint(setup, seconds):
    say("idle disks and memory")
    start = time.monotonic()
    result = {
        "idle-wakeups-per-s": round(_wakeups(setup, max(3, seconds)), 3),
        "mb-per-idle-disk": round(_memory_per_disk(setup), 3),
        "mb-of-proxy-with-1000-sessions": round(_proxy_with_sessions(), 1),
    }
    say(f"took {time.monotonic() - start:.0f} s")
    return result
