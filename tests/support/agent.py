# SPDX-License-Identifier: GPL-2.0-or-later
"""Shell scripts run in the test guest, over its second serial port (tests/guest/agent/init is the other side)."""

import base64
import time

from .stream import Closed, Lines, Timeout

# A guest boots in 3 to 4 seconds; a busy machine may take many times that.
BOOT_TIMEOUT = 120
SCRIPT_TIMEOUT = 120


class GuestError(Exception):
    """A script failed in the guest, or the guest did."""


class Agent:
    """A guest that scripts run in, whoever started it. Who derives from it tells in report() what the guest and its QEMU
    said last."""

    _socket = None
    _lines = None

    def talk_by(self, connection):
        """Takes this connection to the serial port, the agent's from now on."""
        if self._socket:
            self._socket.close()
        self._socket = connection
        self._lines = Lines(connection.fileno())

    def report(self):
        raise NotImplementedError

    def wait_ready(self):
        """Until the guest has booted; again, if it reboots."""
        deadline = time.monotonic() + BOOT_TIMEOUT
        with self._explained():
            self._lines.until(lambda line: line == b"\x01ready", deadline)

    def _explained(self):
        return _Explained(self)

    def send(self, script):
        """Starts a shell script; its lines are then read with lines() or finish()."""
        text = base64.encodebytes(script.encode()).decode()
        self._socket.sendall((text + ".\n").encode())

    def line(self, wanted=lambda line: True, timeout=SCRIPT_TIMEOUT):
        """The next line of the running script's output for which wanted(line) is true."""
        deadline = time.monotonic() + timeout
        with self._explained():
            while True:
                line = self._lines.next(deadline).decode(errors="replace")
                if line.startswith("\x01exit "):
                    raise GuestError(f"the script ended ({line[1:]}) before the line waited for")
                if wanted(line):
                    return line

    def finish(self, timeout=SCRIPT_TIMEOUT):
        """Exit status and output of the script sent last, without the lines already read and without
        the newlines at its end."""
        deadline = time.monotonic() + timeout
        output = []
        with self._explained():
            while True:
                line = self._lines.next(deadline).decode(errors="replace")
                if line.startswith("\x01exit "):
                    return int(line.split()[1]), "\n".join(output).rstrip("\n")
                output.append(line)

    def run(self, script, timeout=SCRIPT_TIMEOUT):
        """Output of a script that must succeed (it runs with set -e)."""
        status, output = self.try_run("set -e\n" + script, timeout)
        if status:
            raise GuestError(f"status {status} of:\n{script}\noutput:\n{output}\n{self.report()}")
        return output

    def try_run(self, script, timeout=SCRIPT_TIMEOUT):
        """Exit status and output of a script."""
        self.send(script)
        return self.finish(timeout)


class _Explained:
    """Adds the guest's last words to a timeout or a lost connection."""

    def __init__(self, guest):
        self._guest = guest

    def __enter__(self):
        return self

    def __exit__(self, _, error, traceback):
        if isinstance(error, (Timeout, Closed)):
            raise GuestError(f"{error}\n{self._guest.report()}") from error
