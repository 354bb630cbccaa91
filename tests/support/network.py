# SPDX-License-Identifier: GPL-2.0-or-later
"""Hosts of their own on this machine: network namespaces, and what connects them."""

import ctypes
import itertools
import os
import subprocess
import threading

CLIENT_ADDRESS = "10.77.1.2"
SERVER_ADDRESS = "10.77.2.2"
CLONE_NEWNET = 0x40000000

_numbers = itertools.count()


def _ip(*words, namespace=None):
    inside = ["-n", namespace] if namespace else []
    subprocess.run(["ip", *inside, *words], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


class Namespaces:
    """Network namespaces of its own, so that tests may run side by side."""

    def __init__(self, roles):
        tag = f"cbk{os.getpid()}n{next(_numbers)}"
        self._names = {role: f"{tag}{role}" for role in roles}

    def name(self, role):
        return self._names[role]

    def _connect(self, host, address, hub, port):
        """A cable from eth0 of the host to that port of the hub."""
        _ip("link", "add", "eth0", "netns", host, "type", "veth", "peer", "name", port, "netns", hub)
        _ip("address", "add", f"{address}/24", "dev", "eth0", namespace=host)
        _ip("link", "set", "eth0", "up", namespace=host)
        _ip("link", "set", port, "up", namespace=hub)

    def __enter__(self):
        try:
            for name in self._names.values():
                _ip("netns", "add", name)
                _ip("link", "set", "lo", "up", namespace=name)
            self._wire()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for name in self._names.values():
            subprocess.run(["ip", "netns", "delete", name], stderr=subprocess.DEVNULL)

    def _wire(self):
        raise NotImplementedError

    def run(self, namespace, function):
        """What function() gives when it runs in that namespace."""
        result = []

        def inside():
            libc = ctypes.CDLL(None, use_errno=True)
            with open(f"/run/netns/{namespace}") as handle:
                if libc.setns(handle.fileno(), CLONE_NEWNET) != 0:
                    raise OSError(ctypes.get_errno(), "setns")
            result.append(function())

        # A namespace is a thread's own.
        thread = threading.Thread(target=inside)
        thread.start()
        thread.join()
        return result[0]

    def command(self, namespace):
        """What to put before a command so that it runs there."""
        return ["ip", "netns", "exec", namespace]

    def set(self, namespace, name, value):
        """Sets a kernel parameter of the network, as sysctl does."""
        path = "/proc/sys/" + name.replace(".", "/")

        def write():
            with open(path, "w") as file:
                file.write(value)

        self.run(namespace, write)


class Network(Namespaces):
    """Two hosts and a router between them that can be told to forward nothing."""

    def __init__(self):
        super().__init__("crs")
        self.client, self.router, self.server = (self.name(role) for role in "crs")

    def _wire(self):
        for number, (host, address) in enumerate(
            ((self.client, CLIENT_ADDRESS), (self.server, SERVER_ADDRESS)), start=1
        ):
            self._connect(host, address, self.router, f"eth{number}")
            gateway = f"10.77.{number}.1"
            _ip("address", "add", f"{gateway}/24", "dev", f"eth{number}", namespace=self.router)
            _ip("route", "add", "default", "via", gateway, namespace=host)
        self.heal()

    def cut(self):
        """From now on packets vanish, without a word to anyone."""
        self.set(self.router, "net.ipv4.ip_forward", "0")

    def heal(self):
        self.set(self.router, "net.ipv4.ip_forward", "1")


class Switch(Namespaces):
    """Hosts on one switch; the first has the address 10.78.0.1."""

    def __init__(self, count):
        self.hosts = range(count)
        super().__init__(["s", *self.hosts])

    def _wire(self):
        switch = self.name("s")
        _ip("link", "add", "br0", "type", "bridge", namespace=switch)
        _ip("link", "set", "br0", "up", namespace=switch)
        for host in self.hosts:
            port = f"eth{host}"
            self._connect(self.name(host), self.address(host), switch, port)
            self.plug(host)

    def plug(self, host):
        _ip("link", "set", f"eth{host}", "master", "br0", namespace=self.name("s"))

    def unplug(self, host):
        """From now on the host's packets vanish, both ways, without a word to anyone."""
        _ip("link", "set", f"eth{host}", "nomaster", namespace=self.name("s"))

    def address(self, host):
        return f"10.78.0.{host + 1}"


def possible():
    """Whether network namespaces can be made here. Without the command ip, which scripts/setup installs, the
    test fails."""
    try:
        with Network():
            return True
    except FileNotFoundError:
        raise
    except (OSError, subprocess.CalledProcessError, IndexError):
        return False
