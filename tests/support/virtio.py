# SPDX-License-Identifier: GPL-2.0-or-later
"""A driver for virtio-blk over PCI: modern and legacy, split and packed rings.

It follows the virtio specification 1.2 and knows nothing of the device under test.
"""

import struct
import time

from .qtest import PciDevice
from .stream import Timeout

WAIT = 30

# Features
BLK_SEG_MAX, BLK_GEOMETRY, BLK_RO, BLK_BLK_SIZE, BLK_SCSI, BLK_FLUSH, BLK_TOPOLOGY = 2, 4, 5, 6, 7, 9, 10
BLK_CONFIG_WCE, BLK_MQ, BLK_DISCARD, BLK_WRITE_ZEROES = 11, 12, 13, 14
ANY_LAYOUT, INDIRECT, EVENT_IDX, VERSION_1, ACCESS_PLATFORM, PACKED, IN_ORDER, RING_RESET = 27, 28, 29, 32, 33, 34, 35, 40

# Requests and their status
T_IN, T_OUT, T_FLUSH, T_GET_ID, T_DISCARD, T_WRITE_ZEROES = 0, 1, 4, 8, 11, 13
S_OK, S_IOERR, S_UNSUPP = 0, 1, 2

# Device status
ACKNOWLEDGE, DRIVER, DRIVER_OK, FEATURES_OK, NEEDS_RESET = 1, 2, 4, 8, 64

F_NEXT, F_WRITE, F_INDIRECT = 1, 2, 4
PACKED_AVAIL, PACKED_USED = 1 << 7, 1 << 15


def poll(condition, what, timeout=WAIT):
    """Gives what condition() returns, once that is true."""
    deadline = time.monotonic() + timeout
    while True:
        found = condition()
        if found:
            return found
        if time.monotonic() > deadline:
            raise Timeout(f"no {what} in time")
        time.sleep(0)  # lets QEMU have the processor


class Modern:
    """The virtio 1.x registers of a PCI function."""

    def __init__(self, pci):
        self._machine = pci.machine
        self._regions = {}
        for capability, at in pci.capabilities():
            if capability != 9:
                continue
            kind, bar = pci.config(at + 3, 1), pci.config(at + 4, 1)
            if kind in (1, 2, 3, 4):
                self._regions[kind] = pci.bars[bar] + pci.config(at + 8, 4)
            if kind == 2:
                self._multiplier = pci.config(at + 16, 4)
        self._common, self._notify, self._isr, self._config = (self._regions[kind] for kind in (1, 2, 3, 4))

    def common(self, offset, size):
        return self._machine.read(self._common + offset, size)

    def set_common(self, offset, size, value):
        self._machine.write(self._common + offset, size, value)

    @property
    def status(self):
        return self.common(20, 1)

    @status.setter
    def status(self, value):
        self.set_common(20, 1, value)

    def features(self):
        offered = 0
        for half in (0, 1):
            self.set_common(0, 4, half)
            offered |= self.common(4, 4) << 32 * half
        return offered

    def set_features(self, features):
        for half in (0, 1):
            self.set_common(8, 4, half)
            self.set_common(12, 4, features >> 32 * half & 0xFFFFFFFF)
        self.status |= FEATURES_OK
        assert self.status & FEATURES_OK, "the device does not accept the features"

    def config(self, offset, size):
        return self._machine.read(self._config + offset, size)

    def set_config(self, offset, size, value):
        self._machine.write(self._config + offset, size, value)

    def isr(self):
        """Reads and clears the interrupt status: 1 a queue's, 2 the configuration's."""
        return self._machine.read(self._isr, 1)

    def queue_size(self, index):
        self.set_common(22, 2, index)
        return self.common(24, 2)

    def set_queue(self, index, size, desc, driver, device):
        self.set_common(22, 2, index)
        self.set_common(24, 2, size)
        for offset, address in ((32, desc), (40, driver), (48, device)):
            self.set_common(offset, 4, address & 0xFFFFFFFF)
            self.set_common(offset + 4, 4, address >> 32)
        notify = self.common(30, 2)
        self.set_common(28, 2, 1)
        return self._notify + notify * self._multiplier

    def notify(self, place, index):
        self._machine.write(place, 2, index)


