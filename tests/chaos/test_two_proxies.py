# SPDX-License-Identifier: GPL-2.0-or-later
"""Two proxies serve one file, and clients have both of them in their list."""

import contextlib
import os
import subprocess
import time

import pytest

from tests.chaos import wire_client as wire
from tests.chaos.daemon import Daemon, file_uri, run_client, wait_for
from tests.chaos.wire_client import opened
from tests.support.paths import CLIENT

# Hosts of the fixture net
CLIENT_HOST, FIRST, SECOND = range(3)


@contextlib.contextmanager
def two_proxies(tmp_path, *arguments, uri=None, hosts=None):
    """hosts: what Daemon is to be told of the host of each."""
    volumes = {"disk": uri or file_uri(tmp_path / "disk.img")}
    with contextlib.ExitStack() as stack:
        proxies = []
        for name, host in zip("ab", hosts or ({}, {})):
            folder = tmp_path / name
            folder.mkdir(exist_ok=True)
            proxies.append(stack.enter_context(Daemon(folder, volumes, *arguments, **host)))
        yield proxies


def uri_of(*proxies):
    hosts = ",".join("{}:{}".format(*proxy.address) for proxy in proxies)
    return f"cloudblk://{hosts}/disk"


@pytest.mark.parametrize("arguments", [(), ("--takeover",)])
def test_the_server_that_knows_the_holder_is_asked(tmp_path, arguments):
    """It is another one than the first of the list, which only finds the storage locked."""
    with two_proxies(tmp_path, "--lease", "2") as (first, second):
        silent = opened(second)
        began = time.monotonic()
        status, said = run_client("flush", *arguments, uri_of(first, second))
        assert status == 0, said
        # 6 s without a word, and the lease
        assert time.monotonic() - began < (2 if arguments else 12)
        assert "active for" in second.log()
        silent.close_socket()


def test_a_disk_goes_on_when_the_way_to_its_server_is_cut(tmp_path, net):
    """With defaults and without a takeover, by the second server, though the first one has the lock of the file and
    cannot be told of the cut."""
    hosts = [{"listen": [f"tcp://{net.address(host)}:9810"], "prefix": net.command(net.name(host))}
             for host in (FIRST, SECOND)]
    with two_proxies(tmp_path, "--insecure", hosts=hosts) as (first, second):
        load = subprocess.Popen(
            [*net.command(net.name(CLIENT_HOST)), str(CLIENT), "bench", uri_of(first, second), "--pattern", "randrw",
             "--verify", "--size", "16k", "--depth", "16", "--seconds", "4"],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        first.wait_until_busy()
        net.unplug(FIRST)
        cut = time.monotonic()
        wait_for(lambda: "refused" in second.log(), "the second server asked")
        left = time.monotonic() - cut
        second.wait_for_log("active for")
        outage = time.monotonic() - cut
        output, _ = load.communicate(timeout=60)
        assert load.returncode == 0 and "verified" in output, output
        assert left < 10
        assert outage < 20, first.log() + second.log()
        # Nobody writes before the lease of the holder that the first server has lost is over.
        assert time_of("has ended", first) <= time_of("active for", second)


def time_of(text, proxy):
    """When its log first says that; as text."""
    return next(line for line in proxy.log().splitlines() if text in line).split()[0]


def test_readers_of_both_share_a_file_that_is_served_read_only(tmp_path):
    with two_proxies(tmp_path) as (first, second):
        data = os.urandom(4096)
        one = opened(first)
        assert one.write(0, data) == wire.OK
        with pytest.raises(wire.Refused, match="holds the lock"):
            opened(second, flags=wire.ACTIVE | wire.OPEN_READ_ONLY)
        one.close()
    with two_proxies(tmp_path, uri=f"file://{tmp_path}/disk.img?read-only=on") as proxies:
        readers = [opened(proxy) for proxy in proxies]
        assert [reader.read(0, 4096) for reader in readers] == [(wire.OK, data)] * 2
