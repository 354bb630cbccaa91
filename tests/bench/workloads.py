# SPDX-License-Identifier: GPL-2.0-or-later
"""What each row is asked to do."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Workload:
    name: str
    title: str
    options: tuple  # of virtio-bench, and of loopback-floor where that takes part
    queues: int = 1
    main: bool = True  # all rows take part, not only those that a goal is about
    parts: bool = False  # rows that are measured in runs of their own take part

    def suits(self, row):
        if self.queues != row.queues or (row.part and not self.parts):
            return False
        return self.main or (row.device and row.keeps)


def _of(pattern, size, depth, *more):
    return ("--pattern", pattern, "--size", size, "--depth", str(depth), *more)


_ALL = (
    Workload("randread-4k-qd1", "4 KiB random read, depth 1", _of("randread", "4k", 1), parts=True),
    Workload("randread-4k-qd32", "4 KiB random read, depth 32", _of("randread", "4k", 32), parts=True),
    Workload("randread-4k-qd128", "4 KiB random read, depth 128", _of("randread", "4k", 128)),
    Workload("randwrite-4k-qd32", "4 KiB random write, depth 32", _of("randwrite", "4k", 32), parts=True),
    Workload("read-128k-qd16", "128 KiB read, depth 16", _of("read", "128k", 16), parts=True),
    Workload(
        "randread-4k-2x32",
        "4 KiB random read, 2 queues, depth 32 each",
        _of("randread", "4k", 32, "--queues", "2"),
        queues=2,
    ),
    Workload("randread-4k-qd4", "4 KiB random read, depth 4", _of("randread", "4k", 4), main=False),
    Workload(
        "randread-4k-qd4-beside-writes",
        "the same beside 1 MiB writes, depth 4",
        _of("randread", "4k", 4, "--background-size", "1M", "--background-depth", "4"),
        main=False,
    ),
)
WORKLOADS = {workload.name: workload for workload in _ALL}

# What fills a volume: ranges that were never written are answered without data.
FILL = ("--fill", "--pattern", "write", "--size", "256k", "--depth", "16", "--seconds", "0", "--warmup", "0")
