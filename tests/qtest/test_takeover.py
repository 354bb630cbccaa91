# SPDX-License-Identifier: GPL-2.0-or-later
"""takeover=on takes a volume from its holder last, when nothing else can go wrong."""

import contextlib

import pytest

from tests.support.proxy import Proxy
from tests.support.qemu import QmpError
from tests.support.relay import Relay
from tests.support.virtio import BLK_FLUSH, EVENT_IDX, S_IOERR, S_OK, T_FLUSH, T_IN, T_OUT, BlockDriver, Request, poll

from .conftest import UNDERSCORED, VOLUME_SIZE, Bench

DEPTH = 32
# The volume's blocks have 4096 bytes
BAD_OPTIONS = {
    "cyls": {"cyls": 5},
    "heads": {"cyls": 5, "heads": 256, "secs": 63},
    "secs": {"cyls": 5, "heads": 16},
    "romfile": {"romfile": "/nonexistent/rom"},
    "failover": {"failover_pair_id": "other"},
    "logical-block-size": {"logical_block_size": 512},
    "physical-block-size": {"physical_block_size": 512},
    "min-io-size": {"min_io_size": 100},
    "large-min-io-size": {"min_io_size": 4096 << 16},
    "opt-io-size": {"opt_io_size": 100},
    "discard-granularity": {"discard_granularity": 1},
    "num-queues": {"num_queues": 2000},
    "queue-size": {"queue_size": 3},
    "max-discard-sectors": {"max_discard_sectors": 0},
    "iothread": {"iothreads": "io0:nobody"},
    "ioeventfd": {"iothreads": "io0", "ioeventfd": False},
    "bus": {"bus": "pci.7"},
    "slot": {"addr": "0x1"},
    "bar": {"disable_modern": True, "iommu_platform": True},
}


@contextlib.contextmanager
def undisturbed(qemu, proxy):
    """A machine that holds the volume, and has requests on their way to it all the time inside."""
    with Relay(proxy.address) as relay, Bench(qemu, relay) as bench:
        driver = bench.disk(features=(BLK_FLUSH, EVENT_IDX))
        assert Request(driver, T_OUT, 0, b"h" * 4096).submit().wait() == S_OK
        relay.hold(0)
        requests = [Request(driver, T_OUT, 8 * i, b"h" * 4096).submit() for i in range(DEPTH)]
        poll(driver.queues[0].all_taken, "taking of the requests")
        yield
        relay.let_go()
        assert [request.wait() for request in requests] == [S_OK] * DEPTH
        assert Request(driver, T_FLUSH).submit().wait() == S_OK
        assert driver.machine.messages() == ""


@pytest.fixture
def proxy():
    with Proxy({"d0": f"memory:?size={VOLUME_SIZE}&logical-block-size=4096"}) as started:
        yield started


@pytest.mark.parametrize("bad", BAD_OPTIONS.values(), ids=BAD_OPTIONS)
def test_bad_options_cost_the_holder_nothing(qemu, proxy, bench, bad):
    with undisturbed(qemu, proxy):
        status, messages = bench.fails("-object", "iothread,id=io0", takeover=True, slot=4, **bad)
        assert status == 1 and messages.count("\n") == 1, messages


def test_another_device_that_fails_costs_the_holder_nothing(qemu, proxy, bench):
    disk = ("-device", f"cloudblk-pci,server={proxy.uri('d0')},takeover=on")
    with undisturbed(qemu, proxy):
        status, messages = bench.fails(*disk, device="virtio-rng-pci", server=None, rng="nobody")
        assert status == 1 and "nobody" in messages


@pytest.mark.parametrize("bad", BAD_OPTIONS.values(), ids=BAD_OPTIONS)
def test_bad_options_of_device_add_cost_the_holder_nothing(qemu, proxy, bench, bad):
    machine = bench.machine("-object", "iothread,id=io0", device="virtio-rng-pci", server=None)
    options = {"id": "late", "addr": "0x6", "server": proxy.uri("d0"), "takeover": True, **bad}
    line = "device_add cloudblk-pci"
    for name, value in options.items():
        value = ("off", "on")[value] if isinstance(value, bool) else value
        line += f",{name if name in UNDERSCORED else name.replace('_', '-')}={value}"
    with undisturbed(qemu, proxy):
        assert "Error: " in machine.qmp.command("human-monitor-command", command_line=line)


@pytest.mark.parametrize("plugged", (False, True), ids=("at-start", "plugged"))
def test_takeover(proxy, bench, plugged):
    """It has the volume when the machine runs, or when device_add returns."""
    holder = bench.disk()
    assert Request(holder, T_OUT, 0, b"f" * 4096).submit().wait() == S_OK
    if plugged:
        machine = bench.machine(device="virtio-rng-pci", server=None)
        machine.qmp.command(
            "device_add", driver="cloudblk-pci", id="late", addr="0x6", server=proxy.uri("d0"), takeover=True
        )
        taker = BlockDriver(machine, 6)
    else:
        taker = bench.disk("-S", takeover=True)
    assert Request(holder, T_OUT, 0, b"l" * 4096).submit().wait() == S_IOERR
    if not plugged:
        taker.machine.qmp.command("cont")
    read = Request(taker, T_IN, 0, 4096)
    assert read.submit().wait() == S_OK and read.bytes == b"f" * 4096


def test_a_volume_that_cannot_be_had_ends_device_add(proxy, bench):
    """Nothing is left of the disk, and its place is free."""
    holder = bench.disk()
    machine = bench.machine(device="virtio-rng-pci", server=None)
    disk = {"driver": "cloudblk-pci", "id": "late", "addr": "0x6", "server": proxy.uri("d0"), "open_timeout": 500}
    for _ in range(2):
        with pytest.raises(QmpError, match="in use"):
            machine.qmp.command("device_add", **disk)
    assert Request(holder, T_OUT, 0, b"h" * 4096).submit().wait() == S_OK
    holder.machine.qmp.quit()
    assert holder.machine.wait() == 0
    machine.qmp.command("device_add", **disk)
    assert Request(BlockDriver(machine, 6), T_OUT, 0, b"h" * 4096).submit().wait() == S_OK
