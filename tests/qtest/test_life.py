# SPDX-License-Identifier: GPL-2.0-or-later
"""Reset, stop, continue, unplug and exit, with requests in flight."""

import contextlib
import itertools
import pathlib
import resource
import threading

import pytest

from tests.support import virtio
from tests.support.proxy import Proxy
from tests.support.qemu import QmpError
from tests.support.relay import Relay
from tests.support.standstill import hanging, thaw
from tests.support.stream import Timeout
from tests.support.virtio import S_IOERR, S_OK, T_IN, T_OUT, BlockDriver, Request

from .conftest import Bench
from .life import IOTHREADS, at_once, eject, restart, submit_many, two_queues, works


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
        timer = threading.Timer(0.05, thaw, [bench.proxy.process])
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
    # Sooner than the lease of a holder that did not say goodbye ends.
    works(two_queues(bench, loops, open_timeout=5000))


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


def test_nothing_is_left_of_a_disk_that_was_unplugged(bench, loops):
    """What tells disks of stops, of migrations and of the end does not tell this one."""
    driver = two_queues(bench, loops)
    works(driver)
    machine = driver.machine
    eject(machine, 4)
    # In the place where it was
    machine.qmp.command("device_add", driver="virtio-rng-pci", id="other", addr="0x4")
    machine.qmp.command("migrate", uri="exec:false")
    virtio.poll(lambda: machine.qmp.command("query-migrate")["status"] == "failed", "end of the migration")
    machine.qmp.command("stop")
    machine.qmp.command("cont")
    machine.qmp.quit()
    assert machine.wait() == 0


def test_a_disk_that_could_not_be_plugged_leaves_the_volume_alone(bench):
    """Of which it found out only when it had the volume."""
    machine = bench.machine(slot=5)
    eject(machine, 5)
    disk = {"driver": "cloudblk-pci", "id": "disk", "addr": "0x4", "server": bench.proxy.uri("d0"), "open_timeout": 3000}
    with pytest.raises(QmpError, match="set cyls"):
        machine.qmp.command("device_add", cyls=5, **disk)
    machine.qmp.command("device_add", **disk)
    assert Request(BlockDriver(machine, 4), T_IN, 0, 512).submit().wait() == S_OK


@contextlib.contextmanager
def few_descriptors(process, count):
    """Meanwhile it gets that many file descriptors more."""
    used = {int(entry.name) for entry in pathlib.Path(f"/proc/{process.pid}/fd").iterdir()}
    free = (number for number in itertools.count() if number not in used)
    soft, hard = resource.prlimit(process.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (next(itertools.islice(free, count, None)), hard))
    yield
    resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("loops", ({}, {"iothreads": "io0:io1"}), ids=("main-loop", "iothreads"))
def test_without_file_descriptors_the_main_loop_serves(bench, loops):
    """However many are missing."""
    for count in itertools.count():
        machine = bench.machine(*IOTHREADS, num_queues=2, queue_size=512, **loops)
        # But not in its end, when a sanitizer that looks for leaks wants some
        with few_descriptors(machine.process, count):
            driver = BlockDriver(machine, 4, (virtio.BLK_MQ, virtio.BLK_FLUSH, virtio.EVENT_IDX), queues=2)
            works(driver)
            machine.qmp.command("stop")
            machine.qmp.command("cont")
            works(driver)
            restart(driver)
            works(driver)
        enough = "no notifiers" not in machine.messages()
        bench.quit()
        if enough:
            break
    assert count > 0


@pytest.mark.parametrize("way", ("iothread", "iothreads", "iothread-vq-mapping"))
def test_an_iothread_lives_as_long_as_its_disk(bench, way):
    machine = bench.machine("-object", "iothread,id=io0", server=bench.proxy.uri("d0"))
    if way == "iothread-vq-mapping" and machine.qmp.command("query-version")["qemu"]["major"] < 9:
        pytest.skip("this QEMU has no iothread-vq-mapping")
    thread = pathlib.Path(f"/proc/{machine.process.pid}/task/{machine.qmp.command('query-iothreads')[0]['thread-id']}")
    eject(machine, 4)
    chosen = [{"iothread": "io0"}] if way == "iothread-vq-mapping" else "io0"
    machine.qmp.command("device_add", driver="cloudblk-pci", id="disk", addr="0x5", server=bench.proxy.uri("d0"), **{way: chosen})
    driver = BlockDriver(machine, 5)
    assert Request(driver, T_OUT, 0, b"i" * 4096).submit().wait() == S_OK
    machine.qmp.command("object-del", id="io0")
    # Another one that its name now means
    machine.qmp.command("object-add", qom_type="iothread", id="io0")
    assert Request(driver, T_IN, 0, 4096).submit().wait() == S_OK and thread.exists()
    eject(machine, 5)
    virtio.poll(lambda: not thread.exists(), "end of the thread", 5)
    assert len(machine.qmp.command("query-iothreads")) == 1
    machine.qmp.command("object-del", id="io0")


def test_each_queue_has_the_iothread_that_its_turn_gives_it(qemu, proxy):
    """The connection of one of two IOThreads is held up, and with it its queues."""
    with Relay(proxy.address) as relay, Bench(qemu, relay) as bench:
        driver = bench.disk(*IOTHREADS, features=(virtio.BLK_MQ,), queues=4, iothreads="io0:io1")
        relay.hold(1)
        held = [Request(driver, T_IN, 0, 512, queue).submit() for queue in (1, 3)]
        assert [Request(driver, T_IN, 0, 512, queue).submit().wait() for queue in (0, 2)] == [S_OK] * 2
        assert [request.status for request in held] == [0xFF] * 2
        relay.let_go()
        assert [request.wait() for request in held] == [S_OK] * 2


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


