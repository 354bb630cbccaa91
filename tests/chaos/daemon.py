# SPDX-License-Identifier: GPL-2.0-or-later
"""cloudblk-proxy whose log a test can wait on."""

import os
import signal
import subprocess
import time

from tests.support.paths import CLIENT, PROXY

PATIENCE = 30


def wait_for(condition, what, patience=PATIENCE):
    """Polls until condition() gives something true, and returns that."""
    deadline = time.monotonic() + patience
    while True:
        found = condition()
        if found:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {patience} s: {what}")
        time.sleep(0.01)


class Daemon:
    """A proxy in `folder`. Started again after kill() or stop(), it listens where it did."""

    def __init__(self, folder, volumes, *arguments, listen=("tcp://127.0.0.1:0",), prefix=(), program=PROXY):
        self.folder = folder
        self.volumes = volumes
        self.arguments = arguments
        self.listen = list(listen)
        self.prefix = list(prefix)
        self.program = program
        self.process = None
        self.starts = 0

    def launch(self):
        """Starts the process and waits for nothing."""
        self.starts += 1
        command = [*self.prefix, str(self.program), "--state-dir", str(self.folder / "state"), *self.arguments]
        for address in self.listen:
            command += ["--listen", address]
        for name, uri in self.volumes.items():
            command += ["--volume", f"{name}={uri}"]
        self.out = self.folder / f"proxy-{self.starts}.out"
        self.err = self.folder / f"proxy-{self.starts}.err"
        with open(self.out, "w") as out, open(self.err, "w") as err:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=err)
        return self

    def start(self):
        self.launch()

        def listening():
            assert self.process.poll() is None, self.log()
            lines = self.out.read_text().splitlines()
            return lines if len(lines) >= len(self.listen) else None

        # Those of --admin come last.
        lines = wait_for(listening, f"listening; {self.log()}")[: len(self.listen)]
        self.listen = [line.removeprefix("listening on ") for line in lines]
        return self

    def log(self):
        return self.err.read_text()

    def wait_for_log(self, text):
        wait_for(lambda: text in self.log(), f"{text!r} in the log:\n{self.log()}")

    def cpu_seconds(self):
        fields = open(f"/proc/{self.process.pid}/stat").read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def wait_until_busy(self, seconds=0.1):
        """Until it has used so much more processor time: somebody keeps it working."""
        before = self.cpu_seconds()
        wait_for(lambda: self.cpu_seconds() >= before + seconds, "load on the proxy")

    @property
    def address(self):
        """Of the first listener, as a socket takes it."""
        kind, rest = self.listen[0].split("://")
        if kind == "unix":
            return rest
        host, port = rest.rsplit(":", 1)
        return host, int(port)

    def uri(self, volume):
        return self.listen[0].replace("tcp://", "cloudblk://").replace("tls://", "cloudblks://") + "/" + volume

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(PATIENCE)

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE)

    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.kill()


def file_uri(path, size="64M", options=""):
    return f"file://{path}?size={size}&create=on{options}"


def client(*arguments, prefix=(), **more):
    """The cloudblk command line, under way."""
    return subprocess.Popen([*prefix, str(CLIENT), *map(str, arguments)], stdin=subprocess.DEVNULL,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **more)


def run_client(*arguments, timeout=60):
    """Exit status and output of the cloudblk command line."""
    process = client(*arguments)
    output, _ = process.communicate(timeout=timeout)
    return process.returncode, output
