# SPDX-License-Identifier: GPL-2.0-or-later
"""QEMU is replaced by a newer one on the same host, and the guest's memory stays where it is."""

import json
import threading

import pytest

from tests.migration import pair
from tests.support.paths import qemu_command
from tests.support.stream import listens
from tests.support.virtio import S_OK, T_IN, T_OUT, Request, poll

RELEASE = "10.0"  # of those that the tests have, the one that can


def start(proxy, source=None, incoming=()):
    options = {"driver": "cloudblk-pci", "id": "disk", "addr": "0x4", "server": proxy.uri("d0")}
    machine = pair.MovingMachine(qemu_command(RELEASE), ["-device", json.dumps(options)], source)
    at = machine._arguments.index("-machine") + 1
    machine._arguments[at] += ",aux-ram-share=on"
    if incoming:
        at = machine._arguments.index("-incoming")
        machine._arguments[at : at + 2] = incoming
    return machine


@pytest.fixture
def machines():
    made = []
    yield made
    for machine in made:
        machine.__exit__()


def write(driver, letter):
    assert Request(driver, T_OUT, 0, letter * pair.BLOCK).submit().wait() == S_OK


def check(driver, letter):
    request = Request(driver, T_IN, 0, pair.BLOCK).submit()
    assert request.wait() == S_OK
    assert request.bytes == letter * pair.BLOCK


def source_of(proxy, machines, mode):
    source = start(proxy)
    machines.append(source)
    source.start()
    driver = pair.new_driver(source)
    write(driver, b"s")
    source.qmp.command("migrate-set-parameters", mode=mode)
    return source, driver


def go_on(source, destination, driver):
    """The destination has what the source wrote, and writes."""
    pair.wait_arrived(destination)
    destination.qmp.command("cont")
    pair.move_driver(driver, destination)
    check(driver, b"s")
    write(driver, b"d")
    check(driver, b"d")
    assert destination.qmp.command("query-status")["running"], destination.messages()


def test_cpr_reboot(proxy, machines):
    source, driver = source_of(proxy, machines, "cpr-reboot")
    state = f"file:{source.folder}/state"
    pair.capability(source, "x-ignore-shared")
    source.qmp.command("migrate", uri=state)
    assert pair.wait_status(source, "completed", "failed") == "completed", source.messages()
    source.qmp.quit()
    source.wait()
    destination = start(proxy, source)
    machines.append(destination)
    destination.start()
    pair.capability(destination, "x-ignore-shared")
    destination.qmp.command("migrate-set-parameters", mode="cpr-reboot")
    destination.qmp.command("migrate-incoming", uri=state)
    go_on(source, destination, driver)


def test_cpr_transfer(proxy, machines):
    source, driver = source_of(proxy, machines, "cpr-transfer")
    channels = [
        {"channel-type": kind, "addr": {"transport": "socket", "type": "unix", "path": f"{source.folder}/{kind}"}}
        for kind in ("main", "cpr")
    ]
    incoming = [word for channel in channels for word in ("-incoming", json.dumps(channel))]
    destination = start(proxy, source, incoming)
    machines.append(destination)
    # It has no monitor before the source has connected.
    starting = threading.Thread(target=destination.start)
    starting.start()
    poll(lambda: listens(source.folder / "cpr"), "the destination's socket")
    source.qmp.command("migrate", channels=channels)
    starting.join()
    assert pair.wait_status(source, "completed", "failed") == "completed", source.messages() + destination.messages()
    go_on(source, destination, driver)
