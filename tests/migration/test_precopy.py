# SPDX-License-Identifier: GPL-2.0-or-later
"""A disk moves between two QEMUs under load, and never has two writers."""

import os
import subprocess

import pytest

from tests.migration import pair
from tests.support.paths import CLIENT, COMPILED_IN, RELEASES
from tests.support.proxy import Proxy
from tests.support.standstill import hanging
from tests.support.virtio import poll

WAYS = [("7.2", "7.2"), ("7.2", "10.0"), ("10.0", "10.0")]
WAYS += [("7.2", COMPILED_IN), (COMPILED_IN, COMPILED_IN)]
ROUNDS = int(os.environ.get("CLOUDBLK_MIGRATIONS", "3"))


def loaded_pair(machines, release="7.2", **properties):
    source = machines.start(release, **properties)
    destination = machines.start(release, source, **properties)
    load = pair.Load(pair.new_driver(source))
    load.run(0.2)
    return source, destination, load


def refusal(proxy):
    """What somebody is told who wants the volume for himself."""
    command = [CLIENT, "flush", "--timeout", "1", proxy.uri("d0")]
    return subprocess.run(command, capture_output=True, text=True, check=False).stderr


@pytest.mark.parametrize("way", WAYS, ids="-".join)
def test_a_disk_moves_under_load(machines, way):
    source = machines.start(way[0])
    destination = machines.start(way[1], source)
    load = pair.Load(pair.new_driver(source))
    load.run(0.2)
    pair.migrate(source, destination, load)
    pair.go_on(load, destination)
    load.run(0.2)
    load.verify()
    machines.check_owners(1)


def test_a_disk_moves_again_and_again(machines):
    source = machines.start("7.2")
    load = pair.Load(pair.new_driver(source))
    for number in range(ROUNDS):
        destination = machines.start("7.2", source)
        if number % 2:
            pair.capability(source, "return-path")
            pair.capability(destination, "return-path")
        load.run(0.1)
        pair.migrate(source, destination, load)
        pair.go_on(load, destination)
        source.kill()
        source = destination
    load.run(0.1)
    load.verify()
    machines.check_owners(ROUNDS)


def test_a_source_takes_back_what_nobody_claimed(machines):
    source, destination, load = loaded_pair(machines)
    pair.migrate(source, destination, load)
    destination.kill()
    source.qmp.command("cont")
    load.run(0.2)
    load.verify()
    machines.check_owners(1)


def test_a_source_migrates_after_it_took_the_disk_back(machines):
    source, destination, load = loaded_pair(machines)
    pair.migrate(source, destination, load)
    destination.kill()
    source.qmp.command("cont")
    load.run(0.1)
    destination = machines.start("7.2", source)
    pair.migrate(source, destination, load)
    pair.go_on(load, destination)
    load.run(0.1)
    load.verify()
    machines.check_owners(2)


def test_a_destination_that_comes_too_late_gets_nothing(machines):
    source, destination, load = loaded_pair(machines)
    pair.migrate(source, destination, load)
    source.qmp.command("cont")
    load.verify()
    destination.qmp.command("cont")
    poll(lambda: destination.qmp.command("query-status")["status"] == "io-error", "stop of the destination")
    load.run(0.1)
    load.verify()
    machines.check_owners(1)


@pytest.mark.parametrize("release", RELEASES)
def test_a_destination_of_another_volume_gets_nothing(machines, release):
    with Proxy({"d0": "memory:?size=64M"}) as other:
        source = machines.start(release)
        destination = machines.start(release, source, server=other.uri("d0"))
        load = pair.Load(pair.new_driver(source))
        load.run(0.1)
        load.drain()
        source.qmp.command("migrate", uri=pair.listen(destination))
        assert destination.wait() != 0
        assert "cannot take" in destination.messages()
        pair.wait_status(source, "completed", "failed")
        source.qmp.command("cont")
        load.run(0.1)
        load.verify()


