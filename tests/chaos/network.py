# SPDX-License-Identifier: GPL-2.0-or-later
"""Two hosts and a router between them that can be told to forward nothing."""

import ctypes
import os
import socket
import subprocess
import threading

CLIENT_ADDRESS = "10.77.1.2"
SERVER_ADDRESS = "10.77.2.2"
CLONE_NEWNET = 0x40000000


class Network:
    """Network namespaces of its own, so that tests may run side by side."""

    def __init__(self):
        tag = f"cbk{os.getpid()}"
        self.client, self.router, self.server = f"{tag}c", f"{tag}r", f"{tag}s"

    def _ip(self, *words, namespace=None):
        inside = ["-n", namespace] if namespace else []
        subprocess.run(["ip", *inside, *words], check=True, stdout=subprocess.DEVNULL,
                       stderr=subprocess.PIPE)

    def _connect(self, host, number):
        self._ip("link", "add", "eth0", "netns", host, "type", "veth", "peer", "name",
                 f"eth{number}", "netns", self.router)
        self._ip("address", "add", f"10.77.{number}.2/24", "dev", "eth0", namespace=host)
        self._ip("address", "add", f"10.77.{number}.1/24", "dev", f"eth{number}",
                 namespace=self.router)
        self._ip("link", "set", "eth0", "up", namespace=host)
        self._ip("link", "set", f"eth{number}", "up", namespace=self.router)
        self._ip("route", "add", "default", "via", f"10.77.{number}.1", namespace=host)

    def __enter__(self):
        for name in (self.client, self.router, self.server):
            self._ip("netns", "add", name)
            self._ip("link", "set", "lo", "up", namespace=name)
        self._connect(self.client, 1)
        self._connect(self.server, 2)
        self.heal()
        return self

    def __exit__(self, *_):
        for name in (self.client, self.router, self.server):
            subprocess.run(["ip", "netns", "delete", name], stderr=subprocess.DEVNULL)

    def _forward(self, value):
        self.run(self.router, lambda: open("/proc/sys/net/ipv4/ip_forward", "w").write(value))

    def cut(self):
        """From now on packets vanish, without a word to anyone."""
        self._forward("0")

    def heal(self):
        self._forward("1")

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


def possible():
    try:
        with Network():
            return True
    except (OSError, subprocess.CalledProcessError, IndexError):
        return False
