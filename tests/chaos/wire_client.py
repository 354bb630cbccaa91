# SPDX-License-Identifier: GPL-2.0-or-later
"""A cloudblk client in plain Python: one channel, blocking, every field in reach of a test."""

import itertools
import socket
import struct
import uuid

MAGIC = 0x314B4243
(HELLO, HELLO_REPLY, OPEN, OPEN_REPLY, REQUEST, REPLY, PING, PONG, RELEASE, RELEASE_REPLY, CLAIM,
 CLAIM_REPLY, EVENT, CLOSE, CLOSE_REPLY, ERROR, RESIZE, RESIZE_REPLY) = range(1, 19)
READ, WRITE, FLUSH, DISCARD, WRITE_ZEROES = range(1, 6)
(OK, IO_ERROR, NO_SPACE, INVALID, NOT_SUPPORTED, READ_ONLY, OUT_OF_RANGE, NO_MEMORY, NOT_ACTIVE,
 NO_SUCH_VOLUME, BUSY, STALE, FENCED, VOLUME_CHANGED, BAD_TOKEN, BAD_VERSION, BAD_FEATURE, PROTOCOL,
 SHUTTING_DOWN, TOO_MANY) = range(20)
ACTIVE, OPEN_READ_ONLY, SHARE_RW, TAKEOVER, RESUME = 1, 2, 4, 8, 16
PAYLOAD_CRC, HOLE_REPLY, CLAIMER = 1, 2, 4
RESIZED, GOING_AWAY, REVOKED = 1, 2, 3
END_SESSION = 1
FUA = 1
FORCE = 1
UNMAP = 1


def _crc_table():
    table = []
    for i in range(256):
        crc = i
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
        table.append(crc)
    return table