class Legacy:
    """The registers of virtio before 1.0, in I/O ports."""

    def __init__(self, pci):
        self._machine = pci.machine
        self._base = pci.bars[0]

    @property
    def status(self):
        return self._machine.port_in(self._base + 18, 1)

    @status.setter
    def status(self, value):
        self._machine.port_out(self._base + 18, 1, value)

    def features(self):
        return self._machine.port_in(self._base, 4)

    def set_features(self, features):
        self._machine.port_out(self._base + 4, 4, features)

    def config(self, offset, size):
        # Without MSI-X the device's part begins at 20
        return int.from_bytes(
            bytes(self._machine.port_in(self._base + 20 + offset + i, 1) for i in range(size)), "little"
        )

    def set_config(self, offset, size, value):
        self._machine.port_out(self._base + 20 + offset, size, value)

    def isr(self):
        return self._machine.port_in(self._base + 19, 1)

    def queue_size(self, index):
        self._machine.port_out(self._base + 14, 2, index)
        return self._machine.port_in(self._base + 12, 2)

    def set_queue(self, index, size, desc, driver, device):
        assert driver == desc + 16 * size and device % 4096 == 0, "not where legacy devices look"
        self._machine.port_out(self._base + 14, 2, index)
        self._machine.port_out(self._base + 8, 4, desc >> 12)
        return self._base + 16

    def notify(self, place, index):
        self._machine.port_out(place, 2, index)


