# SPDX-License-Identifier: GPL-2.0-or-later
"""`cloudblk release --force`: the reservation of a machine whose saved state was thrown away."""

import pytest

from tests.chaos import wire_client as wire
from tests.chaos.daemon import wait_for
from tests.support.proxy import Proxy
from tests.tools.test_commands import MIB, cloudblk, noise, output

TOKEN = b"t" * 16


@pytest.fixture
def proxy(tmp_path):
    with Proxy({"d0": f"file://{tmp_path}/disk.img?size={MIB}&create=on"}, ["--lease", "1"]) as started:
        yield started


def connect(proxy):
    host, port = proxy.address.rsplit(":", 1)
    client = wire.Client((host, int(port)))
    client.hello()
    return client


def saved(proxy):
    """A machine that has given its volume up to whoever has the token, and has ended."""
    machine = connect(proxy).open("d0", name="a machine")
    assert machine.release(TOKEN, 1)[0] == wire.OK
    return machine


def test_it_frees_the_volume_of_a_saved_machine(proxy):
    machine = saved(proxy)
    machine.close_socket()
    refused = cloudblk("write", proxy.uri("d0"), data=noise(MIB))
    assert refused.returncode == 1
    said = refused.stderr.decode()
    assert "in use by 'a machine'" in said and "release --force" in said
    assert "its lease" not in said and "host" not in said
    wait_for(lambda: cloudblk("release", "--force", proxy.uri("d0")).returncode == 0, "six leases", 10)
    output("write", proxy.uri("d0"), data=noise(MIB))
    with pytest.raises(wire.Refused) as late:
        connect(proxy).open("d0", session=machine.session, epoch=3, token=TOKEN)
    assert late.value.status == wire.BAD_TOKEN


@pytest.mark.parametrize("state", ["connected", "between two hosts", "the proxy is upgraded meanwhile"])
def test_it_leaves_a_machine_alone_that_may_be_on_its_way(proxy, state):
    source = saved(proxy)
    connected = state == "connected"
    if not connected:
        source.close_socket()
    if state == "the proxy is upgraded meanwhile":
        proxy.kill()
        proxy.start()
    result = cloudblk("release", "--force", "--timeout", "1000", proxy.uri("d0"))
    assert result.returncode == 1 and b"may be on its way" in result.stderr
    if not connected:
        connect(proxy).open("d0", session=source.session, epoch=3, token=TOKEN)
        return
    assert source.claim(TOKEN, 2)[0] == wire.OK
    assert source.write(0, bytes(512)) == wire.OK


def test_it_leaves_a_holder_alone(proxy):
    holder = connect(proxy).open("d0", name="a machine")
    result = cloudblk("release", "--force", "--timeout", "1000", proxy.uri("d0"))
    assert result.returncode == 1 and b"in use by 'a machine'" in result.stderr
    assert holder.write(0, bytes(512)) == wire.OK


def test_there_has_to_be_something_to_release(proxy):
    result = cloudblk("release", "--force", proxy.uri("d0"))
    assert result.returncode == 1 and b"is not reserved" in result.stderr


def test_it_has_to_be_meant(proxy):
    saved(proxy).close_socket()
    result = cloudblk("release", proxy.uri("d0"))
    assert result.returncode == 1 and b"--force" in result.stderr
    assert cloudblk("flush", proxy.uri("d0")).returncode == 1
