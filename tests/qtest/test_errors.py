# SPDX-License-Identifier: GPL-2.0-or-later
"""werror and rerror: what a failed request does to the machine, and its second try."""

import os
import subprocess

import pytest

from tests.support.proxy import Proxy
from tests.support.qtest import Machine
from tests.support.shrinking import MIB, SIZE, Shrinking
from tests.support.standstill import hanging
from tests.support.stream import Timeout
from tests.support.virtio import (
    BLK_DISCARD,
    BLK_FLUSH,
    EVENT_IDX,
    PACKED,
    S_IOERR,
    S_OK,
    S_UNSUPP,
    T_DISCARD,
    T_FLUSH,
    T_IN,
    T_OUT,
    BlockDriver,
    Request,
    poll,
    ranges,
)

from .conftest import Bench
from .life import eject

LOOPS = {"main-loop": {}, "iothread": {"iothread": "io0"}, "no-ioeventfd": {"ioeventfd": False}}
IOTHREAD = ("-object", "iothread,id=io0")
DISK = "/machine/peripheral/disk"


@pytest.fixture(params=LOOPS)
def loops(request):
    return LOOPS[request.param]


@pytest.fixture
def storage(tmp_path):
    return Shrinking(tmp_path / "disk.img")


@pytest.fixture
def bench(qemu, storage):
    """A bench whose volume is that storage."""
    with storage.proxy as proxy:
        made = Bench(qemu, proxy)
        yield made
        made.end()


@pytest.fixture
def full(tmp_path, qemu):
    """A bench whose volume is a sparse file on a file system of 4 MiB, and a file that fills half
    of that."""
    folder = tmp_path / "small"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", folder]).returncode != 0:
        pytest.skip("no file system can be mounted here")
    try:
        filler = folder / "filler"
        filler.write_bytes(bytes(2 * MIB))
        with Proxy({"d0": f"file://{folder}/disk.img?size={SIZE}&create=on"}) as proxy:
            made = Bench(qemu, proxy)
            try:
                yield made, filler
            finally:
                made.end()
    finally:
        subprocess.run(["umount", folder], check=True)


def state(driver):
    return driver.machine.qmp.command("query-status")["status"]


def io_status(driver, path=DISK):
    return driver.machine.qmp.command("qom-get", path=path, property="io-status")


def io_error(driver):
    """The next BLOCK_IO_ERROR, without what differs between releases."""
    data = dict(driver.machine.qmp.wait_event("BLOCK_IO_ERROR")["data"])
    assert data.pop("qom-path", f"{DISK}/virtio-backend") == f"{DISK}/virtio-backend"
    assert data.pop("reason")
    data.pop("__com.redhat_reason", None)
    return data


