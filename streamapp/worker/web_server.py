"""Serves the web views with limits, so that web clients do not slow down blocks and Kafka.

aiohttp accepts as many connections as there are descriptors, and waits for a request without a
limit. Here connections are counted, in total and by address, and further ones are closed. A
connection is also closed if its request does not come, or its response is not read, in time.
"""

from __future__ import annotations

import asyncio
import collections
import functools
import logging

from typing import TYPE_CHECKING, Any, Final, cast

from aiohttp import web
from faust.web.drivers import aiohttp as driver

from streamapp.web import listening
from streamapp.web.client import in_url
from streamapp.worker import descriptors


if TYPE_CHECKING:
    import socket

    from collections.abc import Callable, Mapping

    from streamapp.worker.types import WorkerApp

logger = logging.getLogger(__name__)

LOOK_SECONDS: Final = 5.0
"""Seconds between two looks. A connection without a request at two looks is closed."""

ANSWER_LOOKS: Final = 6
"""A connection whose response is not read in so many looks is closed."""

REQUEST_LIMITS: Final[Mapping[str, Any]] = {
    "max_line_size": 16_384,  # `after` may have a name of 4,096 bytes, each written as %XX
    "max_field_size": 4096,
    "max_headers": 64,
    "lingering_time": 0.0,
    "access_log": None,
}


class Connections:
    """Counts open connections, in total and by address."""

    def __init__(self, most: int) -> None:
        """*most*: maximum connections; one address may have half of them."""
        self.most = most
        self._by_address: collections.Counter[str] = collections.Counter()

    def take(self, address: str) -> bool:
        """Count a connection from *address*; return whether it is allowed."""
        if self._by_address.total() >= self.most or self._by_address[address] >= self.most // 2:
            return False
        self._by_address[address] += 1
        return True

    def release(self, address: str) -> None:
        """Count a connection from *address* as closed."""
        self._by_address[address] -= 1
        if not self._by_address[address]:
            del self._by_address[address]


class LimitedHandler(web.RequestHandler):
    """One connection; it is closed when there are too many, or when nothing happens on it."""

    def __init__(self, connections: Connections, manager: web.Server, **limits: Any) -> None:  # noqa: ANN401 - aiohttp's
        super().__init__(manager, **limits)
        self._connections = connections
        self._address: str | None = None
        self._look_handle: asyncio.TimerHandle | None = None
        self._seen: tuple[object, object] | None = None
        self._same_looks = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Serve the connection, unless there are too many."""
        peer = transport.get_extra_info("peername")
        address = str(peer[0]) if peer else ""
        if not self._connections.take(address):
            cast("asyncio.Transport", transport).abort()
            return
        self._address = address
        super().connection_made(transport)
        self._look_handle = self._loop.call_later(LOOK_SECONDS, self._look)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Forget the connection."""
        if self._address is None:
            return
        self._connections.release(self._address)
        self._address = None
        if self._look_handle is not None:
            self._look_handle.cancel()
        super().connection_lost(exc)

    def log_exception(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - aiohttp's
        """Log malformed requests at DEBUG only. `guard` logs the exceptions of views."""
        logger.debug(*args, **kwargs)

    def _look(self) -> None:
        waiting, answering = self._waiter, self._current_request
        is_same = (waiting, answering) == self._seen
        self._seen = (waiting, answering)
        self._same_looks = self._same_looks + 1 if is_same else 0
        if self._same_looks >= (1 if waiting is not None else ANSWER_LOOKS):
            if self.transport is not None:
                self.transport.abort()
            return
        self._look_handle = self._loop.call_later(LOOK_SECONDS, self._look)


class LimitedSite(web.BaseSite):
    """Serves one listening socket with `LimitedHandler`."""

    def __init__(
        self, runner: web.AppRunner, sock: socket.socket, factory: Callable[[], LimitedHandler]
    ) -> None:
        super().__init__(runner)
        self._sock = sock
        self._factory = factory

    @property
    def name(self) -> str:
        """The URL of the socket."""
        host, port = self._sock.getsockname()[:2]
        return f"http://{in_url(host)}:{port}"

    async def start(self) -> None:
        """Begin to serve."""
        await super().start()
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            self._factory, sock=self._sock, backlog=listening.BACKLOG
        )


class LimitedWeb(driver.Web):
    """Faust's web server with these limits, on the sockets that the worker has opened."""

    def route(self, pattern: str, handler: Any, cors_options: Any = None) -> None:  # noqa: ANN401 - Faust's
        """Add a view, with and without the slash at the end of its path."""
        super().route(pattern, handler, cors_options)
        if pattern != "/" and pattern.endswith("/"):
            super().route(pattern.rstrip("/"), handler, cors_options)

    async def start_server(self) -> None:
        """Start to serve the views."""
        await self._runner.setup()
        server = cast("web.Server", self._runner.server)
        connections = Connections(descriptors.for_views(descriptors.raise_limit()))
        factory = functools.partial(
            LimitedHandler,
            connections,
            server,
            loop=asyncio.get_running_loop(),
            **REQUEST_LIMITS,
        )
        app = cast("WorkerApp", self.app)
        taken = app.web_sockets or listening.listen(app.conf.web_bind, app.conf.web_port)
        for sock in taken:
            await LimitedSite(self._runner, sock, factory).start()
