# SPDX-License-Identifier: GPL-2.0-or-later
"""Fixtures of the tests that drive the device without a guest."""

import contextlib
import json

import pytest

from tests.support.proxy import Proxy
from tests.support.qtest import Machine
from tests.support.stream import Closed
from tests.support.virtio import BlockDriver

from .life import LOOPS

VOLUME_SIZE = 64 << 20


@pytest.fixture
def proxy():
    """A proxy with a volume in memory, d0."""
    with Proxy({"d0": f"memory:?size={VOLUME_SIZE}"}) as started:
        yield started


class Bench:
    """Starts machines with cloudblk disks and ends them with the test."""

    def __init__(self, qemu, proxy):
        self._qemu, self.proxy = qemu, proxy
        self._machines = []

    def machine(self, *arguments, device="cloudblk-pci", slot=4, machine="pc", **properties):
        """arguments: further ones for QEMU. properties: the disk's, with _ for - except where
        virtio-blk's own name has _."""
        options = {"driver": device, "id": "disk", "addr": f"{slot:#x}", "server": self.proxy.uri("d0")}
        for name, value in properties.items():
            options[name if name in UNDERSCORED else name.replace("_", "-")] = value
        options = {name: value for name, value in options.items() if value is not None}
        devices = [*arguments, "-device", json.dumps(options)]
        made = Machine(self._qemu, devices, machine=machine)
        self._machines.append(made)
        made.start()
        return made

    def fails(self, *arguments, **properties):
        """Exit status and messages of a QEMU that does not start. {uri} in server: the volume's."""
        if properties.get("server"):
            properties["server"] = properties["server"].replace("{uri}", self.proxy.uri("d0"))
        with pytest.raises((Closed, ConnectionError)):
            self.machine(*arguments, **properties)
        machine = self._machines[-1]
        return machine.wait(), machine.messages()

    def disk(self, *arguments, device="cloudblk-pci", features=(), queues=1, ring_size=None, **properties):
        """A machine with a disk that is ready for use."""
        if queues > 1:
            properties.setdefault("num_queues", queues)
        machine = self.machine(*arguments, device=device, **properties)
        return BlockDriver(machine, 4, features, device == "cloudblk-pci-transitional", queues, ring_size)

    def messages(self):
        """Of the last machine, which may still be starting."""
        with contextlib.suppress(IndexError, FileNotFoundError):
            return self._machines[-1].messages()
        return ""

    def quit(self):
        """Ends all machines orderly."""
        for machine in self._machines:
            machine.qmp.command("quit")
            assert machine.wait() == 0
        self.end()

    def end(self):
        while self._machines:
            self._machines.pop().__exit__()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.end()


UNDERSCORED = {
    "logical_block_size",
    "physical_block_size",
    "min_io_size",
    "opt_io_size",
    "discard_granularity",
    "backend_defaults",
    "event_idx",
    "in_order",
    "iommu_platform",
    "indirect_desc",
    "failover_pair_id",
}


@pytest.fixture
def bench(qemu, proxy):
    made = Bench(qemu, proxy)
    yield made
    made.end()


@pytest.fixture(params=LOOPS)
def loops(request):
    """Properties that choose who serves the queues."""
    return LOOPS[request.param]


@pytest.fixture(params=(False, True), ids=("split", "packed"))
def packed(request):
    return request.param
