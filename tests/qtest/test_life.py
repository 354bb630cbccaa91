# SPDX-License-Identifier: GPL-2.0-or-later
"""Reset, stop, continue, unplug and exit, with requests in flight and with a server that hangs."""

import contextlib
import time

import pytest

from tests.support import virtio
from tests.support.proxy import Proxy, hanging
from tests.support.qemu import QmpError
from tests.support.qtest import Machine
from tests.support.stream import Timeout
from tests.support.virtio import EVENT_IDX, PACKED, S_IOERR, S_OK, T_FLUSH, T_IN, T_OUT, BlockDriver, Request

from .conftest import Bench

DEPTH = 64
# Any command must be done in this time, whatever the server does
AT_ONCE = 1.0

LOOPS = {
    "main-loop": {},
    "iothreads": {"iothreads": "io0:io1"},
    "no-ioeventfd": {"ioeventfd": False},
}
IOTHREADS = ("-object", "iothread,id=io0", "-object", "iothread,id=io1")


@pytest.fixture(params=LOOPS)
def loops(request):
    return LOOPS[request.param]


@pytest.fixture(params=(False, True), ids=("split", "packed"))
def packed(request):
    return request.param


@contextlib.contextmanager
def at_once():
    begin = time.monotonic()
    yield
    assert time.monotonic() - begin < AT_ONCE


def two_queues(bench, loops, packed=False):
    features = (virtio.BLK_MQ, virtio.BLK_FLUSH, EVENT_IDX, *([PACKED] if packed else []))
    return bench.disk(*IOTHREADS, features=features, queues=2, packed=packed, **loops)


def submit_many(driver, kind=T_IN):
    data = 4096 if kind == T_IN else b"o" * 4096
    return [Request(driver, kind, 8 * i, data, i % 2).submit() for i in range(DEPTH)]


def works(driver):
    for queue in range(2):
        pattern = bytes([queue + 7]) * 8192
        assert Request(driver, T_OUT, 2048, pattern, queue).submit().wait() == S_OK
        read = Request(driver, T_IN, 2048, len(pattern), 1 - queue)
        assert read.submit().wait() == S_OK and read.bytes == pattern
    assert Request(driver, T_FLUSH).submit().wait() == S_OK


def untouched(requests):
    return all(request.status == 0xFF and not any(request.bytes) for request in requests)


def restart(driver):
    features = [bit for bit in range(64) if driver.features >> bit & 1]
    driver.start(features, queues=2)


@pytest.mark.parametrize("kind", (T_IN, T_OUT), ids=("reads", "writes"))
def test_reset_with_requests_in_flight(bench, loops, packed, kind):
    driver = two_queues(bench, loops, packed)
    works(driver)
    for _ in range(5):
        submit_many(driver, kind)
        driver.reset()
        restart(driver)
    works(driver)


def test_reset_while_the_server_hangs(bench, loops, packed):
    driver = two_queues(bench, loops, packed)
    assert Request(driver, T_OUT, 0, b"d" * 4096 * DEPTH).submit().wait() == S_OK
    with hanging(bench.proxy):
        requests = submit_many(driver)
        with at_once():
            driver.reset()
        with at_once():
            restart(driver)
        late = Request(driver, T_IN, 0, 4096).submit()
    assert late.wait() == S_OK and late.bytes == b"d" * 4096
    works(driver)
    assert untouched(requests), "the device wrote to the memory of requests that a reset had ended"


def test_system_reset_while_the_server_hangs(bench, loops):
    driver = two_queues(bench, loops)
    with hanging(bench.proxy):
        requests = submit_many(driver)
        with at_once():
            driver.machine.qmp.command("system_reset")
            driver.machine.qmp.wait_event("RESET")
    driver = BlockDriver(driver.machine, 4, (virtio.BLK_MQ, virtio.BLK_FLUSH), queues=2)
    works(driver)
    assert untouched(requests)


def test_stop_completes_what_is_in_flight(bench, loops):
    driver = two_queues(bench, loops)
    requests = submit_many(driver, T_OUT)
    with at_once():
        driver.machine.qmp.command("stop")
    assert all(request.status == S_OK for request in requests)
    driver.machine.qmp.command("cont")
    works(driver)


def test_stop_while_the_server_hangs(bench, loops, packed):
    driver = two_queues(bench, loops, packed)
    qmp = driver.machine.qmp
    assert Request(driver, T_OUT, 0, b"s" * 4096 * DEPTH).submit().wait() == S_OK
    with hanging(bench.proxy):
        requests = submit_many(driver)
        with at_once():
            qmp.command("stop")
        with at_once():
            qmp.command("query-status")
    # The server answers now, but the machine's memory stands still
    with pytest.raises(Timeout):
        virtio.poll(lambda: not untouched(requests), "change", timeout=0.5)
    qmp.command("cont")
    assert all(request.wait() == S_OK and request.bytes == b"s" * 4096 for request in requests)
    works(driver)


