"""Reports the events of a delivery, and publishes the status records of its files."""

from __future__ import annotations

import itertools
import time

from typing import TYPE_CHECKING, Final

from streamapp.errors import ClusterError
from streamapp.producer.events import FileEvent
from streamapp.protocol import messages


if TYPE_CHECKING:
    from collections.abc import Container

    from confluent_kafka import KafkaError, Message

    from streamapp.producer.events import Reporter
    from streamapp.producer.kafka_writer import BoundedProducer
    from streamapp.producer.model import File
    from streamapp.producer.shared_delivery import SharedDelivery
    from streamapp.producer.status_updates import StatusUpdates
    from streamapp.protocol.messages import FileStatus

ANNOUNCE_AHEAD: Final = 1000
"""Files that may be announced and not final: enough for a view, too few to flood the topic."""


class StatusPublisher:
    """Takes the events and touched files of *shared*; used by the thread that steers the run."""

    def __init__(  # noqa: PLR0913 - each argument is a part of the run
        self,
        shared: SharedDelivery,
        updates: StatusUpdates,
        writer: BoundedProducer,
        *,
        topic: str,
        report: Reporter,
        final_states: Container[str],
    ) -> None:
        """*topic* is the status topic; *final_states* are the file states that end a file."""
        self._shared = shared
        self._updates = updates
        self._writer = writer
        self._topic = topic
        self._report = report
        self._final_states = final_states
        self._unannounced = iter(shared.delivery.files.values())
        self._announced = 0  # and not final

    def announce(self) -> None:
        """Announce the next files, so that the views show what will be sent."""
        with self._shared.locked() as (delivery, _):
            room = max(0, ANNOUNCE_AHEAD - self._announced)
            for file in itertools.islice(self._unannounced, room):
                delivery.announce(file)

    def report_events(self, within: float) -> None:
        """Report the new events, waiting up to *within* seconds, and note the touched files."""
        events, touched = self._shared.drain(within)
        self._updates.touch(touched, time.monotonic())
        for event in events:
            if isinstance(event, FileEvent):
                if event.state == "announced":
                    self._announced += 1
                elif event.state in self._final_states:
                    self._announced -= 1
            self._report(event)

    def publish_due(self, now: float) -> None:
        """Publish the records due at *now* (monotonic).

        A record for which the buffer has no space is tried again later, so that it never delays
        blocks.
        """
        with self._shared.locked():
            due = self._updates.take_due(now, time.time())
        for file, status in due:
            try:
                is_published = self._publish(file, status)
            except ClusterError:
                is_published = False
            if not is_published:
                self._updates.touch([file], now)

    def _publish(self, file: File, status: FileStatus) -> bool:
        def note(error: KafkaError | None, _: Message) -> None:
            if error is not None:
                with self._shared.locked() as (delivery, _now):
                    delivery.touched[file.file_id] = file

        return self._writer.post(
            self._topic, messages.encode(status), key=status.key, on_delivery=note
        )
