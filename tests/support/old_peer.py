# SPDX-License-Identifier: GPL-2.0-or-later
"""The protocol as the release of commit 57be3b1 spoke it, frozen: a server and a client that know of no
later feature, and end the connection where that release did.

Nothing here follows later changes of the protocol, so nothing is shared with tests.chaos.wire_client.
"""

import contextlib
import socket
import struct
import threading

MAGIC = 0x314B4243
KNOWN_FEATURES = 0b11  # PAYLOAD_CRC, HOLE_REPLY
HELLO, HELLO_REPLY, OPEN, OPEN_REPLY, REQUEST, REPLY, PING, PONG, RELEASE, RELEASE_REPLY = range(1, 11)
CLOSE, CLOSE_REPLY, ERROR = 14, 15, 16
READ, WRITE, FLUSH = 1, 2, 3
OK, BUSY, STALE, BAD_TOKEN, PROTOCOL = 0, 10, 11, 14, 17
ACTIVE, RESUME = 1, 16
NIL = bytes(16)

HELLO_LAYOUT = struct.Struct("<HHIQQI4s")
HELLO_REPLY_LAYOUT = struct.Struct("<IH2sQII16s8s")
OPEN_LAYOUT = struct.Struct("<16sQIIQI4s16sQ16sHH20s")
OPEN_REPLY_LAYOUT = struct.Struct("<II16sQQIIIIQQIIIIQQI36s")
REQUEST_LAYOUT = struct.Struct("<QQIBBH8s")
REPLY_LAYOUT = struct.Struct("<QIII4s")


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


class Violation(Exception):
    """The peer sent what that release did not take."""


class Ended(Exception):
    """The peer has ended the connection."""


class Frames:
    """Frames over a socket, checked as that release did."""

    def __init__(self, sock):
        self.sock = sock

    def send(self, kind, section=b"", payload=b"", count=0):
        head = struct.pack("<IBBHIIIII", MAGIC, 1, kind, 0, count, len(section), len(payload), 0, crc32c(section))
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.sock.sendall(head + struct.pack("<I", crc32c(head)) + section + payload)

    def _exactly(self, length):
        data = bytearray()
        while len(data) < length:
            try:
                piece = self.sock.recv(length - len(data))
            except ConnectionResetError as error:
                raise Ended from error
            if not piece:
                raise Ended
            data += piece
        return bytes(data)

    def receive(self):
        """(type, section, payload, count)"""
        head = self._exactly(32)
        magic, version, kind, flags, count, length, payload, reserved, section_crc, crc = struct.unpack("<IBBHIIIIII", head)
        if (magic, version, flags, reserved) != (MAGIC, 1, 0, 0) or crc != crc32c(head[:28]) or not 1 <= kind <= 18:
            raise Violation(f"frame header {head.hex()}")
        section = self._exactly(length)
        if crc32c(section) != section_crc:
            raise Violation("CRC of a header section")
        return kind, section, self._exactly(payload), count


def check_reserved(field, where):
    if any(field):
        raise Violation(f"{where}: a reserved field is not zero: {field.hex()}")


