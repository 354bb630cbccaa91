# SPDX-License-Identifier: GPL-2.0-or-later
"""A domain's life under a real libvirtd, with QEMU as libvirt starts it: as its own user, in the seccomp sandbox."""

import json
import pathlib
import subprocess
import threading

import pytest

from tests.chaos.daemon import wait_for
from tests.support.libvirt import USER, Domain, LibvirtError
from tests.support.paths import CLIENT
from tests.support.proxy import Proxy

SOCKET = "/run/cloudblk/proxy.sock"
MIB = 1 << 20
# Whoever else comes is refused: that it works shows who comes.
ACCESS = f"""
[[access]]
user = "{USER}"
volumes = ["*"]
rights = ["write"]
"""
WRITE = """
dd if=/dev/urandom of=/tmp/data bs=1M count=4 2>/dev/null
dd if=/tmp/data of=/dev/vda bs=1M oflag=direct conv=fsync 2>/dev/null
"""
VERIFY = "echo 3 >/proc/sys/vm/drop_caches; cmp -n 4194304 /tmp/data /dev/vda"


@pytest.fixture
def proxy(host):
    """On a unix socket, which is the only way to it from a host without a network."""
    config = host.folder / "proxy.toml"
    config.write_text(ACCESS)
    folder = host.folder / "volumes"
    folder.mkdir(mode=0o700)
    volumes = {name: f"file://{folder}/{name}?size=64M&create=on" for name in ("d0", "d1")}
    arguments = ["--config", config, "--lease", "1", "--admin", f"unix://{host.folder}/admin.sock"]
    with Proxy(volumes, arguments, listen=f"unix://{host.folder}/proxy.sock",
               prefix=["sh", "-c", 'umask 0; exec "$@"', "sh"]) as started:
        yield started


@pytest.fixture
def domain(host, proxy):
    with Domain(host, "one-disk", {SOCKET: f"{host.folder}/proxy.sock"}) as defined:
        yield defined


def monitor(domain, command, **arguments):
    answer = json.loads(domain.virsh("qemu-monitor-command", json.dumps({"execute": command, "arguments": arguments})))
    assert "return" in answer, answer
    return answer["return"]


def cloudblk(host, *words):
    """The command line as the administrator, whom no rule refuses."""
    uri = f"cloudblk+unix:///d0?socket={host.folder}/admin.sock"
    return subprocess.run([CLIENT, *words, uri], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=60)


class Deleted:
    """Waits for QEMU's word that a device is gone, by libvirt's own means."""

    def __init__(self, domain):
        self._process = subprocess.Popen(
            ["virsh", "--connect", domain.host.uri, "qemu-monitor-event", domain.name, "DEVICE_DELETED", "--loop"],
            stdout=subprocess.PIPE, text=True,
        )
        self._lines = []
        self._found = threading.Event()
        self._name = None
        self._thread = threading.Thread(target=self._read)

    def _read(self):
        for line in self._process.stdout:
            self._lines.append(line)
            if '"device":"hot"' in line.replace(" ", ""):
                self._found.set()

    def __enter__(self):
        self._thread.start()
        return self

    def wait(self):
        assert self._found.wait(60), self._lines

    def __exit__(self, *_):
        self._process.kill()
        self._process.wait()
        self._thread.join()


def test_starts_plugs_resets_and_is_destroyed(host, domain):
    domain.start()
    assert domain.user() == USER
    status = pathlib.Path(f"/proc/{domain.process()}/status").read_text()
    assert "Seccomp:\t2" in status, status
    assert domain.run("cat /sys/block/vda/serial") == "root"
    domain.run(WRITE + VERIFY)
    # What docs/libvirt.md says that libvirt cannot
    assert domain.virsh("domblklist") == ""
    for command in (["domblkstat", "vda"], ["blockresize", "vda", "1G"], ["backup-begin"], ["snapshot-create"]):
        with pytest.raises(LibvirtError):
            domain.virsh(*command)

    uri = f"cloudblk+unix:///d1?socket={host.folder}/proxy.sock"
    for _ in range(2):
        with Deleted(domain) as deleted:
            monitor(domain, "device_add", driver="cloudblk-pci", id="hot", bus="cloudblk-spare", server=uri)
            domain.run(f"until [ -b /dev/vdb ]; do :; done\n{WRITE.replace('vda', 'vdb')}{VERIFY.replace('vda', 'vdb')}")
            monitor(domain, "device_del", id="hot")
            deleted.wait()
        domain.run("until [ ! -e /sys/block/vdb ]; do :; done")

    domain.run(WRITE + "dd if=/tmp/data bs=1M 2>/dev/null | sha256sum >/tmp/sum")
    sum_before = domain.run("cut -d' ' -f1 /tmp/sum")
    domain.virsh("reset")
    domain.wait_ready()
    assert domain.run("dd if=/dev/vda bs=1M count=4 2>/dev/null | sha256sum | cut -d' ' -f1") == sum_before

    domain.virsh("destroy")
    assert domain.virsh("domstate") == "shut off"
    # The volume is free as soon as its QEMU has ended.
    wait_for(lambda: cloudblk(host, "release", "--force").stderr.find("is not reserved") >= 0, "the volume is free")
    domain.virsh("undefine")
    assert host.virsh("list", "--all", "--name") == ""


def test_is_saved_restored_thrown_away_and_autostarted(host, proxy, domain):
    domain.start()
    domain.run(WRITE)
    saved = host.folder / "saved"
    domain.virsh("save", saved)
    assert domain.virsh("domstate") == "shut off"
    host.virsh("restore", saved)
    domain.attach()
    # The guest's memory and its disk go on together.
    domain.run(VERIFY + "\n" + WRITE + VERIFY)
    assert domain.user() == USER

    domain.virsh("managedsave")
    domain.virsh("start")
    domain.attach()
    domain.run(VERIFY)

    domain.virsh("managedsave")
    domain.virsh("managedsave-remove")
    # libvirt has forgotten the machine's state; the server has not.
    with pytest.raises(LibvirtError, match="released it to whoever goes on with that machine"):
        domain.virsh("start")
    wait_for(lambda: cloudblk(host, "release", "--force").returncode == 0, "the end of the reservation", 60)

    domain.virsh("autostart")
    host.crash()
    host.start()
    domain.attach()
    domain.wait_ready()
    assert domain.user() == USER
    domain.run(WRITE + VERIFY)
    domain.virsh("destroy")
