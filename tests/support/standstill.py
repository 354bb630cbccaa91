# SPDX-License-Identifier: GPL-2.0-or-later
"""Processes that stand still and go on."""

import contextlib
import pathlib
import signal
import time

from .stream import Timeout

PATIENCE = 30


def _thread_state(thread):
    return (thread / "stat").read_text().rpartition(")")[2].split()[0]


def freeze(process):
    """Returns once the process does nothing any more: the signal stops its threads one after the other,
    and on a busy machine late."""
    process.send_signal(signal.SIGSTOP)
    threads = list(pathlib.Path(f"/proc/{process.pid}/task").iterdir())
    deadline = time.monotonic() + PATIENCE
    while any(_thread_state(thread) != "T" for thread in threads):
        if time.monotonic() > deadline:
            raise Timeout(f"process {process.pid} does not stop")
        time.sleep(0)


def thaw(process):
    process.send_signal(signal.SIGCONT)


@contextlib.contextmanager
def hanging(proxy):
    """The proxy answers nothing inside."""
    freeze(proxy.process)
    try:
        yield
    finally:
        thaw(proxy.process)
