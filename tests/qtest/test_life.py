# SPDX-License-Identifier: GPL-2.0-or-later
"""Reset, stop, continue, unplug and exit, with requests in flight."""

import signal
import threading

import pytest

from tests.support import virtio
from tests.support.proxy import Proxy, hanging
from tests.support.stream import Timeout
from tests.support.virtio import S_IOERR, S_OK, T_IN, T_OUT, BlockDriver, Request

from .conftest import Bench
from .life import at_once, eject, restart, submit_many, two_queues, works


@pytest.mark.parametrize("kind", (T_IN, T_OUT), ids=("reads", "writes"))
def test_reset_with_requests_in_flight(bench, loops, packed, kind):
    driver = two_queues(bench, loops, packed)
    works(driver)
    for _ in range(5):
        submit_many(driver, kind)
        driver.reset()
        restart(driver)
    works(driver)


def test_stop_completes_what_is_in_flight(bench, loops):
    driver = two_queues(bench, loops)
    requests = submit_many(driver, T_OUT)
    with at_once():
        driver.machine.qmp.command("stop")
    assert all(request.status == S_OK for request in requests)
    driver.machine.qmp.command("cont")
    works(driver)


def test_a_disk_plugged_after_all_others_left_a_stopped_machine(bench, loops):
    """Its first stop waits and flushes like any other."""
    driver = two_queues(bench, loops)
    machine = driver.machine
    machine.qmp.command("stop")
    eject(machine, 4)
    machine.qmp.command("cont")
    options = {name.replace("_", "-"): value for name, value in loops.items()}
    machine.qmp.command(
        "device_add", driver="cloudblk-pci", id="disk", addr="0x5", server=bench.proxy.uri("d0"), num_queues=2,
        queue_size=512, **options,
    )
    driver = BlockDriver(machine, 5, (virtio.BLK_MQ, virtio.BLK_FLUSH, virtio.EVENT_IDX), queues=2)
    with hanging(bench.proxy):
        request = Request(driver, T_OUT, 0, bytes(512)).submit()
        virtio.poll(driver.queues[0].all_taken, "taking of the request")
        # In time for a stop that waits
        timer = threading.Timer(0.05, bench.proxy.process.send_signal, [signal.SIGCONT])
        timer.start()
        machine.qmp.command("stop")
        assert request.status == S_OK
        timer.join()
    machine.qmp.command("cont")
    works(driver)


def test_kicks_of_a_stopped_machine_are_served_later(bench, loops):
    driver = two_queues(bench, loops)
    driver.machine.qmp.command("stop")
    request = Request(driver, T_IN, 0, 4096).submit()
    with pytest.raises(Timeout):
        request.wait(timeout=0.3)
    driver.machine.qmp.command("cont")
    assert request.wait() == S_OK


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


def test_quit_frees_the_volume(bench, loops):
    works(two_queues(bench, loops))
    bench.quit()
    works(two_queues(bench, loops))


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


