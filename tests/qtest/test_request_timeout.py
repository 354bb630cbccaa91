# SPDX-License-Identifier: GPL-2.0-or-later
"""request-timeout: what becomes of requests whose server does not answer any more."""

import time

import pytest

from tests.support.proxy import Proxy
from tests.support.standstill import freeze, hanging, thaw
from tests.support.stream import Timeout
from tests.support.virtio import S_IOERR, S_OK, T_FLUSH, T_IN, T_OUT, Request, poll

from .conftest import Bench
from .life import at_once, eject, stay_in_flight, two_queues, works

SECONDS = 2
# A tenth more, and what a busy machine takes
LATEST = 1.1 * SECONDS + 2
PATH = "/machine/peripheral/disk"


def silence(proxy, how):
    """The server gives no answer any more."""
    if how == "stopped":
        freeze(proxy.process)
    else:
        proxy.kill()


def come_back(proxy, how):
    if how == "stopped":
        thaw(proxy.process)
    else:
        proxy.start()


@pytest.fixture(params=("stopped", "killed"))
def how(request):
    return request.param


@pytest.fixture
def proxy(tmp_path):
    with Proxy({"d0": f"file://{tmp_path}/disk?size=64M&create=on"}) as started:
        yield started
        if started.process:
            thaw(started.process)


def set_timeout(driver, seconds):
    driver.machine.qmp.command("qom-set", path=PATH, property="request-timeout", value=seconds)


def test_requests_fail_and_later_ones_do_not(bench, loops, how):
    driver = two_queues(bench, loops, request_timeout=SECONDS)
    works(driver)
    silence(bench.proxy, how)
    begin = time.monotonic()
    requests = [Request(driver, kind, 8 * i, bytes(4096) if kind == T_OUT else 4096, i % 2).submit()
                for kind in (T_IN, T_OUT) for i in range(8)]
    requests.append(Request(driver, T_FLUSH).submit())
    assert [request.wait(timeout=LATEST) for request in requests] == [S_IOERR] * len(requests)
    assert SECONDS <= time.monotonic() - begin < LATEST
    # While the server is away, each has its time
    late = Request(driver, T_IN, 0, 4096).submit()
    assert late.wait(timeout=LATEST) == S_IOERR
    come_back(bench.proxy, how)
    poll(lambda: Request(driver, T_OUT, 0, bytes(512)).submit().wait() == S_OK, "recovery")
    works(driver)
    messages = driver.machine.messages()
    assert messages.count("no answer to a request for 2 s; requests fail") <= 2, messages
    assert driver.machine.qmp.command("query-status")["status"] == "running"


def test_the_default_waits(bench, how):
    driver = bench.disk()
    assert driver.machine.qmp.command("qom-get", path=PATH, property="request-timeout") == 0
    silence(bench.proxy, how)
    request = Request(driver, T_IN, 0, 4096).submit()
    with pytest.raises(Timeout):
        request.wait(timeout=LATEST)
    come_back(bench.proxy, how)
    assert request.wait() == S_OK


def test_it_is_set_while_requests_wait(bench, loops, how):
    driver = two_queues(bench, loops)
    works(driver)
    silence(bench.proxy, how)
    requests = stay_in_flight(driver, T_OUT)
    set_timeout(driver, SECONDS)
    assert {request.wait(timeout=LATEST) for request in requests} == {S_IOERR}
    set_timeout(driver, 0)
    late = Request(driver, T_IN, 0, 4096).submit()
    with pytest.raises(Timeout):
        late.wait(timeout=LATEST)
    come_back(bench.proxy, how)
    assert late.wait() == S_OK
    works(driver)


def test_the_machine_stops_and_goes_on(bench, loops, how):
    driver = two_queues(bench, loops, request_timeout=SECONDS, werror="stop", rerror="stop")
    works(driver)
    qmp = driver.machine.qmp
    silence(bench.proxy, how)
    requests = [Request(driver, T_OUT, 8 * i, b"s" * 4096, i % 2).submit() for i in range(16)]
    event = qmp.wait_event("BLOCK_IO_ERROR", timeout=LATEST)["data"]
    assert event["action"] == "stop" and event["reason"] == "Connection timed out"
    qmp.wait_event("STOP")
    # And once more, as the server is still away
    qmp.command("cont")
    qmp.wait_event("STOP", timeout=LATEST)
    assert qmp.command("query-status")["status"] == "io-error"
    assert all(request.status == 0xFF for request in requests)
    come_back(bench.proxy, how)
    qmp.command("cont")
    assert all(request.wait() == S_OK for request in requests)
    works(driver)


@pytest.mark.parametrize("kind", (T_IN, T_OUT), ids=("reads", "writes"))
def test_reset_and_unplug_end_at_once(bench, loops, how, kind):
    """However long requests may take."""
    driver = two_queues(bench, loops)
    works(driver)
    silence(bench.proxy, how)
    stay_in_flight(driver, kind)
    with at_once():
        driver.reset()
    with at_once():
        driver.machine.qmp.command("system_reset")
        driver.machine.qmp.wait_event("RESET")
    driver.pci.enable()
    driver.start([bit for bit in range(64) if driver.features >> bit & 1], queues=2)
    stay_in_flight(driver, kind)
    with at_once():
        eject(driver.machine, 4)


def test_what_was_given_up_never_lands_after_something_newer(qemu, proxy, loops):
    """Old data waits in the server's sockets when its time is over."""
    with Bench(qemu, proxy) as bench:
        driver = two_queues(bench, loops, request_timeout=1)
        for attempt in range(3):
            old, new = bytes([2 * attempt + 1]) * 32768, bytes([2 * attempt + 2]) * 32768
            with hanging(proxy):
                requests = [Request(driver, T_OUT, place * 64, old, place % 2).submit() for place in range(96)]
                assert {request.wait() for request in requests} == {S_IOERR}
                fresh = [Request(driver, T_OUT, place * 64, new, (place + 1) % 2).submit() for place in range(96)]
                set_timeout(driver, 0)
            assert {request.wait() for request in fresh} == {S_OK}
            assert Request(driver, T_FLUSH).submit().wait() == S_OK
            for place in range(96):
                check = Request(driver, T_IN, place * 64, 32768, place % 2)
                assert check.submit().wait() == S_OK and check.bytes == new
            set_timeout(driver, 1)
