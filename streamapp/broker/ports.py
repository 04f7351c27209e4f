"""Finds free ports on loopback, and ports that are listened on."""

from __future__ import annotations

import itertools
import random
import socket
import sys

from typing import Final

from streamapp.broker.config import HOST
from streamapp.errors import BrokerError


# Below the range for outgoing connections: such a connection could take the port of a stopped
# node, and a client that connects to that port could connect to itself.
_FREE_PORTS: Final = range(20_000, 32_000)
_CONNECT_SECONDS: Final = 2.0


def check_free(port: int) -> None:
    """Check that a broker can listen on *port*.

    Raises:
        BrokerError: the port is used.
    """
    if not is_free(port):
        raise BrokerError(
            f"port {port} of {HOST} is in use by another program: stop that, or name another "
            f"port; if it is a Kafka of yours, use it with --brokers {HOST}:{port}"
        )


def is_free(port: int) -> bool:
    """Return whether a broker can listen on *port*."""
    with socket.socket() as probe:
        if sys.platform != "win32":  # as Java does: ignores old connections in TIME_WAIT
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True


def listens(port: int) -> bool:
    """Return whether a process accepts connections on *port*."""
    try:
        socket.create_connection((HOST, port), timeout=_CONNECT_SECONDS).close()
    except OSError:
        return False
    return True


def free_ports(count: int) -> list[int]:
    """Return *count* different ports on which nothing listens."""
    candidates = random.SystemRandom().sample(_FREE_PORTS, len(_FREE_PORTS))
    return list(itertools.islice(filter(is_free, candidates), count))
