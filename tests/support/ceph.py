# SPDX-License-Identifier: GPL-2.0-or-later
"""A Ceph cluster of one monitor and one OSD on this host."""

import collections
import hashlib
import json
import pathlib
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import uuid

from .stream import Timeout
from .virtio import poll

START_TIMEOUT = 60
TOOL_TIMEOUT = 60
ATTEMPTS = 5
# From the first port on: the monitor's, then those from which the OSD takes what is free. Below the ports that the
# kernel gives to clients, so that nobody has the monitor's when it is started again.
PORTS = range(12000, 32000)
PORTS_OF_OSD = 60
MEMSTORE_SIZE = 4 << 30
# A sparse file
BLUESTORE_SIZE = 20 << 30

# A socket's state in /proc/net/tcp
LISTEN = "0A"
Socket = collections.namedtuple("Socket", "local remote state unacknowledged unread")

CONFIGURATION = """
[global]
fsid = {fsid}
mon_host = [v2:{address}:{port}/0]
ms_bind_msgr1 = false
auth_cluster_required = {auth}
auth_service_required = {auth}
auth_client_required = {auth}
run_dir = {folder}
admin_socket =

[mon]
mon_data = {folder}/mon
mon_data_avail_crit = 1
mon_data_avail_warn = 2
mon_allow_pool_size_one = true
mon_allow_pool_delete = true
mon_warn_on_pool_no_redundancy = false
mon_cluster_log_to_file = false
# What is changed is not gathered for a second, of which a start would take several
paxos_propose_interval = 0.02
paxos_min_wait = 0.01
osd_pool_default_size = 1
osd_pool_default_min_size = 1
osd_pool_default_pg_num = 8
osd_pool_default_pg_autoscale_mode = off
osd_crush_chooseleaf_type = 0
log_file = {folder}/mon.log
debug_rocksdb = 0

[osd]
osd_data = {folder}/osd
osd_objectstore = {objectstore}
osd_crush_initial_weight = 1
public_addr = {address}
cluster_addr = {address}
ms_bind_port_min = {first}
ms_bind_port_max = {last}
keyring = {folder}/osd.0.keyring
memstore_device_bytes = {memstore_size}
bluestore_block_size = {bluestore_size}
# What takes seconds at a start: a check of an empty store, and a dozen families of columns
bluestore_fsck_on_mkfs = false
bluestore_rocksdb_cf = false
bluestore_cache_autotune = false
bluestore_cache_size = 67108864
log_file = {folder}/osd.log
debug_rocksdb = 0

[client]
keyring = {folder}/$name.keyring
{client}
"""


class CephError(Exception):
    """A tool of Ceph failed. status: its exit status."""

    def __init__(self, command, status, output):
        super().__init__(f"{' '.join(command)} ended with {status}: {output}")
        self.status = status


def sockets(process):
    """All of TCP in that process's network namespace, with the bytes that wait in them."""
    lines = pathlib.Path(f"/proc/{process.pid}/net/tcp").read_text().splitlines()[1:]
    for _, local, remote, state, queues, *_ in map(str.split, lines):
        unacknowledged, unread = (int(count, 16) for count in queues.split(":"))
        yield Socket(*(int(address.split(":")[1], 16) for address in (local, remote)), state, unacknowledged, unread)


