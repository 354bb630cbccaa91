# SPDX-License-Identifier: GPL-2.0-or-later
"""virsh migrate between two hosts with a libvirtd each, under load."""

import contextlib

import pytest

from tests.support.libvirt import USER, Domain, Host, LibvirtError
from tests.support.proxy import Proxy

# Each block that was written is read again; the number of the last one shows that the load goes on.
LOAD = """
(
  i=0
  while :; do
    i=$((i + 1))
    printf '%4096d' $i >/tmp/block
    dd if=/tmp/block of=/dev/vda bs=4096 seek=$((i % 4096)) oflag=direct conv=notrunc 2>/dev/null || echo "write $i"
    dd if=/dev/vda bs=4096 skip=$((i % 4096)) count=1 iflag=direct 2>/dev/null | cmp - /tmp/block || echo "read $i"
    echo $i >/tmp/done.new && mv /tmp/done.new /tmp/done
  done
) >/tmp/errors 2>&1 &
until [ -e /tmp/done ]; do :; done
"""
GOES_ON = "i=$(cat /tmp/done); until [ $(cat /tmp/done) -gt $i ]; do :; done; cat /tmp/errors"


@pytest.fixture
def hosts(net):
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(Host(f"host{i}", net.command(net.name(i)))) for i in range(2)]


@pytest.fixture
def proxy(net, tmp_path):
    volumes = {"d0": f"file://{tmp_path}/d0?size=64M&create=on"}
    listen = f"tcp://{net.address(2)}:0"
    with Proxy(volumes, ["--insecure"], listen, net.command(net.name(2))) as started:
        yield started


def migrate(domain, net, number, host, *words):
    domain.virsh("migrate", "--live", "--persistent", "--undefinesource", *words, host.uri,
                 f"tcp://{net.address(number)}")
    domain.host = host
    domain.attach()


def test_there_and_back(net, hosts, proxy):
    servers = {"cloudblk+unix:///d0?socket=/run/cloudblk/proxy.sock": proxy.uri("d0")}
    with Domain(hosts[0], "one-disk", servers) as domain:
        domain.start()
        domain.run(LOAD)
        for number in (1, 0):
            left = domain.host
            migrate(domain, net, number, hosts[number])
            assert domain.run(GOES_ON) == ""
            assert domain.user() == USER
            assert domain.virsh("domstate") == "running"
            assert left.virsh("list", "--all", "--name") == ""

        # A destination whose QEMU cannot read the plugin: the guest goes on where it is.
        hosts[0].plugin.chmod(0o600)
        with pytest.raises(LibvirtError, match="cloudblk.so"):
            migrate(domain, net, 1, hosts[1])
        assert domain.virsh("domstate") == "running"
        assert domain.run(GOES_ON) == ""
        domain.virsh("destroy")
    proxy.stop()
    assert sum(" claimed by " in line for line in proxy.log) == 2
