# SPDX-License-Identifier: GPL-2.0-or-later
"""A machine without a guest: the test is the processor, and sees the machine's memory as its own.

Stock QEMU serves the qtest protocol with any accelerator. Its virtual CPU executes one HLT.
"""

import mmap
import time

from .paths import plugin_arguments
from .qemu import Qemu
from .stream import Lines

RAM_SIZE = 64 << 20
COMMAND_TIMEOUT = 60
# Capability, and what the interrupts of a test say
MSIX, MESSAGE = 0x11, 0x30


def halting_rom():
    """A firmware that stops the processor at its first instruction."""
    rom = bytearray(b"\xf4" * 65536)  # HLT everywhere, also where the jump after reset goes
    rom[0xFFF0:0xFFF4] = b"\xfa\xf4\xeb\xfd"  # CLI; HLT; back to the HLT
    return bytes(rom)


class Machine(Qemu):
    """A PC with the given devices, cloudblk-pci among them, i440fx unless another type is named;
    memory is its RAM, from address 0."""

    def __init__(self, binary, devices, env=None, ram_size=RAM_SIZE, machine="pc"):
        super().__init__(binary, [], env)
        ram, rom = self.folder / "ram", self.folder / "rom"
        rom.write_bytes(halting_rom())
        with open(ram, "wb+") as file:
            file.truncate(ram_size)
            self.memory = mmap.mmap(file.fileno(), ram_size)
        self._arguments += ["-machine", f"{machine},memory-backend=ram", "-accel", "tcg", "-m", f"{ram_size >> 20}M"]
        self._arguments += ["-object", f"memory-backend-file,id=ram,mem-path={ram},size={ram_size},share=on"]
        self._arguments += ["-bios", str(rom), "-action", "reboot=reset"]
        self._arguments += self.socket_chardev("qtest") + ["-qtest", "chardev:qtest", "-qtest-log", "/dev/null"]
        self._arguments += plugin_arguments(binary) + [str(argument) for argument in devices]
        self._socket = None
        self._lines = None
        self._free = 1 << 20
        # Where the next BARs go
        self.pci_memory, self.pci_port = 0xE0000000, 0xC000

    def start(self):
        super().start()
        self._socket = self.connection("qtest")
        self._lines = Lines(self._socket.fileno())

    def _command(self, text):
        self._socket.sendall(text.encode() + b"\n")
        deadline = time.monotonic() + COMMAND_TIMEOUT
        while True:
            line = self._lines.next(deadline)
            if not line.startswith(b"IRQ "):
                break
        words = line.split()
        if not words or words[0] != b"OK":
            raise RuntimeError(f"qtest: {text!r} was answered {line!r}")
        return int(words[1], 0) if len(words) > 1 else None

    def read(self, address, size):
        """size is 1, 2, 4 or 8 bytes."""
        return self._command(f"read{'bwlq'[size.bit_length() - 1]} {address:#x}")

    def write(self, address, size, value):
        self._command(f"write{'bwlq'[size.bit_length() - 1]} {address:#x} {value:#x}")

    def port_in(self, port, size):
        return self._command(f"in{'bwl'[size.bit_length() - 1]} {port:#x}")

    def port_out(self, port, size, value):
        self._command(f"out{'bwl'[size.bit_length() - 1]} {port:#x} {value:#x}")

    @property
    def used(self):
        """A mark: what is allocated from now on is behind it."""
        return self._free

    def forget(self, mark):
        """Gives back what was allocated since. No device may be using it."""
        self.memory[mark : self._free] = bytes(self._free - mark)
        self._free = mark

    def alloc(self, size, align=16):
        """Address of fresh guest memory, filled with zeros."""
        address = -(-self._free // align) * align
        self._free = address + size
        if self._free > len(self.memory):
            raise MemoryError("the test's machine has no more memory")
        return address

    def __exit__(self, *error):
        super().__exit__(*error)
        if self._socket:
            self._socket.close()


class PciDevice:
    """One function on the machine's first PCI bus, its BARs mapped and its bus mastering on."""

    def __init__(self, machine, slot, function=0):
        self.machine = machine
        self._address = 0x80000000 | slot << 11 | function << 8
        if self.config(0, 2) == 0xFFFF:
            raise LookupError(f"no PCI device in slot {slot}")
        self.bars = {}
        self._map_bars()
        self._turn_on()

    def config(self, offset, size):
        self.machine.port_out(0xCF8, 4, self._address | offset & ~3)
        return self.machine.port_in(0xCFC + (offset & 3), size)

    def set_config(self, offset, size, value):
        self.machine.port_out(0xCF8, 4, self._address | offset & ~3)
        self.machine.port_out(0xCFC + (offset & 3), size, value)

    def _turn_on(self):
        self.set_config(4, 2, self.config(4, 2) | 7)

    def enable(self):
        """Again, after a reset of the machine: the BARs are where they were."""
        for bar, address in self.bars.items():
            self.set_config(0x10 + 4 * bar, 4, address)
        self._turn_on()

    def _map_bars(self):
        memory, port, bar = self.machine.pci_memory, self.machine.pci_port, 0
        while bar < 6:
            offset = 0x10 + 4 * bar
            self.set_config(offset, 4, 0xFFFFFFFF)
            mask = self.config(offset, 4)
            is_port = mask & 1
            size = -(mask & (~3 if is_port else ~15)) & 0xFFFFFFFF
            if size and is_port:
                port = -(-port // size) * size
                self.set_config(offset, 4, port)
                self.bars[bar] = port
                port += size
            elif size:
                memory = -(-memory // size) * size
                self.set_config(offset, 4, memory)
                self.bars[bar] = memory
                memory += size
            if mask & 7 == 4:  # 64 bits wide: the next register is its upper half
                bar += 1
                self.set_config(0x10 + 4 * bar, 4, 0)
            bar += 1
        self.machine.pci_memory, self.machine.pci_port = memory, port

    def turn_msix_on(self, address):
        """The first vector writes MESSAGE there."""
        at = next(at for capability, at in self.capabilities() if capability == MSIX)
        where = self.config(at + 4, 4)
        table = self.bars[where & 7] + (where & ~7)
        for word, value in enumerate((address, 0, MESSAGE, 0)):
            self.machine.write(table + 4 * word, 4, value)
        self.set_config(at + 2, 2, self.config(at + 2, 2) | 0x8000)

    def capabilities(self):
        """(ID, offset) of each capability."""
        offset = self.config(0x34, 1)
        while offset:
            yield self.config(offset, 1), offset
            offset = self.config(offset + 1, 1)
