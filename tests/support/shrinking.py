# SPDX-License-Identifier: GPL-2.0-or-later
"""Storage that fails and is repaired."""

import os
import pathlib
import time

from .proxy import Proxy
from .virtio import poll

CLOCK_MONOTONIC_COARSE = 6  # which Python's time does not name
MIB = 1 << 20
SIZE = 64 * MIB


class Shrinking:
    """A file volume whose storage fails behind the first MiB until it is repaired."""

    def __init__(self, path):
        self.path = path
        self.proxy = Proxy({"d0": f"file://{path}?size={SIZE}&create=on"})

    def fail(self):
        os.truncate(self.path, MIB)
        # The proxy looks at the size once in a tick of this clock
        begin = time.clock_gettime(CLOCK_MONOTONIC_COARSE)
        poll(lambda: time.clock_gettime(CLOCK_MONOTONIC_COARSE) != begin, "tick")

    def repair(self):
        # The proxy does not trust a file again that shrank under it
        self.proxy.kill()
        os.truncate(self.path, SIZE)
        self.proxy.start()

    def lose_writes(self):
        """The proxy dies, and the next one finds noted with the file that unflushed writes were lost."""
        self.proxy.kill()
        boot = pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        os.setxattr(self.path, "user.cloudblk.sync-failures", f"{boot} 1".encode())
        self.proxy.start()
