"""Observes the group's commits, the bounds of the log and the group's state every few seconds.

The delivery uses them only to find blocks whose acknowledgement cannot come any more. So a failed
observation is skipped: librdkafka reconnects by itself.
"""

from __future__ import annotations

import logging

from typing import TYPE_CHECKING, Final

from confluent_kafka import KafkaException, TopicPartition
from confluent_kafka.admin import OffsetSpec

from streamapp.errors import ClusterError
from streamapp.kafka import groups, topic_admin
from streamapp.producer.view import View
from streamapp.protocol import topics


if TYPE_CHECKING:
    import threading

    from collections.abc import Callable

    from confluent_kafka import Consumer
    from confluent_kafka.admin import AdminClient

    from streamapp.protocol.topics import Place

logger = logging.getLogger(__name__)

LOOK_SECONDS: Final = 3.0
"""Seconds between two observations."""

_REQUEST_SECONDS: Final = 5.0  # short, because Ctrl-C waits for the request
_CATCH_UP_SECONDS: Final = 2.0
# confluent-kafka gives these two no types.
_EARLIEST: Final[OffsetSpec] = OffsetSpec.earliest()  # type: ignore[no-untyped-call]
_LATEST: Final[OffsetSpec] = OffsetSpec.latest()  # type: ignore[no-untyped-call]


class GroupMonitor:
    """Passes each new `View` to *on_view*."""

    def __init__(  # noqa: PLR0913 - every argument is needed
        self,
        admin: AdminClient,
        reader: Consumer,
        *,
        group: str,
        partitions: int,
        has_read: Callable[[dict[Place, int], float], bool],
        on_view: Callable[[View], None],
        names: topics.Names = topics.PLAIN_NAMES,
    ) -> None:
        """*reader* reads the group's commits; `groups.reader` says why *admin* does not.

        *has_read* returns whether the acknowledgements are read up to the given offsets; it may
        wait for the given seconds.
        """
        self._admin = admin
        self._reader = reader
        self._group = group
        self._names = names
        self._partitions = partitions
        self._has_read = has_read
        self._on_view = on_view

    def watch(self, stop: threading.Event) -> None:
        """Observe until *stop* is set; runs in a thread of its own."""
        while not stop.is_set():
            try:
                self.look()
            except (ClusterError, KafkaException) as error:
                logger.debug("cannot look at group %s: %s", self._group, error)
            stop.wait(LOOK_SECONDS)

    def look(self) -> None:
        """Observe once.

        The commits are read before the ends of the acknowledgements. So an acknowledgement that
        was published before a commit is never missed.

        Raises:
            ClusterError: Kafka does not answer, or refuses.
            KafkaException: the offsets cannot be listed.
        """
        places = [(self._names.data_blocks, n) for n in range(self._partitions)]
        committed = groups.committed(self._reader, places)
        starts = self._ask(places, _EARLIEST)
        ack_places = topic_admin.file_places(self._names.acks)
        ends = self._ask(places + ack_places, _LATEST)
        ack_ends = {place: ends.pop(place) for place in ack_places}
        view = View(
            committed={number: offset for (_, number), offset in committed.items()},
            starts={number: offset for (_, number), offset in starts.items()},
            ends={number: offset for (_, number), offset in ends.items()},
            is_group_up=self._is_up(),
        )
        if self._has_read(ack_ends, _CATCH_UP_SECONDS):
            self._on_view(view)

    def _ask(self, places: list[Place], which: OffsetSpec) -> dict[Place, int]:
        asked = {TopicPartition(*place): which for place in places}
        futures = self._admin.list_offsets(asked, request_timeout=_REQUEST_SECONDS)
        return {(p.topic, p.partition): f.result().offset for p, f in futures.items()}

    def _is_up(self) -> bool | None:
        try:
            return groups.is_up(self._admin, self._group, timeout=_REQUEST_SECONDS, patience=0)
        except ClusterError as error:
            logger.debug("cannot ask for the machines of %s: %s", self._group, error)
            return None