class SplitQueue:
    """A split virtqueue. add() makes a chain available, used() takes what came back."""

    def __init__(self, machine, size, event_idx):
        self.move(machine)
        self.size = size
        self._event_idx = event_idx
        self.desc = machine.alloc(16 * size + 4096 + 8 * size + 8192, 4096)
        self.driver = self.desc + 16 * size
        self.device = -(-(self.driver + 6 + 2 * size) // 4096) * 4096
        self._free = list(range(size))
        self._chains = {}
        self._avail = 0
        self._seen = 0
        self._told = 0

    def move(self, machine):
        """From now on it lies in that machine's memory, where it is now."""
        self._memory = machine.memory
        self._words = memoryview(machine.memory).cast("H")

    def _word(self, address):
        return struct.unpack_from("<H", self._memory, address)[0]

    def _set_word(self, address, value):
        # In one store: struct.pack_into() writes zeros first, which the device may see
        self._words[address // 2] = value & 0xFFFF

    def write_descriptor(self, index, address, length, flags, following=0):
        struct.pack_into("<QIHH", self._memory, self.desc + 16 * index, address, length, flags, following)

    def add(self, buffers, indirect=0):
        """buffers: (address, length, device writes). indirect: where to put an indirect table, or 0.
        Gives a token."""
        if indirect:
            for i, (address, length, writable) in enumerate(buffers):
                flags = (F_WRITE if writable else 0) | (F_NEXT if i + 1 < len(buffers) else 0)
                struct.pack_into("<QIHH", self._memory, indirect + 16 * i, address, length, flags, i + 1)
            chain = [self._free.pop()]
            self.write_descriptor(chain[0], indirect, 16 * len(buffers), F_INDIRECT)
        else:
            chain = [self._free.pop() for _ in buffers]
            for i, (address, length, writable) in enumerate(buffers):
                more = i + 1 < len(buffers)
                flags = (F_WRITE if writable else 0) | (F_NEXT if more else 0)
                self.write_descriptor(chain[i], address, length, flags, chain[i + 1] if more else 0)
        self._chains[chain[0]] = chain
        self.make_available(chain[0])
        return chain[0]

    def make_available(self, head):
        self._set_word(self.driver + 4 + 2 * (self._avail % self.size), head)
        self._avail += 1
        self._set_word(self.driver + 2, self._avail)

    def kick_wanted(self):
        """Whether the device asked to be told of what was added since the last call."""
        told, self._told = self._told, self._avail
        if self._event_idx:
            event = self._word(self.device + 4 + 8 * self.size)
            return (self._avail - event - 1) & 0xFFFF < (self._avail - told) & 0xFFFF
        return not self._word(self.device) & 1

    def all_taken(self):
        """Whether the device has taken all chains, and now waits for more."""
        assert self._event_idx
        return self._word(self.device + 4 + 8 * self.size) == self._avail & 0xFFFF

    def interrupt_after(self, count):
        """Asks for an interrupt once `count` more chains than those seen have come back."""
        assert self._event_idx
        self._set_word(self.driver + 4 + 2 * self.size, self._seen + count - 1)

    def used(self):
        """[(token, length)] of the chains that came back since the last call."""
        back = []
        while self._seen & 0xFFFF != self._word(self.device + 2):
            at = self.device + 4 + 8 * (self._seen % self.size)
            head, length = struct.unpack_from("<II", self._memory, at)
            self._free += self._chains.pop(head)
            self._seen += 1
            back.append((head, length))
        return back


class PackedQueue:
    """A packed virtqueue, with the interface of SplitQueue."""

    def __init__(self, machine, size, event_idx):
        self.move(machine)
        self.size = size
        self._event_idx = event_idx
        self.desc = machine.alloc(16 * size, 4096)
        self.driver = machine.alloc(4, 16)
        self.device = machine.alloc(4, 16)
        self._free = size
        self._chains = {}
        self._ids = list(range(size))
        self._next, self._wrap = 0, 1
        self._used, self._used_wrap = 0, 1
        self._added = 0

    def move(self, machine):
        self._memory = machine.memory

    def _flags(self, wrap):
        return PACKED_AVAIL if wrap else PACKED_USED

    def write_descriptor(self, index, address, length, number, flags):
        """The flags last: they make it available."""
        struct.pack_into("<QIH", self._memory, self.desc + 16 * index, address, length, number)
        struct.pack_into("<H", self._memory, self.desc + 16 * index + 14, flags)

    def add(self, buffers, indirect=0):
        number = self._ids.pop()
        if indirect:
            for i, (address, length, writable) in enumerate(buffers):
                flags = F_WRITE if writable else 0
                struct.pack_into("<QIHH", self._memory, indirect + 16 * i, address, length, 0, flags)
            buffers = [(indirect, 16 * len(buffers), None)]
        assert self._free >= len(buffers)
        slots = []
        for i, (address, length, writable) in enumerate(buffers):
            flags = self._flags(self._wrap) | (F_NEXT if i + 1 < len(buffers) else 0)
            flags |= F_INDIRECT if writable is None else F_WRITE if writable else 0
            slots.append((self._next, address, length, number, flags))
            self._next += 1
            if self._next == self.size:
                self._next, self._wrap = 0, 1 - self._wrap
        # The first one last, so that the device never sees half a chain
        for slot in reversed(slots):
            self.write_descriptor(*slot)
        self._free -= len(buffers)
        self._added += len(buffers)
        self._chains[number] = len(buffers)
        return number

    def kick_wanted(self):
        added, self._added = self._added, 0
        offset, flags = struct.unpack_from("<HH", self._memory, self.device)
        if flags == 2:
            event = (offset & 0x7FFF) - (self.size if offset >> 15 != self._wrap else 0)
            return (self._next - event - 1) & 0xFFFF < added
        return flags == 0

    def all_taken(self):
        assert self._event_idx
        return struct.unpack_from("<HH", self._memory, self.device) == (self._next | self._wrap << 15, 2)

    def interrupt_after(self, count):
        assert self._event_idx
        position = self._used + count - 1
        wrap = self._used_wrap ^ (position // self.size & 1)
        struct.pack_into("<HH", self._memory, self.driver, position % self.size | wrap << 15, 2)

    def used(self):
        back = []
        while True:
            at = self.desc + 16 * self._used
            want = PACKED_AVAIL | PACKED_USED if self._used_wrap else 0
            if struct.unpack_from("<H", self._memory, at + 14)[0] & (PACKED_AVAIL | PACKED_USED) != want:
                return back
            # Only now: the device writes the flags last
            length, number = struct.unpack_from("<IH", self._memory, at + 8)
            count = self._chains.pop(number)
            self._ids.append(number)
            self._free += count
            self._used += count
            if self._used >= self.size:
                self._used, self._used_wrap = self._used - self.size, 1 - self._used_wrap
            back.append((number, length))


class BlockDriver:
    """The disk in a PCI slot, reset and set up. features: the bits wanted of those offered."""

    def __init__(self, machine, slot=4, features=(), legacy=False, queues=1, queue_size=None):
        self.machine = machine
        self.pci = PciDevice(machine, slot)
        self.registers = (Legacy if legacy else Modern)(self.pci)
        self._legacy = legacy
        self.offered = 0
        self.features = 0
        self.queues = []
        self.start(features, queues, queue_size)

    def start(self, features=(), queues=1, queue_size=None):
        """Resets the device and takes it into use (again)."""
        self.reset()
        self.registers.status = ACKNOWLEDGE
        self.registers.status = ACKNOWLEDGE | DRIVER
        self.offered = self.registers.features()
        wanted = sum(1 << bit for bit in {*features, *([] if self._legacy else [VERSION_1])})
        assert wanted & ~self.offered == 0, f"features not offered: {wanted & ~self.offered:#x}"
        self.features = wanted
        self.registers.set_features(wanted)
        for index in range(queues):
            self._add_queue(index, queue_size)
        self.registers.status |= DRIVER_OK

    def reset(self):
        self.registers.status = 0
        poll(lambda: self.registers.status == 0, "reset")
        self.queues = []

    def has(self, bit):
        return bool(self.features >> bit & 1)

    def _add_queue(self, index, size):
        kind = PackedQueue if self.has(PACKED) else SplitQueue
        size = size or self.registers.queue_size(index)
        queue = kind(self.machine, size, self.has(EVENT_IDX))
        queue.index = index
        queue.place = self.registers.set_queue(index, size, queue.desc, queue.driver, queue.device)
        queue.done = {}
        self.queues.append(queue)

    def kick(self, queue):
        if queue.kick_wanted():
            self.registers.notify(queue.place, queue.index)

    def wait(self, queue, tokens, timeout=WAIT):
        """Lengths of these chains, once all have come back."""

        def all_back():
            queue.done.update(queue.used())
            return all(token in queue.done for token in tokens)

        poll(all_back, "completion", timeout)
        return [queue.done.pop(token) for token in tokens]


class Request:
    """One request in guest memory. data: bytes to write, or how many bytes to read."""

    def __init__(self, driver, kind, sector=0, data=b"", queue=0, segments=1, header=None):
        machine = driver.machine
        self._driver, self._machine = driver, machine
        self.queue = driver.queues[queue]
        self.reads = isinstance(data, int)
        size = data if self.reads else len(data)
        header = struct.pack("<IIQ", kind, 0, sector) if header is None else header
        self.header = machine.alloc(max(len(header), 1))
        machine.memory[self.header : self.header + len(header)] = header
        self.data = machine.alloc(max(size, 1), 512)
        self.size = size
        if not self.reads:
            machine.memory[self.data : self.data + size] = data
        self.status_at = machine.alloc(1)
        machine.memory[self.status_at] = 0xFF
        self.buffers = [(self.header, len(header), False)]
        step = -(-size // segments) if size else 0
        for begin in range(0, size, step or 1):
            self.buffers.append((self.data + begin, min(step, size - begin), self.reads))
        self.buffers.append((self.status_at, 1, True))
        self.token = None
        self.length = None

    def submit(self, indirect=False, kick=True):
        table = self._machine.alloc(16 * len(self.buffers)) if indirect else 0
        self.token = self.queue.add(self.buffers, table)
        if kick:
            self._driver.kick(self.queue)
        return self

    def wait(self, timeout=WAIT):
        """Status of the request."""
        (self.length,) = self._driver.wait(self.queue, [self.token], timeout)
        return self.status

    @property
    def status(self):
        return self._machine.memory[self.status_at]

    @property
    def bytes(self):
        """What is in the data buffer."""
        return self._machine.memory[self.data : self.data + self.size]


def ranges(*triples):
    """Data of a discard or write-zeroes: (sector, sectors, flags) each."""
    return b"".join(struct.pack("<QII", *triple) for triple in triples)
