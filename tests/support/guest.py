# SPDX-License-Identifier: GPL-2.0-or-later
"""A small Linux guest under TCG, in which a test runs shell scripts."""

import pathlib
import shutil

from .agent import Agent, GuestError
from .paths import guest_files, plugin_arguments
from .qemu import Qemu
from .stream import Closed, Timeout

OVMF = pathlib.Path("/usr/share/OVMF")
# no_timer_check: on a busy machine the emulated timer may be too late for Linux, which then stops.
# Not quiet: a boot that hangs is to show where.
KERNEL_COMMAND_LINE = "console=ttyS0 panic=-1 no_timer_check"
# One thread for both processors. With a thread each, one may translate an instruction while the other
# overwrites it, and the old translation stays (QEMU 7.2 to 10.0). Linux patches its static keys like that: it
# stood still at a breakpoint that was no longer there, when the clock source was chosen in a boot.
# Its price: two processors never run at the same instant, and what is locked is no barrier then that an
# IOThread would see. At depth 32 that lost one interrupt in some million requests (either device's: the guest
# wrote which one it waits for and looked for more in one order, and the IOThread saw it in the other).
TWO_PROCESSORS = ("-accel", "tcg,thread=single", "-smp", "2")
# Where one processor is enough. A second one that may be plugged in makes QEMU keep memory barriers.
ONE_PROCESSOR = ("-accel", "tcg,thread=multi", "-smp", "1,maxcpus=2")


class Guest(Qemu, Agent):
    """Boots when entered, and is powered off by poweroff() or killed when left.

    devices are further arguments for QEMU; the first virtio disk is /dev/vda in the guest. The firmware,
    seabios or ovmf, has to find a boot loader there (boot_disk writes them); without one named, QEMU
    itself starts the kernel, with files (kernel and initramfs) if not those of guest_files().
    """

    # Bytes that what the guest sent to its serial port and we have not read may take; None: a socket's default
    SERIAL_ROOM = None

    def __init__(
        self, binary, devices, memory="512M", env=None, firmware=None, files=None, prefix=(), processors=TWO_PROCESSORS
    ):
        super().__init__(binary, [], env, prefix)
        self._console = self.folder / "console"
        self._arguments += [*processors, "-m", memory]
        if firmware == "ovmf":
            self._arguments += self._ovmf()
        elif firmware is None:
            kernel, initramfs = files or guest_files()
            self._arguments += ["-kernel", kernel, "-initrd", initramfs, "-append", KERNEL_COMMAND_LINE]
        self._arguments += ["-serial", f"file:{self._console}"]
        self._arguments += self.socket_chardev("agent", self.SERIAL_ROOM) + ["-serial", "chardev:agent"]
        self._arguments += plugin_arguments(binary) + [str(argument) for argument in devices]

    def _ovmf(self):
        """Code and the machine's own variables in flash memory."""
        variables = shutil.copy(OVMF / "OVMF_VARS_4M.fd", self.folder)
        flash = "if=pflash,format=raw"
        return [
            *("-drive", f"{flash},unit=0,readonly=on,file={OVMF / 'OVMF_CODE_4M.fd'}"),
            *("-drive", f"{flash},unit=1,file={variables}"),
        ]

    def start(self):
        super().start()
        self.talk_by(self.connection("agent"))
        self.wait_ready()

    def console(self):
        """What the guest's kernel said so far."""
        return self._console.read_text(errors="replace") if self._console.exists() else ""

    def errors(self):
        """The console's lines with the word error, but for one that Linux from 6.12 on prints at every start."""
        return [
            line
            for line in self.console().splitlines()
            if "error" in line.lower() and "RAS: Correctable Errors collector initialized" not in line
        ]

    def poweroff(self, timeout=60):
        """Orderly end of the guest; QEMU's exit status must be 0."""
        self.send("sync\npoweroff -f\n")
        status = self.wait(timeout)
        if status:
            raise GuestError(f"QEMU ended with {status}\n{self.report()}")

    def report(self):
        return "\n".join([
            f"guest's console:\n{self.console()[-4000:]}",
            f"QEMU's messages:\n{self.messages()[-4000:]}",
            f"QEMU's state:\n{self._state()}",
        ])

    def _state(self):
        """Where the processors are, at two moments: whether they move tells a hang from a slow machine."""
        commands = ["info status", "info registers -a", "info registers -a"]
        try:
            texts = [self.qmp.command("human-monitor-command", timeout=5, command_line=c) for c in commands]
        except (Timeout, Closed, OSError) as error:
            return f"the monitor does not answer: {error}"
        return "\n".join(
            line for text in texts for line in text.splitlines()
            if line.startswith(("VM status", "CPU#", "RIP", "EIP", "RAX", "EAX"))
        )
