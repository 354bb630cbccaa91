# SPDX-License-Identifier: GPL-2.0-or-later
"""User-space instructions per I/O of QEMU's IOThread and of cloudblk-proxy, counted by callgrind: the
figure that no other load on the machine changes. And system calls per I/O in the same steady state."""

import collections
import pathlib
import re
import subprocess
import tempfile

from .machine import require
from .measure import calls, run
from .rows import Setup, started
from .workloads import FILL

# Without the string instructions that libc uses for larger blocks: callgrind counts every byte of them.
# The counting is off until the measured part.
CALLGRIND = (
    "env",
    "GLIBC_TUNABLES=glibc.cpu.x86_rep_stosb_threshold=1073741824:glibc.cpu.x86_rep_movsb_threshold=1073741824",
    "valgrind", "--quiet", "--tool=callgrind", "--trace-children=yes", "--separate-threads=yes", "--instr-atstart=no",
)  # fmt: skip

# All requests of a round have to be back before the next are made, and nobody polls: so each round is
# the same, however fast or slow the machine is.
STEADY = ("--lockstep", "--range", "32M")
IOTHREAD = "poll-max-ns=0"

RANGE = FILL + ("--range", "32M")


def read_dump(path):
    """{object's file name: instructions, callees not included} of one thread."""
    names, objects = {}, collections.Counter()
    current, call = "", False
    for line in path.read_text(errors="replace").splitlines():
        name = re.match(r"c?ob=\((\d+)\)(?: (.*))?$", line)
        if name:
            if name.group(2):
                names[name.group(1)] = pathlib.Path(name.group(2)).name
            if line.startswith("ob="):
                current = names[name.group(1)]
        elif line.startswith("calls="):
            call = True  # the next line is about the callee
        elif line[:1] in "0123456789+-*" and line:
            if not call:
                objects[current] += int(line.split()[1])
            call = False
    return objects


class Counted:
    """A process under callgrind; `prefix` is where its dumps go."""

    def __init__(self, pid, prefix):
        self._pid, self._prefix, self._dumps = pid, prefix, 0

    def control(self, *words):
        return " ".join(["callgrind_control", *words, str(self._pid), ">/dev/null", "2>&1"])

    def take(self):
        """What the last dump says: [of each thread], in their order."""
        self._dumps += 1
        paths = self._prefix.parent.glob(f"{self._prefix.name}.{self._dumps}-*")
        return [read_dump(path) for path in sorted(paths, key=lambda path: int(path.name.rsplit("-", 1)[1]))]


def _per_io(objects, ios):
    """Instructions per I/O: all, those in our own code, those in QEMU's."""
    shares = {"total": sum(objects.values())}
    shares["cloudblk"] = sum(n for name, n in objects.items() if name.startswith("cloudblk"))
    shares["qemu"] = sum(n for name, n in objects.items() if name.startswith("qemu-system"))
    return {name: round(count / ios, 1) for name, count in shares.items()}


def _count(workload, rounds):
    """How many I/Os are so many rounds of a workload, though not too few."""
    depth = int(workload.options[workload.options.index("--depth") + 1])
    return max(depth * rounds, 200)


def instructions(row, workloads, setup, rounds=40, repeats=5):
    """{workload: {"iothread": {"total": ..., "cloudblk": ..., "qemu": ...}, "proxy": {...}}}, of the run with the
    fewest: the kernel may cut a stream into more pieces than it has to, never into fewer."""
    require("valgrind", "valgrind")
    found = {}
    with tempfile.TemporaryDirectory(prefix="cloudblk-callgrind-") as folder:
        out = {name: pathlib.Path(folder) / name for name in ("qemu", "server")}
        prefixes = {name: (*CALLGRIND, f"--callgrind-out-file={path}") for name, path in out.items()}
        counted_setup = Setup(setup.qemu, prefixes["qemu"], prefixes["server"], IOTHREAD)
        with started([row], counted_setup) as running:
            running = running[row.name]
            if row.keeps:
                run(running, *RANGE)
            # Only our own server is run under callgrind
            names = ["qemu", "server"] if row.proxy else ["qemu"]
            processes = {name: Counted(running.watched[name], out[name]) for name in names}
            before = " && ".join(process.control("--instr=on") for process in processes.values())
            after = " && ".join(process.control("--dump") for process in processes.values())
            off = " && ".join(process.control("--instr=off") for process in processes.values())
            for workload in workloads:
                ios = _count(workload, rounds)
                runs = []
                for _ in range(repeats):
                    run(running, *workload.options, *STEADY, "--count", ios, "--before", before, "--after", after)
                    subprocess.run(off, shell=True, check=True)
                    # QEMU's first thread is its main loop. Of the others the IOThread is the busiest; one more is
                    # RCU's, which gives memory back now and then, and that costs what it finds.
                    iothread = max(processes["qemu"].take()[1:], key=collections.Counter.total)
                    runs.append({"iothread": _per_io(iothread, ios)})
                    if "server" in processes:
                        threads = processes["server"].take()
                        runs[-1]["proxy"] = _per_io(sum(threads, collections.Counter()), ios)
                found[workload.name] = min(runs, key=lambda one: sum(part["total"] for part in one.values()))
    return found


def steady_calls(row, workloads, setup, rounds=40, repeats=8):
    """{workload: {"iothread": {call: per I/O}, "server": {...}, ...}}, likewise."""
    found = {}
    with started([row], Setup(setup.qemu, iothread=IOTHREAD)) as running:
        running = running[row.name]
        if row.keeps:
            run(running, *RANGE)
        for workload in workloads:
            options = [*workload.options, *STEADY, "--count", _count(workload, rounds), "--syscalls"]
            runs = [calls(run(running, *options)) for _ in range(repeats)]
            found[workload.name] = min(runs, key=lambda one: one["iothread"]["total"] + one["server"]["total"])
    return found
