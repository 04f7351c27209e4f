"""Takes Kafka's responses off the socket without handing each byte on five times.

aiokafka reads through `asyncio.StreamReader`: each byte is received into a chunk, copied into
a growing buffer, cut out of it, copied into a `BytesIO`'s field and only then seen by the
reader of batches. Here a response is received straight into a buffer of the size that it
announces, and a large field of it is a view of that buffer.

What may be announced has a bound, and nothing else is decided here: errors, the end of a
connection and the order of responses are aiokafka's business, as before. ADR 7 says why.
"""

from __future__ import annotations

import asyncio
import collections
import logging
import struct

from typing import TYPE_CHECKING, Any, Final, cast

from aiokafka import conn

from streamapp.units import MIB


if TYPE_CHECKING:
    import weakref

    from collections.abc import Callable

logger = logging.getLogger(__name__)

MAX_RESPONSE_BYTES: Final = 64 * MIB
"""What a response may announce: aiokafka asks for at most 50 MiB, and gets one batch more."""

VIEW_BYTES: Final = MIB
"""From this size on a field is a view. Only record batches become so large: what else has
fields of bytes is of groups, and Kafka itself keeps that in a record of at most 1 MB."""

WAITING: Final = 2
"""Whole responses that may wait before no more is read."""

_LENGTH: Final = struct.Struct(">i")

_listeners: Final[list[Callable[[], None]]] = []
"""Called when a response of any broker is there."""


class OversizedResponseError(ConnectionError):
    """A response announces more than we take, or less than nothing."""


class ResponseProtocol(conn.AIOKafkaProtocol, asyncio.BufferedProtocol):  # type: ignore[misc]
    """Receives one response after the other, each into a buffer of its own."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - aiokafka's arguments
        super().__init__(*args, **kwargs)
        self._head = bytearray(_LENGTH.size)
        self._body: bytearray | None = None
        self._received = 0
        self._whole: collections.deque[bytearray] = collections.deque()
        self._end: BaseException | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._source: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take *transport* to hold it back when nobody takes the responses."""
        self._source = cast("asyncio.Transport", transport)
        super().connection_made(transport)

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - asyncio's argument
        """Return where the next bytes go: never beyond the response that is being received."""
        target = self._head if self._body is None else self._body
        return memoryview(target)[self._received :]

    def buffer_updated(self, nbytes: int) -> None:
        """Note that *nbytes* came."""
        self._received += nbytes
        if self._body is None and self._received == _LENGTH.size:
            self._begin(*_LENGTH.unpack(self._head))
        if self._body is not None and self._received == len(self._body):
            for listener in _listeners:
                listener()
            self._whole.append(self._body)
            self._body, self._received = None, 0
            if len(self._whole) >= WAITING and self._source is not None:
                self._source.pause_reading()
            self._wake()

    def eof_received(self) -> bool | None:
        """Note that nothing more comes."""
        self._ended(asyncio.IncompleteReadError(b"", None))
        return super().eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """Note that the connection is over, because of *exc* if it broke."""
        self._ended(exc or asyncio.IncompleteReadError(b"", None))
        self._source = None
        super().connection_lost(exc)

    async def next(self) -> bytes | bytearray:
        """Return the next response; one without large fields as bytes, as aiokafka has it.

        Raises:
            OSError: the connection broke, or a response announced more than we take.
            EOFError: the other side ended the connection.
        """
        while not self._whole:
            if self._end is not None:
                raise self._end
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        if self._source is not None and self._end is None:
            self._source.resume_reading()
        response = self._whole.popleft()
        return response if len(response) >= VIEW_BYTES else bytes(response)

    def _begin(self, length: int) -> None:
        if 0 <= length <= MAX_RESPONSE_BYTES:
            self._body, self._received = bytearray(length), 0
            return
        message = f"a response that announces {length} bytes; at most {MAX_RESPONSE_BYTES} are read"
        logger.error("%s", message)
        self._received = 0
        self._ended(OversizedResponseError(message))
        if self._source is not None:
            self._source.pause_reading()

    def _ended(self, reason: BaseException) -> None:
        self._end = self._end or reason
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class Connection(conn.AIOKafkaConnection):  # type: ignore[misc]
    """aiokafka's connection, which takes its responses from `ResponseProtocol`."""

    @staticmethod
    async def _read(self_ref: weakref.ref[Connection]) -> None:
        """Hand on one response after the other, holding no connection that nobody has."""
        self = self_ref()
        if self is None:
            return
        responses = self._protocol
        del self
        while True:
            response = await responses.next()
            self = self_ref()
            if self is None:
                return
            self._handle_frame(response)
            del self, response


class ResponseReader:
    """Reads the fields of a response as `io.BytesIO` does; a large one is a view."""

    def __init__(self, data: bytes | bytearray) -> None:
        self._data = memoryview(data)
        self._position = 0
        # aiokafka writes responses to its debug log, and cannot write a view.
        self._view_bytes = len(data) + 1 if conn.log.isEnabledFor(logging.DEBUG) else VIEW_BYTES

    def read(self, size: int = -1) -> bytes | memoryview:
        """Return the next *size* bytes or what is left; all that is left when it is negative."""
        end = len(self._data) if size < 0 else self._position + size
        field = self._data[self._position : end]
        self._position += len(field)
        return field if len(field) >= self._view_bytes else field.tobytes()


class _Io:
    """What aiokafka's module of connections uses of `io`."""

    BytesIO = ResponseReader


def receive_straight(*, on_response: Callable[[], None]) -> None:
    """Have this process receive Kafka's responses as above; for workers alone.

    *on_response* is called for each one, on the event loop.

    aiokafka has no hook for it: its connection takes these by name from its own module.
    """
    _listeners[:] = [on_response]
    for name, ours in [
        ("AIOKafkaConnection", Connection),
        ("AIOKafkaProtocol", ResponseProtocol),
        ("io", _Io),
    ]:
        setattr(conn, name, ours)
