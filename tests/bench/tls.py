# SPDX-License-Identifier: GPL-2.0-or-later
"""Rows over TLS, with certificates, each beside the same one in clear text."""

from tests.support.tls import Credentials

from .machine import Server, free_port, require, version_of
from .rows import (
    VOLUME,
    cloudblk,
    cloudblk_nbd_machine,
    device,
    folder,
    nbdkit,
    null_co,
    row,
    start_machine,
    storage_daemon,
    storage_daemon_of,
)


# The same cipher for all: of itself QEMU's client takes the slower AES-256-GCM
PRIORITY = "NORMAL:-CIPHER-ALL:+AES-128-GCM:+AES-256-GCM"


def _credentials(stack):
    return Credentials(folder(stack), "x509")


def nbds_machine(credentials):
    """Starts a QEMU with its own NBD client."""

    def start(stack, setup, server, port, export):
        node = f"nbd,node-name=d0,server.type=inet,server.host=127.0.0.1,server.port={port},export={export},tls-creds=tls"
        disk = [*credentials.qemu_object(priority=PRIORITY), "-blockdev", node]
        return start_machine(stack, setup, disk + device("virtio-blk-pci", "drive=d0", "iothread=io0"), server)

    return start


def cloudblk_nbds_machine(credentials):
    def start(stack, setup, server, port, export):
        properties = [f"server=nbds://127.0.0.1:{port}/{export}", "tls-creds=tls", "iothread=io0"]
        disk = [*credentials.qemu_object(), *device("cloudblk-pci", *properties)]
        return start_machine(stack, setup, disk, server, cloudblk=True)

    return start


def _nbdkit(stack, setup, machine):
    credentials = _credentials(stack)
    program, port = require("nbdkit", "nbdkit"), free_port()
    words = ["-f", "--log=null", "-i", "127.0.0.1", "-p", port, *credentials.nbdkit_options()]
    command = [program, *words, "memory", VOLUME, "allocator=malloc"]
    server = stack.enter_context(Server(command, address=("127.0.0.1", port)))
    running = machine(credentials)(stack, setup, server, port, "")
    running.versions["nbdkit"] = version_of("nbdkit")
    return running


def _storage_daemon(stack, setup, machine):
    credentials = _credentials(stack)
    program, port = storage_daemon_of(setup.qemu), free_port()
    words = [word.replace("-object", "--object") for word in credentials.qemu_object("server")]
    command = [
        program, *words, "--object", "iothread,id=io0", "--blockdev", null_co(stack, setup),
        "--nbd-server", f"addr.type=inet,addr.host=127.0.0.1,addr.port={port},tls-creds=tls",
        "--export", "nbd,id=e0,node-name=d0,name=d0,writable=on,iothread=io0",
    ]  # fmt: skip
    server = stack.enter_context(Server(command, address=("127.0.0.1", port)))
    running = machine(credentials)(stack, setup, server, port, "d0")
    running.versions["qemu-storage-daemon"] = version_of(program)
    return running


@row("nbds-nbdkit", "virtio-blk, NBD client over TLS, nbdkit memory", peer=True, part="tls")
def _nbds_nbdkit(stack, setup):
    return _nbdkit(stack, setup, nbds_machine)


@row("cloudblk-nbds-nbdkit", "cloudblk-pci, nbdkit memory over TLS", part="tls")
def _cloudblk_nbds_nbdkit(stack, setup):
    return _nbdkit(stack, setup, cloudblk_nbds_machine)


@row("cloudblk-nbd-nbdkit", "cloudblk-pci, nbdkit memory in clear text", part="tls")
def _cloudblk_nbd_nbdkit(stack, setup):
    return nbdkit(stack, setup, "memory", VOLUME, "allocator=malloc", machine=cloudblk_nbd_machine)


@row("nbds-qsd", "virtio-blk, NBD client over TLS, qemu-storage-daemon null-co", peer=True, keeps=False, part="tls")
def _nbds_qsd(stack, setup):
    return _storage_daemon(stack, setup, nbds_machine)


@row("cloudblk-nbds-qsd", "cloudblk-pci, qemu-storage-daemon null-co over TLS", keeps=False, part="tls")
def _cloudblk_nbds_qsd(stack, setup):
    return _storage_daemon(stack, setup, cloudblk_nbds_machine)


@row("cloudblk-nbd-qsd", "cloudblk-pci, qemu-storage-daemon null-co in clear text", keeps=False, part="tls")
def _cloudblk_nbd_qsd(stack, setup):
    return storage_daemon(stack, setup, null_co(stack, setup), machine=cloudblk_nbd_machine)


@row("cloudblk-tls", "cloudblk-pci, cloudblk-proxy memory over TLS", part="tls")
def _cloudblk_tls(stack, setup):
    credentials = _credentials(stack)
    return cloudblk(stack, setup, "tls://127.0.0.1:0", credentials=credentials)


@row("cloudblk-clear", "cloudblk-pci, cloudblk-proxy memory in clear text", part="tls")
def _cloudblk_clear(stack, setup):
    return cloudblk(stack, setup)