@pytest.mark.parametrize("kill", [False, True], ids=["alive", "killed"])
def test_a_source_gets_nothing_once_the_destination_has_it(machines, kill):
    source, destination, load = loaded_pair(machines)
    pair.migrate(source, destination, load)
    pair.go_on(load, destination)
    load.run(0.1)
    load.verify()
    if kill:
        destination.kill()
    pair.move_driver(load.driver, source)
    source.qmp.command("cont")
    poll(lambda: source.qmp.command("query-status")["status"] == "io-error", "stop of the source")
    if not kill:
        pair.move_driver(load.driver, destination)
        load.run(0.1)
        load.verify()
    machines.check_owners(1)


def test_a_cancelled_migration_leaves_the_disk_where_it_is(machines):
    source, destination, load = loaded_pair(machines)
    source.qmp.command("migrate", uri=pair.listen(destination))
    source.qmp.command("migrate_cancel")
    pair.wait_status(source, "cancelled", "completed", "failed")
    if not source.qmp.command("query-status")["running"]:
        destination.kill()
        source.qmp.command("cont")
    load.run(0.2)
    load.verify()


def test_a_silent_server_fails_the_migration_and_not_the_disk(machines):
    source, destination, load = loaded_pair(machines)
    load.drain()
    uri = pair.listen(destination)
    with hanging(machines.proxy):
        load.start()
        source.qmp.command("migrate", uri=uri)
        assert pair.wait_status(source, "completed", "failed") == "failed"
        assert "cannot give up" in source.messages()
    poll(lambda: source.qmp.command("query-status")["running"], "the source to run again")
    load.run(0.2)
    load.verify()


def test_a_loser_that_is_continued_once_more_stops_once_more(machines):
    source, destination, load = loaded_pair(machines)
    # In the memory that both have, the loser would answer what it finds in the ring
    load.drain()
    pair.migrate_without_load(source, destination)
    pair.go_on(load, destination)
    # Who runs has not claimed the disk yet: what it is answered shows that
    load.run(0.1)
    load.drain()
    for _ in range(2):
        source.qmp.command("cont")
        source.qmp.wait_event("STOP")
        poll(lambda: source.qmp.command("query-status")["status"] == "io-error", "stop of the source")
    load.run(0.1)
    load.verify()


@pytest.mark.parametrize("release", RELEASES)
def test_a_stopped_machine_takes_its_disk_back_when_the_migration_fails(machines, release):
    """Nobody continues it, and nobody else has the token."""
    source, destination, load = loaded_pair(machines, release)
    load.drain()
    source.qmp.command("stop")
    uri = pair.listen(destination)
    with hanging(machines.proxy):
        source.qmp.command("migrate", uri=uri)
        assert pair.wait_status(source, "completed", "failed") == "failed"
    poll(lambda: "which is connected" in refusal(machines.proxy), "the claim")
    source.qmp.command("quit")
    assert source.wait() == 0
    # Long before a lease would end
    again = machines.start(release, open_timeout=5000)
    pair.move_driver(load.driver, again)
    load.driver = pair.new_driver(again)
    load.verify()


def test_requests_that_a_slow_server_has_not_answered_go_on_at_the_destination(machines):
    source, destination, load = loaded_pair(machines)
    load.drain()
    uri = pair.listen(destination)
    with hanging(machines.proxy):
        load.start()
        source.qmp.command("stop", timeout=30)
    source.qmp.command("migrate", uri=uri)
    assert pair.wait_status(source, "completed", "failed") == "completed", source.messages()
    pair.wait_arrived(destination)
    load.collect()
    assert load.flying, "nothing was carried over"
    pair.go_on(load, destination)
    load.run(0.1)
    load.verify()


@pytest.mark.parametrize("release", RELEASES)
def test_colo_is_refused(machines, release):
    source, destination, load = loaded_pair(machines, release)
    load.drain()
    for machine in (source, destination):
        pair.capability(machine, "x-colo")
    source.qmp.command("migrate", uri=pair.listen(destination))
    assert pair.wait_status(source, "colo", "completed", "failed") == "failed", source.messages()
    assert "x-colo" in source.messages()
    assert destination.wait() != 0
    load.run(0.2)
    load.verify()


def test_a_snapshot_is_refused(machines):
    source = machines.start("7.2")
    load = pair.Load(pair.new_driver(source))
    answer = source.qmp.command("human-monitor-command", command_line="savevm s")
    assert "rror" in answer
    load.run(0.1)
    load.verify()
