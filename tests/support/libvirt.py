# SPDX-License-Identifier: GPL-2.0-or-later
"""Hosts with a libvirt of their own on this machine, and domains whose guests run scripts."""

import os
import pathlib
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
import xml.etree.ElementTree as ElementTree

from .agent import BOOT_TIMEOUT, Agent, GuestError
from .guest import KERNEL_COMMAND_LINE
from .paths import BUILD, PLUGIN, REPO, guest_files
from .stream import Timeout

EXAMPLES = REPO / "docs/examples/libvirt"
# As the examples have them
PLUGIN_FOLDER = "/usr/lib/cloudblk"
USER = "libvirt-qemu"
VIRSH_TIMEOUT = 120
START_TIMEOUT = 60

# Of processes, mounts and the host's name its own, so that no file of this machine's libvirt is touched, and all that was
# started ends with the first process. No cgroups: two hosts would want the same ones. Of the security drivers the one
# that changes user is always there; that of AppArmor would want its profiles for the folders of the test.
START = r"""
set -e
folder=$1 name=$2 uuid=$3
mount --make-rprivate /
hostname "$name"
mount -t tmpfs -o mode=755 tmpfs /run
mkdir /run/libvirt
for pair in etc:/etc/libvirt lib:/var/lib/libvirt cache:/var/cache/libvirt log:/var/log/libvirt run:/run/libvirt; do
  mkdir -p "$folder/${pair%%:*}"
  mount --bind "$folder/${pair%%:*}" "${pair#*:}"
done
mkdir -p /etc/libvirt/qemu/autostart
printf 'cgroup_controllers = [ ]\nsecurity_driver = "none"\n' >/etc/libvirt/qemu.conf
printf 'host_uuid = "%s"\n' "$uuid" >/etc/libvirt/libvirtd.conf
ip link set lo up
env -u NOTIFY_SOCKET virtlogd -d
# This shell is the first process here: it reaps what QEMU and libvirt leave behind.
libvirtd &
wait $!
"""


class LibvirtError(Exception):
    """virsh refused a command."""


def possible():
    """Whether such hosts can be made here, which needs root."""
    return os.geteuid() == 0 and subprocess.run(["unshare", "--mount", "--uts", "--pid", "--net", "--fork", "true"],
                                                stderr=subprocess.DEVNULL).returncode == 0


def has_ended(connection):
    """Whether its other side was a QEMU that did not come to start."""
    try:
        return connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
    except BlockingIOError:
        return False


class Host:
    """Runs from when it is entered. Its network has nothing but a loopback; with a prefix, a command that puts what
    follows into a network namespace, it is that one. Files in `folder` can be reached by the domains' user."""

    def __init__(self, name, prefix=()):
        self.name = name
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="cloudblk-libvirt-"))
        self.folder.chmod(0o711)
        self._prefix = [*prefix]
        self._uuid = str(uuid.uuid4())
        self._process = None
        self.plugin = self.share(PLUGIN)
        for library in BUILD.glob("cloudblk-qemu-*.so"):
            self.share(library)

    def share(self, file):
        """A copy that domains can read: libvirt makes kernels and the like the domain's own."""
        copy = self.folder / pathlib.Path(file).name
        shutil.copy(file, copy)
        copy.chmod(0o755)
        return copy

    @property
    def uri(self):
        return f"qemu+unix:///system?socket={self.folder}/run/libvirt-sock"

    def start(self):
        """As the boot of a host: nothing runs before, and domains start that are to."""
        shutil.rmtree(self.folder / "run", ignore_errors=True)
        namespaces = ["--mount", "--uts", "--pid", *([] if self._prefix else ["--net"])]
        command = [*self._prefix, "unshare", *namespaces, "--fork", "--kill-child", "--mount-proc"]
        ready = self.folder / "ready"
        ready.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified, open(self.folder / "messages", "ab") as log:
            notified.bind(str(ready))
            notified.settimeout(START_TIMEOUT)
            self._process = subprocess.Popen(
                [*command, "bash", "-c", START, "bash", self.folder, self.name, self._uuid],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={**os.environ, "NOTIFY_SOCKET": str(ready)},
            )
            try:
                while b"READY=1" not in notified.recv(4096):
                    pass
            except TimeoutError:
                self.crash()
                raise Timeout(f"libvirtd is not ready: {self.messages()[-4000:]}") from None

    def crash(self):
        """The end of all its processes, at once."""
        process, self._process = self._process, None
        if process:
            process.send_signal(signal.SIGKILL)
            process.wait()

    def messages(self):
        return (self.folder / "messages").read_text(errors="replace")

    def virsh(self, *words, timeout=VIRSH_TIMEOUT):
        """What it prints."""
        result = subprocess.run(
            ["virsh", "--quiet", "--connect", self.uri, *(str(word) for word in words)],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=timeout,
        )
        if result.returncode:
            raise LibvirtError(f"{' '.join(map(str, words))}: {result.stderr.strip()}")
        return result.stdout.strip()

    def __enter__(self):
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        self.crash()
        shutil.rmtree(self.folder)


