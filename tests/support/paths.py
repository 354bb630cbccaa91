# SPDX-License-Identifier: GPL-2.0-or-later
"""Where the tests find what they test."""

import functools
import os
import pathlib
import subprocess

import pytest

REPO = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("CLOUDBLK_BUILD", REPO / "build")).resolve()
PLUGIN = BUILD / "cloudblk.so"
PROXY = BUILD / "cloudblk-proxy"
RBD_MODULE = BUILD / "cloudblk-proxy-rbd.so"
CLIENT = BUILD / "cloudblk"
NBDKIT_PLUGIN = BUILD / "nbdkit-cloudblk-plugin.so"

# The stock QEMU releases that every test with a QEMU runs in: one of them is the installed one.
RELEASES = ("7.2", "10.0")
# And the QEMU of scripts/build-qemu, which has the device compiled in.
COMPILED_IN = "compiled-in"


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


def is_installed(release):
    """Whether that is the QEMU of this machine; another one is started by a shell script."""
    return stock_qemu(release) == stock_qemu("installed")


def compiled_in_qemu():
    """Command of the QEMU that scripts/build-qemu has made; CLOUDBLK_QEMU names one of other options."""
    return os.environ.get("CLOUDBLK_QEMU", str(BUILD / "qemu-10.0/qemu-system-x86_64"))


def qemu_command(name):
    """Command of that stock release, or of the QEMU with the device compiled in."""
    if name != COMPILED_IN:
        return stock_qemu(name)
    if not os.path.exists(compiled_in_qemu()):
        pytest.fail("there is no QEMU with the device compiled in: run scripts/build-qemu")
    return compiled_in_qemu()


def plugin_arguments(qemu):
    """What makes the device known to that QEMU: nothing where it is compiled in."""
    return [] if str(qemu) == compiled_in_qemu() else ["-plugin", str(PLUGIN)]


@functools.lru_cache(maxsize=None)
def guest_files():
    """Kernel and initramfs of the test guest."""
    return tuple(script("make-guest"))


@functools.lru_cache(maxsize=None)
def load_guest_files():
    """Those of the small guest that has disk_load."""
    return tuple(script("make-guest", "load"))
