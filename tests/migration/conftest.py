# SPDX-License-Identifier: GPL-2.0-or-later
"""Fixtures of the migration tests."""

import pytest

from tests.migration import pair
from tests.support.paths import qemu_command
from tests.support.proxy import Proxy


@pytest.fixture(params=["memory", "file"])
def proxy(request, tmp_path):
    backend = f"file://{tmp_path}/d0?size=64M&create=on" if request.param == "file" else "memory:?size=64M"
    with Proxy({"d0": backend}) as started:
        yield started


class Pair:
    """Starts sources and destinations and ends them with the test."""

    def __init__(self, proxy):
        self.proxy = proxy
        self._machines = []

    def start(self, release, source=None, **properties):
        machine = pair.start(qemu_command(release), self.proxy.uri("d0"), source, **properties)
        self._machines.append(machine)
        return machine

    def check_owners(self, claims):
        """What the proxy saw: one owner after the other, each after a RELEASE by the one before, and
        epochs that only grow."""
        self.proxy.stop()
        active, epoch, claimed = False, 0, 0
        for line in self.proxy.log:
            if " released by " in line:
                assert active, line
                active = False
            elif " claimed by " in line or " active for " in line:
                assert not active, line
                now = int(line.rsplit(" ", 1)[1])
                assert now > epoch, line
                active, epoch, claimed = True, now, claimed + (" claimed by " in line)
        assert claimed >= claims, self.proxy.log

    def end(self):
        while self._machines:
            self._machines.pop().__exit__()


@pytest.fixture
def machines(proxy):
    made = Pair(proxy)
    yield made
    made.end()
