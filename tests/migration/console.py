# SPDX-License-Identifier: GPL-2.0-or-later
"""What a guest says on its serial port, in whichever QEMU it is."""

import collections
import select
import socket
import threading
import time

from tests.support.stream import Closed, Lines, Timeout


class LoadFailed(Exception):
    """The load saw an I/O error or read something else than was written."""


class Port:
    """The guest's serial port in one QEMU. What comes is kept with the time at which it came."""

    def __init__(self, connection):
        self._connection = connection
        self._chunks = collections.deque()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self):
        while not self._closed:
            try:
                select.select([self._connection], [], [])
            except (OSError, ValueError):
                pass  # it was closed here: recv says so too
            with self._changed:
                self._receive()

    def _receive(self):
        """All that was sent before the call. With the lock held, so that nothing is on its way from
        the socket to the list."""
        while not self._closed:
            try:
                data = self._connection.recv(65536, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if data:
                self._chunks.append((time.monotonic(), data))
            else:
                self._closed = True
            self._changed.notify_all()

    def take(self, deadline=0):
        """What came since the last call; waits for something until the deadline."""
        with self._changed:
            self._receive()
            self._changed.wait_for(lambda: self._chunks or self._closed, max(0, deadline - time.monotonic()))
            if deadline and not self._chunks:
                raise Closed("the guest's serial port was closed") if self._closed else Timeout("the guest is silent")
            chunks = list(self._chunks)
            self._chunks.clear()
            return chunks

    def wait_closed(self):
        """Until all that its QEMU sent has come."""
        self._thread.join()


class Console(Lines):
    """Lines from a guest that moves. The lines of its load, which may come at any time, are sorted
    out: done has what each worker had acknowledged at last, beats the times of these reports.
    explain() says more of the guest when it is waited for in vain."""

    def __init__(self, explain):
        self.port = None
        self._explain = explain
        self._partial = b""
        self._torn = False
        self._lines = collections.deque()
        self.done = []
        self.beats = []
        self._said = {}

    def move(self, port):
        """The guest is in another QEMU now, and goes on in the middle of its line."""
        if self.port:
            self.catch_up()
        self.port = port
        # What was in the UART of a QEMU that has died never comes: the rest of that line is not to be relied on.
        self._torn = bool(self._partial)

    def catch_up(self):
        """Takes what is there already."""
        self._sort(self.port.take())

    def _sort(self, chunks):
        for when, data in chunks:
            *lines, self._partial = (self._partial + data).split(b"\n")
            for line in lines:
                line = line.rstrip(b"\r")
                torn, self._torn = self._torn, False
                if torn and line.startswith(b"load at "):
                    continue
                if line.startswith(b"load "):
                    self._note(line.decode(), when)
                else:
                    self._lines.append(line)

    def _note(self, line, when):
        _, what, *counts = line.split(" ")
        if what == "failed:":
            raise LoadFailed(line)
        self.done = [int(count) for count in counts]
        if what == "at":
            self.beats.append(when)
        else:
            self._said[what] = self.done

    def next(self, deadline):
        while not self._lines:
            self._sort(self.port.take(deadline))
        return self._lines.popleft()

    def wait(self, condition, timeout=60):
        """Reads on until condition() gives something true, and returns that."""
        deadline = time.monotonic() + timeout
        while not (found := condition()):
            try:
                self._sort(self.port.take(deadline))
            except (Timeout, Closed) as error:
                raise type(error)(f"{error}; the load is at {self.done}\n{self._explain()}") from error
        return found

    def said(self, what):
        """Waits until the load says `found`, `paused` or `ended`, and gives its counts."""
        self.wait(lambda: what in self._said)
        return self._said.pop(what)
