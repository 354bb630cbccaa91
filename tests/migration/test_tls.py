# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest under verified load moves to another host and back, its disk over TLS, whose server is killed meanwhile."""

import pytest

from tests.chaos.daemon import Daemon, file_uri
from tests.migration import evidence
from tests.migration.journey import Journey
from tests.support.nbd_server import NbdkitTls
from tests.support.tls import Credentials

SERVER_HOST = 2


def server_of(protocol, net, folder, tls):
    """Gives the server, the disk's URI, and the file that holds its data."""
    if protocol == "nbd":
        server = NbdkitTls(folder, tls, net=net, host=SERVER_HOST)
        return server, server.uri(), server.path
    image = folder / "d0"
    listen = [f"tls://{net.address(SERVER_HOST)}:9810"]
    prefix = net.command(net.name(SERVER_HOST))
    daemon = Daemon(folder, {"d0": file_uri(image)}, "--tls-dir", str(tls.server), listen=listen, prefix=prefix)
    return daemon, daemon.uri("d0"), image


@pytest.mark.parametrize("protocol", ["native", "nbd"])
@pytest.mark.parametrize("kind", ["x509", "psk"])
def test_a_guest_moves(net, tmp_path, protocol, kind):
    tls = Credentials(tmp_path, kind, net.address(SERVER_HOST))
    server, uri, image = server_of(protocol, net, tmp_path, tls)
    disk = [*tls.qemu_object(), "-device", f"cloudblk-pci,server={uri},tls-creds=tls"]
    with server:
        journey = Journey(net, ("7.2", "10.0"), lambda: disk)
        try:
            journey.boot()
            journey.start_load()
            for _ in ("there", "and back"):
                journey.progress()
                there = journey.destination()
                journey.leave()
                journey.guest.migration("completed")
                journey.arrive(there).kill()
                journey.progress()
            server.kill()
            server.start()
            journey.progress()
            journey.signal_load("TERM")
            written = journey.console.said("ended")
            assert min(written) > 0 and not journey.guest.errors()
            journey.guest.poweroff()
        finally:
            journey.end()
    assert evidence.content(image) == written
