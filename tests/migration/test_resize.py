# SPDX-License-Identifier: GPL-2.0-or-later
"""A volume that is resized while its disk moves: the guest learns of it where it goes on."""

import pytest

from tests.migration import pair
from tests.support.virtio import S_OK, T_OUT, Request, poll

SIZE = 64 << 20
CONFIG_INTERRUPT = 2
WAYS = [("7.2", "10.0"), ("10.0", "10.0")]


def capacity(driver):
    return driver.registers.config(0, 8) * 512


def take_interrupt(driver):
    poll(lambda: driver.registers.isr() & CONFIG_INTERRUPT, "config interrupt")


@pytest.mark.parametrize("way", WAYS, ids="-".join)
@pytest.mark.parametrize("when", ["before", "after"])
def test_the_guest_is_told_at_the_destination(machines, way, when):
    source = machines.start(way[0])
    destination = machines.start(way[1], source)
    driver = pair.new_driver(source)
    assert capacity(driver) == SIZE
    source.qmp.command("stop")
    if when == "before":
        machines.proxy.resize("d0", 2 * SIZE)
        # An interrupt that the guest does not take here, and that does not come along.
        take_interrupt(driver)
    pair.migrate_without_load(source, destination)
    if when == "after":
        machines.proxy.resize("d0", 2 * SIZE)
    pair.move_driver(driver, destination)
    assert not driver.registers.isr() & CONFIG_INTERRUPT
    destination.qmp.command("cont")
    take_interrupt(driver)
    assert capacity(driver) == 2 * SIZE
    assert Request(driver, T_OUT, 2 * SIZE // 512 - 8, bytes(4096)).submit().wait() == S_OK
    machines.check_owners(1)
