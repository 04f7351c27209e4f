"""Has Kafka delete what everybody has: ``--release``, so that its disks hold little.

A record is deleted when every group that ever committed on the topic is past it. Groups
commit only what is persisted, so nothing is deleted that a machine still needs. A group that
has not read yet is not known to Kafka: start its machines before the producer.
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
    """Deletes, every few seconds, what all groups have."""

    def __init__(self, settings: Settings, places: list[Place]) -> None:
        """*places* are the partitions of the topic that the blocks travel on."""
        self._settings = settings
        self._admin = clients.admin(settings)
        self._places = places
        self.released = 0  # records, in this run

    def watch(self, stop: threading.Event) -> None:
        """Release until *stop*; a thread's whole life."""
        while not stop.wait(RELEASE_SECONDS):
            self._try()

    def finish(self, stop: threading.Event) -> None:
        """Release the rest, when all is persisted: groups commit a moment after that."""
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
        """Delete what every group that ever read the topic has; return whether none is left.

        Raises:
            ClusterError: Kafka does not answer, or refuses.
        """
        finished = self._finished()
        starts = groups.starts(self._admin, self._places)
        ends = groups.ends(self._admin, self._places)
        # A commit beyond the end is from another life of the topic: it says nothing.
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
        """Return for each place the smallest commit of all groups that read the topic."""
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
