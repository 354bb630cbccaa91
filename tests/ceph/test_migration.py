# SPDX-License-Identifier: GPL-2.0-or-later
"""Live migration between hosts that each have a proxy of their own on the same image."""

import contextlib
import itertools

from tests.chaos.daemon import Daemon
from tests.migration import evidence, pair
from tests.migration.journey import Journey
from tests.support.paths import qemu_command

MOVES = 20


@contextlib.contextmanager
def proxies(cluster, image, tmp_path, listen="tcp://127.0.0.1:0"):
    """Two, and what gives the URIs of the volume at the one and the other in turn."""
    with contextlib.ExitStack() as stack:
        made = []
        for name in "ab":
            (tmp_path / name).mkdir()
            at = listen.format(folder=tmp_path / name)
            made.append(stack.enter_context(Daemon(tmp_path / name, {"disk": cluster.uri(image)}, listen=[at])))
        yield made


def check_owners(made, moves):
    """One owner after the other, whichever proxy it was at."""
    lines = [line for proxy in made for line in proxy.log().splitlines()]
    owners = evidence.timeline("\n".join(sorted(lines, key=lambda line: line.split()[0])))
    assert len(owners) == moves + 1, owners


def test_a_disk_moves_to_and_fro_under_load(release, cluster, image, tmp_path):
    machines = []
    with proxies(cluster, image, tmp_path) as made:
        uris = itertools.cycle(proxy.uri("disk") for proxy in made)
        try:
            machines.append(pair.start(qemu_command(release), next(uris)))
            load = pair.Load(pair.new_driver(machines[0]))
            for _ in range(MOVES):
                load.run(0.1)
                here = machines[-1]
                machines.append(pair.start(qemu_command(release), next(uris), here))
                pair.migrate(here, machines[-1], load)
                pair.go_on(load, machines[-1])
                here.qmp.quit()
                here.wait()
            load.run(0.1)
            load.verify()
        finally:
            while machines:
                machines.pop().__exit__()
        check_owners(made, MOVES)
        assert "client" not in cluster.ceph("osd", "blocklist", "ls")


def test_a_source_takes_its_disk_back_from_nobody(release, cluster, image, tmp_path):
    """The destination dies before it has claimed the disk at its own proxy."""
    machines = []
    with proxies(cluster, image, tmp_path) as (first, second):
        try:
            source = pair.start(qemu_command(release), first.uri("disk"))
            machines.append(source)
            destination = pair.start(qemu_command(release), second.uri("disk"), source)
            machines.append(destination)
            load = pair.Load(pair.new_driver(source))
            load.run(0.2)
            pair.migrate(source, destination, load)
            destination.kill()
            source.qmp.command("cont")
            load.run(0.2)
            load.verify()
        finally:
            while machines:
                machines.pop().__exit__()


def test_a_guest_moves_to_and_fro(release, cluster, image, tmp_path, net):
    with proxies(cluster, image, tmp_path, "unix://{folder}/socket") as made:
        sockets = itertools.cycle(proxy.address for proxy in made)
        disk = lambda: ["-device", f"cloudblk-pci,server=cloudblk+unix:///disk?socket={next(sockets)}"]
        journey = Journey(net, (release, release), disk)
        try:
            journey.boot()
            journey.start_load()
            journey.progress()
            for _ in range(MOVES):
                there = journey.destination()
                journey.leave()
                journey.guest.migration("completed")
                journey.arrive(there).kill()
                journey.progress()
            journey.signal_load("TERM")
            written = journey.console.said("ended")
            assert not journey.guest.errors()
            journey.guest.poweroff()
        finally:
            journey.end()
        check_owners(made, MOVES)
    assert evidence.content(cluster.export(image, tmp_path / "export")) == written
