# SPDX-License-Identifier: GPL-2.0-or-later
"""A server that has stopped answering holds up nothing but its own requests, and what was given up
meanwhile comes to nothing."""

import contextlib
import time

import pytest

from tests.support import virtio
from tests.support.proxy import Proxy
from tests.support.qemu import QmpError
from tests.support.qtest import Machine
from tests.support.relay import Relay
from tests.support.standstill import hanging
from tests.support.stream import Timeout
from tests.support.virtio import S_OK, T_FLUSH, T_IN, T_OUT, BlockDriver, Request, poll

from .conftest import Bench
from .life import (
    AT_ONCE,
    DEPTH,
    IOTHREADS,
    at_once,
    eject,
    restart,
    stay_in_flight,
    two_queues,
    untouched,
    works,
)


@pytest.fixture(params=(T_IN, T_OUT), ids=("reads", "writes"))
def kind(request):
    return request.param


def test_reset(bench, loops, packed, kind):
    driver = two_queues(bench, loops, packed)
    assert Request(driver, T_OUT, 0, b"d" * 4096 * DEPTH).submit().wait() == S_OK
    with hanging(bench.proxy):
        requests = stay_in_flight(driver, kind)
        with at_once():
            driver.reset()
        with at_once():
            restart(driver)
        late = Request(driver, T_IN, 2048, 4096).submit()
    assert late.wait() == S_OK and not any(late.bytes)
    works(driver)
    assert untouched(requests), "the device wrote to the memory of requests that a reset had ended"


def test_system_reset(bench, loops, packed, kind):
    driver = two_queues(bench, loops, packed)
    with hanging(bench.proxy):
        requests = stay_in_flight(driver, kind)
        with at_once():
            driver.machine.qmp.command("system_reset")
            driver.machine.qmp.wait_event("RESET")
    driver.pci.enable()
    restart(driver)
    works(driver)
    assert untouched(requests)


def test_stop_and_continue(bench, loops, packed, kind):
    driver = two_queues(bench, loops, packed)
    qmp = driver.machine.qmp
    assert Request(driver, T_OUT, 0, b"o" * 4096 * DEPTH).submit().wait() == S_OK
    with hanging(bench.proxy):
        requests = stay_in_flight(driver, kind)
        for command in ("stop", "cont", "stop"):
            with at_once():
                qmp.command(command)
    # The server answers now, but the machine's memory stands still
    with pytest.raises(Timeout):
        virtio.poll(lambda: not untouched(requests), "change", timeout=0.5)
    qmp.command("cont")
    assert all(request.wait() == S_OK and request.bytes == b"o" * 4096 for request in requests)
    works(driver)


def test_reset_of_a_stopped_machine(bench, loops, packed, kind):
    """Requests that were parked by the stop are given up by the reset."""
    driver = two_queues(bench, loops, packed)
    qmp = driver.machine.qmp
    with hanging(bench.proxy):
        requests = stay_in_flight(driver, kind)
        with at_once():
            qmp.command("stop")
        with at_once():
            qmp.command("system_reset")
            qmp.wait_event("RESET")
        with at_once():
            qmp.command("cont")
    driver.pci.enable()
    restart(driver)
    works(driver)
    assert untouched(requests)


def test_quit(bench, loops, packed, kind):
    driver = two_queues(bench, loops, packed)
    with hanging(bench.proxy):
        stay_in_flight(driver, kind)
        with at_once():
            driver.machine.qmp.command("quit")
            assert driver.machine.wait() == 0


def test_unplug(bench, loops, packed, kind):
    driver = two_queues(bench, loops, packed)
    with hanging(bench.proxy):
        requests = stay_in_flight(driver, kind)
        with at_once():
            eject(driver.machine, 4)
    assert untouched(requests)


def test_unplug_from_a_guest_that_does_not_react(bench, loops, packed, kind):
    """The disk stays, and goes with the next reset."""
    driver = two_queues(bench, loops, packed)
    qmp = driver.machine.qmp
    with hanging(bench.proxy):
        requests = stay_in_flight(driver, kind)
        with at_once():
            qmp.command("device_del", id="disk")
        assert qmp.command("qom-get", path="/machine/peripheral/disk", property="realized")
        with at_once():
            qmp.command("system_reset")
            qmp.wait_event("DEVICE_DELETED")
    assert untouched(requests)