class Domain(Agent):
    """One of the examples as a domain of that host. What the test needs to talk to its guest is added, and the paths and
    servers replaced; without KVM QEMU emulates the processor."""

    def __init__(self, host, example, servers):
        self.host = host
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="cloudblk-domain-"))
        self.folder.chmod(0o711)
        self._console = self.folder / "console"
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self.folder / "agent"))
        (self.folder / "agent").chmod(0o777)
        self._listener.listen()
        self._listener.settimeout(BOOT_TIMEOUT)
        text = (EXAMPLES / f"{example}.xml").read_text()
        for old, new in {PLUGIN_FOLDER: str(host.folder), **servers}.items():
            text = text.replace(old, new.replace("&", "&amp;"))
        self.xml = self._prepare(text)
        self.name = ElementTree.fromstring(self.xml).findtext("name")

    def _prepare(self, text):
        ElementTree.register_namespace("qemu", "http://libvirt.org/schemas/domain/qemu/1.0")
        root = ElementTree.fromstring(text)
        if not os.path.exists("/dev/kvm"):
            root.set("type", "qemu")
        kernel, initramfs = (self.host.share(file) for file in guest_files())
        system = root.find("os")
        for name, value in ("kernel", kernel), ("initrd", initramfs), ("cmdline", KERNEL_COMMAND_LINE):
            ElementTree.SubElement(system, name).text = str(value)
        devices = root.find("devices")
        # The host's folder is libvirt's to write to; what QEMU connects to is the test's.
        for number, source in enumerate(({"path": str(self._console)},
                                         {"mode": "connect", "path": str(self.folder / "agent")})):
            serial = ElementTree.SubElement(devices, "serial", type=("file", "unix")[number])
            ElementTree.SubElement(serial, "source", source)
            ElementTree.SubElement(serial, "target", port=str(number))
        return ElementTree.tostring(root, encoding="unicode")

    def define(self):
        file = self.folder / "domain.xml"
        file.write_text(self.xml)
        self.host.virsh("define", file)

    def virsh(self, command, *words, **options):
        return self.host.virsh(command, self.name, *words, **options)

    def attach(self):
        """Takes the connection of a QEMU that has started, of this domain or of one that goes on with its state."""
        with self._explained():
            try:
                connection, _ = self._listener.accept()
                while has_ended(connection):
                    connection.close()
                    connection, _ = self._listener.accept()
            except TimeoutError:
                raise Timeout("no QEMU has connected") from None
        connection.settimeout(None)
        self.talk_by(connection)

    def start(self):
        self.virsh("start")
        self.attach()
        self.wait_ready()

    def process(self):
        """The number of its QEMU, as it is outside of the host."""
        wanted = f"guest={self.name},".encode()
        for folder in pathlib.Path("/proc").glob("[0-9]*"):
            try:
                words = (folder / "cmdline").read_bytes()
                # Another test may have a domain of that name.
                if wanted in words and str(self.folder).encode() in words:
                    return int(folder.name)
            except OSError:
                pass  # has ended
        raise GuestError(f"no QEMU runs\n{self.report()}")

    def user(self):
        return pwd.getpwuid(pathlib.Path(f"/proc/{self.process()}").stat().st_uid).pw_name

    def report(self):
        logs = [self._console, self.host.folder / f"log/qemu/{self.name}.log"]
        texts = [f"{file}:\n{file.read_text(errors='replace')[-4000:]}" for file in logs if file.exists()]
        return "\n".join([*texts, f"libvirtd:\n{self.host.messages()[-2000:]}"])

    def __enter__(self):
        self.define()
        return self

    def __exit__(self, *_):
        self._listener.close()
        if self._socket:
            self._socket.close()
        shutil.rmtree(self.folder)


def wait_until(condition, what, timeout=60):
    """Polls what has no event."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise Timeout(what)
        time.sleep(0.05)
