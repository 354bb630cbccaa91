# SPDX-License-Identifier: GPL-2.0-or-later
"""Over fifty migrations of Linux guests under verified load, between hosts in network namespaces.

Each guest lives through the same schedule, between QEMUs of one release or of two: migrations are
cancelled early and late, and destinations die at every step of the way. Nothing may be answered with
an error, nothing that was acknowledged may be missing, and the proxy's log may never show two owners.
"""

import pytest

from tests.chaos.daemon import Daemon, file_uri, wait_for
from tests.migration import evidence
from tests.migration.journey import FAST, SLOW, Journey
from tests.support.paths import COMPILED_IN
from tests.support.qemu import QmpError
from tests.support.standstill import freeze, thaw

PROXY_HOST = 2


class Storm(Journey):
    """A journey with a cloudblk disk, and what can befall it."""

    def __init__(self, net, folder, way, queues):
        super().__init__(net, way, self._disk)
        for host in (0, 1):
            # What is sent to a host that has stopped reading must find room: all of a guest
            net.set(net.name(host), "net.ipv4.tcp_wmem", f"4096 {256 << 20} {256 << 20}")
        self._queues = queues
        self.image = folder / "d0"
        self.proxy = Daemon(
            folder,
            {"d0": file_uri(self.image)},
            "--insecure",
            listen=[f"tcp://{net.address(PROXY_HOST)}:9810"],
            prefix=net.command(net.name(PROXY_HOST)),
        )

    def _disk(self, **properties):
        options = ["cloudblk-pci", f"server={self.proxy.uri('d0')}", *self._queues]
        options += [f"{name}={value}" for name, value in properties.items()]
        return ["-object", "iothread,id=io0", "-device", ",".join(options)]

    def log(self):
        """Of all the proxies, one after the other."""
        return "".join(
            (self.proxy.folder / f"proxy-{number}.err").read_text()
            for number in range(1, self.proxy.starts + 1)
        )

    def wait_for_claim(self, machine):
        self.proxy.wait_for_log(f"claimed by vm pid {machine.process.pid} ")

    def releases(self, machine):
        return self.log().count(f"released by vm pid {machine.process.pid} ")

    def begin(self):
        self.proxy.start()
        self.boot()
        self.start_load()
        self.progress()

    def finish(self):
        """The load reads everything back, and the file holds what it wrote."""
        self.signal_load("TERM")
        written = self.console.said("ended")
        assert not self.guest.errors()
        self.guest.poweroff()
        assert self.proxy.stop() == 0
        assert evidence.content(self.image) == written

    def mourn(self, there, exact=None):
        """The destination dies after its claim. What the source has is out of date: it must not run.
        The guest is started again where it was, and finds everything that was acknowledged."""
        here = self.guest
        there.kill()
        there.port.wait_closed()
        self.console.move(there.port)
        self.console.catch_up()
        acknowledged = self.console.done
        self.refuses_to_run(here)
        self.proxy.wait_for_log(f"lost the last connection of vm pid {there.process.pid} ")
        self.boot(takeover="on")
        self.guest.run("disk_load /dev/vda check")
        found = self.console.said("found")
        assert evidence.content(self.image) == found
        assert all(now >= before for now, before in zip(found, acknowledged)), (found, acknowledged)
        assert not exact or found == exact
        self.start_load()
        self.progress()

    def refuses_to_run(self, here):
        try:
            here.qmp.command("cont")
        except QmpError as error:
            # In the middle of a postcopy it is QEMU that refuses
            assert "migration" in str(error).lower(), error
        wait_for(lambda: here.status != "running", "stop of the source")
        here.kill()


# ---- What happens to a migration ----


def moves(storm, **how):
    there = storm.destination(**how)
    storm.leave()
    storm.guest.migration("completed")
    storm.arrive(there).kill()
    storm.progress()


def moves_with_return_path(storm):
    moves(storm, return_path=True)


def moves_with_several_connections(storm):
    moves(storm, multifd=True)


def moves_and_the_source_quits(storm):
    """As a management program does it: the destination runs when it is told to."""
    there = storm.destination(paused=True, return_path=True)
    storm.leave()
    storm.guest.migration("completed")
    there.qmp.command("cont")
    source = storm.arrive(there)
    storm.progress()
    source.qmp.quit()
    assert source.wait() == 0
    storm.progress()


