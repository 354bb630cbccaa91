# SPDX-License-Identifier: GPL-2.0-or-later
"""The configuration space, the features, and the properties as users see them."""

import os
import re
import subprocess

import pytest

from tests.support import virtio
from tests.support.paths import PLUGIN, REPO, plugin_arguments
from tests.support.proxy import Proxy
from tests.support.qtest import PciDevice
from tests.support.virtio import (
    BLK_CONFIG_WCE,
    BLK_DISCARD,
    BLK_FLUSH,
    BLK_MQ,
    BLK_RO,
    BLK_WRITE_ZEROES,
    S_IOERR,
    S_OK,
    T_IN,
    T_OUT,
    Modern,
    Request,
)

from .conftest import VOLUME_SIZE, Bench

# Offset and size of each field (virtio 1.2, 5.2.4)
FIELDS = {
    "capacity": (0, 8),
    "size_max": (8, 4),
    "seg_max": (12, 4),
    "cylinders": (16, 2),
    "heads": (18, 1),
    "sectors": (19, 1),
    "blk_size": (20, 4),
    "physical_block_exp": (24, 1),
    "alignment_offset": (25, 1),
    "min_io_size": (26, 2),
    "opt_io_size": (28, 4),
    "writeback": (32, 1),
    "num_queues": (34, 2),
    "max_discard_sectors": (36, 4),
    "max_discard_seg": (40, 4),
    "discard_sector_alignment": (44, 4),
    "max_write_zeroes_sectors": (48, 4),
    "max_write_zeroes_seg": (52, 4),
    "write_zeroes_may_unmap": (56, 1),
}


