# SPDX-License-Identifier: GPL-2.0-or-later
"""A disk over TLS under libvirt: its certificates are read by the user that QEMU is given there."""

import shutil
import subprocess

import pytest

from tests.chaos.daemon import Daemon, file_uri
from tests.support.libvirt import USER, Domain, LibvirtError
from tests.support.paths import CLIENT
from tests.support.tls import Credentials

NAME = "disk.example.org"
ACCESS = f"""
[[access]]
user = "{USER}"
volumes = "d0"
rights = "write"
[[access]]
certificate = "host-7"
volumes = "d1"
rights = "write"
"""
WRITE = "dd if=/dev/urandom of=/tmp/data bs=1M count=4 2>/dev/null; dd if=/tmp/data of=/dev/vdb bs=1M oflag=direct conv=fsync 2>/dev/null"
VERIFY = "echo 3 >/proc/sys/vm/drop_caches; cmp -n 4194304 /tmp/data /dev/vdb"


@pytest.fixture
def tls(host):
    made = Credentials(host.folder / "tls", "x509")
    for folder in (made.client, *made.client.parents[:2]):
        folder.chmod(0o711)
    for file in made.client.iterdir():
        file.chmod(0o600)
        shutil.chown(file, USER)
    return made


@pytest.fixture
def proxy(host, tls):
    """With a socket for clear text and one for TLS."""
    config = host.folder / "proxy.toml"
    config.write_text(ACCESS)
    volumes = {name: file_uri(host.folder / f"{name}.img") for name in ("d0", "d1")}
    listen = [f"unix://{host.folder}/proxy.sock", f"tls+unix://{host.folder}/tls.sock"]
    with Daemon(host.folder, volumes, "--config", str(config), "--tls-dir", str(tls.server), listen=listen,
                prefix=["sh", "-c", 'umask 0; exec "$@"', "sh"]) as started:
        yield started


def add(host, domain, tls, *words):
    """The second disk, as an administrator does it."""
    uri = f"cloudblks+unix:///d1?socket={host.folder}/tls.sock"
    subprocess.run(
        [CLIENT, "libvirt-xml", uri, "--domain", domain.name, "--connect", host.uri, "--plugin", host.plugin,
         "--tls-dir", tls.client, "--tls-hostname", NAME, *words],
        check=True, timeout=60,
    )  # fmt: skip


def test_certificates_are_read_as_the_domains_user(host, tls, proxy):
    socket = "cloudblk+unix:///d0?socket=/run/cloudblk/proxy.sock"
    with Domain(host, "one-disk", {socket: f"cloudblk+unix:///d0?socket={host.folder}/proxy.sock"}) as domain:
        add(host, domain, tls)
        key = tls.client / "client-key.pem"
        shutil.chown(key, "root")
        with pytest.raises(LibvirtError, match=f"{key}.*reading file"):
            domain.virsh("start")
        shutil.chown(key, USER)
        domain.start()
        assert domain.user() == USER
        domain.run(WRITE)
        # Connects anew by what it has read, though nobody lets it read that once more
        shutil.chown(key, "root")
        proxy.kill()
        proxy.start()
        domain.run(VERIFY + "\n" + WRITE + "\n" + VERIFY)
        domain.virsh("destroy")
    assert "host-7" in proxy.log()