class CephDaemon:
    """A process of a cluster, which can be started again. It is the configuration that knows everything."""

    program = name = None

    def __init__(self, cluster):
        self.cluster = cluster
        self.process = None

    def command(self, *arguments):
        words = [self.program, "--id", self.name, "--conf", self.cluster.conf, *arguments]
        return [*self.cluster.prefix, *map(str, words)]

    def launch(self):
        """Without waiting for anything. A test process that is killed takes it along."""
        command = ["setpriv", "--pdeathsig", "KILL", *self.command("--foreground")]
        with open(self.cluster.folder / f"{self.program}.err", "ab") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    @property
    def is_running(self):
        return self.process is not None and self.process.poll() is None

    def kill(self):
        """As a crash would: SIGKILL."""
        self._end(signal.SIGKILL)

    def stop(self):
        """Orderly: SIGTERM."""
        self._end(signal.SIGTERM)

    def _end(self, number):
        process, self.process = self.process, None
        if not process:
            return
        process.send_signal(number)
        try:
            process.wait(START_TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise Timeout(f"{self.program} did not end in time") from None


class Monitor(CephDaemon):
    program, name = "ceph-mon", "a"

    def start(self):
        """Returns when it answers."""
        self.launch()
        self.cluster.ceph("mon", "stat")

    def is_listening(self, port):
        return any(one.local == port and one.state == LISTEN for one in sockets(self.process))


class Osd(CephDaemon):
    program, name = "ceph-osd", "0"

    def start(self):
        """Returns when the monitor knows this process, and not the one before, as the OSD."""
        before = self.up_since()
        self.launch()
        poll(lambda: not self.is_running or self.up_since() > before, "OSD that is up", START_TIMEOUT)
        assert self.is_running, self.cluster.log()

    def unread(self):
        """Bytes that its clients have sent to it, and that it has not read."""
        return sum(one.unread for one in sockets(self.process) if one.local in self.cluster.osd_ports)

    def up_since(self):
        """The epoch of the map in which it came up, for the monitor; 0 if it never has."""
        return json.loads(self.cluster.ceph("osd", "dump", "--format", "json"))["osds"][0]["up_from"]


class Ceph:
    """A cluster with one pool, from when it is entered as a context manager until it is left.

    objectstore: "memstore", which loses everything with its OSD, or "bluestore". auth: "none" or "cephx". client:
    what the configuration says besides in the section of clients, as {option: value}. address and prefix: where its
    daemons listen, and what to put before their commands, if that is in another network namespace.

    mon and osd are its daemons, conf the path of the configuration file, with which client.admin may do everything.
    """

    def __init__(self, objectstore="memstore", auth="none", pool="rbd", client=None, address="127.0.0.1", prefix=()):
        self.pool = pool
        self.conf = None
        self.mon = self.osd = None
        self.prefix = list(prefix)
        self.folder = self._port = None
        self._objectstore, self._auth, self._client, self._address = objectstore, auth, client or {}, address
        self._fsid, self._uuid = str(uuid.uuid4()), str(uuid.uuid4())

    # ---- Start and end ----

    def __enter__(self):
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for daemon in (self.osd, self.mon):
            if daemon:
                daemon.kill()
        if self.folder:
            shutil.rmtree(self.folder)
            self.folder = None

    def start(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="cloudblk-ceph-"))
        self.conf = self.folder / "ceph.conf"
        self._start_monitor()
        self._add_osd()
        self.add_pool(self.pool)

    def _start_monitor(self):
        """On a port that is free. Somebody may take it between that and its use."""
        self._make_keyrings()
        self.mon = Monitor(self)
        for _ in range(ATTEMPTS):
            self._port = self._free_port()
            self._configure()
            self._make_monitor()
            self.mon.launch()
            poll(lambda: not self.mon.is_running or self.mon.is_listening(self._port), "the monitor's port")
            try:
                self.ceph("--connect-timeout", "20", "osd", "new", self._uuid, "0")
                return
            except CephError:
                if self.mon.is_running:
                    raise
            shutil.rmtree(self.folder / "mon")
        raise Timeout(f"the monitor did not start: {self.log()}")

    def _free_port(self):
        while True:
            port = random.choice(PORTS)
            with socket.socket() as one:
                try:
                    one.bind(("", port))
                    return port
                except OSError:
                    pass

    @property
    def osd_ports(self):
        """Of which it listens on some."""
        return range(self._port + 1, self._port + 1 + PORTS_OF_OSD)

    def _configure(self):
        self.conf.write_text(
            CONFIGURATION.format(
                fsid=self._fsid,
                address=self._address,
                port=self._port,
                first=self.osd_ports.start,
                last=self.osd_ports.stop - 1,
                auth=self._auth,
                folder=self.folder,
                objectstore=self._objectstore,
                memstore_size=MEMSTORE_SIZE,
                bluestore_size=BLUESTORE_SIZE,
                client="\n".join(f"{name} = {value}" for name, value in self._client.items()),
            )
        )

    def _make_keyrings(self):
        """Of the monitor, and of who else it is to know from the beginning."""
        known = self.keyring("mon")
        for name, *capabilities in (
            ("mon.", "mon", "allow *"),
            ("client.admin", "mon", "allow *", "osd", "allow *"),
            ("osd.0", "mon", "allow profile osd", "osd", "allow *"),
        ):
            own = self.keyring(name.rstrip("."))
            pairs = zip(capabilities[::2], capabilities[1::2])
            words = [word for service, what in pairs for word in ("--cap", service, what)]
            self._run("ceph-authtool", "--create-keyring", str(own), "--gen-key", "--name", name, *words)
            if own != known:
                self._run("ceph-authtool", str(known), "--import-keyring", str(own))

    def keyring(self, name):
        """Path of the keyring of that client, as "client.admin"."""
        return self.folder / f"{name}.keyring"

    def _make_monitor(self):
        monmap = self.folder / "monmap"
        address = f"[v2:{self._address}:{self._port}]"
        self._run("monmaptool", "--create", "--clobber", "--fsid", self._fsid, "--addv", "a", address, str(monmap))
        self._run(*self.mon.command("--mkfs", "--monmap", monmap, "--keyring", self.keyring("mon")))

    def _add_osd(self):
        (self.folder / "osd").mkdir()
        self.osd = Osd(self)
        self._run(*self.osd.command("--mkfs", "--osd-uuid", self._uuid))
        self.osd.start()

    def log(self):
        """What its daemons said at last."""
        files = [*self.folder.glob("*.err"), *self.folder.glob("*.log")]
        return "\n".join(f"{file.name}:\n{file.read_text(errors='replace')[-2000:]}" for file in files)

    # ---- Tools ----

    def _run(self, *command, timeout=TOOL_TIMEOUT):
        try:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                timeout=timeout, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise Timeout(f"{' '.join(command)} did not end in time; {self.log()}") from None
        if done.returncode:
            raise CephError(command, done.returncode, done.stderr)
        return done.stdout

    def ceph(self, *arguments, timeout=TOOL_TIMEOUT):
        """Output of the ceph tool."""
        return self._run(*self.prefix, "ceph", "--conf", str(self.conf), *arguments, timeout=timeout)

    def rbd(self, *arguments, timeout=TOOL_TIMEOUT):
        """Output of the rbd tool."""
        return self._run(*self.rbd_command(*arguments), timeout=timeout)

    def rbd_command(self, *arguments):
        return [*self.prefix, "rbd", "--conf", str(self.conf), *(str(argument) for argument in arguments)]

    def rbd_json(self, *arguments):
        return json.loads(self.rbd(*arguments, "--format", "json"))

    # ---- Content ----

    def add_pool(self, name):
        """One for images. It returns when the OSD serves it."""
        self.ceph("osd", "pool", "create", name)
        self.rbd("pool", "init", name, timeout=START_TIMEOUT)

    def spec(self, image, pool=None):
        """Of that image, in the default pool if not in another, as Ceph's tools take it. image may be NAMESPACE/NAME."""
        return f"{pool or self.pool}/{image}"

    def uri(self, image, pool=None, **options):
        """For the proxy."""
        options = {"conf": self.conf, **options}
        return f"rbd:///{self.spec(image, pool)}?" + "&".join(f"{key}={value}" for key, value in options.items())

    def create_image(self, name, size, *options, pool=None):
        """size: in bytes. options: of rbd create."""
        self.rbd("create", "--size", f"{size}B", *options, self.spec(name, pool))
        return name

    def add_client(self, name, **capabilities):
        """A client.NAME with these capabilities, as mon="profile rbd"."""
        words = [word for pair in capabilities.items() for word in pair]
        self.ceph("auth", "get-or-create", f"client.{name}", *words, "-o", str(self.keyring(f"client.{name}")))

    def lockers(self, image):
        """Who has locked it, as "client.4127"."""
        return [lock["locker"] for lock in self.rbd_json("lock", "ls", self.spec(image))]

    def used(self, image):
        """Bytes that it takes."""
        return self.rbd_json("du", self.spec(image))["images"][0]["used_size"]

    def export(self, image, path):
        """All of it into a file."""
        self.rbd("export", "--no-progress", self.spec(image), path)
        return path

    def sha256(self, image):
        """Of all of it."""
        with subprocess.Popen(
            self.rbd_command("export", "--no-progress", self.spec(image), "-"), stdout=subprocess.PIPE
        ) as export:
            digest = hashlib.sha256()
            while block := export.stdout.read(1 << 20):
                digest.update(block)
        assert export.returncode == 0
        return digest.hexdigest()
