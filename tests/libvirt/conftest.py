# SPDX-License-Identifier: GPL-2.0-or-later
"""Fixtures of the tests with libvirt."""

import pytest

from tests.support import libvirt


@pytest.fixture(autouse=True)
def _needs_root():
    if not libvirt.possible():
        pytest.skip("no hosts with namespaces of their own can be made here: that needs root")


@pytest.fixture
def host():
    with libvirt.Host("host") as made:
        yield made
