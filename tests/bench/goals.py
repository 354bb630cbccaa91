# SPDX-License-Identifier: GPL-2.0-or-later
"""What cloudblk is to reach, relative to the other rows of the same run. A goal that two processors cannot decide is
a figure only, with what bounds it there."""

import dataclasses

NBD = ("nbd-nbdkit-null", "nbd-nbdkit-memory", "nbd-qsd-null", "nbd-qsd-main", "nbd-qsd-tmpfs")
DEVICE = "cloudblk"
ON_CEPH, LIBRBD = "cloudblk-rbd", "virtio-blk-rbd"


@dataclasses.dataclass
class Line:
    goal: str
    value: float | None  # None: could not be measured in this run
    at_least: bool
    must: float | None  # None: no goal, a figure
    stretch: float | None
    meaning: str
    bound: str = ""  # of a figure without a goal: what bounds it

    @property
    def verdict(self):
        if self.value is None:
            return "not measured"
        if self.must is None:
            return "reported"
        for name, bound in (("stretch", self.stretch), ("holds", self.must)):
            if bound is not None and (self.value >= bound if self.at_least else self.value <= bound):
                return name
        return "missed"


class Results:
    """Access to figures that may be missing."""

    def __init__(self, results):
        self._all = results

    def get(self, row, workload, figure):
        return self._all["figures"].get(row, {}).get(workload, {}).get(figure)

    def calls(self, row, workload, role="iothread", call="total"):
        by_role = self._all["syscalls"].get(row, {}).get(workload)
        return None if by_role is None else by_role.get(role, {}).get(call, 0)

    def cpu(self, row, workload, *roles):
        """Of all these together; a role without a thread that used any has none."""
        figures = self._all["figures"].get(row, {}).get(workload)
        return None if figures is None else sum(figures.get(f"{role}-cpu-us", 0) for role in roles)

    def best(self, workload, figure, most):
        values = [value for row in NBD if (value := self.get(row, workload, figure))]
        return (max if most else min)(values) if values else None

    def fewest_calls(self, workload):
        values = [value for row in NBD if (value := self.calls(row, workload))]
        return min(values) if values else None

    def extra(self, *path):
        value = self._all
        for name in path:
            value = value.get(name) if isinstance(value, dict) else None
        return value


def _figure(name, value, meaning, bound):
    return Line(name, value, False, None, None, meaning, bound)


def ratio(value, base):
    return None if value is None or not base else round(value / base, 3)


def _against_nbd(r, workload, text, iops, cpu):
    return [
        Line(f"{text}: IOPS", ratio(r.get(DEVICE, workload, "iops"), r.best(workload, "iops", True)), True, *iops,
             "times the best NBD row's"),
        Line(f"{text}: IOThread CPU per I/O",
             ratio(r.get(DEVICE, workload, "iothread-cpu-us"), r.best(workload, "iothread-cpu-us", False)), False, *cpu,
             "of the best NBD row's"),
    ]  # fmt: skip


def _depth_one(r):
    name, text = "randread-4k-qd1", "4 KiB random read, depth 1"
    return [
        _figure(f"{text}: IOThread CPU per I/O",
                ratio(r.get(DEVICE, name, "iothread-cpu-us"), r.best(name, "iothread-cpu-us", False)),
                "of the best NBD row's",
                "two wake-ups per request, which the NBD row has as well: sendmsg carries the segment up to the server's "
                "socket and wakes the server, the interrupt wakes QEMU's main loop"),
        Line(f"{text}: IOThread system calls per I/O", ratio(r.calls(DEVICE, name), r.fewest_calls(name)), False,
             0.5, 0.3, "of the best NBD row's"),
        Line(f"{text}: p50 latency", ratio(r.get(DEVICE, name, "p50-us"), r.best(name, "p50-us", False)), False,
             0.75, 0.5, "of the best NBD row's"),
    ]  # fmt: skip


def _bandwidth(r):
    name, text = "read-128k-qd16", "128 KiB read, depth 16"
    rate = r.get(DEVICE, name, "mb-per-s")
    return [
        Line(f"{text}: MB/s", ratio(rate, r.get("floor", name, "mb-per-s")), True, 0.85, None,
             "of bare TCP over loopback"),
        Line(f"{text}: MB/s (stretch)", ratio(rate, r.best(name, "mb-per-s", True)), True, 1.3, None,
             "times the best NBD row's"),
    ]  # fmt: skip


