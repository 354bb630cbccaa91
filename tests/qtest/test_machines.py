# SPDX-License-Identifier: GPL-2.0-or-later
"""On every machine type the disk looks to the guest as QEMU's own does there."""

import pytest

from tests.support.qtest import PciDevice
from tests.support.virtio import BLK_DISCARD, BLK_MQ, BLK_SCSI, BLK_WRITE_ZEROES, RING_RESET, VERSION_1, Legacy, Modern

from .conftest import VOLUME_SIZE

DISK, PLAIN = 4, 5
PROCESSORS = 3
# seg_max and num_queues, see test_config.FIELDS
SEG_MAX, NUM_QUEUES = (12, 4), (34, 2)
# What some releases (10.0.13) give every queue, whatever its device asked for
EVERY_QUEUE = 1024
# The largest configuration space that virtio-blk has, and more
CONFIG = 128


def look(queues, size, seg_max, config_size, vectors, *features):
    return {
        "queues": queues,
        "queue size": size,
        "seg_max": seg_max,
        "config size": config_size,
        "vectors": vectors,
        "features": set(features),
    }


NEW = look(3, 256, 254, 57, 4, BLK_MQ, BLK_DISCARD, BLK_WRITE_ZEROES, VERSION_1)
ONE_QUEUE = look(1, 256, 254, 57, 2, BLK_DISCARD, BLK_WRITE_ZEROES, VERSION_1)
SMALL_QUEUE = look(1, 128, 126, 57, 2, BLK_DISCARD, BLK_WRITE_ZEROES, VERSION_1)
NO_DISCARD = look(1, 128, 126, 36, 2, VERSION_1)
GOLDEN = {
    "pc": NEW,
    "q35": NEW,
    "pc-i440fx-7.2": NEW,
    "pc-q35-7.2": NEW,
    "pc-i440fx-7.1": NEW,
    "pc-i440fx-6.2": NEW,
    "pc-i440fx-5.2": NEW,
    "pc-i440fx-5.1": ONE_QUEUE,
    "pc-q35-5.0": ONE_QUEUE,
    "pc-i440fx-4.2": SMALL_QUEUE,
    "pc-q35-4.0": SMALL_QUEUE,
    "pc-i440fx-3.1": NO_DISCARD,
    "pc-q35-2.12": NO_DISCARD,
    "pc-i440fx-2.11": NO_DISCARD,
    "pc-i440fx-2.7": NO_DISCARD,
    # Before virtio 1.0 was the default
    "pc-i440fx-2.6": look(1, 128, 126, 36, 2, BLK_SCSI),
    "pc-i440fx-2.4": look(1, 128, 126, 36, 2, BLK_SCSI),
}
NAMED = BLK_MQ, BLK_DISCARD, BLK_WRITE_ZEROES, BLK_SCSI, VERSION_1


def registers(pci):
    modern = any(capability == 9 for capability, _ in pci.capabilities())
    return Modern(pci) if modern else Legacy(pci)


def vectors(pci):
    for capability, at in pci.capabilities():
        if capability == 0x11:
            return (pci.config(at + 2, 2) & 0x7FF) + 1
    return 0


def seen(machine, slot):
    """What a guest sees of the disk, and all features offered."""
    pci = PciDevice(machine, slot)
    found = registers(pci)
    offered = found.features()
    space = bytes(found.config(i, 1) for i in range(CONFIG))
    # Behind its end everything reads as ones
    size = len(space.rstrip(b"\xff"))
    queues = int.from_bytes(space[34:36], "little") if offered >> BLK_MQ & 1 else 1
    return (
        look(
            queues,
            found.queue_size(0),
            found.config(*SEG_MAX),
            size,
            vectors(pci),
            *(bit for bit in NAMED if offered >> bit & 1),
        ),
        offered,
    )


@pytest.mark.parametrize("machine_type", GOLDEN)
def test_as_virtio_blk(bench, machine_type):
    known = bench.machine().qmp.command("query-machines")
    names = {name for one in known for name in (one["name"], one.get("alias"))}
    bench.quit()
    if machine_type not in names:
        pytest.skip("this release does not have it any more")
    plain = ["-blockdev", f"null-co,node-name=n0,size={VOLUME_SIZE}", "-device", f"virtio-blk-pci,drive=n0,addr={PLAIN:#x}"]
    machine = bench.machine("-smp", str(PROCESSORS), *plain, machine=machine_type)
    ours, our_features = seen(machine, DISK)
    theirs, their_features = seen(machine, PLAIN)
    assert ours == theirs
    golden = dict(GOLDEN[machine_type])
    if theirs["queue size"] == EVERY_QUEUE:
        golden["queue size"] = EVERY_QUEUE
    assert ours == golden
    # docs/properties.md: queue_reset
    assert our_features | 1 << RING_RESET == their_features | 1 << RING_RESET


def test_report_discard_granularity_follows_the_machine_type(bench):
    for machine_type, expected in (("pc-i440fx-5.2", 1), ("pc-i440fx-6.0", 64)):
        machine = bench.machine(machine=machine_type, discard_granularity=32768)
        assert Modern(PciDevice(machine, DISK)).config(44, 4) == expected
        bench.quit()


def test_the_user_wins(bench):
    machine = bench.machine(
        "-smp", str(PROCESSORS), "-global", "cloudblk-pci.vectors=7", machine="pc-i440fx-3.1", num_queues=2, discard=True
    )
    found, _ = seen(machine, DISK)
    assert found["queue size"] in (128, EVERY_QUEUE)
    assert found == look(2, found["queue size"], 126, 48, 7, BLK_MQ, BLK_DISCARD, VERSION_1)
