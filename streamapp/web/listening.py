"""Opens the sockets of the web views, before the worker starts anything else."""

from __future__ import annotations

import errno
import logging
import os
import socket
import time

from typing import Final

from streamapp.errors import ListenError
from streamapp.settings import label_of


logger = logging.getLogger(__name__)

SERVED_SECONDS: Final = 5.0
"""Seconds to wait for a port that another process listens on: a worker may be stopping."""

USED_SECONDS: Final = 65.0
"""Seconds to wait for a port of a closed connection: systems reserve it for 60 s."""

RETRY_SECONDS: Final = 0.2
BACKLOG: Final = 16
"""Connections that may wait to be accepted."""


def listen(
    host: str,
    port: int,
    *,
    served_seconds: float = SERVED_SECONDS,
    used_seconds: float = USED_SECONDS,
) -> list[socket.socket]:
    """Return non-blocking sockets that listen on *port* of every address of *host*.

    Raises:
        ListenError: another process has the port, or the host is not this machine's.
    """
    began, is_logged, is_served = time.monotonic(), False, False
    while True:
        try:
            return _listen_on_all(host, port)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                where = f"{host} port {port}"
                message = f"cannot listen on {where}: {error}; mend {label_of('web_host')}"
                raise ListenError(message) from error
            # Not asked again: each look takes one place of the other process's backlog.
            is_served = is_served or _is_served(host, port)
            if time.monotonic() - began > (served_seconds if is_served else used_seconds):
                message = (
                    f"port {port} of {host} is taken, perhaps by another worker: give each "
                    f"worker of a machine a {label_of('web_port')} of its own"
                )
                raise ListenError(message) from error
            if not (is_served or is_logged):
                logger.warning("waiting for port %d of %s, which a connection has", port, host)
                is_logged = True
        time.sleep(RETRY_SECONDS)


def _is_served(host: str, port: int) -> bool:
    """Return whether a process listens on *port*."""
    try:
        socket.create_connection((host, port), timeout=RETRY_SECONDS).close()
    except OSError:
        return False
    return True


def _listen_on_all(host: str, port: int) -> list[socket.socket]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    listening: list[socket.socket] = []
    try:
        for family, kind, protocol, _, address in dict.fromkeys(found):
            listening.append(socket.socket(family, kind, protocol))
            _prepare(listening[-1])
            listening[-1].bind(address)
            listening[-1].listen(BACKLOG)
    except OSError:
        for one in listening:
            one.close()
        raise
    return listening


def _prepare(one: socket.socket) -> None:
    one.setblocking(False)  # noqa: FBT003 - the socket module's
    if os.name == "posix":  # elsewhere it would share the port with another process
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if one.family == socket.AF_INET6:
        one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
