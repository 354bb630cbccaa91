# SPDX-License-Identifier: GPL-2.0-or-later
"""TLS of the proxy and the tools: who is let in, who is not and what both sides are told, keys that change."""

import datetime
import re
import signal
import socket
import subprocess
import time

import pytest

from tests.chaos.daemon import Daemon, client, run_client, wait_for
from tests.support.nbd_server import Nbdkit, free_port
from tests.support.tls import KEY, OTHER_KEY, Authority, Credentials, write_keys

KINDS = ["x509", "psk"]
HOUR = datetime.timedelta(hours=1)


class Secure(Daemon):
    def __init__(self, folder, tls, *arguments, **more):
        super().__init__(folder, {"disk": "memory:?size=8M"}, "--tls-dir", str(tls.server), *arguments,
                         listen=["tls://127.0.0.1:0"], **more)  # fmt: skip

    def uri(self, volume="disk"):
        return super().uri(volume)


@pytest.fixture(params=KINDS)
def tls(request, tmp_path):
    return Credentials(tmp_path, request.param)


@pytest.fixture
def x509(tmp_path):
    return Credentials(tmp_path, "x509")


@pytest.fixture
def psk(tmp_path):
    return Credentials(tmp_path, "psk")


def refused(*arguments):
    """What a command that must fail at once says, in one line."""
    process = client(*arguments, "--timeout", "20000")
    begun = time.monotonic()
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1 and output.count("\n") == 1, output
    assert time.monotonic() - begun < 15, f"waited for what cannot pass: {output}"
    return output


def write_and_read(uri, tls, folder):
    data, back = folder / "data", folder / "back"
    data.write_bytes(bytes(range(256)) * 4096)
    status, output = run_client("write", *tls.tool_options(), uri, data)
    assert status == 0, output
    status, output = run_client("read", *tls.tool_options(), uri, back, "--length", "1M")
    assert status == 0, output
    assert back.read_bytes() == data.read_bytes()


def test_a_volume_over_tls(tls, tmp_path):
    with Secure(tmp_path, tls) as proxy:
        assert proxy.listen[0].startswith("tls://127.0.0.1:")
        write_and_read(proxy.uri(), tls, tmp_path)
        who = "certificate 'CN=host-7'" if tls.kind == "x509" else "PSK identity 'alice'"
        assert who in proxy.log()


def test_an_nbd_export_over_tls(tls, tmp_path):
    class SecureNbdkit(Nbdkit):
        def command(self):
            return [*super().command()[:1], *tls.nbdkit_options(), *super().command()[1:]]

    with SecureNbdkit(tmp_path) as server:
        uri = server.uri().replace("nbd://", "nbds://")
        write_and_read(uri, tls, tmp_path)
        status, output = run_client("nbd-check", *tls.tool_options(), uri)
        assert status == 0, output
        text = refused("info", server.uri())
        assert "wants TLS" in text and "nbds://" in text
        # The proxy as its client
        name = "&tls-username=alice" if tls.kind == "psk" else ""
        backend = f"{uri}?tls-dir={tls.client}{name}"
        with Daemon(tmp_path, {"disk": backend}) as proxy:
            assert run_client("info", proxy.uri("disk"))[0] == 0


def test_nbd_servers_without_tls_are_named(x509, tmp_path):
    with Nbdkit(tmp_path) as server:
        text = refused("info", *x509.tool_options(), server.uri().replace("nbd://", "nbds://"))
        assert "does not offer TLS" in text


# What is done to the folders of both, what the client is told, and what the proxy says.
def _expired(x509):
    x509.authority.issue(x509.server, "server", "disk", begins=-2 * HOUR, ends=-HOUR)


def _not_yet(x509):
    x509.authority.issue(x509.server, "server", "disk", begins=HOUR, ends=2 * HOUR)


def _other_ca(x509):
    Authority(x509.client.parent / "other").trust(x509.client)


def _other_client(x509):
    Authority(x509.client.parent / "other").issue(x509.client, "client", "host-7")
    x509.authority.trust(x509.client)


def _other_name(x509):
    x509.authority.issue(x509.server, "server", "disk", address="192.0.2.1")


def _revoked(x509):
    x509.authority.revoke(x509.client / "client-cert.pem", x509.server)


def _revoked_server(x509):
    x509.authority.revoke(x509.server / "server-cert.pem", x509.client)


def _bare(x509):
    (x509.client / "client-cert.pem").unlink()
    (x509.client / "client-key.pem").unlink()


