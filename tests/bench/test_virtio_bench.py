# SPDX-License-Identifier: GPL-2.0-or-later
"""The benchmark's own programs: that they do what they say, and notice what is wrong."""

import pytest

from tests.support.paths import stock_qemu

from .measure import is_iothread, run
from .rows import ROWS, Setup, started

SMALL = ("--range", "2M", "--verify")


def run_row(name, *options):
    with started([ROWS[name]], Setup(stock_qemu("10.0.2"))) as running:
        return run(running[name], *options)


def test_wrong_content_is_noticed():
    """null-co forgets what it is given."""
    with pytest.raises(RuntimeError, match="wrong content"):
        run_row("null-co", "--pattern", "randread", "--count", "64", *SMALL)


@pytest.mark.parametrize("pattern", ("randread", "randrw", "write"))
def test_content_of_cloudblk(pattern):
    report = run_row("cloudblk", "--pattern", pattern, "--count", "640", *SMALL)
    assert report["verified-reads"] >= 512  # the range was read back


def test_two_queues():
    report = run_row("cloudblk-2-queues", "--queues", "2", "--count", "640", "--depth", "16", *SMALL)
    assert sum(is_iothread(thread) for thread in report["threads"]) == 2


def test_lockstep():
    """One batch for each round, and one notification unless the IOThread was looking anyway."""
    report = run_row("cloudblk", "--depth", "32", "--count", "640", "--lockstep", "--range", "2M")
    assert report["ios"] == 640
    assert report["submit-batch"] == 32
    assert report["kicks-per-io"] <= 1 / 32


def test_background_stream():
    report = run_row(
        "cloudblk", "--depth", "2", "--count", "64", "--background-depth", "2", "--background-size", "256k"
    )
    assert report["ios"] == 64
    assert report["background"]["ios"] > 0


@pytest.mark.parametrize("pattern", ("randread", "randwrite"))
def test_bare_loopback(pattern):
    report = run_row("floor", "--pattern", pattern, "--count", "640", "--verify")
    assert report["ios"] == 640
    assert {thread["process"] for thread in report["threads"]} == {"client", "server"}
