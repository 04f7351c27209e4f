"""A hand at the wire: writes any record to the topic of blocks, and old ones once more."""

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

# What it warns of is repeated by itself; whether all arrived is what `send` says.
_librdkafka = logging.getLogger(f"{__name__}.librdkafka")
_librdkafka.setLevel(logging.ERROR)

_BATCH: Final = 100
_SECONDS: Final = 3 * clients.REQUEST_SECONDS


class Injector:
    """Writes to *topic*, and reads what was written there."""

    def __init__(self, settings: Settings, topic: TopicState) -> None:
        self._settings = settings
        self._topic = topic
        self.places = [(topic.name, number) for number in range(topic.partitions)]

    def send(self, records: Sequence[Record], *, partition: int) -> list[int]:
        """Write *records*, in order; return their offsets when Kafka has them.

        Raises:
            ClusterError: Kafka does not take them.
        """
        offsets: list[int] = []

        def note(error: Code | None, message: Message) -> None:
            if error is None:
                offsets.append(message.offset() or 0)

        # One for each time: a producer that lives on would have the topic made again after
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
        """Write every frame of a file once more, in its order; return how many there are.

        Raises:
            ClusterError: they cannot be read or written.
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
        """Return where the partitions end.

        Raises:
            ClusterError: the broker does not tell.
        """
        return groups.ends(clients.admin(self._settings), self.places)

    def _records(self, consumer: Consumer, partition: int, end: int) -> list[Record]:
        """Return what is in a partition before *end*."""
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
