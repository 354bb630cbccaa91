# SPDX-License-Identifier: GPL-2.0-or-later
"""Lines from a socket or pipe, each waited for with a deadline."""

import os
import pathlib
import select
import time

# A socket that listens has this flag in /proc/net/unix; it is there before it does.
ACCEPTS = 0x10000


class Timeout(Exception):
    """What was waited for did not come in time."""


class Closed(Exception):
    """The other side is gone."""


class Lines:
    """Splits what arrives on a file descriptor into lines of bytes, without their line ends."""

    def __init__(self, fd):
        self._fd = fd
        self._pending = b""
        self._poll = select.poll()
        self._poll.register(fd, select.POLLIN)

    def next(self, deadline):
        """The next line; deadline is a time of time.monotonic()."""
        while b"\n" not in self._pending:
            left = deadline - time.monotonic()
            if left <= 0 or not self._poll.poll(left * 1000):
                raise Timeout(f"no line in time, partial line {self._pending!r}")
            try:
                data = os.read(self._fd, 65536)
            except ConnectionError as error:
                raise Closed("connection lost") from error
            if not data:
                raise Closed(f"closed, partial line {self._pending!r}")
            self._pending += data
        line, self._pending = self._pending.split(b"\n", 1)
        return line.rstrip(b"\r")

    def until(self, wanted, deadline):
        """Skips to the first line in which wanted(line) is true and returns what that gave."""
        while True:
            found = wanted(self.next(deadline))
            if found:
                return found


def listens(path):
    """Whether a process listens at that Unix socket."""
    for line in pathlib.Path("/proc/net/unix").read_text().splitlines()[1:]:
        _, _, _, flags, _, _, _, *at = line.split(maxsplit=7)
        if at == [str(path)] and int(flags, 16) & ACCEPTS:
            return True
    return False
