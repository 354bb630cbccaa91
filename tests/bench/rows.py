# SPDX-License-Identifier: GPL-2.0-or-later
"""What is measured side by side: each row is a disk in a QEMU with a server behind it, set up as the
documents of its makers advise. All are alike in memory size, IOThread, ring and driver."""

import contextlib
import dataclasses
import pathlib
import shutil
import subprocess
import tempfile
from collections.abc import Callable

from tests.support.paths import PROXY

from .machine import SLOT, BenchMachine, Server, built, free_port, output_of, require, version_of

VOLUME = 256 << 20


@dataclasses.dataclass
class Running:
    """A row that is up. command: what measures it, to which the workload's options are added."""

    command: list
    versions: dict
    options: list  # command lines, for the record
    watched: dict = dataclasses.field(default_factory=dict)  # process name: pid


@dataclasses.dataclass
class Row:
    name: str
    title: str
    start: Callable  # (stack, setup) -> Running; what it starts is left with the stack
    peer: bool = False  # one of those that the goals are relative to
    keeps: bool = True  # reads give what was written
    queues: int = 1
    proxy: bool = False  # its server is cloudblk-proxy
    device: bool = True  # as opposed to a bare network program
    part: str = ""  # measured only in runs of that kind: ceph (on the run's cluster) or tls


@dataclasses.dataclass
class Setup:
    """What all rows have in common."""

    qemu: str
    valgrind: tuple = ()  # words before QEMU's command
    proxy_valgrind: tuple = ()  # and before cloudblk-proxy's
    iothread: str = ""  # properties of the IOThreads, QEMU's defaults otherwise
    verify: bool = False  # a store in memory takes the place of a null store, so that content can be checked
    cluster: object = None  # rbd.Cluster, for the rows on it


ROWS = {}


def row(name, title, **more):
    def add(start):
        ROWS[name] = Row(name, title, start, **more)
        return start

    return add


def start_machine(stack, setup, devices, server=None, cloudblk=False, iothreads=1):
    machine = stack.enter_context(BenchMachine(setup, devices, cloudblk, iothreads))
    watched = {"qemu": machine.process.pid}
    options = [" ".join(str(word) for word in devices)]
    if server:
        watched["server"] = server.pid
        options.insert(0, " ".join(server.command))
    return Running(driver_of(machine), {"qemu": version_of(setup.qemu)}, options, watched)


def driver_of(machine):
    """Command of the program that drives its disk."""
    return [built("virtio-bench"), "--qtest", machine.qtest, "--memory", machine.memory, "--slot", SLOT]


def device(name, *properties):
    return ["-device", ",".join([name, *properties, f"addr={SLOT:x}.0"])]


def folder(stack, where="/dev/shm"):
    return pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cloudblk-bench-", dir=where)))


def memory_file(stack):
    """A volume's file, in memory."""
    path = folder(stack) / "volume"
    with open(path, "wb") as file:
        file.truncate(VOLUME)
    return path


def null_co(stack, setup):
    """QEMU's null block driver as node d0."""
    if setup.verify:
        return f"file,node-name=d0,filename={memory_file(stack)}"
    return f"null-co,node-name=d0,size={VOLUME}"


def nbd_machine(stack, setup, server, port, export):
    disk = ["-blockdev", f"nbd,node-name=d0,server.type=inet,server.host=127.0.0.1,server.port={port},export={export}"]
    return start_machine(stack, setup, disk + device("virtio-blk-pci", "drive=d0", "iothread=io0"), server)


def cloudblk_nbd_machine(stack, setup, server, port, export):
    disk = device("cloudblk-pci", f"server=nbd://127.0.0.1:{port}/{export}", "iothread=io0")
    return start_machine(stack, setup, disk, server, cloudblk=True)


def nbdkit_server(stack, *plugin):
    """(server, its port)"""
    program, port = require("nbdkit", "nbdkit"), free_port()
    command = [program, "-f", "--log=null", "-i", "127.0.0.1", "-p", port, *plugin]
    return stack.enter_context(Server(command, address=("127.0.0.1", port))), port


def nbdkit(stack, setup, *plugin, machine=nbd_machine):
    running = machine(stack, setup, *nbdkit_server(stack, *plugin), "")
    running.versions["nbdkit"] = version_of("nbdkit")
    return running


@row("nbd-nbdkit-null", "virtio-blk, NBD client, nbdkit null", peer=True, keeps=False)
def _nbdkit_null(stack, setup):
    return nbdkit(stack, setup, "memory" if setup.verify else "null", VOLUME)


