"""Asks a broker for records without having one partition wait for news of another.

aiokafka has one request under way to each broker. It asks for the partitions of which nothing
is left here, and the broker keeps it for as long as Faust says, 1.5 s, while none of them has
anything new. A partition that is just being read is not in it, and when its records are used
up it has to wait for the answer, however much of it lies in Kafka. So a request that leaves a
partition out is answered soon.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from aiokafka.consumer import consumer, fetcher


if TYPE_CHECKING:
    from aiokafka.consumer.subscription_state import Assignment

PARTIAL_WAIT_MS: Final = 50
"""How long a broker may keep a request for some of its partitions. A partition that is held,
for example while a disk is full, is left out for long: this many requests come meanwhile."""


class Fetcher(fetcher.Fetcher):  # type: ignore[misc]
    """aiokafka's fetcher, with less patience where it does not ask for all."""

    def _get_actions_per_node(self, assignment: Assignment) -> tuple[Any, ...]:
        """Return what is to be done next, in which the requests to the brokers come first."""
        actions: tuple[Any, ...] = super()._get_actions_per_node(assignment)
        for node, request in actions[0]:
            asked = sum(len(partitions) for _, partitions in request.topics)
            if asked < sum(self._select_read_replica(tp) == node for tp in assignment.tps):
                request._max_wait_ms = min(request._max_wait_ms, PARTIAL_WAIT_MS)  # noqa: SLF001
        return actions


def ask_soon_again() -> None:
    """Have this process read from Kafka as above; for workers alone.

    aiokafka has no hook for it: its consumer takes the class by this name from its own module.
    """
    consumer.Fetcher = Fetcher