def test_other_commands(bench, loops, packed, kind):
    driver = two_queues(bench, loops, packed)
    qmp = driver.machine.qmp
    with hanging(bench.proxy):
        requests = stay_in_flight(driver, kind)
        for name in ("query-status", "query-pci", "query-block", "query-iothreads", "query-cpus-fast", "query-memdev",
                     "system_powerdown", "inject-nmi"):
            with at_once():
                qmp.command(name)
        for line in ("info qtree", "info virtio-status /machine/peripheral/disk/virtio-backend", "commit all"):
            with at_once():
                qmp.command("human-monitor-command", command_line=line)
        with at_once():
            qmp.command("qom-get", path="/machine/peripheral/disk", property="io-status")
        with at_once():
            qmp.command("device_add", driver="virtio-rng-pci", id="other")
    assert all(request.wait() == S_OK for request in requests)
    works(driver)


def test_hotplug_waits_no_longer_than_told(bench):
    driver = bench.disk()
    qmp = driver.machine.qmp
    with hanging(bench.proxy):
        begin = time.monotonic()
        with pytest.raises(QmpError):
            qmp.command("device_add", driver="cloudblk-pci", id="late", server=bench.proxy.uri("d1"), open_timeout=300)
        assert time.monotonic() - begin < 0.3 + AT_ONCE
        with at_once():
            assert qmp.command("query-status")["status"] == "running"
    assert Request(driver, T_IN, 0, 512).submit().wait() == S_OK


# ---- Many disks

DISKS = 10


@pytest.fixture
def many(qemu):
    """Drivers of DISKS disks of one machine, on two IOThreads, and their proxy."""
    with Proxy({f"d{i}": "memory:?size=16M" for i in range(DISKS)}) as proxy:
        arguments = [*IOTHREADS]
        for i in range(DISKS):
            arguments += ["-device", f"cloudblk-pci,server={proxy.uri(f'd{i}')},addr={4 + i:#x},iothread=io{i % 2}"]
        with Machine(qemu, arguments) as machine:
            yield proxy, machine, [BlockDriver(machine, 4 + i) for i in range(DISKS)]


def test_stop_of_many_disks(many):
    """Their waiting does not add up."""
    proxy, machine, drivers = many
    with hanging(proxy):
        requests = [Request(driver, T_OUT, 0, bytes(4096)).submit() for driver in drivers]
        with at_once():
            machine.qmp.command("stop")
    machine.qmp.command("cont")
    assert [request.wait() for request in requests] == [S_OK] * DISKS


@pytest.mark.parametrize("busy", (True, False), ids=("busy", "idle"))
def test_quit_with_many_disks(many, busy):
    proxy, machine, drivers = many
    with hanging(proxy):
        if busy:
            for driver in drivers:
                Request(driver, T_OUT, 0, bytes(4096)).submit()
        with at_once():
            machine.qmp.quit()
            assert machine.wait() == 0


def completed_in(seconds, driver, depth=16):
    """How many reads the disk answers in that time, some of them always in flight."""
    queue, done = driver.queues[0], 0
    requests = {request.token: request for request in (Request(driver, T_IN, 8 * i, 4096).submit() for i in range(depth))}
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        for token, _ in queue.used():
            request = requests.pop(token)
            assert request.status == S_OK
            done += 1
            request.submit()
            requests[request.token] = request
    driver.wait(queue, list(requests))
    return done


def test_other_disks_of_the_iothread_go_on(qemu):
    """One of three disks has lost its server. The other two go on."""
    volumes = {"d0": "memory:?size=16M", "d1": "memory:?size=16M"}
    with Proxy(volumes) as alive, Proxy({"d0": "memory:?size=16M"}) as dead:
        # While it polls, whether a read costs the driver a notification is a matter of luck
        arguments = ["-object", "iothread,id=io0,poll-max-ns=0"]
        for slot, uri in enumerate((alive.uri("d0"), alive.uri("d1"), dead.uri("d0")), 4):
            arguments += ["-device", f"cloudblk-pci,server={uri},addr={slot},iothread=io0"]
        with Machine(qemu, arguments) as machine:
            first, second, third = (BlockDriver(machine, slot) for slot in (4, 5, 6))
            rates = {}
            for case, outage in (("alive", contextlib.nullcontext()), ("silent", hanging(dead)), ("alive again", contextlib.nullcontext())):
                with outage:
                    waiting = [Request(third, T_OUT, 8 * i, bytes(4096)).submit() for i in range(64)]
                    rates[case] = completed_in(1, first) + completed_in(1, second)
                assert all(request.wait() == S_OK for request in waiting)
            dead.kill()
            waiting = [Request(third, T_OUT, 8 * i, bytes(4096)).submit() for i in range(64)]
            rates["gone"] = completed_in(1, first) + completed_in(1, second)
            print(f"reads in 2 s: {rates}")
            # Other tests run beside this one; a thread that waited for the dead server would be far below
            fair = min(rates["alive"], rates["alive again"]) / 4
            assert rates["silent"] > fair and rates["gone"] > fair


