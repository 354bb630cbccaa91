# SPDX-License-Identifier: GPL-2.0-or-later
"""A QEMU without a guest that virtio-bench drives, and the servers behind its disk."""

import functools
import os
import pathlib
import re
import resource
import shutil
import socket
import subprocess
import tempfile
import time

from tests.support.paths import BUILD, PLUGIN
from tests.support.qemu import Qemu
from tests.support.qtest import halting_rom

MEMORY_SIZE = 256 << 20
START_TIMEOUT = 60
SLOT = 4  # PCI slot of the disk


def output_of(*command):
    result = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    return result.stdout + result.stderr


@functools.lru_cache(maxsize=None)
def has_qtest_accelerator(binary):
    return "qtest" in output_of(binary, "-accel", "help")


@functools.lru_cache(maxsize=None)
def has_cloudblk(binary):
    """Whether the device is compiled in."""
    return "cloudblk-pci" in output_of(binary, "-device", "help")


def iothread(number, properties=""):
    """QEMU's arguments for the IOThread io<number>."""
    return ["-object", ",".join(filter(None, ["iothread", f"id=io{number}", properties]))]


class BenchMachine(Qemu):
    """`devices` are QEMU's arguments for the disk, which is in slot SLOT and uses IOThreads io0, io1.
    `setup`: see rows.Setup."""

    def __init__(self, setup, devices, cloudblk=False, iothreads=1):
        binary = setup.qemu
        super().__init__(binary, [], prefix=setup.valgrind)
        # Not in the temporary folder: that may be on a disk, whose writing back would be measured.
        self.memory = pathlib.Path(tempfile.mkstemp(prefix="cloudblk-bench-", dir="/dev/shm")[1])
        os.truncate(self.memory, MEMORY_SIZE)
        self.qtest = self.folder / "qtest"
        accelerator = ["-accel", "qtest"]
        if not has_qtest_accelerator(binary) or (cloudblk and not has_cloudblk(binary)):
            # Plugins need TCG, whose processor then executes one HLT.
            rom = self.folder / "rom"
            rom.write_bytes(halting_rom())
            accelerator = ["-accel", "tcg,tb-size=16", "-bios", str(rom)]
        plugin = ["-plugin", str(PLUGIN)] if cloudblk and not has_cloudblk(binary) else []
        size = MEMORY_SIZE >> 20
        self._arguments = [
            *plugin, *accelerator, "-name", "bench,debug-threads=on", "-machine", "pc,memory-backend=ram",
            "-m", str(size), "-object", f"memory-backend-file,id=ram,mem-path={self.memory},size={size}M,share=on",
            "-chardev", f"socket,id=qtest,path={self.qtest},server=on,wait=off", "-qtest", "chardev:qtest",
            "-qtest-log", "/dev/null",
        ]  # fmt: skip
        for i in range(iothreads):
            self._arguments += iothread(i, setup.iothread)
        self._arguments += [str(word) for word in devices]

    def __exit__(self, *error):
        super().__exit__(*error)
        self.memory.unlink(missing_ok=True)


class Server:
    """A process that serves a volume. It is ready when it prints a line that matches the regular
    expression `ready`, or when `address` can be connected to, or when the file `exists` does."""

    def __init__(self, command, ready=None, address=None, exists=None):
        self.command = [str(word) for word in command]
        self._ready = ready
        self._address = address
        self._exists = exists
        # A file, because a pipe that nobody reads stops a talkative server
        self._log = tempfile.NamedTemporaryFile(prefix="cloudblk-bench-")
        self.process = None
        self.match = None

    @property
    def pid(self):
        return self.process.pid

    def __enter__(self):
        self.process = subprocess.Popen(
            self.command, stdin=subprocess.DEVNULL, stdout=self._log, stderr=subprocess.STDOUT
        )
        deadline = time.monotonic() + START_TIMEOUT
        while not self._is_ready():
            if self.process.poll() is not None or time.monotonic() > deadline:
                said = self._said()
                self.__exit__()
                raise RuntimeError(f"{self.command[0]} does not serve: {said}")
            time.sleep(0.01)  # no event tells when a port is open
        return self

    def _said(self):
        return pathlib.Path(self._log.name).read_text(errors="replace")

    def _is_ready(self):
        if self._ready:
            self.match = re.search(self._ready, self._said())
            return self.match is not None
        return connects(self._address) if self._address else self._exists.exists()

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self._log.close()


def connects(address):
    """address: (host, port), or the path of a unix socket."""
    family = socket.AF_INET if isinstance(address, tuple) else socket.AF_UNIX
    with socket.socket(family, socket.SOCK_STREAM) as attempt:
        return attempt.connect_ex(address if isinstance(address, tuple) else str(address)) == 0


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def require(program, package):
    if not shutil.which(program):
        raise FileNotFoundError(f"{program} is missing: apt-get install {package}")
    return program


def allow_many_files():
    """As many open files as this process may have, but no more than any measurement needs."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 8192), hard))


def version_of(program, *arguments):
    return output_of(program, *(arguments or ["--version"])).strip().splitlines()[0]


def built(name):
    return BUILD / name