def moves_and_the_source_is_told_to_run(storm):
    """The operator's mistake: two guests would run."""
    there = storm.destination()
    storm.leave()
    storm.guest.migration("completed")
    source = storm.arrive(there)
    storm.progress()
    source.qmp.command("cont")
    wait_for(lambda: source.status == "io-error", "stop of the source")
    storm.progress()
    source.kill()


def moves_before_its_memory(storm):
    """Postcopy: the guest runs at the destination while most of its memory is at the source."""
    there = storm.destination(postcopy_ram=True, return_path=True)
    storm.leave(SLOW)
    storm.guest.migration("active")
    storm.guest.qmp.command("migrate-start-postcopy")
    storm.guest.migration("postcopy-active")
    storm.guest.migration("completed")
    storm.arrive(there).kill()
    storm.progress()


def stops_with_requests_in_flight(storm, **how):
    """The proxy is deaf while the guest stops: the workers' requests are not answered."""
    there = storm.destination(pause_before_switchover=True, **how)
    storm.leave(SLOW if how.get("postcopy_ram") else FAST)
    storm.guest.migration("active")
    freeze(storm.proxy.process)
    if how.get("postcopy_ram"):
        storm.guest.qmp.command("migrate-start-postcopy")
    storm.guest.migration("pre-switchover")
    thaw(storm.proxy.process)
    storm.guest.qmp.command("migrate-continue", state="pre-switchover")
    return there


def moves_with_requests_in_flight(storm):
    there = stops_with_requests_in_flight(storm)
    storm.guest.migration("completed")
    storm.arrive(there).kill()
    storm.progress()


def moves_with_requests_in_flight_before_its_memory(storm):
    there = stops_with_requests_in_flight(storm, postcopy_ram=True, return_path=True)
    storm.guest.migration("completed")
    storm.arrive(there).kill()
    storm.progress()


def moves_while_the_proxy_restarts(storm):
    """Who has the token outlives the proxy."""
    there = stops_after_release(storm)
    storm.guest.migration("completed")
    storm.proxy.kill()
    storm.proxy.start()
    there.thaw()
    there.qmp.command("cont")
    storm.arrive(there).kill()
    storm.progress()


def loses_its_destination_with_requests_in_flight(storm):
    """Which the source then has to do itself."""
    there = stops_with_requests_in_flight(storm, paused=True)
    storm.guest.migration("completed")
    there.kill()
    storm.guest.qmp.command("cont")
    storm.progress()


def is_cancelled_midway(storm):
    there = storm.destination()
    storm.leave(SLOW)
    storm.guest.migration("active")
    storm.progress()
    storm.guest.qmp.command("migrate_cancel")
    storm.guest.migration("cancelled")
    storm.progress()
    there.kill()


def is_cancelled_before_the_switchover(storm):
    """The guest stands still, and the disk was not released."""
    there = storm.destination(pause_before_switchover=True)
    storm.leave()
    storm.guest.migration("pre-switchover")
    storm.guest.qmp.command("migrate_cancel")
    storm.guest.migration("cancelled")
    storm.progress()
    there.kill()


def stops_after_release(storm, **how):
    """The destination is deaf while the source sends its state and releases the disk."""
    there = storm.destination(paused=True, pause_before_switchover=True, **how)
    storm.leave()
    storm.guest.migration("pre-switchover")
    there.freeze()
    releases = storm.releases(storm.guest)
    storm.guest.qmp.command("migrate-continue", state="pre-switchover")
    wait_for(lambda: storm.releases(storm.guest) > releases, "release")
    return there


def is_cancelled_after_the_release(storm):
    """The source takes the disk back, and a destination that has got everything comes too late."""
    there = stops_after_release(storm, return_path=True)
    storm.guest.qmp.command("migrate_cancel")
    # migrate_cancel shuts the return path down before it sets `cancelling`: if QEMU's migration thread,
    # which waits for that path's end, comes first, it calls it a failure. The guest goes on either way.
    storm.guest.migration("cancelled", "failed")
    storm.progress()
    there.thaw()
    wait_for(lambda: there.process.poll() is not None or there.status in ("paused", "prelaunch"), "end")
    if there.process.poll() is None:
        there.qmp.command("cont")
        wait_for(lambda: there.status == "io-error", "stop of the destination")
    storm.progress()
    there.kill()