def _threads(r):
    one, two = "randread-4k-qd32", "randread-4k-2x32"
    return [
        _figure("2 queues on 2 IOThreads: IOThread CPU per I/O",
                ratio(r.get("cloudblk-2-queues", two, "iothread-cpu-us"), r.get(DEVICE, one, "iothread-cpu-us")),
                "of one IOThread's",
                "four threads, two IOThreads, the proxy and the driver, share two processors: a batch comes later than an "
                "IOThread polls for it, and costs its sleep"),
        Line("2 queues on 2 IOThreads: futex calls per I/O",
             r.calls("cloudblk-2-queues", two, call="futex"), False, 0.0005, None, "none on the path"),
        Line("4 KiB random read, depth 128: IOThread system calls per I/O",
             r.calls(DEVICE, "randread-4k-qd128"), False, 0.15, 0.05, "calls"),
        Line("proxy CPU per 4 KiB read, memory, depth 32",
             ratio(r.get(DEVICE, one, "server-cpu-us"), r.get("floor", one, "server-cpu-us")), False, 1.5, 1.2,
             "of the bare TCP server's"),
        Line("p99 of 4 KiB reads beside a stream of 1 MiB writes",
             ratio(r.get(DEVICE, "randread-4k-qd4-beside-writes", "p99-us"),
                   r.get(DEVICE, "randread-4k-qd4", "p99-us")), False, 3, None, "times that without the writes"),
    ]  # fmt: skip


def _others(r):
    lines = [
        _figure(f"proxy on a file, O_DIRECT, {engine}, 4 KiB random read, depth 32",
                ratio(r.extra("file", engine, "proxy-iops"), r.extra("file", engine, "fio-iops")),
                "of fio's IOPS",
                "depth 32 includes the round trip between the client and the proxy, in which the disk runs dry")
        for engine in ("libaio", "io_uring")
    ]  # fmt: skip
    return lines + [
        _figure("Linux guest under TCG, fio 4 KiB, depth 32: IOThread CPU per I/O",
                ratio(r.extra("guest", "cloudblk"), r.extra("guest", "nbd")),
                "of virtio-blk's with NBD to nbdkit",
                "the emulated processor hands over a few requests at a time while both processors emulate: the wake-ups of "
                "depth 1 again, and a quarter is polling in vain"),
        Line("idle disk: wake-ups of the IOThread and the proxy per second",
             r.extra("footprint", "idle-wakeups-per-s"), False, 0, None, "wake-ups"),
        Line("idle disk in QEMU: resident memory", r.extra("footprint", "mb-per-idle-disk"), False, 2, None, "MB"),
        Line("proxy with 1,000 idle sessions: resident memory",
             r.extra("footprint", "mb-of-proxy-with-1000-sessions"), False, 100, None, "MB"),
    ]  # fmt: skip


def lines(results):
    """All goals and figures, with what these results say of them."""
    r = Results(results)
    return [
        *_against_nbd(r, "randread-4k-qd32", "4 KiB random read, depth 32", (6, 8), (0.18, 0.12)),
        *_against_nbd(r, "randread-4k-qd128", "4 KiB random read, depth 128", (7, 10), (0.13, 0.08)),
        *_against_nbd(r, "randwrite-4k-qd32", "4 KiB random write, depth 32", (5, 7), (0.18, 0.13)),
        *_depth_one(r),
        *_bandwidth(r),
        *_threads(r),
        *_others(r),
    ]


def _against_librbd(r, workload, text, figure, bound, alone=(None, None), together=(None, None)):
    """Processor time, of QEMU alone and with the proxy, and one more figure: (its name, its key). What each has to reach
    and, of processor time, would reach at best."""
    def cpu(*roles):
        qemu = r.cpu(LIBRBD, workload, "iothread", "main")
        return ratio(r.cpu(ON_CEPH, workload, "iothread", "main", *roles), qemu)

    name, key = figure
    return [
        Line(f"{text}: QEMU's CPU per I/O", cpu(), False, *alone, "of librbd's in QEMU"),
        Line(f"{text}: CPU per I/O of QEMU and the proxy together", cpu("server"), False, *together, "of librbd's in QEMU"),
        Line(f"{text}: {name}", ratio(r.get(ON_CEPH, workload, key), r.get(LIBRBD, workload, key)), key != "p50-us",
             bound, None, "of librbd's in QEMU"),
    ]  # fmt: skip


