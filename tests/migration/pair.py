# SPDX-License-Identifier: GPL-2.0-or-later
"""Two machines without a guest and a disk that moves between them under verified load.

The test is the guest's driver: it writes stamped sectors, and after the move goes on with the rings
where they were, in the destination's memory.
"""

import json
import struct
import time

from tests.support.qtest import Machine
from tests.support.virtio import S_OK, T_FLUSH, T_IN, T_OUT, BlockDriver, Request, poll

MACHINE = "pc-i440fx-7.2"
BLOCKS = 64
BLOCK = 4096


class MovingMachine(Machine):
    """A machine of the oldest release's type. A destination has the RAM of its source: what the test
    writes as the guest is not seen by QEMU's dirty log, and would not be sent."""

    def __init__(self, binary, devices, source=None):
        super().__init__(binary, devices)
        self.ram = source.ram if source else self.folder / "ram"
        if source:
            at = next(i for i, word in enumerate(self._arguments) if "mem-path=" in word)
            self._arguments[at] = self._arguments[at].replace(str(self.folder / "ram"), str(self.ram))
            self.memory = source.memory
        at = self._arguments.index("-machine") + 1
        self._arguments[at] = self._arguments[at].replace("pc,", f"{MACHINE},")
        if source:
            self._arguments += ["-incoming", "defer", "-S"]


def start(qemu, uri, source=None, arguments=(), **properties):
    options = {"driver": "cloudblk-pci", "id": "disk", "addr": "0x4", "server": uri}
    options |= {name.replace("_", "-"): value for name, value in properties.items()}
    machine = MovingMachine(qemu, [*arguments, "-device", json.dumps(options)], source)
    try:
        machine.start()
        capability(machine, "x-ignore-shared")
    except BaseException:
        machine.__exit__()
        raise
    return machine


def move_driver(driver, machine):
    """The driver goes on in another machine, whose registers and memory are those of the
    first."""
    machine._free = driver.machine._free
    driver.machine = driver.pci.machine = machine
    driver.registers._machine = machine
    for queue in driver.queues:
        queue.move(machine)


class Load:
    """Writes stamped blocks, with some always in flight, and knows what each block must hold."""

    def __init__(self, driver, depth=8):
        self.driver = driver
        self._depth = depth
        self._round = 0
        self._flying = []
        self.expected = {}
        # Buffers are used again: guest memory is never given back
        self._slots = [self._slot() for _ in range(depth)]

    def _slot(self):
        machine = self.driver.machine
        return machine.alloc(16), machine.alloc(BLOCK, 512), machine.alloc(1)

    def _stamp(self, block):
        return struct.pack("<QQ", block, self._round) * (BLOCK // 16)

    @property
    def flying(self):
        """How many writes the disk has not answered."""
        return len(self._flying)

    def start(self):
        """Puts as many writes on the ring as may be in flight."""
        machine, queue = self.driver.machine, self.driver.queues[0]
        while self._slots:
            header, data, status = slot = self._slots.pop()
            self._round += 1
            block = self._round % BLOCKS
            stamp = self._stamp(block)
            machine.memory[header : header + 16] = struct.pack("<IIQ", T_OUT, 0, block * BLOCK // 512)
            machine.memory[data : data + BLOCK] = stamp
            machine.memory[status] = 0xFF
            token = queue.add([(header, 16, False), (data, BLOCK, False), (status, 1, True)])
            self._flying.append((token, slot, block, stamp))
        self.driver.kick(queue)

    def collect(self):
        """Takes back what has completed; every status must be OK."""
        queue = self.driver.queues[0]
        queue.done.update(queue.used())
        for item in [item for item in self._flying if item[0] in queue.done]:
            token, slot, block, stamp = item
            self._flying.remove(item)
            del queue.done[token]
            assert self.driver.machine.memory[slot[2]] == S_OK, f"block {block} failed"
            self.expected[block] = stamp
            self._slots.append(slot)

    def run(self, seconds):
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self.start()
            self.collect()

    def drain(self):
        def idle():
            self.collect()
            return not self._flying

        poll(idle, "completion of the load")

    def verify(self):
        """Drains and reads everything back."""
        self.drain()
        assert Request(self.driver, T_FLUSH).submit().wait() == S_OK
        request = Request(self.driver, T_IN, 0, BLOCK * BLOCKS).submit()
        assert request.wait() == S_OK
        content = request.bytes
        for block, stamp in self.expected.items():
            assert content[block * BLOCK : (block + 1) * BLOCK] == stamp, f"block {block} is not what was written"


def new_driver(machine):
    return BlockDriver(machine, 4)


def capability(machine, name, state=True):
    machine.qmp.command("migrate-set-capabilities", capabilities=[{"capability": name, "state": state}])


def status(machine):
    return machine.qmp.command("query-migrate").get("status")


def wait_status(machine, *wanted):
    return poll(lambda: status(machine) in wanted and status(machine), f"migration status {wanted}", 60)


def listen(destination):
    """Lets the destination listen; its URI."""
    uri = f"unix:{destination.folder}/migration"
    destination.qmp.command("migrate-incoming", uri=uri)
    return uri


def migrate(source, destination, load):
    """Source to destination, with the load going on until the source stops. The destination is then
    ready to run."""
    source.qmp.command("migrate", uri=listen(destination))
    while status(source) not in ("completed", "failed"):
        if source.qmp.command("query-status")["running"]:
            load.start()
            load.collect()
    assert status(source) == "completed", source.messages()
    wait_arrived(destination)


def migrate_without_load(source, destination):
    """As migrate(), with nobody who uses the disk meanwhile."""
    source.qmp.command("migrate", uri=listen(destination))
    assert wait_status(source, "completed", "failed") == "completed", source.messages() + destination.messages()
    wait_arrived(destination)


def wait_arrived(destination):
    def arrived():
        return destination.qmp.command("query-status")["status"] in ("paused", "prelaunch")

    poll(arrived, "end of the migration", 60)


def go_on(load, destination):
    """The destination runs, and the load goes on there."""
    move_driver(load.driver, destination)
    destination.qmp.command("cont")
