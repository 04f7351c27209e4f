"""Deletes records that every group has committed (``--release``), to save space on the brokers.

Groups commit only persisted blocks, so no record is deleted that a worker still needs. Kafka does
not know a group that has never committed: its workers must be started before the producer.
"""

from __future__ import annotations

import logging
import time

from typing import TYPE_CHECKING, Final

from confluent_kafka import KafkaException, TopicPartition

from streamapp.errors import ClusterError
from streamapp.kafka import clients, groups


if TYPE_CHECKING:
    import threading

    from streamapp.protocol.topics import Place
    from streamapp.settings import Settings

logger = logging.getLogger(__name__)

RELEASE_SECONDS: Final = 10.0
FINISH_SECONDS: Final = 5.0
_POLL_SECONDS: Final = 0.5


class RecordPurger:
    """Deletes the records that all groups have committed, every few seconds."""

    def __init__(self, settings: Settings, places: list[Place]) -> None:
        """*places* are the partitions of the topic of the blocks."""
        self._settings = settings
        self._admin = clients.admin(settings)
        self._places = places
        self.released = 0  # records, in this run

    def watch(self, stop: threading.Event) -> None:
        """Delete records until *stop* is set; runs in a thread of its own."""
        while not stop.wait(RELEASE_SECONDS):
            self._try()

    def finish(self, stop: threading.Event) -> None:
        """Delete the last records: groups commit a moment after they acknowledge."""
        deadline = time.monotonic() + FINISH_SECONDS
        while not (self._try() or stop.is_set() or time.monotonic() > deadline):
            stop.wait(_POLL_SECONDS)

    def _try(self) -> bool:
        try:
            return self.release()
        except (ClusterError, KafkaException) as error:
            logger.warning("cannot release records: %s", error)
            return False

    def release(self) -> bool:
        """Delete what every group has committed; return whether no record is left.

        Raises:
            ClusterError: Kafka does not answer, or refuses.
        """
        finished = self._finished()
        starts = groups.starts(self._admin, self._places)
        ends = groups.ends(self._admin, self._places)
        # A commit beyond the end belongs to a topic that was deleted and created again.
        doomed = {p: done for p, done in finished.items() if starts[p] < done <= ends[p]}
        is_all = all(finished.get(place) == end for place, end in ends.items() if end)
        if not doomed:
            return is_all
        futures = self._admin.delete_records(
            [TopicPartition(*place, end) for place, end in doomed.items()],
            request_timeout=clients.REQUEST_SECONDS,
        )
        for future in futures.values():
            groups.result(future, "cannot delete records")
        self.released += sum(end - starts[place] for place, end in doomed.items())
        return is_all

    def _finished(self) -> dict[Place, int]:
        """Return by partition the smallest commit of all groups that committed on the topic."""
        commits: list[dict[Place, int]] = []
        for group in groups.names(self._admin):
            client = groups.reader(self._settings, group)
            try:
                committed = groups.committed(client, self._places)
            finally:
                client.close()
            if committed:
                commits.append(committed)
        if not commits:
            return {}
        return {place: min(found.get(place, 0) for found in commits) for place in self._places}
