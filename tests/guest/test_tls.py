# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest's disk over TLS, of both protocols: verified load, while the server comes and goes."""

import pytest

from tests.support.fio import VERIFY, load_through_restarts
from tests.support.guest import Guest
from tests.support.nbd_server import NbdkitTls
from tests.support.paths import qemu_command
from tests.support.proxy import Proxy
from tests.support.tls import Credentials

SIZE = 1 << 30


def server_of(protocol, tls, folder):
    if protocol == "native":
        volumes = {"d0": f"file://{folder}/disk.img?size={SIZE}&create=on"}
        return Proxy(volumes, ["--tls-dir", tls.server], listen="tls://127.0.0.1:0")

    return NbdkitTls(folder, tls, SIZE)


@pytest.mark.parametrize("protocol, kind, release", [
    ("native", "x509", "7.2"),
    ("native", "psk", "10.0"),
    ("nbd", "x509", "10.0"),
    ("nbd", "psk", "7.2"),
])  # fmt: skip
def test_verified_load_and_reconnects(protocol, kind, release, tmp_path):
    tls = Credentials(tmp_path, kind)
    with server_of(protocol, tls, tmp_path) as server:
        uri = server.uri("d0") if protocol == "native" else server.uri()
        disk = [*tls.qemu_object(), "-device", f"cloudblk-pci,server={uri},tls-creds=tls"]
        with Guest(qemu_command(release), disk) as guest:
            guest.run(VERIFY, timeout=300)
            load_through_restarts(guest, [server] * 3)
            guest.poweroff()