def listed(heading):
    """The properties in the table under that heading of docs/properties.md."""
    text = (REPO / "docs/properties.md").read_text()
    section = text.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `([^`]+)` \| (.+) \|$", section, re.MULTILINE)
    assert rows and all(reason.strip() for _, reason in rows)
    return {name for name, _ in rows}


def config(driver):
    return {name: driver.registers.config(*place) for name, place in FIELDS.items()}


def offered(driver, *bits):
    return all(driver.offered >> bit & 1 for bit in bits)


# QEMU's own disk beside ours. Some releases give all their queues 1024 entries, whatever queue-size says.
PLAIN_SLOT = 5
PLAIN = ["-blockdev", "null-co,node-name=n0,size=1048576", "-device", f"virtio-blk-pci,drive=n0,addr={PLAIN_SLOT:#x}"]


def plain_queue_size(machine):
    size = Modern(PciDevice(machine, PLAIN_SLOT)).queue_size(0)
    assert size in (256, 1024)
    return size


def test_defaults(bench):
    driver = bench.disk(*PLAIN)
    found = config(driver)
    assert found["capacity"] == VOLUME_SIZE // 512
    assert found["seg_max"] == 254
    assert (found["heads"], found["sectors"]) == (16, 63)
    assert found["cylinders"] == VOLUME_SIZE // 512 // (16 * 63)
    assert found["blk_size"] == 512
    assert found["num_queues"] == 1
    assert found["max_discard_seg"] >= 1 and found["max_discard_sectors"] >= 2048
    assert found["max_write_zeroes_seg"] >= 1 and found["max_write_zeroes_sectors"] >= 2048
    assert found["discard_sector_alignment"] >= 1
    assert found["write_zeroes_may_unmap"] == 1
    assert offered(driver, virtio.BLK_SEG_MAX, virtio.BLK_GEOMETRY, virtio.BLK_TOPOLOGY, virtio.BLK_BLK_SIZE)
    assert offered(driver, BLK_FLUSH, BLK_CONFIG_WCE, BLK_DISCARD, BLK_WRITE_ZEROES)
    assert offered(driver, virtio.INDIRECT, virtio.EVENT_IDX, virtio.VERSION_1)
    assert not offered(driver, BLK_RO) and not offered(driver, BLK_MQ) and not offered(driver, virtio.PACKED)
    assert driver.registers.queue_size(0) == plain_queue_size(driver.machine)
    assert driver.pci.config(0, 4) == 0x10011AF4 and driver.pci.config(10, 2) == 0x0100


def test_properties_reach_the_guest(bench):
    driver = bench.disk(
        queues=3,
        queue_size=128,
        logical_block_size=512,
        physical_block_size=8192,
        min_io_size=16384,
        opt_io_size=1 << 20,
        discard_granularity=65536,
        max_discard_sectors=4096,
        max_write_zeroes_sectors=2048,
        cyls=100,
        heads=32,
        secs=32,
        write_cache="off",
        config_wce=False,
    )
    found = config(driver)
    assert found["seg_max"] == 126
    assert (found["cylinders"], found["heads"], found["sectors"]) == (100, 32, 32)
    assert (found["blk_size"], found["physical_block_exp"]) == (512, 4)
    assert (found["min_io_size"], found["opt_io_size"]) == (32, 2048)
    assert (found["max_discard_sectors"], found["max_write_zeroes_sectors"]) == (4096, 2048)
    assert found["discard_sector_alignment"] == 128
    assert found["num_queues"] == 3 and offered(driver, BLK_MQ)
    assert found["writeback"] == 0
    assert not offered(driver, BLK_FLUSH) and not offered(driver, BLK_CONFIG_WCE)


def test_block_sizes_follow_the_volume_unless_told_not_to(bench):
    volume = config(bench.disk())
    bench.quit()
    plain = config(bench.disk(backend_defaults="off"))
    assert (plain["blk_size"], plain["physical_block_exp"], plain["opt_io_size"]) == (512, 0, 0)
    assert plain["discard_sector_alignment"] == 1
    assert volume["physical_block_exp"] > 0


def test_a_volume_of_large_blocks(qemu):
    with Proxy({"d0": f"memory:?size={VOLUME_SIZE}&logical-block-size=4096"}) as proxy, Bench(qemu, proxy) as bench:
        found = config(bench.disk())
        # A track holds whole blocks
        assert (found["blk_size"], found["sectors"]) == (4096, 56)
        bench.quit()
        for properties in ({"logical_block_size": 512}, {"backend_defaults": "off"}):
            status, messages = bench.fails(**properties)
            assert status == 1 and "at least the volume's, 4096" in messages


def test_a_volume_that_is_read_only(qemu, tmp_path):
    path = tmp_path / "disk"
    path.touch()
    os.truncate(path, VOLUME_SIZE)
    with Proxy({"d0": f"file://{path}?read-only=on"}) as proxy, Bench(qemu, proxy) as bench:
        driver = bench.disk(werror="stop")
        assert offered(driver, BLK_RO)
        assert Request(driver, T_OUT, 0, bytes(512)).submit().wait() == S_IOERR
        assert Request(driver, T_IN, 0, 512).submit().wait() == S_OK


def test_flush_without_a_write_cache(bench):
    """Older machine types offer it only with a cache that is on."""
    for on in (True, False):
        driver = bench.disk(write_cache="off", x_enable_wce_if_config_wce=on)
        assert offered(driver, BLK_FLUSH) == on
        bench.quit()


def test_features_can_be_turned_off(bench):
    driver = bench.disk(discard=False, write_zeroes=False, seg_max_adjust=False, event_idx=False, indirect_desc=False)
    for bit in (BLK_DISCARD, BLK_WRITE_ZEROES, virtio.EVENT_IDX, virtio.INDIRECT):
        assert not offered(driver, bit)
    assert config(driver)["seg_max"] == 126


def test_queues_follow_processors(bench):
    driver = bench.disk("-smp", "3", *PLAIN)
    size = plain_queue_size(driver.machine)
    assert config(driver)["num_queues"] == 3
    assert [driver.registers.queue_size(i) for i in range(4)] == [size, size, size, 0]


def test_read_only_is_shown(bench):
    assert offered(bench.disk(read_only=True), BLK_RO)


def test_configuration_is_only_written_where_allowed(bench):
    driver = bench.disk(features=(BLK_FLUSH, BLK_CONFIG_WCE))
    before = config(driver)
    for name, (offset, size) in FIELDS.items():
        if name != "writeback":
            driver.registers.set_config(offset, size, (1 << 8 * size) - 1)
    driver.registers.set_config(32, 1, 0)
    assert config(driver) == {**before, "writeback": 0}


def test_properties_are_those_of_virtio_blk(bench):
    qmp = bench.machine().qmp
    theirs = {p["name"]: p for p in qmp.command("device-list-properties", typename="virtio-blk-pci")}
    ours = {p["name"]: p for p in qmp.command("device-list-properties", typename="cloudblk-pci")}
    absent = listed("Not there")
    assert not absent & set(ours)
    assert set(theirs) - set(ours) <= absent
    assert set(ours) - set(theirs) == listed("Only here")
    for name in set(ours) & set(theirs) - {"virtio-backend"}:
        for key in ("type", "default-value"):
            assert ours[name].get(key) == theirs[name].get(key), f"{key} of {name}"
    inherited = {p["name"] for p in qmp.command("device-list-properties", typename="virtio-balloon-pci")}
    own = set(ours) - inherited | {"class", "ioeventfd", "vectors"}
    assert not [name for name in own if not ours[name].get("description")]


def help_of(qemu, device):
    """{name: (type, default)}, as -device TYPE,help lists the properties."""
    preload = {"LD_PRELOAD": str(PLUGIN)} if plugin_arguments(qemu) else {}
    command = [qemu, "-device", f"{device},help"]
    text = subprocess.run(command, env={**os.environ, **preload}, capture_output=True, text=True, check=True).stdout
    rows = re.findall(r"^  (\S+?)=<(\S+?)>(?:.*\(default: ([^()]*)\))?", text, re.MULTILINE)
    return {name: (kind, default) for name, kind, default in rows}


def test_help_is_that_of_virtio_blk(qemu):
    theirs, ours = help_of(qemu, "virtio-blk-pci"), help_of(qemu, "cloudblk-pci")
    assert len(theirs) > 40
    assert set(theirs) - set(ours) <= listed("Not there")
    assert set(ours) - set(theirs) <= listed("Only here")
    both = set(ours) & set(theirs) - {"virtio-backend"}
    assert {name: ours[name] for name in both} == {name: theirs[name] for name in both}


# Properties and what the one line says
MISTAKES = {
    "no server": ({"server": None}, "server is not set"),
    "empty server": ({"server": ""}, "server is not set"),
    "no such volume": ({"server": "{uri}x"}, "volume"),
    "bad URI": ({"server": "cloudblk:/nowhere"}, ""),
    "a server-timeout of years": ({"server_timeout": 1 << 31}, "server-timeout must be at most 86400 seconds"),
    "no such IOThread": ({"iothreads": "io7"}, "there is no IOThread 'io7'"),
    "an IOThread without a name": ({"iothreads": "io0:"}, "iothreads has an empty name"),
    "two ways to IOThreads": ({"iothread": "io0", "iothreads": "io0"}, "only one of iothread"),
    "iothread without ioeventfd": ({"iothread": "io0", "ioeventfd": False}, "ioeventfd"),
    "no queue": ({"num_queues": 0}, "num-queues"),
    "too many queues": ({"num_queues": 2000}, "num-queues"),
    "odd queue size": ({"queue_size": 100}, "queue-size"),
    "small physical blocks": ({"logical_block_size": 4096, "physical_block_size": 512}, "physical_block_size"),
    "odd opt_io_size": ({"opt_io_size": 700}, "multiples of the logical block size"),
    "half a geometry": ({"cyls": 5}, "set cyls"),
    "huge min_io_size": ({"min_io_size": 65536 * 512}, "min_io_size must be at most"),
    "max-discard-sectors 0": ({"max_discard_sectors": 0}, "max-discard-sectors"),
    "max-write-zeroes-sectors 0": ({"max_write_zeroes_sectors": 0}, "max-write-zeroes-sectors"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_one_line(bench, mistake):
    properties, says = MISTAKES[mistake]
    status, messages = bench.fails("-object", "iothread,id=io0", **properties)
    # What can pass is waited for, which another line says.
    lines = [line for line in messages.strip().splitlines() if "warning: cloudblk: waiting" not in line]
    assert status == 1 and len(lines) == 1, messages
    assert says in lines[0]


def test_second_machine_is_refused(bench):
    bench.machine()
    status, messages = bench.fails()
    assert status == 1 and len(messages.strip().splitlines()) == 1, messages
    assert "d0" in messages