def test_reset_of_a_stopped_machine(bench, loops):
    """Requests that were parked by the stop are given up by the reset."""
    driver = two_queues(bench, loops)
    qmp = driver.machine.qmp
    with hanging(bench.proxy):
        requests = submit_many(driver)
        qmp.command("stop")
        with at_once():
            qmp.command("system_reset")
            qmp.wait_event("RESET")
    qmp.command("cont")
    works(BlockDriver(driver.machine, 4, (virtio.BLK_MQ, virtio.BLK_FLUSH), queues=2))
    assert untouched(requests)


def test_kicks_of_a_stopped_machine_are_served_later(bench, loops):
    driver = two_queues(bench, loops)
    driver.machine.qmp.command("stop")
    request = Request(driver, T_IN, 0, 4096).submit()
    with pytest.raises(Timeout):
        request.wait(timeout=0.3)
    driver.machine.qmp.command("cont")
    assert request.wait() == S_OK


def test_stop_of_several_disks_while_the_server_hangs(qemu):
    """Their waiting does not add up."""
    volumes = {f"d{i}": "memory:?size=16M" for i in range(5)}
    with Proxy(volumes) as proxy:
        arguments = [*IOTHREADS]
        for i in range(5):
            arguments += ["-device", f"cloudblk-pci,server={proxy.uri(f'd{i}')},addr={4 + i},iothread=io{i % 2}"]
        with Machine(qemu, arguments) as machine:
            drivers = [BlockDriver(machine, 4 + i) for i in range(5)]
            with hanging(proxy):
                requests = [Request(driver, T_IN, 0, 4096).submit() for driver in drivers]
                with at_once():
                    machine.qmp.command("stop")
            machine.qmp.command("cont")
            assert [request.wait() for request in requests] == [S_OK] * 5


def test_proxy_is_killed_and_comes_back(qemu, loops, tmp_path):
    with Proxy({"d0": f"file://{tmp_path}/disk?size=64M&create=on"}) as proxy:
        bench = Bench(qemu, proxy)
        try:
            driver = two_queues(bench, loops)
            works(driver)
            for _ in range(3):
                requests = submit_many(driver, T_OUT)
                proxy.kill()
                requests += submit_many(driver, T_OUT)
                proxy.start()
                assert all(request.wait() == S_OK for request in requests)
                works(driver)
        finally:
            bench.end()


def test_quit_while_the_server_hangs(bench, loops):
    driver = two_queues(bench, loops)
    with hanging(bench.proxy):
        submit_many(driver, T_OUT)
        with at_once():
            driver.machine.qmp.command("quit")
            assert driver.machine.wait() == 0


def test_quit_frees_the_volume(bench, loops):
    works(two_queues(bench, loops))
    bench.quit()
    works(two_queues(bench, loops))


def eject(machine, slot):
    """What a guest does when it is asked to let a device go."""
    machine.qmp.command("device_del", id="disk")
    machine.port_out(0xAE08, 4, 1 << slot)
    machine.qmp.wait_event("DEVICE_DELETED")


def test_unplug_and_plug(bench, loops):
    driver = two_queues(bench, loops)
    machine = driver.machine
    submit_many(driver, T_OUT)
    eject(machine, 4)
    for slot in (5, 6):
        options = {name.replace("_", "-"): value for name, value in loops.items()}
        machine.qmp.command(
            "device_add", driver="cloudblk-pci", id="disk", addr=f"{slot:#x}", server=bench.proxy.uri("d0"),
            num_queues=2, **options,
        )
        works(BlockDriver(machine, slot, (virtio.BLK_MQ, virtio.BLK_FLUSH), queues=2))
        eject(machine, slot)


def test_unplug_while_the_server_hangs(bench, loops):
    driver = two_queues(bench, loops)
    with hanging(bench.proxy):
        submit_many(driver, T_OUT)
        with at_once():
            eject(driver.machine, 4)


def test_takeover_ends_the_holder(bench):
    holder = bench.disk()
    assert Request(holder, T_OUT, 0, b"first".ljust(512)).submit().wait() == S_OK
    taker = bench.disk(takeover=True)
    read = Request(taker, T_IN, 0, 512)
    assert read.submit().wait() == S_OK and read.bytes == b"first".ljust(512)
    assert Request(taker, T_OUT, 0, b"second".ljust(512)).submit().wait() == S_OK
    assert Request(holder, T_OUT, 0, b"late".ljust(512)).submit().wait() == S_IOERR
    read = Request(taker, T_IN, 0, 512)
    assert read.submit().wait() == S_OK and read.bytes == b"second".ljust(512)


def test_shared_volume(bench):
    drivers = [bench.disk(share_rw=True) for _ in range(2)]
    for index, driver in enumerate(drivers):
        assert Request(driver, T_OUT, 8 * index, bytes([index + 1]) * 4096).submit().wait() == S_OK
    for driver in drivers:
        read = Request(driver, T_IN, 0, 8192)
        assert read.submit().wait() == S_OK and read.bytes == b"\1" * 4096 + b"\2" * 4096


def test_hotplug_waits_no_longer_than_told_for_a_silent_server(bench):
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