REFUSALS = {
    "wrong CA": (_other_ca, "signed by nobody in our ca-cert.pem", "does not accept our certificate"),
    "client's wrong CA": (_other_client, "does not accept our certificate", "signed by nobody in our ca-cert.pem"),
    "expired": (_expired, "has expired", "Certificate is expired"),
    "not yet valid": (_not_yet, "not yet valid", "does not accept our certificate"),
    "wrong name": (_other_name, "is not for '127.0.0.1'", "does not accept our certificate"),
    "revoked client": (_revoked, "Certificate was revoked", "was revoked"),
    "revoked server": (_revoked_server, "was revoked", "Certificate was revoked"),
    "no client certificate": (_bare, "wants a certificate", "has no certificate"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_a_refusal_names_its_cause_on_both_sides(case, x509, tmp_path):
    change, told, logged = REFUSALS[case]
    change(x509)
    with Secure(tmp_path, x509) as proxy:
        text = refused("info", *x509.tool_options(), proxy.uri())
        assert told in text
        wait_for(lambda: logged in proxy.log(), f"{logged!r} in {proxy.log()}")


def test_a_wrong_key_and_an_unknown_identity_are_refused(psk, tmp_path):
    with Secure(tmp_path, psk) as proxy:
        write_keys(psk.client, alice=OTHER_KEY)
        assert "does not accept our key" in refused("info", *psk.tool_options(), proxy.uri())
        proxy.wait_for_log("key is not ours")
        write_keys(psk.client, bob=KEY)
        options = [*psk.tool_options()[:2], "--tls-username", "bob"]
        assert "does not accept our key" in refused("info", *options, proxy.uri())
        proxy.wait_for_log("no key of 'bob'")


def test_clear_text_and_tls_are_told_apart(tls, tmp_path):
    with Secure(tmp_path, tls) as proxy:
        text = refused("info", proxy.uri().replace("cloudblks", "cloudblk"))
        assert "wants TLS" in text
        proxy.wait_for_log("speaks clear text")
    plain = tmp_path / "plain"
    plain.mkdir()
    with Daemon(plain, {"disk": "memory:?size=8M"}) as proxy:
        text = refused("info", *tls.tool_options(), proxy.uri("disk").replace("cloudblk:", "cloudblks:"))
        assert "does not speak TLS" in text
        proxy.wait_for_log("speaks TLS")


def test_older_versions_are_refused(x509, tmp_path):
    """A peer that would go down to TLS 1.2."""
    priority = "NORMAL:-VERS-ALL:+VERS-TLS1.2"
    trust = ["--x509cafile", x509.client / "ca-cert.pem", "--priority", priority]
    with Secure(tmp_path, x509) as proxy:
        port = proxy.address[1]
        old = subprocess.run(["gnutls-cli", *map(str, trust), "-p", str(port), "127.0.0.1"], input="", text=True,
                             capture_output=True, timeout=60, check=False)  # fmt: skip
        assert old.returncode != 0, old.stdout
        proxy.wait_for_log("TLS 1.3")
    port = free_port()
    files = ["--x509certfile", x509.server / "server-cert.pem", "--x509keyfile", x509.server / "server-key.pem"]
    command = ["gnutls-serv", "--echo", "-p", port, "--priority", priority, *files]
    server = subprocess.Popen([*map(str, command)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: socket.socket().connect_ex(("127.0.0.1", port)) == 0, "gnutls-serv")
        assert "TLS 1.3" in refused("info", *x509.tool_options(), f"cloudblks://127.0.0.1:{port}/disk")
    finally:
        server.kill()
        server.wait()


def test_a_name_may_be_given(x509, tmp_path):
    x509.authority.issue(x509.server, "server", "disk.example.org", address="192.0.2.1")
    with Secure(tmp_path, x509) as proxy:
        status, output = run_client("info", *x509.tool_options(), "--tls-hostname", "disk.example.org", proxy.uri())
        assert status == 0, output


def test_new_keys_are_taken_and_sessions_stay(tls, tmp_path):
    with Secure(tmp_path, tls) as proxy:
        held = client("bench", *tls.tool_options(), "--pattern", "randwrite", "--seconds", "6", proxy.uri())
        proxy.wait_for_log("active for")
        # The old client's proof is not taken any more by connections that come later
        if tls.kind == "x509":
            other = Authority(tmp_path / "next")
            other.issue(tls.server, "server", "disk")
        else:
            write_keys(tls.server, alice=OTHER_KEY)
        proxy.process.send_signal(signal.SIGHUP)
        proxy.wait_for_log("reloaded TLS credentials")
        refused("info", *tls.tool_options(), proxy.uri())
        output, _ = held.communicate(timeout=60)
        assert held.returncode == 0, output
        # A mistake is kept out
        for name in ("server-key.pem", "keys.psk"):
            if (tls.server / name).exists():
                (tls.server / name).write_text("garbage")
        proxy.process.send_signal(signal.SIGHUP)
        proxy.wait_for_log("nothing is reloaded")
        if tls.kind == "x509":
            other.issue(tls.client, "client", "host-8")
        else:
            write_keys(tls.client, alice=OTHER_KEY)
        status, output = run_client("info", *tls.tool_options(), proxy.uri())
        assert status == 0, output


def test_a_client_that_stops_in_the_handshake_holds_up_nobody(x509, tmp_path):
    with Secure(tmp_path, x509) as proxy:
        silent = [socket.create_connection(proxy.address) for _ in range(8)]
        for number, one in enumerate(silent):
            # A record that is to be long, and does not come
            one.sendall(b"\x16\x03\x01\x40\x00"[: number + 1])
        write_and_read(proxy.uri(), x509, tmp_path)
        for one in silent:
            one.close()


def test_rights_of_certificates_and_keys(tls, tmp_path):
    who = 'certificate = "host-?"' if tls.kind == "x509" else 'psk = "alice"'
    config = tmp_path / "proxy.toml"
    config.write_text(f'[[access]]\n{who}\nvolumes = ["disk"]\nrights = ["read"]\n')
    with Secure(tmp_path, tls, "--config", str(config)) as proxy:
        assert run_client("read", *tls.tool_options(), proxy.uri(), tmp_path / "back")[0] == 0
        data = tmp_path / "data"
        data.write_bytes(bytes(4096))
        text = refused("write", *tls.tool_options(), proxy.uri(), data)
        assert "does not have the right 'write'" in text
        assert re.search(r"certificate 'CN=host-7'|PSK identity 'alice'", text)


# --- The command line ---------------------------------------------------------------------------


def start_fails(tmp_path, *arguments):
    from tests.support.paths import PROXY

    command = [PROXY, "--state-dir", tmp_path / "state", "--volume", "disk=memory:?size=1M", *arguments]
    ended = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=30, check=False)
    assert ended.returncode == 1 and ended.stderr.count("\n") == 1, ended
    return ended.stderr


def test_clear_text_to_other_hosts_has_to_be_wanted(tmp_path):
    for address in ("tcp://0.0.0.0:0", "tcp://[::]:0", "tcp://:0"):
        text = start_fails(tmp_path, "--listen", address)
        assert "--insecure" in text and "tls://" in text, text
    with Daemon(tmp_path, {"disk": "memory:?size=1M"}, "--insecure", listen=["tcp://0.0.0.0:0"]) as proxy:
        port = proxy.listen[0].rsplit(":", 1)[1]
        assert run_client("info", f"cloudblk://127.0.0.1:{port}/disk")[0] == 0
    config = tmp_path / "proxy.toml"
    config.write_text("insecure = true\n")
    with Daemon(tmp_path, {"disk": "memory:?size=1M"}, "--config", str(config), listen=["tcp://0.0.0.0:0"]):
        pass


def test_credentials_that_are_missing_or_not_needed(tmp_path):
    assert "--tls-dir" in start_fails(tmp_path, "--listen", "tls://127.0.0.1:0")
    assert "no address with TLS" in start_fails(tmp_path, "--listen", "tcp://127.0.0.1:0", "--tls-dir", tmp_path)
    text = start_fails(tmp_path, "--listen", "tls://127.0.0.1:0", "--tls-dir", tmp_path)
    assert "ca-cert.pem" in text and "keys.psk" in text
    assert "--tls-dir" in refused("info", "cloudblks://127.0.0.1:1/disk")
    text = refused("info", "--tls-dir", Credentials(tmp_path, "psk").client, "--tls-username", "alice",
                   "cloudblk://127.0.0.1:1/disk")  # fmt: skip
    assert "cloudblks://" in text
    text = refused("info", "--tls-dir", Credentials(tmp_path, "x509").client, "cloudblks+unix:///disk?socket=/none")
    assert "tls-hostname" in text


@pytest.mark.parametrize("line, said", [
    ("tls = 3", "tls is a table"),
    ("[tls]\nkind = 'rsa'", "kind is"),
    ("[tls]\ncolour = 1", "unknown setting 'colour' of tls"),
    ("[tls]\nverify-peer = 1", "verify-peer is true or false"),
    ("insecure = 'yes'", "insecure is true or false"),
])  # fmt: skip
def test_mistakes_in_the_configuration_name_their_line(line, said, tmp_path):
    config = tmp_path / "proxy.toml"
    config.write_text(line + "\n")
    text = start_fails(tmp_path, "--listen", "tcp://127.0.0.1:0", "--config", config)
    assert said in text and re.search(r"proxy\.toml:[12]:", text), text
