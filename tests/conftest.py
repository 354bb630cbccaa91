# SPDX-License-Identifier: GPL-2.0-or-later
"""Fixtures of all Python tests."""

import pathlib
import signal
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from tests.support import network  # noqa: E402
from tests.support.disk import CloudblkDisk, PlainDisk  # noqa: E402
from tests.support.paths import COMPILED_IN, RELEASES, qemu_command  # noqa: E402

# Under nohup, or in the background of a script, the commands under test would ignore these as well. What is handled
# here, they start with as usual.
for ignored in signal.SIGHUP, signal.SIGINT, signal.SIGQUIT:
    if signal.getsignal(ignored) == signal.SIG_IGN:
        signal.signal(ignored, lambda *_: None)


def pytest_addoption(parser):
    parser.addoption(
        "--plain",
        action="store_true",
        help="run the guest tests on QEMU's own virtio-blk-pci, to tell a mistake of the tests from one of ours",
    )
    parser.addoption(
        "--all-servers",
        action="store_true",
        help="run the tests of tests/servers with every NBD server, not only with one",
    )
    parser.addoption(
        "--ceph",
        action="store_true",
        help="run all tests of tests/ceph, not only those that are marked as brief",
    )


@pytest.fixture(params=[*RELEASES, COMPILED_IN])
def qemu(request):
    """Command of each stock QEMU, and of the one with the device compiled in."""
    return qemu_command(request.param)


@pytest.fixture
def disk_type(request):
    return PlainDisk if request.config.getoption("--plain") else CloudblkDisk


@pytest.fixture
def disk(disk_type, tmp_path):
    """A disk of 1 GiB that has nothing on it."""
    with disk_type(tmp_path / "disk.img", 1 << 30) as made:
        yield made


@pytest.fixture
def net():
    """Two hosts for QEMU and one for a server."""
    if not network.possible():
        pytest.skip("no network namespaces can be made here: that needs root")
    with network.Switch(3) as made:
        yield made
