# SPDX-License-Identifier: GPL-2.0-or-later
"""The disk behind a virtual IOMMU."""

import struct

import pytest

from tests.support.virtio import (
    ACCESS_PLATFORM,
    INDIRECT,
    NEEDS_RESET,
    PACKED,
    S_OK,
    T_IN,
    T_OUT,
    BlockDriver,
    Request,
    poll,
)

# Intel VT-d: the unit's registers, and bits of them and of its tables
UNIT, COMMAND, STATUS, ROOT = 0xFED90000, 0x18, 0x1C, 0x20
SET_ROOT, TRANSLATE = 1 << 30, 1 << 31
PRESENT, READ_WRITE, LARGE = 1, 3, 1 << 7
ADDRESS_WIDTH_39, DOMAIN = 1, 1 << 8
MIB = 1 << 20
# What the disk may reach: the same addresses up to here
REACHABLE = 32 * MIB
SLOT = 4


def enable(machine):
    """Lets the disk reach the memory below REACHABLE and nothing else."""
    root, contexts, top, middle = (machine.alloc(4096, 4096) for _ in range(4))
    memory = machine.memory
    struct.pack_into("<QQ", memory, root, contexts | PRESENT, 0)
    struct.pack_into("<QQ", memory, contexts + 16 * (SLOT << 3), top | PRESENT, DOMAIN | ADDRESS_WIDTH_39)
    struct.pack_into("<Q", memory, top, middle | READ_WRITE)
    for page in range(REACHABLE // (2 * MIB)):
        struct.pack_into("<Q", memory, middle + 8 * page, 2 * MIB * page | READ_WRITE | LARGE)
    machine.write(UNIT + ROOT, 8, root)
    machine.write(UNIT + COMMAND, 4, SET_ROOT)
    machine.write(UNIT + COMMAND, 4, TRANSLATE)
    assert machine.read(UNIT + STATUS, 4) & TRANSLATE


@pytest.mark.parametrize("packed", (False, True), ids=("split", "packed"))
@pytest.mark.parametrize("more", ({}, {"iothread": "io0"}), ids=("main-loop", "iothread"))
@pytest.mark.parametrize("translated", (False, True), ids=("pass-through", "translated"))
def test_requests(bench, packed, more, translated):
    machine = bench.machine(
        *("-object", "iothread,id=io0", "-device", "intel-iommu,aw-bits=39"),
        machine="q35",
        iommu_platform=True,
        disable_legacy="on",
        packed=packed,
        **more,
    )
    if translated:
        enable(machine)
    features = (ACCESS_PLATFORM, INDIRECT, *([PACKED] if packed else []))
    driver = BlockDriver(machine, SLOT, features)
    for size, indirect in ((512, False), (MIB, False), (65536, True)):
        data = bytes(i * 7 & 0xFF for i in range(size))
        assert Request(driver, T_OUT, 64, data, segments=min(8, size // 512)).submit(indirect).wait() == S_OK
        check = Request(driver, T_IN, 64, size)
        assert check.submit(indirect).wait() == S_OK and check.bytes == data

    if not translated:
        # It begins to translate while the disk is in use, whose requests are taken another way from then on
        enable(machine)
        check = Request(driver, T_IN, 64, 65536)
        assert check.submit().wait() == S_OK and check.bytes == data
    if translated:
        for kind in (T_IN, T_OUT):
            request = Request(driver, kind, 64, 512 if kind == T_IN else bytes(512))
            request.buffers[1] = (REACHABLE + MIB, 512, kind == T_IN)
            request.submit()
            poll(lambda: driver.registers.status & NEEDS_RESET, "NEEDS_RESET")
            assert machine.memory[REACHABLE + MIB : REACHABLE + MIB + 512] == bytes(512)
            driver.start(features)
        check = Request(driver, T_IN, 64, 65536)
        assert check.submit().wait() == S_OK and check.bytes == data
