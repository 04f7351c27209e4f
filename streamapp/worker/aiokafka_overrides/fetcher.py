"""Fetches without letting one partition wait for new records of another one.

For aiokafka 0.14.0, which has one fetch request in flight to each broker. The request names the
partitions of which no records are buffered, and the broker holds it for as long as Faust asks
(1.5 s) while none of them has new records. A partition whose buffered records are used up
meanwhile waits for that response, even if Kafka has more of it. Here a request that leaves a
partition out is answered soon. Delete when aiokafka does that (`test_fault_of_aiokafka` fails
then).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from aiokafka.consumer import consumer, fetcher


if TYPE_CHECKING:
    from aiokafka.consumer.subscription_state import Assignment

PARTIAL_WAIT_MS: Final = 50
"""Milliseconds for which a broker may hold a request for some of its partitions. While a partition
is paused (for example because a disk is full) all requests leave it out."""


class Fetcher(fetcher.Fetcher):  # type: ignore[misc]
    """aiokafka's fetcher, with a shorter wait for requests that leave a partition out."""

    def _get_actions_per_node(self, assignment: Assignment) -> tuple[Any, ...]:
        """Return the next actions; the first item has the requests to the brokers."""
        actions: tuple[Any, ...] = super()._get_actions_per_node(assignment)
        for node, request in actions[0]:
            asked = sum(len(partitions) for _, partitions in request.topics)
            if asked < sum(self._select_read_replica(tp) == node for tp in assignment.tps):
                request._max_wait_ms = min(request._max_wait_ms, PARTIAL_WAIT_MS)  # noqa: SLF001
        return actions


def ask_soon_again() -> None:
    """Install `Fetcher` in this process; for workers only.

    aiokafka has no hook: its consumer looks the class up by this name in its own module.
    """
    consumer.Fetcher = Fetcher