def far(driver, kind, size=4096):
    """A request behind the part that never fails."""
    return Request(driver, kind, 32 * MIB // 512, size if kind == T_IN else b"w" * size)


def event(operation, action, nospace=False):
    return {"device": "disk", "operation": operation, "action": action, "nospace": nospace}


def back(driver, request):
    request.queue.done.update(request.queue.used())
    return request.token in request.queue.done


# Linux once sent flushes with the bit of a write.
@pytest.mark.parametrize("flush", (T_FLUSH, T_FLUSH | T_OUT))
@pytest.mark.parametrize("werror", ("report", "stop"))
def test_a_flush_that_comes_too_late_fails_and_is_not_repeated(bench, storage, loops, werror, flush):
    driver = bench.disk(*IOTHREAD, features=(BLK_FLUSH,), werror=werror, **loops)
    assert Request(driver, T_OUT, 0, bytes(4096)).submit().wait() == S_OK
    storage.lose_writes()
    assert Request(driver, flush).submit().wait() == S_IOERR
    if werror == "stop":
        assert io_error(driver) == event("write", "stop")
        driver.machine.qmp.wait_event("STOP")
        driver.machine.qmp.command("cont")
    assert Request(driver, T_FLUSH).submit().wait() == S_OK


def test_a_stop_in_between_does_not_hide_what_was_lost(bench, storage, loops):
    driver = bench.disk(*IOTHREAD, features=(BLK_FLUSH,), **loops)
    assert Request(driver, T_OUT, 0, bytes(4096)).submit().wait() == S_OK
    storage.lose_writes()
    # It is connected again
    assert Request(driver, T_IN, 0, 4096).submit().wait() == S_OK
    driver.machine.qmp.command("stop")
    driver.machine.qmp.command("cont")
    assert Request(driver, T_FLUSH).submit().wait() == S_IOERR
    assert Request(driver, T_FLUSH).submit().wait() == S_OK


def test_flushes_that_a_stop_gave_up_all_tell_what_was_lost_meanwhile(bench, storage, loops):
    driver = bench.disk(*IOTHREAD, features=(BLK_FLUSH, EVENT_IDX), **loops)
    assert Request(driver, T_OUT, 0, bytes(4096)).submit().wait() == S_OK
    with hanging(storage.proxy):
        flushes = [Request(driver, T_FLUSH).submit() for _ in range(3)]
        poll(driver.queues[0].all_taken, "taking of the flushes")
        driver.machine.qmp.command("stop")
        storage.lose_writes()
    driver.machine.qmp.command("cont")
    assert [flush.wait() for flush in flushes] == [S_IOERR] * 3
    assert Request(driver, T_FLUSH).submit().wait() == S_OK


@pytest.mark.parametrize("packed", (False, True), ids=("split", "packed"))
@pytest.mark.parametrize("werror", (None, "auto", "enospc"), ids=("default", "auto", "enospc"))
def test_no_space_stops_the_machine_and_cont_writes(full, loops, packed, werror):
    bench, filler = full
    driver = bench.disk(*IOTHREAD, werror=werror, features=(PACKED,) if packed else (), packed=packed, **loops)
    assert state(driver) == "running" and io_status(driver) == "ok"
    requests = [Request(driver, T_OUT, 128 * i, os.urandom(65536)).submit() for i in range(48)]
    qmp = driver.machine.qmp
    assert io_error(driver) == event("write", "stop", True)
    qmp.wait_event("STOP")
    assert state(driver) == "io-error"
    assert io_status(driver) == io_status(driver, f"{DISK}/virtio-backend") == "nospace"
    assert not all(back(driver, request) for request in requests)
    answered = [request for request in requests if request.status != 0xFF]
    assert all(request.status == S_OK for request in answered), "the guest was told of an error"

    # Still full: it stops again
    qmp.command("cont")
    qmp.wait_event("STOP")
    assert state(driver) == "io-error" and not all(back(driver, request) for request in requests)

    filler.unlink()
    qmp.command("cont")
    poll(lambda: all(back(driver, request) for request in requests), "second try")
    driver.queues[0].done.clear()
    assert {request.status for request in requests} == {S_OK}
    assert state(driver) == "running" and io_status(driver) == "ok"
    check = Request(driver, T_IN, 0, 3 * MIB)
    assert check.submit().wait() == S_OK
    assert check.bytes == b"".join(request.bytes for request in requests)


def test_event_as_virtio_blks(full, tmp_path):
    """Both disks run out of space, each with the default of werror."""
    bench, filler = full
    drive = f"file={filler.parent}/plain.img,format=raw,if=none,id=disk"
    (filler.parent / "plain.img").touch()
    os.truncate(filler.parent / "plain.img", SIZE)
    plain = ["-drive", drive, "-device", "virtio-blk-pci,drive=disk,id=plain,addr=5"]
    machine = bench.machine(*plain)
    events = []
    for slot in (4, 5):
        driver = BlockDriver(machine, slot)
        request = Request(driver, T_OUT, 0, os.urandom(3 * MIB)).submit()
        events.append(machine.qmp.wait_event("BLOCK_IO_ERROR")["data"])
        machine.qmp.wait_event("STOP")
        assert state(driver) == "io-error"
        # Room for the one that comes next is still missing
        driver.reset()
        machine.qmp.command("cont")
        assert request.status == 0xFF
    ours, theirs = events
    # docs/properties.md
    assert theirs.pop("node-name") and "node-name" not in ours
    if "qom-path" in theirs:
        assert theirs["qom-path"] == "/machine/peripheral/plain/virtio-backend"
        theirs["qom-path"] = f"{DISK}/virtio-backend"
    assert ours == theirs


def test_no_space_can_be_told_to_the_guest(full):
    driver = full[0].disk(werror="report")
    assert Request(driver, T_OUT, 0, os.urandom(3 * MIB)).submit().wait() == S_IOERR
    assert io_error(driver) == event("write", "report", True)
    assert state(driver) == "running"


def test_default_reports_other_errors(bench, storage, loops):
    driver = bench.disk(*IOTHREAD, **loops)
    storage.fail()
    assert far(driver, T_OUT).submit().wait() == S_IOERR
    assert io_error(driver) == event("write", "report")
    assert far(driver, T_IN).submit().wait() == S_IOERR
    assert state(driver) == "running" and io_status(driver) == "ok"
    storage.repair()
    assert far(driver, T_IN).submit().wait() == S_OK


@pytest.mark.parametrize("kind, operation", ((T_IN, "read"), (T_OUT, "write")), ids=("read", "write"))
def test_stop_and_second_try(bench, storage, loops, kind, operation):
    driver = bench.disk(*IOTHREAD, werror="stop", rerror="stop", **loops)
    assert far(driver, T_OUT).submit().wait() == S_OK
    storage.fail()
    requests = [far(driver, kind).submit() for _ in range(8)]
    assert io_error(driver) == event(operation, "stop")
    driver.machine.qmp.wait_event("STOP")
    assert state(driver) == "io-error" and io_status(driver) == "failed"
    assert not any(back(driver, request) for request in requests)
    storage.repair()
    driver.machine.qmp.command("cont")
    for request in requests:
        assert request.wait() == S_OK
    assert state(driver) == "running" and io_status(driver) == "ok"


def test_nothing_is_tried_again_while_the_machine_stands_still(bench, storage, loops):
    driver = bench.disk(*IOTHREAD, werror="stop", rerror="stop", **loops)
    assert far(driver, T_OUT).submit().wait() == S_OK
    storage.fail()
    request = far(driver, T_IN).submit()
    driver.machine.qmp.wait_event("STOP")
    storage.repair()
    with pytest.raises(Timeout):
        poll(lambda: back(driver, request) or any(request.bytes), "change", timeout=0.3)
    assert state(driver) == "io-error" and io_status(driver) == "failed"
    driver.machine.qmp.command("cont")
    assert request.wait() == S_OK


def test_second_try_of_header_and_data_in_one_buffer(bench, storage, loops):
    driver = bench.disk(*IOTHREAD, werror="stop", **loops)
    memory = driver.machine.memory
    storage.fail()
    write = far(driver, T_OUT)
    at = driver.machine.alloc(16 + write.size)
    memory[at : at + 16 + write.size] = memory[write.header : write.header + 16] + write.bytes
    write.buffers = [(at, 16 + write.size, False), write.buffers[-1]]
    write.submit()
    driver.machine.qmp.wait_event("STOP")
    storage.repair()
    driver.machine.qmp.command("cont")
    assert write.wait() == S_OK
    check = far(driver, T_IN)
    assert check.submit().wait() == S_OK and check.bytes == write.bytes


def test_a_disk_that_was_taken_over_stops_at_each_try(bench, loops):
    """Also where the request does not get as far as the network."""
    driver = bench.disk(*IOTHREAD, werror="stop", **loops)
    assert Request(driver, T_OUT, 0, b"mine".ljust(512)).submit().wait() == S_OK
    taker = bench.disk(takeover=True)
    assert Request(taker, T_OUT, 0, b"theirs".ljust(512)).submit().wait() == S_OK
    request = Request(driver, T_OUT, 0, b"late".ljust(512)).submit()
    for _ in range(3):
        driver.machine.qmp.wait_event("STOP")
        poll(lambda: state(driver) == "io-error", "stop")
        assert not back(driver, request)
        driver.machine.qmp.command("cont")
    check = Request(taker, T_IN, 0, 512)
    assert check.submit().wait() == S_OK and check.bytes == b"theirs".ljust(512)


def test_continue_that_comes_before_the_stop(bench, storage, loops):
    """A `cont` may undo a stop that was asked for and has not come yet. The request is tried again."""
    driver = bench.disk(*IOTHREAD, werror="stop", **loops)
    qmp = driver.machine.qmp
    storage.fail()
    for _ in range(30):
        request = far(driver, T_OUT).submit()
        qmp.pipeline("cont", 6)
        poll(lambda: state(driver) == "io-error", "stop")
        assert not back(driver, request)
        driver.reset()
        qmp.command("cont")
        driver.start()


def test_each_direction_has_its_own(bench, storage):
    driver = bench.disk(rerror="stop", werror="report")
    storage.fail()
    assert far(driver, T_OUT).submit().wait() == S_IOERR
    assert state(driver) == "running"
    request = far(driver, T_IN).submit()
    driver.machine.qmp.wait_event("STOP")
    assert state(driver) == "io-error" and not back(driver, request)


def test_ignore(bench, storage):
    driver = bench.disk(werror="ignore", rerror="ignore")
    storage.fail()
    assert far(driver, T_OUT).submit().wait() == S_OK
    assert io_error(driver) == event("write", "ignore")
    assert far(driver, T_IN).submit().wait() == S_OK
    assert state(driver) == "running"


def test_reset_forgets_what_waits(bench, storage, loops):
    driver = bench.disk(*IOTHREAD, werror="stop", **loops)
    storage.fail()
    lost = far(driver, T_OUT).submit()
    driver.machine.qmp.wait_event("STOP")
    storage.repair()
    driver.machine.qmp.command("system_reset")
    driver.machine.qmp.command("cont")
    driver = BlockDriver(driver.machine, 4)
    written = Request(driver, T_OUT, 32 * MIB // 512, b"n" * 4096)
    assert written.submit().wait() == S_OK
    check = far(driver, T_IN)
    assert check.submit().wait() == S_OK and check.bytes == b"n" * 4096
    assert lost.status == 0xFF


@pytest.mark.parametrize("end", ("quit", "unplug"))
def test_end_with_waiting_requests(bench, storage, loops, end):
    driver = bench.disk(*IOTHREAD, werror="stop", **loops)
    qmp = driver.machine.qmp
    storage.fail()
    lost = [far(driver, T_OUT).submit() for _ in range(8)]
    qmp.wait_event("STOP")
    if end == "quit":
        qmp.quit()
        assert driver.machine.wait() == 0
    else:
        eject(driver.machine, 4)
        assert {request.status for request in lost} == {0xFF}
        # Nothing of it holds the volume
        storage.repair()
        qmp.command("device_add", driver="cloudblk-pci", id="next", addr="5", server=bench.proxy.uri("d0"))
        qmp.command("cont")
        assert far(BlockDriver(driver.machine, 5), T_OUT).submit().wait() == S_OK


def test_mistakes_of_the_guest_do_not_stop_the_machine(bench):
    driver = bench.disk(werror="stop", rerror="stop", features=(BLK_DISCARD,))
    for kind, sector, data, answer in (
        (T_IN, SIZE // 512, 512, S_IOERR),
        (T_OUT, SIZE // 512, bytes(512), S_IOERR),
        (T_DISCARD, 0, ranges((SIZE // 512, 8, 0)), S_IOERR),
        (77, 0, b"", S_UNSUPP),
    ):
        assert Request(driver, kind, sector, data).submit().wait() == answer
    assert Request(driver, T_FLUSH).submit().wait() == S_OK
    assert state(driver) == "running"
    assert not [event for event in driver.machine.qmp.events if event["event"] == "BLOCK_IO_ERROR"]


def test_writes_to_a_read_only_disk_do_not_stop_the_machine(bench):
    driver = bench.disk(werror="stop", read_only=True)
    assert Request(driver, T_OUT, 0, bytes(512)).submit().wait() == S_IOERR
    assert state(driver) == "running"
    assert not [event for event in driver.machine.qmp.events if event["event"] == "BLOCK_IO_ERROR"]


def test_only_known_policies(bench):
    status, messages = bench.fails(werror="explode")
    assert status == 1 and "werror" in messages


@pytest.mark.parametrize("mode", ("record", "replay"))
def test_record_and_replay_are_refused(qemu, proxy, tmp_path, mode):
    made = Bench(qemu, proxy)
    if mode == "replay":
        # Any recording: one without the disk
        with Machine(qemu, ["-icount", f"shift=auto,rr=record,rrfile={tmp_path}/log"]) as machine:
            machine.qmp.quit()
            machine.wait()
    status, messages = made.fails("-icount", f"shift=auto,rr={mode},rrfile={tmp_path}/log")
    made.end()
    assert status == 1 and "record and replay" in messages, messages