_TABLE = _crc_table()


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _TABLE[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def frame(kind, section=b"", payload=b"", count=0, version=1):
    head = struct.pack("<IBBHIIIII", MAGIC, version, kind, 0, count, len(section), len(payload), 0,
                       crc32c(section))
    return head + struct.pack("<I", crc32c(head)) + section + payload


class Refused(Exception):
    def __init__(self, status, text, reply):
        super().__init__(f"status {status}: {text}")
        self.status, self.text, self.reply = status, text, reply


class Disconnected(Exception):
    pass


class Client:
    """Connects to ("host", port) or a unix path. `events` collects (kind, value, text)."""

    def __init__(self, address, timeout=20):
        family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
        self.sock = socket.socket(family, socket.SOCK_STREAM)
        self.sock.settimeout(timeout)
        self.sock.connect(address)
        self.events = []
        self.tags = itertools.count(1)
        self.replies = {}
        self.lengths = {}

    def close_socket(self):
        self.sock.close()

    def send(self, kind, section=b"", payload=b"", count=0):
        try:
            self.sock.sendall(frame(kind, section, payload, count))
        except (BrokenPipeError, ConnectionResetError):
            pass  # what the server said before it closed is still to be read

    def _exactly(self, length):
        data = bytearray()
        while len(data) < length:
            try:
                piece = self.sock.recv(length - len(data))
            except (ConnectionResetError, BrokenPipeError) as error:
                raise Disconnected(str(error)) from error
            if not piece:
                raise Disconnected(f"end after {len(data)} of {length} bytes")
            data += piece
        return bytes(data)

    def receive(self):
        """The next frame: (type, section, payload, count)."""
        head = self._exactly(32)
        magic, _, kind, _, count, section_length, payload_length, _, section_crc, head_crc = (
            struct.unpack("<IBBHIIIIII", head))
        assert magic == MAGIC and head_crc == crc32c(head[:28])
        section = self._exactly(section_length)
        assert section_crc == crc32c(section)
        return kind, section, self._exactly(payload_length), count

    def expect(self, wanted):
        """The next frame of that type; events are kept, replies too."""
        while True:
            kind, section, payload, count = self.receive()
            if kind == wanted:
                return section, payload, count
            if kind == EVENT:
                self.events.append((*struct.unpack("<I4xQ", section), payload.decode()))
            elif kind == REPLY:
                self._keep(section, payload, count)
            elif kind == PING:  # somebody else has asked for the volume
                self.send(PONG, section)
            elif kind == ERROR:
                raise Refused(struct.unpack("<I", section[:4])[0], payload.decode(), None)
            else:
                raise AssertionError(f"unexpected frame {kind}")

    def hello(self, version_min=1, version_max=1, features=0, required=0, payload=1 << 20,
              entries=256):
        self.send(HELLO, struct.pack("<HHIQQII", version_min, version_max, payload, features,
                                     required, entries, 0))
        section, text, _ = self.expect(HELLO_REPLY)
        status, _, features, payload, entries = struct.unpack("<IH2xQII", section[:24])
        if status != OK:
            raise Refused(status, text.decode(), None)
        return features, payload, entries

    def open(self, volume="disk", session=None, epoch=1, channel=0, channels=1, incarnation=1,
             flags=ACTIVE, volume_uuid=b"\0" * 16, generation=0, token=b"\0" * 16, name="pytest",
             claimer=b"\0" * 16, wait=True):
        self.session = session or uuid.uuid4().bytes
        self.epoch = epoch
        section = struct.pack("<16sQIIQI4x16sQ16sHH4x16s", self.session, epoch, channel, channels,
                              incarnation, flags, volume_uuid, generation, token,
                              len(volume.encode()), len(name.encode()), claimer)
        self.send(OPEN, section, volume.encode() + name.encode())
        if wait:
            self.opened()
        return self

    def opened(self):
        section, text, _ = self.expect(OPEN_REPLY)
        keys = ("status", "flags", "volume", "generation", "size", "block", "physical", "optimal",
                "granularity", "max_discard", "max_zeroes", "max_ranges", "max_channels",
                "credit_requests", "lease_ms", "credit_bytes", "epoch", "retry_ms")
        self.info = dict(zip(keys, struct.unpack("<II16sQQIIIIQQIIIIQQI", section[:108])))
        if self.info["status"] != OK:
            raise Refused(self.info["status"], text.decode(), self.info)
        return self.info

    def submit(self, operation, offset=0, length=0, data=b"", flags=0, ranges=()):
        """Sends one request and returns its tag."""
        tag = next(self.tags)
        if operation == WRITE:
            length = len(data)
        if ranges:
            data = b"".join(struct.pack("<QQI4x", *(r + (0,))[:3]) for r in ranges)
            length = len(data)
        self.lengths[tag] = length if operation == READ else 0
        section = struct.pack("<QQIBBH8x", tag, offset, length, operation, flags, len(ranges))
        self.send(REQUEST, section, data, count=1)
        return tag

    def _keep(self, section, payload, count):
        at = 0
        for i in range(count):
            tag, status, length, flags = struct.unpack_from("<QIII4x", section, i * 24)
            assert length == (self.lengths.pop(tag) if status == OK and not flags else 0) or flags
            self.replies[tag] = (status, payload[at:at + length], flags)
            at += length
        assert at == len(payload)

    def wait(self, tag):
        """(status, data) of that request."""
        while tag not in self.replies:
            section, payload, count = self.expect(REPLY)
            self._keep(section, payload, count)
        status, data, _ = self.replies.pop(tag)
        return status, data

    def read(self, offset, length):
        return self.wait(self.submit(READ, offset, length))

    def write(self, offset, data, flags=0):
        return self.wait(self.submit(WRITE, offset, data=data, flags=flags))[0]

    def flush(self):
        return self.wait(self.submit(FLUSH))[0]

    def status_call(self, kind, reply_kind, section):
        self.send(kind, section)
        section, text, _ = self.expect(reply_kind)
        status, epoch = struct.unpack("<I4xQ", section)
        return status, epoch, text.decode()

    def release(self, token, epoch):
        return self.status_call(RELEASE, RELEASE_REPLY, struct.pack("<16sQ8x", token, epoch))

    def claim(self, token, epoch):
        return self.status_call(CLAIM, CLAIM_REPLY, struct.pack("<16sQ8x", token, epoch))

    def resize(self, size, flags=FORCE):
        return self.status_call(RESIZE, RESIZE_REPLY, struct.pack("<QI4x", size, flags))

    def close(self, flags=END_SESSION):
        return self.status_call(CLOSE, CLOSE_REPLY, struct.pack("<I4x", flags))


def opened(proxy, timeout=20, **more):
    """A client that has opened the proxy's volume, as Client.open() is told to."""
    one = Client(proxy.address, timeout)
    one.hello()
    return one.open(**more)
