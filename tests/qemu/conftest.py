# SPDX-License-Identifier: GPL-2.0-or-later
"""The QEMU that the tests in this folder are about."""

import os
import pathlib

import pytest

from tests.support.paths import REPO


@pytest.fixture
def compiled_qemu():
    """The one of scripts/build-qemu; CLOUDBLK_QEMU names one with other options."""
    path = pathlib.Path(os.environ.get("CLOUDBLK_QEMU", REPO / "build/qemu-10.0/qemu-system-x86_64"))
    if not path.exists():
        pytest.skip("there is no QEMU with the device compiled in: run scripts/build-qemu")
    return path
