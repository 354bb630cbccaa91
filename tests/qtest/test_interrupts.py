# SPDX-License-Identifier: GPL-2.0-or-later
"""When the disk interrupts, and that a reset does not wait for it."""

import pytest

from tests.support.qtest import MESSAGE
from tests.support.virtio import EVENT_IDX, PACKED, S_OK, T_GET_ID, T_IN, Request, poll

# Offsets in the common configuration
MSIX_CONFIG, QUEUE_SELECT, QUEUE_MSIX = 16, 22, 26
INTERRUPT_CONTROLLER = 0xFEE00000


def ask_for_messages(driver):
    """The first queue's interrupts are the first vector's."""
    driver.registers.set_common(QUEUE_SELECT, 2, 0)
    driver.registers.set_common(QUEUE_MSIX, 2, 0)


class Messages:
    """The first queue's interrupts, which go to memory, where they can be seen."""

    def __init__(self, driver):
        self._memory = driver.machine.memory
        self._at = driver.machine.alloc(4)
        driver.pci.turn_msix_on(self._at)
        ask_for_messages(driver)

    def take(self):
        """Whether there was one since."""
        found, self._memory[self._at] = self._memory[self._at], 0
        return found == MESSAGE


@pytest.mark.parametrize("more", ({}, {"iothread": "io0"}, {"ioeventfd": False}), ids=("main-loop", "iothread", "no-ioeventfd"))
def test_an_interrupt_is_a_message(bench, packed, more):
    driver = bench.disk("-object", "iothread,id=io0", features=(PACKED,) if packed else (), packed=packed, **more)
    messages = Messages(driver)
    for kind in (T_GET_ID, T_IN):
        assert Request(driver, kind, 0, 512).submit().wait() == S_OK
        poll(messages.take, "interrupt")


@pytest.mark.parametrize("more", ({}, {"iothread": "io0"}), ids=("main-loop", "iothread"))
def test_interrupt_only_when_asked_for(bench, packed, more):
    """By messages: of an IOThread's interrupt the ISR register may tell twice."""
    features = (EVENT_IDX, PACKED) if packed else (EVENT_IDX,)
    driver = bench.disk("-object", "iothread,id=io0", features=features, packed=packed, **more)
    messages = Messages(driver)
    queue = driver.queues[0]
    queue.interrupt_after(1)
    assert Request(driver, T_IN, 0, 512).submit().wait() == S_OK
    poll(messages.take, "interrupt")
    # Each takes three descriptors of the packed ring, whose positions count descriptors
    queue.interrupt_after(7 if packed else 3)
    for _ in range(2):
        assert Request(driver, T_IN, 0, 512).submit().wait() == S_OK
        assert not messages.take()
    assert Request(driver, T_IN, 0, 512).submit().wait() == S_OK
    poll(messages.take, "interrupt")
    assert driver.registers.isr() & 1


def make_a_mistake(driver):
    driver.registers.set_common(MSIX_CONFIG, 2, 0)
    driver.queues[0].add([(driver.machine.alloc(16), 0, False)])
    driver.registers.notify(driver.queues[0].place, 0)


def get_an_answer(driver):
    ask_for_messages(driver)
    Request(driver, T_GET_ID, 0, 20).submit()


@pytest.mark.parametrize("cause", (make_a_mistake, get_an_answer))
def test_a_reset_right_after_what_interrupts(bench, cause):
    """To interrupt takes the lock with which a reset waits for the IOThread."""
    driver = bench.disk("-object", "iothread,id=io0,poll-max-ns=0", iothread="io0")
    driver.pci.turn_msix_on(INTERRUPT_CONTROLLER)
    mark = driver.machine.used
    for _ in range(200):
        driver.reset()
        driver.machine.forget(mark)
        driver.start()
        cause(driver)
        driver.registers.status = 0
    driver.start()
    assert Request(driver, T_IN, 0, 512).submit().wait() == S_OK
