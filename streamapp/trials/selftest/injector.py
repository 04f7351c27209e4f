"""Publishes spoiled frames to the test topic, and earlier records again."""

from __future__ import annotations

import contextlib
import logging
import time

from typing import TYPE_CHECKING, Any, Final

from confluent_kafka import TopicPartition

from streamapp.errors import ClusterError
from streamapp.kafka import clients, groups, topic_admin
from streamapp.units import counted


if TYPE_CHECKING:
    from collections.abc import Sequence

    from confluent_kafka import Consumer, Message
    from confluent_kafka import KafkaError as Code

    from streamapp.kafka.topic_admin import TopicState
    from streamapp.protocol.topics import Place
    from streamapp.settings import Settings
    from streamapp.trials.selftest.spoiled_frames import Record

# librdkafka retries what it warns about; `send` checks that all records arrived.
_librdkafka = logging.getLogger(f"{__name__}.librdkafka")
_librdkafka.setLevel(logging.ERROR)

_BATCH: Final = 100
_SECONDS: Final = 3 * clients.REQUEST_SECONDS


class Injector:
    """Publishes to *topic*, and reads the topic."""

    def __init__(self, settings: Settings, topic: TopicState) -> None:
        self._settings = settings
        self._topic = topic
        self.places = [(topic.name, number) for number in range(topic.partitions)]

    def send(self, records: Sequence[Record], *, partition: int) -> list[int]:
        """Publish *records* in order and return their offsets.

        Raises:
            ClusterError: Kafka did not accept all of them.
        """
        offsets: list[int] = []

        def note(error: Code | None, message: Message) -> None:
            if error is None:
                offsets.append(message.offset() or 0)

        # A new producer each time: one that stayed open could create the topic again after
        # its deletion.
        producer = clients.producer(
            self._settings, max_message_bytes=self._topic.max_message_bytes, logger=_librdkafka
        )
        for key, value, headers in records:
            producer.produce(
                self._topic.name,
                value,
                key,
                partition=partition,
                headers=[*headers],
                on_delivery=note,
            )
        producer.flush(_SECONDS)
        if len(offsets) < len(records):
            producer.purge()
            raise ClusterError(f"Kafka took {len(offsets)} of {counted(len(records), 'record')}")
        return offsets

    def replay(self, file_id: str) -> int:
        """Publish every frame of a file again in order; return their number.

        Raises:
            ClusterError: the frames cannot be read or published.
        """
        count = 0
        with contextlib.closing(clients.consumer(self._settings)) as consumer:
            for (_, partition), end in self.ends().items():
                records = self._records(consumer, partition, end)
                frames = [r for r in records if r[0].startswith(file_id.encode())]
                self.send(frames, partition=partition)
                count += len(frames)
        return count

    def ends(self) -> dict[Place, int]:
        """Return the end offsets of the partitions.

        Raises:
            ClusterError: the broker does not answer.
        """
        return groups.ends(clients.admin(self._settings), self.places)

    def _records(self, consumer: Consumer, partition: int, end: int) -> list[Record]:
        """Return the records of a partition before the offset *end*."""
        records: list[Record] = []
        position, deadline = 0, time.monotonic() + _SECONDS
        consumer.assign([TopicPartition(self._topic.name, partition, 0)])
        while position < end:
            if time.monotonic() > deadline:
                raise ClusterError(f"cannot read {self._topic.name} again: no answer")
            for message in consumer.consume(_BATCH, timeout=topic_admin.SPREAD_SECONDS / 100):
                if message.error() is None and (message.offset() or 0) < end:
                    headers: Any = message.headers()  # its type allows more than Kafka does
                    records.append((message.key() or b"", message.value() or b"", headers or []))
                    position = (message.offset() or 0) + 1
        return records
