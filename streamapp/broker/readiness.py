"""Waits until a broker answers, or has ended."""

from __future__ import annotations

import time

from typing import TYPE_CHECKING, Final

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from streamapp.broker import ports
from streamapp.broker.config import HOST
from streamapp.errors import BrokerError


if TYPE_CHECKING:
    from collections.abc import Sequence

    from streamapp.broker.node import Node


POLL_SECONDS: Final = 0.1
ASK_SECONDS: Final = 2.0


def wait_until_ready(nodes: Sequence[Node], *, within: float) -> None:
    """Wait until each of *nodes* answers and knows all of them.

    Raises:
        BrokerError: a node has ended, or does not answer in time.
    """
    deadline = time.monotonic() + within
    numbers = {node.number for node in nodes}
    for node in nodes:
        while not numbers <= _brokers_known_to(node):
            for other in nodes:
                if other.process() is None:
                    raise _not_ready(other, "ended while it was starting")
            if time.monotonic() > deadline:
                raise _not_ready(node, f"did not answer within {within:.0f} s")
            time.sleep(POLL_SECONDS)


def _not_ready(node: Node, problem: str) -> BrokerError:
    return BrokerError(f"node {node.number} {problem}: {node.last_words()}; see {node.log}")


def _brokers_known_to(node: Node) -> set[int]:
    """Return the numbers of the brokers that *node* knows; none if it does not answer."""
    if node.ports is None or not ports.listens(node.ports.broker):
        return set()
    admin = AdminClient({"bootstrap.servers": f"{HOST}:{node.ports.broker}", "log_level": 0})
    try:
        return set(admin.list_topics(timeout=ASK_SECONDS).brokers)
    except KafkaException:
        return set()
