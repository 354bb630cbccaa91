# SPDX-License-Identifier: GPL-2.0-or-later
"""A disk over TLS: its credentials are QEMU's own objects."""

import pytest

from tests.migration import pair
from tests.support.paths import qemu_command
from tests.support.proxy import Proxy
from tests.support.tls import OTHER_KEY, Credentials, write_keys
from tests.support.virtio import S_OK, T_IN, T_OUT, BlockDriver, Request

from .conftest import VOLUME_SIZE, Bench


@pytest.fixture(params=["x509", "psk"])
def tls(request, tmp_path):
    return Credentials(tmp_path, request.param)


@pytest.fixture
def secure(tls, tmp_path):
    """A proxy with TLS."""
    volumes = {"d0": f"file://{tmp_path}/d0?size={VOLUME_SIZE}&create=on"}
    with Proxy(volumes, ["--tls-dir", tls.server], listen="tls://127.0.0.1:0") as started:
        yield started


@pytest.fixture
def bench(qemu, secure):
    made = Bench(qemu, secure)
    yield made
    made.end()


def test_reads_and_writes(bench, tls):
    driver = bench.disk(*tls.qemu_object(), tls_creds="tls")
    data = bytes(range(256)) * 512
    assert Request(driver, T_OUT, 8, data).submit().wait() == S_OK
    request = Request(driver, T_IN, 8, len(data)).submit()
    assert request.wait() == S_OK
    assert request.bytes == data


def test_a_disk_gets_its_server_back(bench, tls):
    driver = bench.disk(*tls.qemu_object(), tls_creds="tls")
    assert Request(driver, T_OUT, 0, b"x" * 512).submit().wait() == S_OK
    bench.proxy.kill()
    requests = [Request(driver, T_IN, 8, 4096).submit() for _ in range(8)]
    bench.proxy.start()
    assert [request.wait() for request in requests] == [S_OK] * 8


def test_mistakes_are_named(bench, tls, tmp_path):
    other = write_keys(tmp_path / "other", alice=OTHER_KEY)
    plain = bench.proxy.uri("d0").replace("cloudblks", "cloudblk")
    server = tls.qemu_object("server")
    secret = ["-object", "secret,id=tls,data=abc"]
    wrong = ["-object", f"tls-creds-psk,id=tls,endpoint=client,dir={other},username=alice"]
    for arguments, properties, said in [
        ((), {"tls_creds": "none"}, "no object 'none' for tls-creds"),
        (server, {"tls_creds": "tls"}, "say endpoint=client"),
        (secret, {"tls_creds": "tls"}, "object 'tls' is a secret"),
        ((), {}, "needs TLS credentials"),
        (tls.qemu_object(), {"tls_creds": "tls", "server": plain}, "write cloudblks://"),
        (wrong, {"tls_creds": "tls"}, "does not accept our key" if tls.kind == "psk" else "set up for certificates"),
    ]:
        status, messages = bench.fails(*arguments, **properties)
        assert status == 1
        assert said in messages, messages
    if tls.kind == "x509":
        status, messages = bench.fails(*tls.qemu_object(), tls_creds="tls", tls_hostname="elsewhere")
        assert status == 1 and "is not for 'elsewhere'" in messages, messages
        driver = bench.disk(*tls.qemu_object(), tls_creds="tls", tls_hostname="disk.example.org")
        assert Request(driver, T_OUT, 0, b"x" * 512).submit().wait() == S_OK


def test_moves_under_load(secure, tls):
    machines = []

    def start(source=None):
        machine = pair.start(qemu_command("10.0"), secure.uri("d0"), source, tls.qemu_object(), tls_creds="tls")
        machines.append(machine)
        return machine

    try:
        source = start()
        destination = start(source)
        load = pair.Load(BlockDriver(source, 4))
        load.run(0.2)
        pair.migrate(source, destination, load)
        pair.go_on(load, destination)
        load.run(0.2)
        load.verify()
    finally:
        for machine in machines:
            machine.__exit__()
