# SPDX-License-Identifier: GPL-2.0-or-later
"""A disk whose volume somebody else was given, and how it comes back."""

import pytest

from tests.support import virtio
from tests.support.proxy import Proxy
from tests.support.standstill import hanging
from tests.support.stream import Timeout
from tests.support.virtio import S_IOERR, S_OK, T_OUT, Request, poll

from .conftest import Bench
from .life import at_once, eject, restart, submit_many, two_queues, works
from .test_sleep import fall_asleep

LOST = " is lost: "


def write(driver):
    return Request(driver, T_OUT, 0, b"w" * 512).submit().wait()


def lose(bench, driver):
    """Somebody takes the volume over. Gives the machine that has it now."""
    taker = bench.machine(takeover=True)
    # Each channel finds out by itself
    for queue in range(len(driver.queues)):
        poll(lambda: Request(driver, T_OUT, 0, b"w" * 512, queue).submit().wait() == S_IOERR, "loss")
    return taker


def end(machine):
    machine.qmp.quit()
    assert machine.wait() == 0


def system_reset(driver):
    with at_once():
        driver.machine.qmp.command("system_reset")
        driver.machine.qmp.wait_event("RESET")
    driver.pci.enable()
    restart(driver)


@pytest.mark.parametrize("stopped", (False, True), ids=("running", "stopped"))
def test_a_reset_of_the_machine_brings_it_back(bench, loops, stopped):
    driver = two_queues(bench, loops)
    works(driver)
    taker = lose(bench, driver)
    before = driver.machine.messages().count(LOST)
    # Not while somebody has it
    system_reset(driver)
    assert write(driver) == S_IOERR
    messages = driver.machine.messages()
    assert messages.count(LOST) == before + 1 and "in use by" in messages.splitlines()[-1]
    end(taker)
    if stopped:
        driver.machine.qmp.command("stop")
    system_reset(driver)
    if stopped:
        driver.machine.qmp.command("cont")
    works(driver)
    # It has it as any other
    status, messages = bench.fails(open_timeout=500)
    assert status == 1 and "in use by" in messages
    submit_many(driver)
    end(driver.machine)


def test_again_and_again(bench):
    driver = two_queues(bench, {"iothreads": "io0:io1"})
    for _ in range(3):
        end(lose(bench, driver))
        system_reset(driver)
        works(driver)


def test_a_driver_that_begins_anew_does_not(bench, loops):
    """The guest's memory is what it was, and the disk is not."""
    driver = two_queues(bench, loops)
    end(lose(bench, driver))
    restart(driver)
    assert write(driver) == S_IOERR


def test_nor_does_one_that_wakes_up(bench, loops):
    driver = two_queues(bench, loops)
    machine = driver.machine
    end(lose(bench, driver))
    fall_asleep(machine)
    machine.qmp.command("system_wakeup")
    machine.qmp.wait_event("WAKEUP")
    driver.pci.enable()
    restart(driver)
    assert write(driver) == S_IOERR
    system_reset(driver)
    works(driver)


def test_a_reset_while_the_server_is_away(bench, loops):
    """The disk comes back with it."""
    driver = two_queues(bench, loops)
    end(lose(bench, driver))
    with hanging(bench.proxy):
        system_reset(driver)
        request = Request(driver, T_OUT, 0, b"w" * 512).submit()
        with pytest.raises(Timeout):
            request.wait(timeout=0.5)
    assert request.wait() == S_OK
    works(driver)


def test_nothing_is_flushed_that_is_lost(bench, loops):
    driver = two_queues(bench, loops)
    works(driver)
    lose(bench, driver)
    qmp = driver.machine.qmp
    qmp.command("stop")
    qmp.command("cont")
    eject(driver.machine, 4)
    messages = driver.machine.messages()
    assert "flush" not in messages and messages.count(LOST) == 1, messages


def test_a_machine_that_was_saved_once_and_goes_on_is_like_any_other(bench, loops):
    """A later loss fails its requests, and does not stop it as one whose copy runs elsewhere."""
    driver = two_queues(bench, loops)
    works(driver)
    qmp = driver.machine.qmp
    qmp.command("migrate", uri="exec:cat >/dev/null")
    poll(lambda: qmp.command("query-migrate").get("status") == "completed", "end of the migration")
    qmp.command("cont")
    works(driver)
    lose(bench, driver)
    qmp.command("stop")
    qmp.command("cont")
    assert write(driver) == S_IOERR
    assert qmp.command("query-status")["status"] == "running"


def test_names_that_are_swapped_back(qemu, tmp_path, loops):
    """The requests wait meanwhile."""
    volumes = {name: f"file://{tmp_path}/{name}?size=64M&create=on" for name in ("d0", "d1")}
    with Proxy(volumes) as proxy, Bench(qemu, proxy) as bench:
        driver = two_queues(bench, loops)
        works(driver)
        proxy.kill()
        listen = f"tcp://{proxy.address}"
        with Proxy({"d0": volumes["d1"], "d1": volumes["d0"]}, listen=listen):
            requests = submit_many(driver, T_OUT)
            virtio.poll(lambda: "requests wait until the name" in driver.machine.messages(), "message")
            with pytest.raises(Timeout):
                requests[0].wait(timeout=1)
        proxy.start()
        assert {request.wait() for request in requests} == {S_OK}
        works(driver)
        assert driver.machine.messages().count("requests wait until the name") <= len(driver.queues)
    assert not any((tmp_path / "d1").read_bytes())
