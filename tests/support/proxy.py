# SPDX-License-Identifier: GPL-2.0-or-later
"""cloudblk-proxy under a test."""

import os
import re
import signal
import subprocess
import time

from .paths import CLIENT, PROXY
from .stream import Closed, Lines, Timeout

START_TIMEOUT = 30


class Proxy:
    """Serves volumes, given as {name: backend URI}, on a free port until it is left as a context
    manager. After kill() it can be started again and has the same address. prefix is what to put
    before the command."""

    def __init__(self, volumes, arguments=(), listen="tcp://127.0.0.1:0", prefix=()):
        self._volumes = dict(volumes)
        self._arguments = [str(argument) for argument in arguments]
        self._listen = listen
        self._prefix = prefix
        self.process = None
        self.log = []

    def start(self):
        command = [*self._prefix, PROXY, "--listen", self._listen, *self._arguments]
        for name, uri in self._volumes.items():
            command += ["--volume", f"{name}={uri}"]
        self.process = subprocess.Popen(
            [str(word) for word in command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        lines = Lines(self.process.stdout.fileno())
        deadline = time.monotonic() + START_TIMEOUT
        while True:
            try:
                line = lines.next(deadline).decode(errors="replace")
            except (Closed, Timeout) as error:
                self.kill()
                raise RuntimeError(f"the proxy did not start: {error}; {self.log}") from error
            self.log.append(line)
            address = re.search(r"listening on (\S+)", line)
            if address:
                self._listen = address.group(1)
                break
        # Whatever else it says must not fill the pipe and stop it.
        os.set_blocking(self.process.stdout.fileno(), False)

    @property
    def address(self):
        """HOST:PORT it listens on."""
        return self._listen.split("://")[1]

    def uri(self, volume):
        scheme = "cloudblks" if self._listen.startswith("tls") else "cloudblk"
        return f"{scheme}://{self.address}/{volume}"

    def resize(self, volume, size, force=False):
        """Gives a volume another size while it is used."""
        arguments = ["--force"] if force else []
        subprocess.run([CLIENT, "resize", *arguments, self.uri(volume), str(size)], check=True, timeout=60)

    def kill(self):
        """As a crash would: SIGKILL."""
        self._end(signal.SIGKILL)

    def stop(self, timeout=30):
        """Orderly: SIGTERM; gives the exit status."""
        return self._end(signal.SIGTERM, timeout)

    def _end(self, number, timeout=30):
        process, self.process = self.process, None
        if not process:
            return None
        process.send_signal(number)
        try:
            output, _ = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise Timeout("the proxy did not end in time") from None
        self.log += (output or b"").decode(errors="replace").splitlines()
        return process.returncode

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.kill()
