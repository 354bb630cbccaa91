# SPDX-License-Identifier: GPL-2.0-or-later
"""Folders with credentials for TLS, as GnuTLS's own tools make them, and as QEMU, nbdkit and cloudblk read them."""

import datetime
import pathlib
import subprocess

KEY = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"
OTHER_KEY = KEY[::-1]
CA = {"cn": "test CA", "ca": "", "cert_signing_key": "", "crl_signing_key": ""}
DAY = datetime.timedelta(days=1)


def certtool(*arguments):
    subprocess.run(["certtool", *map(str, arguments)], check=True, capture_output=True)


def write_keys(folder, **keys):
    """keys.psk, of {identity: hexadecimal key}."""
    folder.mkdir(exist_ok=True)
    (folder / "keys.psk").write_text("".join(f"{identity}:{key}\n" for identity, key in keys.items()))
    return folder


class Authority:
    """Signs certificates. folder is its own."""

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        self.folder.mkdir()
        self.key, self.certificate = self.folder / "ca-key.pem", self.folder / "ca-cert.pem"
        self._new_key(self.key)
        template = self._template("ca", CA, -2 * DAY, 30 * DAY)
        certtool("--generate-self-signed", "--load-privkey", self.key, "--template", template, "--outfile", self.certificate)  # fmt: skip

    def _new_key(self, path):
        # QEMU wants certificates that may encipher keys, which those of RSA alone can be
        certtool("--generate-privkey", "--key-type", "rsa", "--bits", "2048", "--outfile", path)

    def _template(self, name, words, begins, ends):
        now = datetime.datetime.now(datetime.timezone.utc)
        lines = [f'{key} = "{value}"' if value else key for key, value in words.items()]
        for word, when in (("activation_date", begins), ("expiration_date", ends)):
            lines.append(f'{word} = "{(now + when).strftime("%Y-%m-%d %H:%M:%S")} UTC"')
        path = self.folder / f"{name}.cfg"
        path.write_text("\n".join(lines) + "\n")
        return path

    def trust(self, folder):
        """The folder of somebody who takes this authority's word, and has no certificate."""
        folder.mkdir(exist_ok=True)
        (folder / "ca-cert.pem").write_bytes(self.certificate.read_bytes())
        return folder

    def issue(self, folder, side, name, begins=-DAY, ends=DAY, address="127.0.0.1"):
        """A new certificate, in that folder. side: server or client. The address is in a server's only."""
        self.trust(folder)
        words = {"cn": name, "dns_name": name, "signing_key": "", "encryption_key": "", f"tls_www_{side}": ""}
        if side == "server":
            words["ip_address"] = address
        key, certificate = folder / f"{side}-key.pem", folder / f"{side}-cert.pem"
        self._new_key(key)
        template = self._template(side, words, begins, ends)
        certtool("--generate-certificate", "--load-privkey", key, "--load-ca-privkey", self.key, "--load-ca-certificate",
                 self.certificate, "--template", template, "--outfile", certificate)  # fmt: skip
        return folder

    def revoke(self, certificate, folder):
        """ca-crl.pem in that folder."""
        template = self.folder / "crl.cfg"
        template.write_text("expiration_days = 3\ncrl_number = 1\n")
        certtool("--generate-crl", "--load-ca-privkey", self.key, "--load-ca-certificate", self.certificate,
                 "--load-certificate", certificate, "--template", template, "--outfile", folder / "ca-crl.pem")  # fmt: skip


class Credentials:
    """What a server and its client have, both good. kind: x509 or psk. address: the server's."""

    def __init__(self, folder, kind, address="127.0.0.1"):
        folder = pathlib.Path(folder) / kind
        folder.mkdir(parents=True)
        self.kind = kind
        self.server, self.client = folder / "server", folder / "client"
        if kind == "psk":
            write_keys(self.server, alice=KEY)
            write_keys(self.client, alice=KEY)
            return
        self.authority = Authority(folder / "ca")
        self.authority.issue(self.server, "server", "disk.example.org", address=address)
        self.authority.issue(self.client, "client", "host-7")

    def qemu_object(self, endpoint="client", name="tls", priority=None):
        """-object of QEMU's for that side."""
        dir_ = self.client if endpoint == "client" else self.server
        words = f"tls-creds-{self.kind},id={name},endpoint={endpoint},dir={dir_}"
        words += f",priority={priority}" if priority else ""
        return ["-object", words + (",username=alice" if self.kind == "psk" and endpoint == "client" else "")]

    def tool_options(self):
        """Of the command cloudblk."""
        return ["--tls-dir", self.client] + (["--tls-username", "alice"] if self.kind == "psk" else [])

    def nbdkit_options(self):
        if self.kind == "psk":
            return ["--tls=require", f"--tls-psk={self.server / 'keys.psk'}"]
        return ["--tls=require", "--tls-verify-peer", f"--tls-certificates={self.server}"]
