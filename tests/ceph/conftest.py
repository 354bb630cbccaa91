# SPDX-License-Identifier: GPL-2.0-or-later
"""Clusters and images. Without --ceph only the tests that are marked as brief run."""

import itertools
import pathlib

import pytest

from tests.support.ceph import Ceph
from tests.support.paths import RELEASES

HERE = pathlib.Path(__file__).parent
MIB = 1 << 20
SIZE = 64 * MIB

_numbers = itertools.count()


def pytest_configure(config):
    config.addinivalue_line("markers", "brief: a test on a Ceph cluster that runs without --ceph too")


def pytest_collection_modifyitems(config, items):
    if config.getoption("--ceph"):
        return
    kept, left_out = [], []
    for item in items:
        brief = HERE not in item.path.parents or item.get_closest_marker("brief")
        (kept if brief else left_out).append(item)
    items[:] = kept
    config.hook.pytest_deselected(items=left_out)


def pytest_generate_tests(metafunc):
    if "release" in metafunc.fixturenames:
        metafunc.parametrize("release", RELEASES if metafunc.config.getoption("--ceph") else RELEASES[-1:])


@pytest.fixture(scope="module")
def cluster():
    """One that keeps all in memory and knows no users."""
    with Ceph() as started:
        yield started


@pytest.fixture(scope="module")
def cephx():
    """One that knows its users."""
    with Ceph(auth="cephx") as started:
        yield started


@pytest.fixture
def image(cluster):
    """The name of one of SIZE bytes that nobody else has."""
    return cluster.create_image(f"image-{next(_numbers)}", SIZE)
