# SPDX-License-Identifier: GPL-2.0-or-later
"""A QEMU process under a test: its monitor, its end, its messages."""

import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import tempfile
import time

from .stream import Closed, Lines, Timeout

# Set when QEMU is built with AddressSanitizer, which looks for leaks at an orderly end.
SANITIZER_OPTIONS = os.environ.get("ASAN_OPTIONS")


class QmpError(Exception):
    """QEMU refused a command."""


class Qmp:
    """One monitor connection. Events that arrive meanwhile are kept."""

    def __init__(self, connection, deadline):
        self._socket = connection
        self._lines = Lines(connection.fileno())
        self.events = []
        if "QMP" not in json.loads(self._lines.next(deadline)):
            raise QmpError("no greeting")
        self.command("qmp_capabilities")

    def command(self, name, timeout=30, **arguments):
        message = {"execute": name, "arguments": {k.replace("_", "-"): v for k, v in arguments.items()}}
        self._socket.sendall(json.dumps(message).encode() + b"\n")
        deadline = time.monotonic() + timeout
        while True:
            answer = json.loads(self._lines.next(deadline))
            if "error" in answer:
                raise QmpError(f"{name}: {answer['error']['desc']}")
            if "return" in answer:
                return answer["return"]
            self.events.append(answer)

    def pipeline(self, name, count, timeout=30):
        """The command that often, without waiting for answers in between."""
        self._socket.sendall((json.dumps({"execute": name}).encode() + b"\n") * count)
        deadline = time.monotonic() + timeout
        while count:
            answer = json.loads(self._lines.next(deadline))
            if "event" in answer:
                self.events.append(answer)
            else:
                count -= 1

    def quit(self):
        """Asks QEMU to end, which may cut the answer off."""
        try:
            self.command("quit")
        except Closed:
            pass

    def wait_event(self, name, timeout=30):
        """The first event of that name since the last one waited for."""
        deadline = time.monotonic() + timeout
        while True:
            for index, event in enumerate(self.events):
                if event["event"] == name:
                    del self.events[: index + 1]
                    return event
            self.events.append(json.loads(self._lines.next(deadline)))


# Of asm/socket.h: as SO_SNDBUF, without regard to net.core.wmem_max; root only
SO_SNDBUFFORCE = 32


class Qemu:
    """Runs a QEMU until it is left as a context manager. Its connections to us are there before it
    starts, so there is no race with that. folder holds its messages; prefix is what to put before
    the command."""

    def __init__(self, binary, arguments, env=None, prefix=()):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="cloudblk-qemu-"))
        self._binary = [*prefix, binary]
        self._arguments = [str(argument) for argument in arguments]
        self._env = {**os.environ, **(env or {})}
        if SANITIZER_OPTIONS is not None:
            self._env["ASAN_OPTIONS"] = f"{SANITIZER_OPTIONS}:log_path={self.folder}/sanitizer"
        self._connections = {}
        self._inherited = []
        self.process = None
        self.qmp = None

    def socket_chardev(self, name, room=None):
        """Adds a character device that is connected to the test, and gives its arguments. room: how
        many bytes of memory what the test has not read may take, if more than usual is needed."""
        self._connections[name], inherited = socket.socketpair()
        if room:
            inherited.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, room)
        self._inherited.append(inherited)
        return ["-chardev", f"socket,id={name},fd={inherited.fileno()}"]

    def start(self):
        monitor = self.socket_chardev("qmp") + ["-mon", "chardev=qmp,mode=control"]
        command = [*self._binary, "-nodefaults", "-display", "none", "-no-reboot"]
        with open(self.folder / "stderr", "wb") as stderr:
            self.process = subprocess.Popen(
                [*command, *self._arguments, *monitor],
                stdin=subprocess.DEVNULL,
                stdout=stderr,
                stderr=stderr,
                env=self._env,
                pass_fds=[inherited.fileno() for inherited in self._inherited],
            )
        # So that QEMU's end is seen
        self._let_go()
        try:
            self.qmp = Qmp(self.connection("qmp"), time.monotonic() + 30)
        except (Closed, ConnectionError) as error:
            raise Closed(f"QEMU ended with {self.wait()}: {self.messages()}") from error

    def _let_go(self):
        while self._inherited:
            self._inherited.pop().close()

    def connection(self, name):
        """The test's side of that character device; the caller's from now on."""
        return self._connections.pop(name)

    def messages(self):
        """What QEMU wrote to its standard output and error so far."""
        return (self.folder / "stderr").read_text(errors="replace")

    def wait(self, timeout=60):
        """Exit status, once QEMU has ended by itself."""
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise Timeout("QEMU did not end in time") from None

    def kill(self):
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        if self.process:
            self.process.wait()

    def _end(self):
        if SANITIZER_OPTIONS is not None and self.process and self.process.poll() is None:
            self.process.terminate()
            try:
                self.wait()
            except Timeout:
                pass
        self.kill()

    def _findings(self):
        """Errors that the sanitizer has found in the process that has ended, warnings left out."""
        texts = [file.read_text(errors="replace") for file in self.folder.glob("sanitizer.*")]
        return "\n".join(text for text in texts if "ERROR: " in text)

    def __enter__(self):
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        self._end()
        self._let_go()
        for connection in self._connections.values():
            connection.close()
        findings = self._findings()
        shutil.rmtree(self.folder)
        assert not findings, findings