# ---- What was given up

PLACES = 96
SIZE = 32768


def give_up_by_reset(driver):
    driver.reset()
    restart(driver)
    return driver


def give_up_by_system_reset(driver):
    qmp = driver.machine.qmp
    qmp.command("system_reset")
    qmp.wait_event("RESET")
    driver.pci.enable()
    restart(driver)
    return driver


def give_up_after_stop(driver):
    driver.machine.qmp.command("stop")
    driver = give_up_by_system_reset(driver)
    driver.machine.qmp.command("cont")
    return driver


@pytest.mark.parametrize("backend", ("memory:?size=64M", "file://{folder}/disk?size=64M&create=on"), ids=("memory", "file"))
@pytest.mark.parametrize("how", (give_up_by_reset, give_up_by_system_reset, give_up_after_stop))
def test_no_abandoned_write_lands_after_a_newer_one(qemu, tmp_path, loops, packed, backend, how):
    """Old data waits in the server's sockets when the guest gives it up and writes new data to the same
    places, by the same queue and by the other one."""
    with Proxy({"d0": backend.format(folder=tmp_path)}, ["--threads", "4"]) as proxy:
        with Bench(qemu, proxy) as bench:
            driver = two_queues(bench, loops, packed)
            floor = driver.machine.used
            for attempt in range(6):
                old, new = bytes([2 * attempt + 1]) * SIZE, bytes([2 * attempt + 2]) * SIZE
                driver.reset()
                driver.machine.forget(floor)
                restart(driver)
                with hanging(proxy):
                    for place in range(PLACES):
                        Request(driver, T_OUT, place * SIZE // 512, old, place % 2).submit()
                    driver = how(driver)
                    fresh = [
                        Request(driver, T_OUT, place * SIZE // 512, new, (place + attempt) % 2).submit()
                        for place in range(PLACES)
                    ]
                assert all(request.wait() == S_OK for request in fresh)
                for _ in range(3):
                    for place in range(PLACES):
                        check = Request(driver, T_IN, place * SIZE // 512, SIZE, place % 2)
                        assert check.submit().wait() == S_OK
                        assert check.bytes == new, f"place {place} of attempt {attempt}"


def test_no_abandoned_write_of_one_channel_lands_after_a_newer_one_of_another(qemu, tmp_path, packed):
    """The network holds up one of two connections, with what was given up and what replaces it."""
    volume = {"d0": f"file://{tmp_path}/disk?size=64M&create=on"}
    with Proxy(volume) as proxy, Relay(proxy.address) as relay, Bench(qemu, relay) as bench:
        driver = two_queues(bench, {"iothreads": "io0:io1"}, packed)
        relay.hold(0)
        for place in range(PLACES):
            Request(driver, T_OUT, place * SIZE // 512, b"o" * SIZE, 0).submit()
        poll(driver.queues[0].all_taken, "taking of the requests")
        driver.reset()
        restart(driver)
        fresh = [Request(driver, T_OUT, place * SIZE // 512, b"n" * SIZE, 1).submit() for place in range(PLACES)]
        with pytest.raises(Timeout):
            fresh[0].wait(timeout=1)
        relay.let_go()
        assert all(request.wait() == S_OK for request in fresh)
        # What was held up is over when its channel answers
        assert Request(driver, T_FLUSH, queue=0).submit().wait() == S_OK
        for place in range(PLACES):
            check = Request(driver, T_IN, place * SIZE // 512, SIZE, place % 2)
            assert check.submit().wait() == S_OK and check.bytes == b"n" * SIZE, f"place {place}"