@row("nbd-nbdkit-memory", "virtio-blk, NBD client, nbdkit memory", peer=True)
def _nbdkit_memory(stack, setup):
    # Its manual names this allocator as the faster one where memory is no concern
    return nbdkit(stack, setup, "memory", VOLUME, "allocator=malloc")


def storage_daemon_of(qemu):
    """The one of the client's own QEMU. The NBD server of 7.2, which Debian 12 installs, leaves Nagle's algorithm
    on: what one reply leaves unacknowledged holds the next back until the client's delayed acknowledgement, 40 ms."""
    program = pathlib.Path(shutil.which(qemu) or qemu).with_name("qemu-storage-daemon")
    if not program.exists():
        raise FileNotFoundError(f"there is no qemu-storage-daemon beside {qemu}")
    return program


@row("cloudblk-nbd-nbdkit-null", "cloudblk-pci, nbdkit null", keeps=False)
def _cloudblk_nbdkit_null(stack, setup):
    return nbdkit(stack, setup, "memory" if setup.verify else "null", VOLUME, machine=cloudblk_nbd_machine)


@row("cloudblk-nbd-nbdkit-memory", "cloudblk-pci, nbdkit memory")
def _cloudblk_nbdkit_memory(stack, setup):
    return nbdkit(stack, setup, "memory", VOLUME, "allocator=malloc", machine=cloudblk_nbd_machine)


def storage_daemon(stack, setup, *blockdev, own_thread=True, machine=nbd_machine):
    program, port = storage_daemon_of(setup.qemu), free_port()
    thread = ",iothread=io0" if own_thread else ""
    command = [
        program, "--object", "iothread,id=io0", "--blockdev", *blockdev,
        "--nbd-server", f"addr.type=inet,addr.host=127.0.0.1,addr.port={port}",
        "--export", f"nbd,id=e0,node-name=d0,name=d0,writable=on{thread}",
    ]  # fmt: skip
    server = stack.enter_context(Server(command, address=("127.0.0.1", port)))
    running = machine(stack, setup, server, port, "d0")
    running.versions["qemu-storage-daemon"] = version_of(program)
    return running


@row("nbd-qsd-null", "virtio-blk, NBD client, qemu-storage-daemon null-co", peer=True, keeps=False)
def _qsd_null(stack, setup):
    return storage_daemon(stack, setup, null_co(stack, setup))


@row("cloudblk-nbd-qsd-null", "cloudblk-pci, qemu-storage-daemon null-co", keeps=False)
def _cloudblk_qsd_null(stack, setup):
    return storage_daemon(stack, setup, null_co(stack, setup), machine=cloudblk_nbd_machine)


@row("nbd-qsd-main", "virtio-blk, NBD client, qemu-storage-daemon null-co, on its main thread", peer=True, keeps=False)
def _qsd_main(stack, setup):
    return storage_daemon(stack, setup, null_co(stack, setup), own_thread=False)


@row("nbd-qsd-tmpfs", "virtio-blk, NBD client, qemu-storage-daemon on a file in memory", peer=True)
def _qsd_tmpfs(stack, setup):
    return storage_daemon(stack, setup, f"file,node-name=d0,filename={memory_file(stack)}")


def require_driver(qemu, blockdev):
    """blockdev: what the driver takes, but is nowhere."""
    if "Unknown driver" in output_of(qemu, "-machine", "none", "-display", "none", "-blockdev", blockdev):
        driver = blockdev.split(",")[0]
        raise FileNotFoundError(f"this QEMU has no {driver}: apt-get install qemu-block-extra, and --qemu that one")


@row("iscsi-tgt", "virtio-blk, iSCSI client, tgt on a file in memory")
def _iscsi(stack, setup):
    program, admin = require("tgtd", "tgt"), require("tgtadm", "tgt")
    require_driver(setup.qemu, "iscsi,node-name=d0,transport=tcp,portal=127.0.0.1:1,target=none,lun=1")
    path, port, control = memory_file(stack), free_port(), str(free_port() % 30000)
    command = [program, "-f", "-C", control, "--iscsi", f"portal=127.0.0.1:{port}"]
    server = stack.enter_context(Server(command, address=("127.0.0.1", port)))
    target = "iqn.2000-01.test:disk"
    for words in (
        f"--op new --mode target --tid 1 -T {target}",
        f"--op new --mode logicalunit --tid 1 --lun 1 -b {path}",
        "--op bind --mode target --tid 1 -I ALL",
    ):
        subprocess.run([admin, "-C", control, "--lld", "iscsi", *words.split()], check=True)
    disk = ["-blockdev", f"iscsi,node-name=d0,transport=tcp,portal=127.0.0.1:{port},target={target},lun=1"]
    running = start_machine(stack, setup, disk + device("virtio-blk-pci", "drive=d0", "iothread=io0"), server)
    running.versions["tgt"] = f"tgt {version_of(program, '-V')}"
    return running


