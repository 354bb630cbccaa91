# SPDX-License-Identifier: GPL-2.0-or-later
"""A Linux guest with its disk and verified load on it, and the hosts between which it moves.

Two hosts run QEMU, a third the proxy, each a network namespace; the load is disk_load, whose last
write per worker says what the whole disk must hold.
"""

from tests.migration.console import Console, Port
from tests.support.guest import Guest
from tests.support.paths import load_guest_files, qemu_command
from tests.support.qemu import Qemu
from tests.support.standstill import freeze, thaw

MACHINE = "pc-i440fx-7.2"
# No multiple of 256 KiB: QEMU 7.2 takes the dirty bits of such memory 64 pages at a time, and does not tell
# TCG, whose processors go on writing to these pages unseen (mended in QEMU 9.0). Then a guest arrives with
# some of its pages as they were long before it left.
MEMORY = "131080K"
PORT = 4444
CAPABILITIES = ("return-path", "postcopy-ram", "multifd", "pause-before-switchover")
# Bytes a second: what QEMU takes by default, and one at which the memory is still on its way when a
# test does something
FAST, SLOW = 128 << 20, 4 << 20
PATIENCE = 60


class MovingGuest(Guest):
    """A guest that starts here, or (incoming) one that comes from elsewhere."""

    # When the socket is full, the byte that is refused and those behind it wait in the UART, and are
    # sent twice if the guest moves: by the destination, and by the source as soon as there is room.
    # A socket takes some 270 bytes of one write each; with this, the test may look away for seconds.
    SERIAL_ROOM = 64 << 20

    def __init__(self, command, prefix, devices, console, incoming=None):
        super().__init__(command, devices, memory=MEMORY, files=load_guest_files(), prefix=prefix)
        self._arguments += ["-machine", MACHINE]
        self._arguments += ["-incoming", "defer", *incoming] if incoming is not None else []
        self._incoming = incoming is not None
        self._lines = console
        self.port = None

    def start(self):
        Qemu.start(self)
        self._socket = self.connection("agent")
        self.port = Port(self._socket)
        if not self._incoming:
            self._lines.move(self.port)
            self.wait_ready()

    @property
    def status(self):
        return self.qmp.command("query-status")["status"]

    def migration(self, *wanted, timeout=PATIENCE):
        """Waits until the migration has one of these states, by QEMU's events."""
        while True:
            state = self.qmp.wait_event("MIGRATION", timeout)["data"]["status"]
            if state in wanted:
                return state
            assert state not in ("completed", "failed", "cancelled"), f"{state}: {self.messages()}"

    def freeze(self):
        freeze(self.process)

    def thaw(self):
        thaw(self.process)


class Journey:
    """way: the QEMU releases between which the guest goes to and fro."""

    def __init__(self, net, way, devices):
        self._net = net
        self._commands = [qemu_command(release) for release in way]
        self._prefixes = [net.command(net.name(host)) for host in (0, 1)]
        self._devices = devices
        self._here = 0
        self._machines = []
        self.console = None
        self.guest = None
        self.migrations = 0

    # ---- Machines ----

    def boot(self, **properties):
        """Starts the guest on the host where it was last."""
        self.console = Console(self._report)
        self.guest = self._start(self._here, self._devices(**properties))
        return self.guest

    def destination(self, paused=False, **capabilities):
        """A machine on the other host that waits for the guest; paused: it runs only when told to."""
        there = self._start(1 - self._here, self._devices(), ["-S"] if paused else [])
        states = {"events": True}
        states |= {name: capabilities.get(name.replace("-", "_"), False) for name in CAPABILITIES}
        for machine in (self.guest, there):
            machine.qmp.command(
                "migrate-set-capabilities",
                capabilities=[{"capability": name, "state": state} for name, state in states.items()],
            )
        there.qmp.command("migrate-incoming", uri=self._uri())
        return there

    def _start(self, host, devices, incoming=None):
        machine = MovingGuest(self._commands[host], self._prefixes[host], devices, self.console, incoming)
        self._machines.append(machine)
        machine.start()
        return machine

    def _uri(self):
        return f"tcp:{self._net.address(1 - self._here)}:{PORT}"

    def _report(self):
        running = [machine for machine in self._machines if machine.process.poll() is None]
        return "\n".join(machine.report() for machine in running)

    def end(self):
        while self._machines:
            self._machines.pop().__exit__()

    # ---- Moving ----

    def leave(self, bandwidth=FAST, downtime_ms=300):
        """The migration begins. downtime_ms: what the memory that is left to the end may take."""
        self.migrations += 1
        self.guest.qmp.events.clear()
        self.guest.qmp.command(
            "migrate-set-parameters", max_bandwidth=bandwidth, downtime_limit=downtime_ms
        )
        self.guest.qmp.command("migrate", uri=self._uri())

    def arrive(self, there):
        """The guest is there now. Gives the machine that it left."""
        left, self.guest = self.guest, there
        assert not left.errors()
        self._here = 1 - self._here
        self.console.move(there.port)
        return left

    # ---- Load ----

    def start_load(self, pause_ms=0):
        """Gives what the disk held before."""
        self.guest.run(f"disk_load /dev/vda run {pause_ms} & echo $! >/tmp/load")
        return self.console.said("found")

    def signal_load(self, name):
        self.guest.run(f"kill -{name} $(cat /tmp/load)")

    def progress(self):
        """Every worker acknowledges two writes more than those before the call."""
        self.console.catch_up()
        before = list(self.console.done)

        def more():
            return self.console.done and all(now >= old + 2 for old, now in zip(before, self.console.done))

        self.console.wait(more)
