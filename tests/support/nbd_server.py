# SPDX-License-Identifier: GPL-2.0-or-later
"""The NBD servers that people run, each with one export of a file or of memory."""

import contextlib
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess

from .paths import stock_qemu
from .virtio import poll

SIZE = 64 << 20


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def is_listening(port, address="127.0.0.1"):
    with socket.socket() as one:
        return one.connect_ex((address, port)) == 0


def beside(release, program):
    """That program of the QEMU of a release."""
    return pathlib.Path(shutil.which(stock_qemu(release)) or stock_qemu(release)).with_name(program)


class NbdServer:
    """Serves until it is left as a context manager; after kill() or stop() it can be started again and has the same
    address. What it serves is in `path`, unless it is memory."""

    export = ""
    options = ""  # that its URI should have
    keeps_unflushed = True  # when it is killed
    keeps_flushed = True
    version_option = "--version"

    def __init__(self, folder, size=SIZE, release="7.2"):
        self.folder, self.size, self.release = pathlib.Path(folder), size, release
        self.path = self.folder / "nbd.img"
        self.port = free_port()
        self.process = None
        self.make()

    def make(self):
        with open(self.path, "wb") as file:
            file.truncate(self.size)

    def command(self):
        raise NotImplementedError

    def version(self):
        """Its number alone."""
        said = subprocess.run([self.command()[0], self.version_option], capture_output=True, text=True, check=False)
        return re.search(r"\d+(\.\d+)+", said.stdout + said.stderr).group()

    def is_up(self):
        return is_listening(self.port)

    def start(self):
        # Some have a process for each client.
        self.process = subprocess.Popen(
            [str(word) for word in self.command()], stdin=subprocess.DEVNULL, start_new_session=True
        )
        poll(lambda: self.is_up() or self.process.poll() is not None, "the server's port", 30)
        assert self.process.poll() is None, f"{self.command()} ended"

    def kill(self):
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def stop(self):
        """As an upgrade does: asked to end, and killed if it waits for its clients."""
        os.killpg(self.process.pid, signal.SIGTERM)
        try:
            self.process.wait(1)
        except subprocess.TimeoutExpired:
            self.kill()

    def uri(self, options=None):
        options = self.options if options is None else options
        return f"nbd://127.0.0.1:{self.port}/{self.export}" + (f"?{options}" if options else "")

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.kill()


class Nbdkit(NbdServer):
    filters = ()

    def plugin(self):
        return ["file", self.path]

    def command(self):
        filters = [f"--filter={name}" for name in self.filters]
        return ["nbdkit", "-f", "--log=null", "-i", "127.0.0.1", "-p", self.port, *filters, *self.plugin()]


class NbdkitTls(Nbdkit):
    """To nobody without TLS. tls: a Credentials of tls.py. net, host: where it runs, if not here."""

    def __init__(self, folder, tls, size=SIZE, net=None, host=None):
        super().__init__(folder, size)
        self._tls, self._net, self._host = tls, net, net and net.name(host)
        self.address = net.address(host) if net else "127.0.0.1"

    def command(self):
        prefix = self._net.command(self._host) if self._net else []
        address = ["-i", self.address, "-p", self.port]
        return [*prefix, "nbdkit", "-f", "--log=null", *address, *self._tls.nbdkit_options(), *self.plugin()]

    def is_up(self):
        if not self._net:
            return super().is_up()
        return self._net.run(self._host, lambda: is_listening(self.port, self.address))

    def uri(self, *_):
        return f"nbds://{self.address}:{self.port}/"


class NbdkitMemory(Nbdkit):
    keeps_unflushed = keeps_flushed = False

    def make(self):
        self.path = None

    def plugin(self):
        return ["memory", self.size]


class QemuNbd(NbdServer):
    export = "d0"
    format = "raw"

    def command(self):
        return [
            "qemu-nbd", "--persistent", "--shared=8", "--bind=127.0.0.1", f"--port={self.port}", "--discard=unmap",
            f"--format={self.format}", f"--export-name={self.export}", self.path,
        ]  # fmt: skip


class QemuNbdQcow2(QemuNbd):
    format = "qcow2"
    options = "unflushed=lost"
    keeps_unflushed = False

    def make(self):
        command = ["qemu-img", "create", "-q", "-f", "qcow2", self.path, str(self.size)]
        subprocess.run(command, check=True)


class StorageDaemon(NbdServer):
    export = "d0"

    def command(self):
        return [
            beside(self.release, "qemu-storage-daemon"),
            "--blockdev", f"file,node-name=f0,filename={self.path},discard=unmap",
            "--blockdev", "raw,node-name=d0,file=f0,discard=unmap",
            "--nbd-server", f"addr.type=inet,addr.host=127.0.0.1,addr.port={self.port},max-connections=0",
            "--export", "nbd,id=e0,node-name=d0,name=d0,writable=on",
        ]  # fmt: skip


class ReferenceServer(NbdServer):
    """nbd-server, of the project that has written the protocol down."""

    export = "d0"
    version_option = "-V"

    def command(self):
        configuration = self.folder / "nbd-server.conf"
        configuration.write_text(
            f"[generic]\nport = {self.port}\nlistenaddr = 127.0.0.1\nallowlist = true\n"
            f"[d0]\nexportname = {self.path}\nflush = true\nfua = true\ntrim = true\n"
        )
        return ["nbd-server", "-p", self.folder / "nbd-server.pid", "-C", configuration]

    def start(self):
        """It goes into the background by itself: what runs in the foreground serves one client and ends."""
        subprocess.run([str(word) for word in self.command()], check=True)
        poll(lambda: is_listening(self.port), "the server's port", 30)
        # Its first client may wait for a second
        with socket.create_connection(("127.0.0.1", self.port), timeout=30) as first:
            assert first.recv(8) == b"NBDMAGIC"

    def _end(self, number):
        pid = int((self.folder / "nbd-server.pid").read_text())
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, number)
        poll(lambda: not is_listening(self.port), "the server's end", 30)

    def kill(self):
        self._end(signal.SIGKILL)

    def stop(self):
        self._end(signal.SIGTERM)

    def __exit__(self, *_):
        self.kill()


SERVERS = {
    "nbdkit-file": Nbdkit,
    "nbdkit-memory": NbdkitMemory,
    "qemu-nbd-raw": QemuNbd,
    "qemu-nbd-qcow2": QemuNbdQcow2,
    "storage-daemon": StorageDaemon,
    "nbd-server": ReferenceServer,
}
DEFAULT = "nbdkit-file"
