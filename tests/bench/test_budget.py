# SPDX-License-Identifier: GPL-2.0-or-later
"""What one I/O may cost: a change that makes it dearer is noticed here. Figures that hardly vary on any
machine, under any load: user-space instructions and system calls per I/O, in a steady state."""

import json

import pytest

from tests.support.paths import stock_qemu

from . import budget


@pytest.fixture(scope="module")
def measured():
    return budget.measure(stock_qemu("10.0"))


ALLOWED = json.loads(budget.FILE.read_text())


@pytest.mark.parametrize("workload", ALLOWED["workloads"])
def test_cost_of_an_io(measured, workload):
    same_qemu = measured["qemu"] == ALLOWED["qemu"]
    exceeded = []
    for figure, allowed in ALLOWED["workloads"][workload].items():
        # The whole IOThread's figure is also QEMU's, of whatever release the archive has
        if figure == "iothread-instructions" and not same_qemu:
            continue
        value = measured["workloads"][workload][figure]
        kind = figure.rsplit("-", 1)[1]
        if kind == "instructions" and workload.endswith("-qd1"):
            kind += " at depth 1"
        if value > allowed * (1 + ALLOWED["tolerance"][kind]):
            exceeded.append(f"{figure}: {value} per I/O, {allowed} allowed")
    assert not exceeded, f"{exceeded}; where that is worth it: scripts/bench --budget, and commit {budget.FILE.name}"
