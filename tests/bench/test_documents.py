# SPDX-License-Identifier: GPL-2.0-or-later
"""What the benchmark says of its figures: verdicts only where two processors can decide, and the same in all documents."""

import json
import re

import pytest

from tests.support.paths import REPO

from . import documents, goals
from .page import CHARACTER, bars, page

FOLDER = REPO / "docs/performance"
RESULTS = json.loads((FOLDER / "results.json").read_text())
FOUND = goals.lines(RESULTS)


def test_what_two_processors_cannot_decide_is_not_judged():
    reported = {line.goal for line in FOUND if line.verdict == "reported"}
    assert reported == {
        "4 KiB random read, depth 1: IOThread CPU per I/O",
        "2 queues on 2 IOThreads: IOThread CPU per I/O",
        "proxy on a file, O_DIRECT, libaio, 4 KiB random read, depth 32",
        "proxy on a file, O_DIRECT, io_uring, 4 KiB random read, depth 32",
        "Linux guest under TCG, fio 4 KiB, depth 32: IOThread CPU per I/O",
    }
    assert all(bool(line.bound) == (line.must is None) for line in FOUND)


@pytest.mark.parametrize(
    "document, make", (("README.md", documents.summary), ("docs/performance/README.md", documents.performance))
)
def test_documents_follow_the_results(document, make):
    text = (REPO / document).read_text()
    assert documents.replaced(text, make(RESULTS, FOUND)) == text, "run scripts/bench --render"


def test_page_follows_the_results():
    assert (FOLDER / "index.html").read_text() == page(RESULTS, FOUND), "run scripts/bench --render"


def test_what_was_not_measured_can_be_written():
    nothing = {**RESULTS, "figures": {}, "syscalls": {}, "file": None}
    found = goals.lines(nothing)
    assert {line.verdict for line in found[:6]} == {"not measured"}
    assert documents.performance(nothing, found)
    assert documents.summary(nothing, found)


def test_labels_are_inside_their_plot():
    label = "w" * 80
    plot = bars("caption", [(label, [(1, "red")]), ("short", [(2, "red")])], "unit")
    for x, text in re.findall(r'<text x="([0-9.]+)" y="\d+" text-anchor="end">(\w+)</text>', plot):
        assert float(x) >= len(text) * CHARACTER
