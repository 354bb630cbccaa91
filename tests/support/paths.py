# SPDX-License-Identifier: GPL-2.0-or-later
"""Where the tests find what they test."""

import functools
import os
import pathlib
import subprocess

REPO = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("CLOUDBLK_BUILD", REPO / "build")).resolve()
PLUGIN = BUILD / "cloudblk.so"
PROXY = BUILD / "cloudblk-proxy"
CLIENT = BUILD / "cloudblk"

# The stock QEMU releases that every test with a QEMU runs in.
RELEASES = ("installed", "10.0.2")


def script(*command):
    """Standard output of one of our scripts, as lines."""
    result = subprocess.run(
        [str(REPO / "scripts" / command[0]), *command[1:]], stdout=subprocess.PIPE, text=True, check=True
    )
    return result.stdout.splitlines()


@functools.lru_cache(maxsize=None)
def stock_qemu(release):
    """Command of Debian's unmodified qemu-system-x86_64 of that release."""
    return script("qemu-stock", release)[0]


@functools.lru_cache(maxsize=None)
def guest_files():
    """Kernel and initramfs of the test guest."""
    return tuple(script("make-guest"))
