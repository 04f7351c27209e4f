"""One Kafka broker over TCP, as far as producers need one: it remembers what they sent.

What a producer promises (acknowledged by all replicas, nothing twice, the partition that
everyone routes by) is visible to the broker alone: in its requests. This one speaks the oldest
versions that today's clients take, and keeps nothing but the head of each record batch.
"""

import contextlib
import socket
import socketserver
import struct
import threading

from typing import NamedTuple


PRODUCE, FETCH, METADATA, API_VERSIONS, INIT_PRODUCER_ID = 0, 1, 3, 18, 22
SERVED = {PRODUCE: (3, 3), FETCH: (4, 4), METADATA: (1, 1), API_VERSIONS: (0, 0)} | {
    INIT_PRODUCER_ID: (0, 0)
}
PRODUCER_ID, UNSUPPORTED_VERSION = 4711, 35
ALL_REPLICAS = -1


class Produced(NamedTuple):
    """One record batch, as its producer sent it."""

    topic: str
    partition: int
    acks: int
    producer_id: int
    sequence: int
    records: int


class FakeBroker:
    """Listens on a free port of this machine; *partitions* for every topic."""

    def __init__(self, partitions):
        self.partitions = partitions
        self.produced = []
        self.cut = 0  # how many of the next produce requests are taken and not answered
        self._server = socketserver.ThreadingTCPServer(
            ("127.0.0.1", 0), self._handler(), bind_and_activate=True
        )
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self._open = set()
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))

    @property
    def address(self):
        """What goes into `--brokers`."""
        return f"127.0.0.1:{self.port}"

    def __enter__(self):
        """Begin to listen."""
        self._thread.start()
        return self

    def __exit__(self, *_):
        """Hang up on everyone."""
        self._server.shutdown()
        for connection in list(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._server.server_close()
        self._thread.join()

    def _handler(self):
        broker = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self):
                broker._open.add(self.request)
                with contextlib.suppress(OSError, EOFError):
                    while broker._answer(self.request):
                        pass
                broker._open.discard(self.request)

        return Handler

    def _answer(self, connection):
        """Answer one request; return whether the connection stays open."""
        (size,) = struct.unpack(">i", _exactly(connection, 4))
        reader = _Reader(_exactly(connection, size))
        api, version, correlation = reader.take(">hhi")
        reader.text()  # the client's name
        if api == API_VERSIONS:
            answer = self._api_versions(0 if version == 0 else UNSUPPORTED_VERSION)
        else:
            lowest, highest = SERVED[api]
            assert lowest <= version <= highest, (api, version)
            answer = {
                METADATA: self._metadata,
                INIT_PRODUCER_ID: lambda _: struct.pack(">ihqh", 0, 0, PRODUCER_ID, 0),
                PRODUCE: self._produce,
            }[api](reader)
        if answer is None:
            return False
        connection.sendall(struct.pack(">ii", len(answer) + 4, correlation) + answer)
        return True

    @staticmethod
    def _api_versions(error):
        apis = b"".join(struct.pack(">hhh", api, *span) for api, span in SERVED.items())
        return struct.pack(">hi", error, len(SERVED)) + apis

    def _metadata(self, reader):
        (count,) = reader.take(">i")
        names = [reader.text() for _ in range(max(0, count))]
        brokers = struct.pack(">ii", 1, 0) + _text("127.0.0.1") + struct.pack(">ih", self.port, -1)
        return brokers + struct.pack(">ii", 0, len(names)) + b"".join(map(self._topic, names))

    def _topic(self, name):
        head = struct.pack(">h", 0) + _text(name) + struct.pack(">bi", 0, self.partitions)
        return head + b"".join(
            struct.pack(">hiiiiii", 0, number, 0, 1, 0, 1, 0) for number in range(self.partitions)
        )

    def _produce(self, reader):
        reader.text()  # the transaction
        acks, _, topics = reader.take(">hii")
        answer = struct.pack(">i", topics)
        for _ in range(topics):
            name = reader.text()
            (partitions,) = reader.take(">i")
            answer += _text(name) + struct.pack(">i", partitions)
            for _ in range(partitions):
                number, size = reader.take(">ii")
                _, producer_id, _, sequence, records = struct.unpack_from(
                    ">43sqhii", reader.bytes(size)
                )
                self.produced.append(Produced(name, number, acks, producer_id, sequence, records))
                answer += struct.pack(">ihqq", number, 0, 0, -1)
        self.cut -= 1
        return None if self.cut >= 0 or acks == 0 else answer + struct.pack(">i", 0)


class _Reader:
    def __init__(self, raw):
        self._raw, self._at = raw, 0

    def take(self, layout):
        values = struct.unpack_from(layout, self._raw, self._at)
        self._at += struct.calcsize(layout)
        return values

    def bytes(self, size):
        self._at += size
        return self._raw[self._at - size : self._at]

    def text(self):
        (size,) = self.take(">h")
        return self.bytes(size).decode() if size >= 0 else None


def _text(text):
    return struct.pack(">h", len(text)) + text.encode()


def _exactly(connection, size):
    raw = b""
    while len(raw) < size:
        more = connection.recv(size - len(raw))
        if not more:
            raise EOFError
        raw += more
    return raw
