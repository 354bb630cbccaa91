# SPDX-License-Identifier: GPL-2.0-or-later
"""Disks on images of a Ceph cluster: cloudblk-pci and one proxy for the host, beside librbd in each QEMU."""

import contextlib
import itertools
import pathlib
import time

from tests.support.ceph import Ceph

from .extras import SETTLED
from .machine import BenchMachine, require, version_of
from .measure import run, say
from .rows import (
    VOLUME,
    Running,
    cloudblk,
    device,
    driver_of,
    folder,
    proxy_server,
    require_driver,
    row,
    start_machine,
    volume_uri,
)

OURS, PEER = "cloudblk-rbd", "virtio-blk-rbd"
# For both, as neither the proxy nor cache.direct=on have a cache
CLIENT = {"rbd_cache": "false"}
# What an idle disk has done before: as many requests in a warm-up, and again
USED = ("--pattern", "randrw", "--size", "4k", "--depth", 32, "--count", 200)
IDLE_DISKS = 32
# All of them fit into the OSD, which stops all writes when it is full
IDLE_SIZE = 16 << 20


class Cluster:
    """The run's own, started when it is first asked for; its OSD keeps all in memory. A context manager."""

    def __init__(self):
        self._stack = contextlib.ExitStack()
        self._ceph = None
        self._numbers = itertools.count()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._stack.__exit__(*error)

    def get(self):
        """FileNotFoundError says what is not installed."""
        if not self._ceph:
            for program in ("ceph-mon", "ceph-osd"):
                require(program, program)
            require("rbd", "ceph-common")
            say("starting a Ceph cluster")
            self._ceph = self._stack.enter_context(Ceph(client=CLIENT))
        return self._ceph

    def new_image(self, size=VOLUME):
        """The name of one that nobody else has."""
        return self.get().create_image(f"image-{next(self._numbers)}", size)


def _blockdev(ceph, image):
    """With cache.direct and cache.no-flush as cache=none sets them."""
    options = f"pool={ceph.pool},image={image},conf={ceph.conf},cache.direct=on,cache.no-flush=off"
    return ["-blockdev", f"rbd,node-name=d0,{options}"]


def _described(running, ceph):
    """With the cluster in it."""
    running.watched["osd"] = ceph.osd.process.pid
    running.versions["ceph"] = version_of("ceph-osd").split(" (")[0]
    running.options = [text.replace(str(ceph.conf), "ceph.conf") for text in running.options]
    settings = ", ".join(f"{name} = {value}" for name, value in CLIENT.items())
    running.options.append(f"ceph.conf, of both clients: {settings}; of the OSD: osd_objectstore = memstore")
    return running


@row(PEER, "virtio-blk, librbd in QEMU", part="ceph")
def _librbd(stack, setup):
    require_driver(setup.qemu, "rbd,node-name=d0,pool=none,image=none,conf=/dev/null")
    image, ceph = setup.cluster.new_image(), setup.cluster.get()
    disk = _blockdev(ceph, image) + device("virtio-blk-pci", "drive=d0", "iothread=io0")
    return _described(start_machine(stack, setup, disk), ceph)


@row(OURS, "cloudblk-pci, cloudblk-proxy on an image", proxy=True, part="ceph")
def _cloudblk(stack, setup):
    image, ceph = setup.cluster.new_image(), setup.cluster.get()
    running = cloudblk(stack, setup, f"unix://{folder(stack)}/socket", volumes=[ceph.uri(image)])
    return _described(running, ceph)


# ---- Idle disks ----


def _own_mb(pid, guest_memory):
    """Its proportional set size, but for the guest's memory."""
    total, counts = 0, True
    for line in pathlib.Path(f"/proc/{pid}/smaps").read_text().splitlines():
        name, *rest = line.split()
        if not name.endswith(":"):
            counts = rest[-1] != str(guest_memory)
        elif name == "Pss:" and counts:
            total += int(rest[0])
    return total / 1024


def _threads(pid):
    return len(list(pathlib.Path(f"/proc/{pid}/task").iterdir()))


def _idle(setup, disks, server=None):
    """MB and threads of a QEMU for each of the disks, as QEMU's arguments, and of the server; after some I/O and its end."""
    with contextlib.ExitStack() as stack:
        machines = [stack.enter_context(BenchMachine(setup, disk, cloudblk=server is not None)) for disk in disks]
        for machine, disk in zip(machines, disks):
            if disk:
                run(Running(driver_of(machine), {}, []), *USED)
        time.sleep(SETTLED)
        owners = [(machine.process.pid, machine.memory) for machine in machines]
        owners += [(server.pid, None)] if server else []
        mb = sum(_own_mb(*owner) for owner in owners)
        return {"mb": round(mb, 1), "threads": sum(_threads(pid) for pid, _ in owners)}


def memory_of_idle_disks(setup, count=IDLE_DISKS):
    """{row: {"mb": ..., "threads": ...}} of that many QEMUs with such a disk each, and "none" without one, and what
    serves them on this host."""
    ceph = setup.cluster.get()
    images = [setup.cluster.new_image(IDLE_SIZE) for _ in range(count)]
    say(f"{count} idle disks")
    result = {"disks": count, "none": _idle(setup, [[]] * count)}
    disks = [_blockdev(ceph, image) + device("virtio-blk-pci", "drive=d0", "iothread=io0") for image in images]
    result[PEER] = _idle(setup, disks)
    # Of which none is locked any more, as a client that was killed is for a while
    images = [setup.cluster.new_image(IDLE_SIZE) for _ in range(count)]
    with contextlib.ExitStack() as stack:
        volumes = [ceph.uri(image) for image in images]
        server = proxy_server(stack, f"unix://{folder(stack)}/socket", volumes=volumes)
        uris = [volume_uri(server, f"d{i}") for i in range(count)]
        result[OURS] = _idle(setup, [device("cloudblk-pci", f"server={uri}", "iothread=io0") for uri in uris], server)
    return result
