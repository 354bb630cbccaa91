# SPDX-License-Identifier: GPL-2.0-or-later
"""The examples' PCI addresses: the disks are where they are said to be, beside devices that libvirt has placed, or places while
the machine runs; and a disk that `cloudblk libvirt-xml` adds."""

import json
import shutil
import subprocess

import pytest

from tests.support.libvirt import Domain, wait_until
from tests.support.paths import CLIENT, compiled_in_qemu
from tests.support.proxy import Proxy

DISKS = ("d0", "d1", "d2", "d3")
# Each disk of ours with the PCI addresses on the way to it; then what was written to each is read again.
PLACES = r"""
for disk in /sys/block/vd*; do
  serial=$(cat $disk/serial)
  case $serial in d*) echo $serial $(readlink -f $disk/device | grep -oE '[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]') ;; esac
done
"""
WRITE = """
for disk in /sys/block/vd*; do
  name=${disk##*/}
  yes $(cat $disk/serial)$name | head -c 1048576 >/tmp/$name
  dd if=/tmp/$name of=/dev/$name bs=64k oflag=direct conv=fsync 2>/dev/null
done
"""
VERIFY = """
echo 3 >/proc/sys/vm/drop_caches
for disk in /sys/block/vd*; do name=${disk##*/}; cmp -n 1048576 /tmp/$name /dev/$name; done
"""
# Slot of the root bus -> of each volume, as the examples have them.
WANTED = {
    "several-disks": {"d0": "08", "d1": "09", "d2": "0a", "d3": "0b"},
    "pc": {"d0": "10", "d1": "11", "d3": "12"},
    "compiled-in": {"d0": "08", "d3": "09"},
}
BOOT_ORDER = {"several-disks": {"cloudblk0": 2, "cloudblk1": 1}, "pc": {"cloudblk0": 1}, "compiled-in": {"cloudblk0": 1}}


@pytest.fixture
def proxy(host):
    folder = host.folder / "volumes"
    folder.mkdir()
    volumes = {name: f"file://{folder}/{name}?size=16M&create=on" for name in DISKS}
    with Proxy(volumes, listen=f"unix://{host.folder}/proxy.sock",
               prefix=["sh", "-c", 'umask 0; exec "$@"', "sh"]) as started:
        yield started


def bootindex(domain, disk):
    command = {"execute": "qom-get", "arguments": {"path": f"/machine/peripheral/{disk}", "property": "bootindex"}}
    return json.loads(domain.virsh("qemu-monitor-command", json.dumps(command)))["return"]


@pytest.mark.parametrize("example", WANTED)
def test_disks_are_where_they_are_said_to_be(host, proxy, example):
    socket = f"{host.folder}/proxy.sock"
    if example == "compiled-in":
        shutil.copytree(compiled_in_qemu().rpartition("/")[0], host.folder / "qemu", symlinks=True)
    servers = {f"cloudblk://storage:9810/{name}": f"cloudblk+unix:///{name}?socket={socket}" for name in DISKS}
    with Domain(host, example, servers) as domain:
        words = ["--compiled-in"] if example == "compiled-in" else ["--plugin", str(host.plugin)]
        subprocess.run(
            [CLIENT, "libvirt-xml", servers["cloudblk://storage:9810/d3"], "--domain", domain.name, "--connect", host.uri,
             "--iothread", "1", "--property", "serial=d3", *words],
            check=True, timeout=60,
        )
        domain.start()
        for disk, wanted in BOOT_ORDER[example].items():
            assert bootindex(domain, disk) == wanted
        places = {line.split()[0]: line.split()[1:] for line in domain.run(PLACES).splitlines()}
        assert {name: place[0].split(":")[-1] for name, place in places.items()} == {
            name: f"{slot}.0" for name, slot in WANTED[example].items()
        }
        # On a root port of its own, which can be unplugged
        assert {len(place) for place in places.values()} == {1 if example == "pc" else 2}

        if example != "compiled-in":  # whose machine has no port for it
            image = host.folder / "image"
            with open(image, "wb") as file:
                file.truncate(16 << 20)
            domain.virsh("attach-disk", image, "vdx", "--targetbus", "virtio", "--subdriver", "raw")
            count = len(WANTED[example]) + 1
            wait_until(lambda: domain.run("ls -d /sys/block/vd* | wc -l") == str(count), "the guest sees libvirt's disk")
        domain.run(WRITE + VERIFY)
        domain.virsh("destroy")
