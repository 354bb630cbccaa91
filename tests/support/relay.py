# SPDX-License-Identifier: GPL-2.0-or-later
"""Sits between a client and the proxy, notes which requests pass, and can hold them up."""

import collections
import selectors
import socket
import struct
import threading

FRAME_HEADER = struct.Struct("<IBBHIIIII")
FRAME_HEADER_SIZE = 32
ENTRY = struct.Struct("<QQIBBHQ")
OPEN_FRAME, REQUEST_FRAME = 3, 5
OPEN_CHANNEL = FRAME_HEADER_SIZE + 24  # offset in an OPEN frame

READ, WRITE, FLUSH, DISCARD, WRITE_ZEROES = range(1, 6)
FUA = 1
UNMAP = 1

Entry = collections.namedtuple("Entry", "operation flags offset length range_flags")


class _Upstream:
    """From one client to the server."""

    def __init__(self, relay, client, server):
        self._relay, self._client, self._server = relay, client, server
        self._channel = None
        self._stream, self._kept = bytearray(), []

    def forward(self):
        if self._client.fileno() < 0:
            return  # closed by the other direction in the same round
        try:
            data = self._client.recv(1 << 20)
        except OSError:
            data = b""
        self._stream.extend(data)
        opened = self._relay.note(self._stream)
        self._channel = self._channel if opened is None else opened
        if self._relay.holds(self._channel):
            self._kept.append(data)
            if not data:
                self._relay.forget(self._client)
        else:
            self._pass_on(data)

    def let_go(self):
        kept, self._kept = self._kept, []
        for data in kept:
            self._pass_on(data)

    def _pass_on(self, data):
        try:
            self._server.sendall(data)
        except OSError:
            data = b""
        if not data:
            self._relay.end(self._client, self._server)


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
        self._held = set()
        self._upstreams = []

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
                    if self._stopped.recv(1) == b"x":
                        return
                    self._held.clear()
                    for upstream in self._upstreams:
                        upstream.let_go()
                else:
                    key.data()

    def hold(self, channel):
        """From now on what clients send on that channel stays here, on connections old and new."""
        self._held.add(channel)

    def let_go(self):
        """Passes on what was held, the oldest connection's first."""
        self._stop.send(b"g")

    def _accept(self):
        client, _ = self._listener.accept()
        server = socket.create_connection(self._target)
        upstream = _Upstream(self, client, server)
        self._upstreams.append(upstream)
        self._selector.register(client, selectors.EVENT_READ, upstream.forward)
        self._selector.register(server, selectors.EVENT_READ, lambda: self._forward_answers(server, client))

    def _forward_answers(self, server, client):
        if server.fileno() < 0:
            return  # closed by the other direction in the same round
        try:
            data = server.recv(1 << 20)
            client.sendall(data)
        except OSError:
            data = b""
        if not data:
            self.end(client, server)

    def forget(self, end):
        """Reads no more from a connection whose peer has closed it."""
        self._selector.unregister(end)

    def end(self, *ends):
        for end in ends:
            if end.fileno() >= 0 and end in self._selector.get_map():
                self._selector.unregister(end)
            end.close()

    def holds(self, channel):
        return channel in self._held

    def note(self, stream):
        """Takes whole frames off the stream. Gives the channel that one of them opens, if any."""
        channel = None
        while len(stream) >= FRAME_HEADER_SIZE:
            _, _, kind, _, count, section, payload, _, _ = FRAME_HEADER.unpack_from(stream)
            size = FRAME_HEADER_SIZE + section + payload
            if len(stream) < size:
                break
            if kind == OPEN_FRAME:
                channel = struct.unpack_from("<I", stream, OPEN_CHANNEL)[0]
            if kind == REQUEST_FRAME:
                self.frames.append(self._parse(stream[FRAME_HEADER_SIZE:size], count, section))
            del stream[:size]
        return channel

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


class Cable:
    """Forwards the bytes of connections to target (HOST:PORT) until it is left as a context manager."""

    def __init__(self, target):
        host, port = target.rsplit(":", 1)
        self._target = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = "127.0.0.1:%d" % self._listener.getsockname()[1]
        self._clients, self._servers, self._threads = [], [], []

    def _start(self, function, *arguments):
        thread = threading.Thread(target=function, args=arguments)
        self._threads.append(thread)
        thread.start()

    def _accept(self):
        while True:
            try:
                client = self._listener.accept()[0]
            except OSError:
                return
            server = socket.create_connection(self._target)
            self._clients.append(client)
            self._servers.append(server)
            self._start(self._forward, client, server)
            self._start(self._forward, server, client)

    @staticmethod
    def _forward(source, sink):
        try:
            while data := source.recv(1 << 20):
                sink.sendall(data)
        except OSError:
            pass

    def cut(self):
        """The clients lose their connections, of which the server does not hear."""
        clients, self._clients = self._clients, []
        for client in clients:
            client.shutdown(socket.SHUT_RDWR)

    def __enter__(self):
        self._start(self._accept)
        return self

    def __exit__(self, *_):
        self._listener.shutdown(socket.SHUT_RDWR)
        for end in self._clients + self._servers:
            end.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        self._listener.close()
