# SPDX-License-Identifier: GPL-2.0-or-later
"""The QEMU that the tests in this folder are about."""

import pytest

from tests.support.paths import COMPILED_IN, qemu_command


@pytest.fixture(params=[COMPILED_IN])
def qemu(request):
    """Command of the QEMU with the device compiled in."""
    return qemu_command(request.param)