def loses_its_destination_midway(storm):
    there = storm.destination(return_path=True)
    storm.leave(SLOW)
    storm.guest.migration("active")
    there.kill()
    storm.guest.migration("failed")
    storm.progress()


def loses_its_destination_before_the_claim(storm):
    """The source learns of it, and goes on by itself."""
    there = stops_after_release(storm, return_path=True)
    there.kill()
    storm.guest.migration("failed")
    storm.progress()


def loses_its_destination_before_the_claim_unnoticed(storm):
    """Without a return path the source has done its part, and is told to go on."""
    there = stops_after_release(storm)
    storm.guest.migration("completed")
    there.kill()
    storm.guest.qmp.command("cont")
    storm.progress()


def loses_its_destination_after_the_claim(storm):
    storm.signal_load("USR1")
    written = storm.console.said("paused")
    there = storm.destination(return_path=True)
    storm.leave()
    storm.guest.migration("completed")
    storm.wait_for_claim(there)
    storm.mourn(there, exact=written)


def loses_its_destination_with_its_first_write_in_the_air(storm):
    there = storm.destination(paused=True)
    storm.leave()
    storm.guest.migration("completed")
    there.qmp.command("cont")
    storm.wait_for_claim(there)
    storm.mourn(there)


def loses_its_destination_after_its_first_write(storm):
    there = storm.destination()
    storm.leave()
    storm.guest.migration("completed")
    storm.console.move(there.port)
    storm.progress()
    storm.mourn(there)


def loses_its_destination_before_its_memory(storm):
    """Postcopy: the guest has run there, and most of its memory is still here."""
    there = storm.destination(postcopy_ram=True, return_path=True)
    storm.guest.qmp.command("migrate-set-parameters", max_postcopy_bandwidth=SLOW)
    storm.leave(SLOW)
    storm.guest.migration("active")
    storm.guest.qmp.command("migrate-start-postcopy")
    storm.guest.migration("postcopy-active")
    storm.console.move(there.port)
    storm.progress()
    storm.mourn(there)


SCHEDULE = (
    moves,
    is_cancelled_midway,
    moves_with_return_path,
    is_cancelled_before_the_switchover,
    moves_with_requests_in_flight,
    loses_its_destination_midway,
    moves_before_its_memory,
    loses_its_destination_with_requests_in_flight,
    moves_and_the_source_quits,
    is_cancelled_after_the_release,
    moves_with_several_connections,
    loses_its_destination_before_the_claim,
    moves_and_the_source_is_told_to_run,
    loses_its_destination_before_the_claim_unnoticed,
    moves_with_requests_in_flight_before_its_memory,
    loses_its_destination_after_the_claim,
    moves_while_the_proxy_restarts,
    loses_its_destination_with_its_first_write_in_the_air,
    moves_with_return_path,
    loses_its_destination_after_its_first_write,
    moves,
    loses_its_destination_before_its_memory,
)

# Two releases and how the disk is served
WAYS = {
    "7.2": (("7.2", "7.2"), ["num-queues=2"]),
    "10.0": (("10.0", "10.0"), ["num-queues=2", "iothread=io0"]),
    "7.2-10.0": (("7.2", "10.0"), ["num-queues=1", "iothread=io0"]),
    "10.0-compiled-in": (("10.0", COMPILED_IN), ["num-queues=2", "iothread=io0"]),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_guest_in_the_storm(net, tmp_path, way):
    storm = Storm(net, tmp_path, *WAYS[way])
    try:
        storm.begin()
        for befalls in SCHEDULE:
            print(befalls.__name__, storm.console.done)
            befalls(storm)
        storm.finish()
    finally:
        print(storm.log()[-8000:])
        storm.end()
        storm.proxy.__exit__()
    owners = evidence.timeline(storm.log())
    assert storm.migrations == len(SCHEDULE)
    assert len(owners) >= sum(befalls.__name__.startswith("moves") for befalls in SCHEDULE)
