# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest that sleeps (ACPI S3): the machine is not running, and its queues are served all the same."""

import pytest

from tests.support import virtio
from tests.support.standstill import hanging
from tests.support.qtest import PciDevice
from tests.support.stream import Timeout
from tests.support.virtio import BLK_FLUSH, BLK_MQ, EVENT_IDX, S_OK, T_IN, BlockDriver

from .life import IOTHREADS, stay_in_flight, two_queues, untouched, works

POWER_SLOT, POWER_FUNCTION = 1, 3
POWER_BASE, POWER_ENABLE = 0x40, 0x80
PORTS = 0x600
CONTROL, SLEEP, SLEEP_S3 = PORTS + 4, 1 << 13, 1 << 10


def fall_asleep(machine):
    power = PciDevice(machine, POWER_SLOT, POWER_FUNCTION)
    power.set_config(POWER_BASE, 4, PORTS | 1)
    power.set_config(POWER_ENABLE, 1, 1)
    machine.port_out(CONTROL, 2, SLEEP | SLEEP_S3)
    machine.qmp.wait_event("SUSPEND")
    assert machine.qmp.command("query-status")["status"] == "suspended"


def test_a_disk_plugged_meanwhile_stops_with_the_machine(bench, loops):
    machine = bench.machine(*IOTHREADS, share_rw=True)
    fall_asleep(machine)
    options = {name.replace("_", "-"): value for name, value in loops.items()}
    machine.qmp.command(
        "device_add", driver="cloudblk-pci", id="late", addr="0x5", server=bench.proxy.uri("d0"), num_queues=2,
        queue_size=512, share_rw=True, **options,
    )
    machine.qmp.command("system_wakeup")
    machine.qmp.wait_event("WAKEUP")
    driver = BlockDriver(machine, 5, (BLK_MQ, BLK_FLUSH, EVENT_IDX), queues=2)
    works(driver)
    with hanging(bench.proxy):
        requests = stay_in_flight(driver, T_IN)
        machine.qmp.command("stop")
    # The server answers now, but the machine's memory stands still
    with pytest.raises(Timeout):
        virtio.poll(lambda: not untouched(requests), "change", timeout=0.5)
    machine.qmp.command("cont")
    assert all(request.wait() == S_OK for request in requests)
    works(driver)


def test_quit_frees_the_volume(bench, loops):
    driver = two_queues(bench, loops)
    works(driver)
    fall_asleep(driver.machine)
    bench.quit()
    # Long before a lease would end
    works(two_queues(bench, loops, open_timeout=3000))
