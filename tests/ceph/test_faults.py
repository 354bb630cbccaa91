# SPDX-License-Identifier: GPL-2.0-or-later
"""Faults on an image: its own volume shows them, another volume of the same loop does not."""

import pytest

from tests.chaos import test_faults as faults

tests = {name: test for name, test in vars(faults).items() if name.startswith("test_")}
globals().update(tests)


@pytest.fixture
def backend(cluster, image):
    return cluster.uri(image)
