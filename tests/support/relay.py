# SPDX-License-Identifier: GPL-2.0-or-later
"""Sits between a client and the proxy and notes which requests pass."""

import collections
import selectors
import socket
import struct
import threading

FRAME_HEADER = struct.Struct("<IBBHIIIII")
FRAME_HEADER_SIZE = 32
ENTRY = struct.Struct("<QQIBBHQ")
REQUEST_FRAME = 5

READ, WRITE, FLUSH, DISCARD, WRITE_ZEROES = range(1, 6)
FUA = 1
UNMAP = 1

Entry = collections.namedtuple("Entry", "operation flags offset length range_flags")


class Relay:
    """Forwards connections to target (HOST:PORT) until it is left as a context manager. frames: the
    request frames that passed, each a list of entries."""

    def __init__(self, target):
        host, port = target.rsplit(":", 1)
        self._target = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._stop, self._stopped = socket.socketpair()
        self._selector = selectors.DefaultSelector()
        self._thread = threading.Thread(target=self._run)
        self.address = "127.0.0.1:%d" % self._listener.getsockname()[1]
        self.frames = []

    def uri(self, volume):
        return f"cloudblk://{self.address}/{volume}"

    def entries(self):
        """All requests that passed since the last call."""
        frames, self.frames = self.frames, []
        return [entry for frame in frames for entry in frame]

    def _run(self):
        self._selector.register(self._listener, selectors.EVENT_READ, self._accept)
        self._selector.register(self._stopped, selectors.EVENT_READ, None)
        while True:
            for key, _ in self._selector.select():
                if key.data is None:
                    return
                key.data()

    def _accept(self):
        client, _ = self._listener.accept()
        server = socket.create_connection(self._target)
        stream = bytearray()
        for source, sink, note in ((client, server, stream), (server, client, None)):
            self._selector.register(source, selectors.EVENT_READ, self._forwarder(source, sink, note))

    def _forwarder(self, source, sink, stream):
        def forward():
            if source.fileno() < 0:
                return  # closed by the other direction in the same round
            try:
                data = source.recv(1 << 20)
                if data and stream is not None:
                    stream.extend(data)
                    self._note(stream)
                sink.sendall(data)
            except OSError:
                data = b""
            if not data:
                for end in (source, sink):
                    self._selector.unregister(end)
                    end.close()

        return forward

    def _note(self, stream):
        while len(stream) >= FRAME_HEADER_SIZE:
            _, _, kind, _, count, section, payload, _, _ = FRAME_HEADER.unpack_from(stream)
            size = FRAME_HEADER_SIZE + section + payload
            if len(stream) < size:
                return
            if kind == REQUEST_FRAME:
                self.frames.append(self._parse(stream[FRAME_HEADER_SIZE:size], count, section))
            del stream[:size]

    @staticmethod
    def _parse(body, count, section):
        found, at = [], section
        for i in range(count):
            _, offset, length, operation, flags, ranges, _ = ENTRY.unpack_from(body, i * ENTRY.size)
            range_flags = [struct.unpack_from("<I", body, at + 24 * r + 16)[0] for r in range(ranges)]
            if operation in (WRITE, DISCARD, WRITE_ZEROES):
                at += length
            found.append(Entry(operation, flags, offset, length, range_flags))
        return found

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.send(b"x")
        self._thread.join()
        for end in [key.fileobj for key in self._selector.get_map().values()]:
            end.close()
        self._selector.close()
        self._stop.close()
        self._listener.close()
