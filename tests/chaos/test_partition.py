# SPDX-License-Identifier: GPL-2.0-or-later
"""The network between client and proxy stops forwarding, and says nothing."""

import os
import subprocess
import time

import pytest

from tests.chaos import wire_client as wire
from tests.chaos.daemon import Daemon, file_uri
from tests.support import network
from tests.support.paths import CLIENT


@pytest.fixture
def net():
    if not network.possible():
        pytest.skip("no network namespaces can be made here: that needs root")
    with network.Network() as made:
        yield made


@pytest.fixture
def proxy(tmp_path, net):
    with Daemon(tmp_path, {"disk": file_uri(tmp_path / "disk.img")}, "--insecure",
                listen=[f"tcp://{network.SERVER_ADDRESS}:9810"],
                prefix=net.command(net.server)) as daemon:
        yield daemon


def connect(net, namespace, proxy):
    one = net.run(namespace, lambda: wire.Client(proxy.address))
    one.hello()
    return one


def test_load_goes_on_when_the_network_is_back(net, proxy):
    load = subprocess.Popen(
        [*net.command(net.client), str(CLIENT), "bench", proxy.uri("disk"), "--pattern", "randrw",
         "--verify", "--size", "16k", "--depth", "16", "--seconds", "10"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    proxy.wait_for_log("active for")
    for _ in range(3):
        proxy.wait_until_busy()
        net.cut()
        # The length of the outage is what is tested.
        time.sleep(0.7)
        net.heal()
    output, _ = load.communicate(timeout=120)
    assert load.returncode == 0, output
    assert "verified" in output


def test_late_writes_of_a_fenced_client_never_land(net, proxy):
    """A writes, the network is cut, B takes over and writes; then A's packets arrive after all."""
    old = connect(net, net.client, proxy)
    old.open(name="old")
    assert old.write(0, bytes(65536)) == wire.OK
    net.cut()
    # No more than the kernel buffers.
    for _ in range(4):
        old.submit(wire.WRITE, 0, data=b"\xaa" * 4096)
    new = connect(net, net.server, proxy)
    new.open(name="new", flags=wire.ACTIVE | wire.TAKEOVER)
    data = os.urandom(65536)
    assert new.write(0, data) == wire.OK
    net.heal()
    with pytest.raises(wire.Disconnected):
        while True:
            old.receive()
    again = connect(net, net.client, proxy)
    with pytest.raises(wire.Refused) as refused:
        again.open(session=old.session, incarnation=2, flags=wire.ACTIVE | wire.RESUME,
                   volume_uuid=old.info["volume"], generation=old.info["generation"])
    assert refused.value.status == wire.FENCED
    assert new.read(0, 65536) == (wire.OK, data)


def test_a_guest_starts_elsewhere_when_its_host_is_cut_off(net, proxy):
    """Without a takeover: the holder is asked, is silent, and its lease runs out."""
    old = connect(net, net.client, proxy)
    old.open(name="old")
    assert old.write(0, bytes(65536)) == wire.OK
    net.cut()
    before = time.monotonic()
    status = subprocess.run([*net.command(net.server), str(CLIENT), "flush", proxy.uri("disk"), "--timeout", "20000"],
                            capture_output=True, text=True, check=False)
    assert status.returncode == 0, status.stderr + proxy.log()
    # Not before: until then the holder might have come back.
    assert 15 < time.monotonic() - before < 20
    assert "silent for 6 s while another client asks for the volume" in proxy.log()
    old.submit(wire.WRITE, 0, data=b"\xaa" * 4096)
    net.heal()
    with pytest.raises(wire.Disconnected):
        while True:
            old.receive()
    new = connect(net, net.client, proxy)
    new.open(name="new")
    assert new.read(0, 65536) == (wire.OK, bytes(65536))


def test_a_new_incarnation_settles_what_the_old_one_left(net, proxy):
    """The client gives its connection up; what it had sent arrives after its successor."""
    old = connect(net, net.client, proxy)
    old.open()
    assert old.write(0, bytes(65536)) == wire.OK
    net.cut()
    # No more than the kernel buffers.
    for _ in range(4):
        old.submit(wire.WRITE, 0, data=b"\xaa" * 4096)
    new = connect(net, net.server, proxy)
    new.open(session=old.session, incarnation=2, flags=wire.ACTIVE | wire.RESUME,
             volume_uuid=old.info["volume"], generation=old.info["generation"])
    data = os.urandom(65536)
    assert new.write(0, data) == wire.OK
    net.heal()
    with pytest.raises(wire.Disconnected):
        while True:
            old.receive()
    assert new.read(0, 65536) == (wire.OK, data)
