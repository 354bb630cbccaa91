# SPDX-License-Identifier: GPL-2.0-or-later
"""The benchmark's own programs: that they do what they say, and notice what is wrong."""

import pytest

from tests.support.paths import stock_qemu

from .measure import is_iothread, run
from .rbd import OURS, PEER, Cluster
from .rows import ROWS, Setup, started

SMALL = ("--range", "2M", "--verify")


def run_row(name, *options):
    with started([ROWS[name]], Setup(stock_qemu("10.0"))) as running:
        return run(running[name], *options)


BACKGROUND = ("--background-depth", "2", "--background-size", "64k")


@pytest.mark.parametrize("beside", ((), BACKGROUND), ids=("alone", "beside-writes"))
def test_wrong_content_is_noticed(beside):
    """null-co forgets what it is given."""
    with pytest.raises(RuntimeError, match="wrong content"):
        run_row("null-co", "--pattern", "randread", "--depth", "8", "--count", "64", *SMALL, *beside)


@pytest.mark.parametrize("pattern", ("randread", "randrw", "write"))
def test_content_of_cloudblk(pattern):
    report = run_row("cloudblk", "--pattern", pattern, "--count", "640", *SMALL)
    assert report["verified-reads"] >= 512  # the range was read back


def test_content_on_a_ceph_cluster():
    """The OSD's threads are told apart, and the images are not the same."""
    rows = [ROWS[OURS], ROWS[PEER]]
    with Cluster() as cluster, started(rows, Setup(stock_qemu("10.0"), cluster=cluster)) as running:
        for each in running.values():
            report = run(each, "--pattern", "randrw", "--count", "640", *SMALL)
            assert report["verified-reads"] >= 512
            assert {"qemu", "osd"} <= {thread["process"] for thread in report["threads"]}
        assert cluster.get().used("image-0") and cluster.get().used("image-1")


def test_content_beside_writes():
    """The reads find what the other stream writes, in pieces of their own size."""
    report = run_row("cloudblk", "--pattern", "randread", "--depth", "4", "--count", "6400", *SMALL, *BACKGROUND)
    assert report["background"]["ios"] > 32  # the range was written again
    assert report["verified-reads"] == 6400 + 512


@pytest.mark.parametrize(
    "size, depth, error", (("6k", 2, "must be a multiple of 4096"), ("1M", 2, "too small for 34 requests"))
)
def test_what_cannot_be_verified_is_refused(size, depth, error):
    with pytest.raises(RuntimeError, match=error):
        run_row("cloudblk", "--size", "4k", *SMALL, "--background-depth", depth, "--background-size", size)


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
