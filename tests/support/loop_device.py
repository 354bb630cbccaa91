# SPDX-License-Identifier: GPL-2.0-or-later
"""A block device with a file behind it."""

import contextlib
import os
import subprocess

import pytest


@contextlib.contextmanager
def loop_device(path, size, *options):
    """Its name. The file is made, with `size` bytes of zeros; `options` are losetup's."""
    path.write_bytes(b"")
    os.truncate(path, size)
    made = subprocess.run(
        ["losetup", "--find", "--show", *options, path], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    if made.returncode != 0:
        pytest.skip("no loop device can be made here")
    try:
        yield made.stdout.strip()
    finally:
        subprocess.run(["losetup", "--detach", made.stdout.strip()], check=True)
