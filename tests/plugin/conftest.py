# SPDX-License-Identifier: GPL-2.0-or-later
"""The plugin is for QEMUs that have no device of their own."""

import pytest

from tests.support.paths import RELEASES, qemu_command


@pytest.fixture(params=RELEASES)
def qemu(request):
    """Command of each stock QEMU."""
    return qemu_command(request.param)