class OldServer:
    """Serves one volume, `size` bytes of memory, under any name. `epoch`, `token` and `spent` are those
    of its session, as of SPEC.md 11; `opens` collects (active, epoch, token) of every OPEN, `violations`
    what clients did wrong."""

    def __init__(self, size=64 << 20, uuid=b"\x07" * 16):
        self._disk, self._uuid = bytearray(size), uuid
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._threads, self._sockets = [], []
        self.session, self.epoch, self.token, self.spent = None, 0, None, None
        self._incarnations = {}
        self.opens, self.violations = [], []
        self.uri = f"cloudblk://127.0.0.1:{self._listener.getsockname()[1]}/d0"

    def __enter__(self):
        self._accepter = threading.Thread(target=self._accept)
        self._accepter.start()
        return self

    def __exit__(self, *_):
        # What accept() sleeps on is not woken by a close
        self._listener.shutdown(socket.SHUT_RDWR)
        self._accepter.join()
        self._listener.close()
        for sock in self._sockets:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()

    def _accept(self):
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self._sockets.append(sock)
            self._threads.append(threading.Thread(target=self._serve, args=(Frames(sock),)))
            self._threads[-1].start()

    def _serve(self, frames):
        with frames.sock:
            try:
                self._handshake(frames)
                while True:
                    self._answer(frames, *frames.receive())
            except Ended:
                pass
            except Violation as violation:
                self.violations.append(str(violation))
                frames.send(ERROR, struct.pack("<I4xQ", PROTOCOL, 0), str(violation).encode())

    def _handshake(self, frames):
        kind, section, _, _ = frames.receive()
        if kind != HELLO:
            raise Violation(f"frame {kind} instead of HELLO")
        _, _, payload, features, required, entries, reserved = HELLO_LAYOUT.unpack(section)
        check_reserved(reserved, "HELLO")
        assert not required
        limits = min(payload, 1 << 20), min(entries, 512)
        frames.send(HELLO_REPLY, HELLO_REPLY_LAYOUT.pack(OK, 1, bytes(2), features & KNOWN_FEATURES, *limits, b"s" * 16, bytes(8)))
        kind, section, _, _ = frames.receive()
        if kind != OPEN:
            raise Violation(f"frame {kind} instead of OPEN")
        with self._lock:
            status = self._open(section)
        flags = 8  # WRITE_CACHE
        frames.send(OPEN_REPLY, OPEN_REPLY_LAYOUT.pack(
            status, flags, self._uuid, 1, len(self._disk), 512, 4096, 0, 0, 1 << 30, 1 << 30, 64, 64, 128, 10000,
            16 << 20, self.epoch, 0, bytes(36)))
        if status != OK:
            raise Ended

    def _open(self, section):
        session, epoch, channel, _, incarnation, flags, pad, _, _, token, _, _, reserved = OPEN_LAYOUT.unpack(section)
        check_reserved(pad + reserved, "OPEN")
        self.opens.append((bool(flags & ACTIVE), epoch, token))
        if not flags & ACTIVE:
            return OK
        last = self._incarnations.get((session, epoch, channel), -1)
        if session == self.session and (epoch < self.epoch or epoch == self.epoch and incarnation <= last):
            return STALE
        repeated = (session, epoch, token) == (self.session, self.epoch, self.spent)
        if token != NIL and not repeated:
            if token != self.token or epoch <= self.epoch:
                return BAD_TOKEN
            self.spent = token
        elif self.token:
            return BUSY
        self.token, self.session, self.epoch = None, session, epoch
        self._incarnations[session, epoch, channel] = incarnation
        return OK

    def _answer(self, frames, kind, section, payload, count):
        if kind == REQUEST:
            self._requests(frames, section, payload, count)
        elif kind == PING:
            frames.send(PONG, section)
        elif kind == RELEASE:
            self.token, epoch = struct.unpack("<16sQ8x", section)
            frames.send(RELEASE_REPLY, struct.pack("<I4xQ", OK, epoch))
        elif kind == CLOSE:
            frames.send(CLOSE_REPLY, struct.pack("<I4xQ", OK, self.epoch))
            raise Ended
        elif kind != PONG:
            raise Violation(f"unexpected frame {kind}")

    def _requests(self, frames, section, payload, count):
        replies, data = b"", b""
        for i in range(count):
            tag, offset, length, operation, _, _, reserved = REQUEST_LAYOUT.unpack_from(section, 32 * i)
            check_reserved(reserved, "REQUEST")
            if operation == WRITE:
                self._disk[offset : offset + length] = payload[:length]
                payload = payload[length:]
            elif operation == READ:
                data += self._disk[offset : offset + length]
            elif operation != FLUSH:
                raise Violation(f"operation {operation} was not offered")
            replies += REPLY_LAYOUT.pack(tag, OK, length if operation == READ else 0, 0, bytes(4))
        frames.send(REPLY, replies, data, count)


class OldClient(Frames):
    """One connection of that release's client to ("host", port)."""

    def __init__(self, address, timeout=20):
        super().__init__(socket.create_connection(address, timeout))

    def open(self, volume, session, epoch, incarnation, flags=ACTIVE, volume_uuid=NIL, token=NIL):
        """HELLO and OPEN in one go, as that client sent them. Status, text and volume's UUID."""
        self.send(HELLO, HELLO_LAYOUT.pack(1, 1, 256 << 10, 2, 0, 512, bytes(4)))
        names = volume.encode() + b"old client"
        section = OPEN_LAYOUT.pack(session, epoch, 0, 1, incarnation, flags, bytes(4), volume_uuid, 0, token,
                                   len(volume.encode()), len(b"old client"), bytes(20))
        self.send(OPEN, section, names)
        kind, section, text, _ = self.receive()
        assert kind == HELLO_REPLY, kind
        status, _, pad, features, _, _, _, reserved = HELLO_REPLY_LAYOUT.unpack(section)
        check_reserved(pad + reserved, "HELLO_REPLY")
        if status != OK or features & ~KNOWN_FEATURES:
            raise Violation(f"HELLO_REPLY {status}, features {features:#x}: {text.decode()}")
        kind, section, text, _ = self.receive()
        assert kind == OPEN_REPLY, kind
        status, *_, reserved = reply = OPEN_REPLY_LAYOUT.unpack(section)
        check_reserved(reserved, "OPEN_REPLY")
        return status, text.decode(), reply[2]

    def release(self, token, epoch):
        self.send(RELEASE, struct.pack("<16sQ8x", token, epoch))
        kind, section, _, _ = self.receive()
        assert kind == RELEASE_REPLY, kind
        return struct.unpack("<I4xQ", section)[0]

    def flush(self):
        self.send(REQUEST, REQUEST_LAYOUT.pack(1, 0, 0, FLUSH, 0, 0, bytes(8)), count=1)
        kind, section, _, _ = self.receive()
        assert kind == REPLY, kind
        return REPLY_LAYOUT.unpack(section)[1]

    def close_socket(self):
        self.sock.close()