def added_by_disks(r, row, figure):
    """What the idle disks of that row need more than QEMUs without a disk; None if that was not measured."""
    whole, without = (r.extra("idle", name, figure) for name in (row, "none"))
    return None if whole is None or without is None else round(whole - without, 1)


def _idle_on_ceph(r):
    return [
        Line(f"{r.extra('idle', 'disks') or 'idle'} QEMUs with an idle disk each: memory that the disks add",
             ratio(added_by_disks(r, ON_CEPH, "mb"), added_by_disks(r, LIBRBD, "mb")), False, 0.3, None,
             "of what librbd in each adds"),
    ]  # fmt: skip


def ceph_lines(results):
    """The same of the rows on a Ceph cluster."""
    r = Results(results)
    return [
        *_against_librbd(r, "randread-4k-qd32", "4 KiB random read, depth 32", ("IOPS", "iops"), 0.9, (0.4, 0.2), (1.3, 1.1)),
        *_against_librbd(r, "randwrite-4k-qd32", "4 KiB random write, depth 32", ("IOPS", "iops"), 0.9, (0.4, 0.2), (1.3, 1.1)),
        *_against_librbd(r, "randread-4k-qd1", "4 KiB random read, depth 1", ("p50 latency", "p50-us"), 1.25),
        *_against_librbd(r, "read-128k-qd16", "128 KiB read, depth 16", ("MB/s", "mb-per-s"), 0.9),
        *_idle_on_ceph(r),
    ]


# (ours, QEMU's) over TLS, and ours in clear text, by the kind of server
TLS_ROWS = {
    "nbdkit": ("cloudblk-nbds-nbdkit", "nbds-nbdkit", "cloudblk-nbd-nbdkit"),
    "qemu-storage-daemon": ("cloudblk-nbds-qsd", "nbds-qsd", "cloudblk-nbd-qsd"),
}
PROXY_ROWS = ("cloudblk-tls", "cloudblk-clear")


def tls_lines(results):
    """The same of the rows over TLS."""
    r = Results(results)
    found = []
    for name, text in (("randread-4k-qd32", "4 KiB random read, depth 32"), ("randwrite-4k-qd32", "4 KiB random write, depth 32")):
        for server, (ours, peer, clear) in TLS_ROWS.items():
            found += [
                Line(f"{text}, {server}: IOPS", ratio(r.get(ours, name, "iops"), r.get(peer, name, "iops")), True, 1.3, 2,
                     "times QEMU's NBD client's over TLS"),
                Line(f"{text}, {server}: IOThread CPU per I/O",
                     ratio(r.get(ours, name, "iothread-cpu-us"), r.get(peer, name, "iothread-cpu-us")), False, 0.6, None,
                     "of QEMU's NBD client's over TLS"),
                _price(r, name, f"{text}, {server}", ours, clear, "iops", "IOPS"),
                _price(r, name, f"{text}, {server}", ours, clear, "iothread-cpu-us", "IOThread CPU per I/O"),
            ]  # fmt: skip
        for key, title in (("iops", "IOPS"), ("iothread-cpu-us", "IOThread CPU per I/O"), ("server-cpu-us", "server CPU per I/O")):
            found.append(_price(r, name, f"{text}, cloudblk-proxy", *PROXY_ROWS, key, title))
    return found


def _price(r, workload, text, over_tls, clear, key, title):
    value = ratio(r.get(over_tls, workload, key), r.get(clear, workload, key))
    return _figure(f"{text}: {title}", value, "of clear text's", "the encryption of every byte, on both sides of one machine")


def goal_of(line):
    """As text, with the stretch in parentheses."""
    if line.must is None:
        return "-"
    text = f"{'>=' if line.at_least else '<='} {line.must:g}"
    return text if line.stretch is None else f"{text} ({line.stretch:g})"


def value_of(line):
    return "-" if line.value is None else f"{line.value:g}"


def table(found):
    """For people."""
    return "\n".join(
        f"{line.verdict:<12} {value_of(line):>8}  {goal_of(line):<15} {line.goal} ({line.meaning})" for line in found
    )
