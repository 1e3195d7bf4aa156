"""As much of an MQTT 3.1.1 broker as a test needs: it takes messages of quality 1 and writes them down."""

import socket
import threading
from contextlib import suppress

CONNECT, PUBLISH, PING, DISCONNECT = 1, 3, 12, 14


class Broker:
    """A broker on a port of its own in a thread; `refuse` is the code with which it answers who connects."""

    def __init__(self, refuse: int = 0, port: int = 0):
        self.refuse, self.messages, self.logins, self.connections = refuse, [], [], []
        self.server = socket.create_server(("127.0.0.1", port))
        self.port = self.server.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        while True:
            try:
                connection, _ = self.server.accept()
            except OSError:  # closed
                return
            self.connections.append(connection)
            threading.Thread(target=self._talk, args=(connection,), daemon=True).start()

    def _talk(self, connection):
        with connection, connection.makefile("rb") as stream:
            while header := stream.read(1):
                kind, body = header[0] >> 4, stream.read(self._length(stream))
                if kind == CONNECT:
                    self.logins.append(strings(body[10:]))
                    connection.sendall(bytes([0x20, 2, 0, self.refuse]))
                elif kind == PUBLISH:
                    (topic,), rest = strings(body, 1), body[2 + int.from_bytes(body[:2], "big") :]
                    connection.sendall(bytes([0x40, 2]) + rest[:2])
                    self.messages.append((topic, rest[2:].decode()))
                elif kind == PING:
                    connection.sendall(bytes([0xD0, 0]))
                elif kind == DISCONNECT:
                    return

    @staticmethod
    def _length(stream) -> int:
        length, shift = 0, 0
        while True:
            byte = stream.read(1)[0]
            length, shift = length | (byte & 127) << shift, shift + 7
            if byte < 128:
                return length

    def close(self):
        for each in (self.server, *self.connections):
            with suppress(OSError):  # gone already
                each.shutdown(socket.SHUT_RDWR)
        self.server.close()


def strings(data: bytes, most: int = 9) -> list:
    """Return the texts at the beginning of `data`, each behind its length in two bytes."""
    found = []
    while len(data) >= 2 and len(found) < most:
        length = int.from_bytes(data[:2], "big")
        found.append(data[2 : 2 + length].decode())
        data = data[2 + length :]
    return found