@row("vhost-user", "vhost-user-blk, qemu-storage-daemon null-co (same host only)", keeps=False)
def _vhost_user(stack, setup):
    program, path = storage_daemon_of(setup.qemu), folder(stack) / "socket"
    command = [
        program, "--object", "iothread,id=io0", "--blockdev", null_co(stack, setup),
        "--export", f"vhost-user-blk,id=e0,node-name=d0,addr.type=unix,addr.path={path},writable=on,iothread=io0",
    ]  # fmt: skip
    # It serves one client, so it must not be asked by connecting
    server = stack.enter_context(Server(command, exists=path))
    disk = ["-chardev", f"socket,id=vhost,path={path}"] + device("vhost-user-blk-pci", "chardev=vhost", "num-queues=1")
    running = start_machine(stack, setup, disk, server)
    running.versions["qemu-storage-daemon"] = version_of(program)
    return running


@row("null-co", "virtio-blk, null-co: the device alone", keeps=False)
def _null_co(stack, setup):
    disk = ["-blockdev", null_co(stack, setup)]
    return start_machine(stack, setup, disk + device("virtio-blk-pci", "drive=d0", "iothread=io0"))


@row("floor", "TCP over loopback, no device", device=False)
def _floor(stack, setup):
    program = built("loopback-floor")
    server = stack.enter_context(Server([program, "server", "--range", VOLUME], ready=r"listening on \S+:(\d+)"))
    command = [program, "client", "--port", server.match.group(1), "--range", VOLUME]
    return Running(command, {}, [" ".join(server.command)], {"server": server.pid})


def proxy_server(stack, listen="tcp://127.0.0.1:0", valgrind=(), volumes=(f"memory:?size={VOLUME}",), options=()):
    """Serves the volumes d0, d1 ..."""
    words = [word for i, volume in enumerate(volumes) for word in ("--volume", f"d{i}={volume}")]
    command = [*valgrind, PROXY, "--listen", listen, *options, *words]
    return stack.enter_context(Server(command, ready=r"listening on (\S+)"))


def volume_uri(server, name="d0"):
    address = server.match.group(1)
    if address.startswith("tcp://"):
        return f"cloudblk://{address.removeprefix('tcp://')}/{name}"
    if address.startswith("tls://"):
        return f"cloudblks://{address.removeprefix('tls://')}/{name}"
    return f"cloudblk+unix:///{name}?socket={address.removeprefix('unix://')}"


def cloudblk(stack, setup, listen="tcp://127.0.0.1:0", queues=1, credentials=None, **of_server):
    """credentials: of TLS."""
    if credentials:
        of_server["options"] = ("--tls-dir", credentials.server)
    server = proxy_server(stack, listen, setup.proxy_valgrind, **of_server)
    properties = ["iothreads=io0:io1", "num-queues=2"] if queues == 2 else ["iothread=io0"]
    properties += ["tls-creds=tls"] if credentials else []
    disk = credentials.qemu_object() if credentials else []
    disk += device("cloudblk-pci", f"server={volume_uri(server)}", *properties)
    running = start_machine(stack, setup, disk, server, cloudblk=True, iothreads=queues)
    running.versions["cloudblk-proxy"] = version_of(PROXY)
    return running


@row("cloudblk", "cloudblk-pci, cloudblk-proxy memory", proxy=True)
def _cloudblk(stack, setup):
    return cloudblk(stack, setup)


@row("cloudblk-unix", "cloudblk-pci, cloudblk-proxy memory over a unix socket", proxy=True)
def _cloudblk_unix(stack, setup):
    return cloudblk(stack, setup, f"unix://{folder(stack)}/socket")


@row("cloudblk-2-queues", "cloudblk-pci with 2 queues on 2 IOThreads", queues=2, proxy=True)
def _cloudblk_two(stack, setup):
    return cloudblk(stack, setup, queues=2)


@contextlib.contextmanager
def started(wanted, setup):
    """{name: Running} of those rows, as long as it is used as a context. FileNotFoundError says what a
    row needs that is not installed."""
    with contextlib.ExitStack() as stack:
        yield {each.name: each.start(stack, setup) for each in wanted}


def available(wanted, setup):
    """Those of the rows whose programs are installed, and {name: what is missing} of the others."""
    missing = {}
    for each in wanted:
        try:
            with started([each], setup):
                pass
        except FileNotFoundError as error:
            missing[each.name] = str(error)
    return [each for each in wanted if each.name not in missing], missing
