"""Receives Kafka's responses without copying each byte five times.

For aiokafka 0.14.0, which reads through `asyncio.StreamReader`: each byte is received into a
chunk, copied into a growing buffer, copied out of it, and copied into a field of a `BytesIO`,
before the batches are decoded. Here a response is received into a buffer of its announced size,
and a large field is a view of that buffer.

The announced size is limited. Errors, the end of a connection and the order of responses are
handled by aiokafka as before. ADR 7 has the reasons. Delete when aiokafka reads without
`StreamReader` (`test_fault_of_aiokafka` fails then) and limits the size of a response.
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
"""Maximum size of a response: aiokafka fetches at most 50 MiB, and gets one batch more."""

VIEW_BYTES: Final = MIB
"""Fields of this size or more are views. Only record batches are so large: the other fields of
bytes are of groups, which Kafka stores in records of at most 1 MB."""

WAITING: Final = 2
"""Complete responses that may wait before reading is paused."""

_LENGTH: Final = struct.Struct(">i")

_listeners: Final[list[Callable[[], None]]] = []
"""Called for each complete response of any broker."""


class OversizedResponseError(ConnectionError):
    """A response announces more than `MAX_RESPONSE_BYTES`, or a negative size."""


class ResponseProtocol(conn.AIOKafkaProtocol, asyncio.BufferedProtocol):  # type: ignore[misc]
    """Receives one response after another, each into its own buffer."""

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
        """Note *transport*, to pause it while responses wait."""
        self._source = cast("asyncio.Transport", transport)
        super().connection_made(transport)

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - asyncio's argument
        """Return the free part of the buffer of the current response."""
        target = self._head if self._body is None else self._body
        return memoryview(target)[self._received :]

    def buffer_updated(self, nbytes: int) -> None:
        """Note that *nbytes* were received."""
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
        """Note that the other side sends no more."""
        self._ended(asyncio.IncompleteReadError(b"", None))
        return super().eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """Note that the connection ended, with *exc* if it broke."""
        self._ended(exc or asyncio.IncompleteReadError(b"", None))
        self._source = None
        super().connection_lost(exc)

    async def next(self) -> bytes | bytearray:
        """Return the next response; as bytes, as aiokafka does, if it has no large fields.

        Raises:
            OSError: the connection broke, or a response announced too many bytes.
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
    """aiokafka's connection, which gets its responses from `ResponseProtocol`."""

    @staticmethod
    async def _read(self_ref: weakref.ref[Connection]) -> None:
        """Handle one response after another, without a reference to the connection in between."""
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
    """Reads the fields of a response as `io.BytesIO` does; a large field is a view."""

    def __init__(self, data: bytes | bytearray) -> None:
        self._data = memoryview(data)
        self._position = 0
        # aiokafka writes responses to its debug log, which does not support views.
        self._view_bytes = len(data) + 1 if conn.log.isEnabledFor(logging.DEBUG) else VIEW_BYTES

    def read(self, size: int = -1) -> bytes | memoryview:
        """Return the next *size* bytes, or fewer at the end; all if *size* is negative."""
        end = len(self._data) if size < 0 else self._position + size
        field = self._data[self._position : end]
        self._position += len(field)
        return field if len(field) >= self._view_bytes else field.tobytes()


class _Io:
    """The part of `io` that aiokafka's connections use."""

    BytesIO = ResponseReader


def receive_straight(*, on_response: Callable[[], None]) -> None:
    """Install these classes in this process; for workers only.

    *on_response* is called for each response, in the event loop. aiokafka has no hook: its
    connection looks the classes up by name in its own module.
    """
    _listeners[:] = [on_response]
    for name, ours in [
        ("AIOKafkaConnection", Connection),
        ("AIOKafkaProtocol", ResponseProtocol),
        ("io", _Io),
    ]:
        setattr(conn, name, ours)
