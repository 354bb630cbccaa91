# SPDX-License-Identifier: GPL-2.0-or-later
"""What the benchmark says of its figures: verdicts only where two processors can decide, and the same in all documents."""

import json
import re

import pytest

from tests.support.paths import REPO

from . import documents
from .documents import ON_CEPH, OVER_TLS, WHOLE
from .goals import ceph_lines
from .measure import figures, medians
from .page import CHARACTER, bars

FOLDER = REPO / documents.FOLDER
REPORTS = pytest.mark.parametrize("report", (WHOLE, ON_CEPH, OVER_TLS), ids=("whole", "ceph", "tls"))


def published(report):
    """Results and goals."""
    results = json.loads((FOLDER / report.figures).read_text())
    return results, report.lines(results)


def test_what_two_processors_cannot_decide_is_not_judged():
    found = published(WHOLE)[1]
    reported = {line.goal for line in found if line.verdict == "reported"}
    assert reported == {
        "4 KiB random read, depth 1: IOThread CPU per I/O",
        "2 queues on 2 IOThreads: IOThread CPU per I/O",
        "proxy on a file, O_DIRECT, libaio, 4 KiB random read, depth 32",
        "proxy on a file, O_DIRECT, io_uring, 4 KiB random read, depth 32",
        "Linux guest under TCG, fio 4 KiB, depth 32: IOThread CPU per I/O",
    }
    assert all(bool(line.bound) == (line.must is None) for line in found)


@REPORTS
def test_documents_follow_the_results(report):
    results, found = published(report)
    for document, make in report.documents.items():
        text = (REPO / document).read_text()
        assert documents.replaced(text, make(results, found)) == text, "run scripts/bench --render"


@REPORTS
def test_page_follows_the_results(report):
    assert (FOLDER / report.page).read_text() == report.make_page(*published(report)), "run scripts/bench --render"


@REPORTS
def test_what_was_not_measured_can_be_written(report):
    results, _ = published(report)
    nothing = {**results, "figures": {}, "syscalls": {}, "file": None, "idle": None}
    found = report.lines(nothing)
    assert {line.verdict for line in found[:6]} == {"not measured"}
    assert report.make_page(nothing, found)
    for make in report.documents.values():
        assert make(nothing, found)


def test_on_ceph_the_osd_is_in_no_sum():
    """What is compared is QEMU, and QEMU with the proxy."""

    def thread(process, name, cpu):
        use = {"voluntary-switches-per-io": 0, "involuntary-switches-per-io": 0}
        return {"process": process, "thread": name, "cpu-us-per-io": cpu, **use}

    def row(*threads):
        report = {"iops": 1, "mb-per-s": 1, "latency-us": {"p50": 1}, "threads": [*threads, thread("osd", "tp_osd_tp", 1000)]}
        return {"randread-4k-qd32": medians([figures(report)])}

    librbd = row(thread("qemu", "IO io0", 4), thread("qemu", "msgr-worker-0", 16))
    ours = row(thread("qemu", "IO io0", 3), thread("qemu", "qemu-system-x86", 1), thread("server", "loop-0", 20))
    found = ceph_lines({"figures": {"virtio-blk-rbd": librbd, "cloudblk-rbd": ours}, "syscalls": {}})
    assert [line.value for line in found[:3]] == [0.2, 1.2, 1]


def test_labels_are_inside_their_plot():
    label = "w" * 80
    plot = bars("caption", [(label, [(1, "red")]), ("short", [(2, "red")])], "unit")
    for x, text in re.findall(r'<text x="([0-9.]+)" y="\d+" text-anchor="end">(\w+)</text>', plot):
        assert float(x) >= len(text) * CHARACTER
