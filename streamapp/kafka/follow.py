"""Reads topics by assignment up to their current ends, and optionally follows new records.

A follower commits nothing and joins no group. Anyone who may write to a topic can publish a batch
that librdkafka cannot decode, or a record with a forged offset: both are skipped.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time

from typing import TYPE_CHECKING, Final

from confluent_kafka import KafkaError as Code
from confluent_kafka import KafkaException, TopicPartition

from streamapp.errors import BrokerDeniedError
from streamapp.kafka import clients


if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from confluent_kafka import Consumer, Message

    from streamapp.protocol.topics import Place

logger = logging.getLogger(__name__)

_BATCH: Final = 500  # records in one call of on_records, at most
_POLL_SECONDS: Final = 0.2  # a stop is noticed within this time
_ASK_SECONDS: Final = 3.0  # for one request; it is retried during a failover
_UNREADABLE: Final = (Code._BAD_MSG, Code._BAD_COMPRESSION, Code._NOT_IMPLEMENTED)  # noqa: SLF001
"""Errors of a batch that librdkafka cannot decode, and would fetch again without end."""


class Follower:
    """Reads the partitions *places* with *consumer*; passes the records to *on_records*, in order.

    One thread reads at a time; `wait_until` may be called from any other.
    """

    def __init__(
        self,
        consumer: Consumer,
        places: Iterable[Place],
        on_records: Callable[[list[Message]], None],
    ) -> None:
        self._consumer = consumer
        self._on_records = on_records
        self._positions = dict.fromkeys(places, 0)
        self._moved = threading.Condition()

    def begin(
        self, stop: threading.Event, *, look_back: Mapping[Place, int] | None = None
    ) -> dict[Place, int]:
        """Assign the partitions, and return their ends (the offsets of the next records).

        Reading begins at the beginning, or *look_back* records before the end.

        Raises:
            ClusterError: the topics cannot be read.
        """
        deadline = time.monotonic() + clients.FAILOVER_SECONDS
        ends = {}
        for place in self._positions:
            first, ends[place] = self._bounds(place, stop, deadline)
            back = (look_back or {}).get(place, ends[place])
            self._positions[place] = max(first, ends[place] - back)
        self._consumer.assign([TopicPartition(*p, at) for p, at in self._positions.items()])
        return ends

    def read_to(self, ends: dict[Place, int], stop: threading.Event) -> None:
        """Read until all records before *ends* are read, or *stop* is set.

        Raises:
            ClusterError: the topics cannot be read any more.
        """
        while not (stop.is_set() or self._has_reached(ends)):
            self.read_some()

    def follow(self, stop: threading.Event) -> None:
        """Read until *stop* is set; runs in a thread of its own.

        Raises:
            ClusterError: the topics cannot be read any more.
        """
        while not stop.is_set():
            self.read_some()

    def read_some(self) -> None:
        """Read one batch of records; wait up to `_POLL_SECONDS` for the first one.

        Raises:
            ClusterError: the topics cannot be read any more.
        """
        first = self._consumer.poll(_POLL_SECONDS)
        if first is None:
            return
        messages = [first, *self._consumer.consume(_BATCH, timeout=0)]
        for error in filter(None, (message.error() for message in messages)):
            self._check(error)
        if good := [message for message in messages if message.error() is None]:
            self._on_records(good)
        with self._moved:
            for message in messages:
                self._move(message)
            self._moved.notify_all()

    @property
    def positions(self) -> dict[Place, int]:
        """The next offset to read, by partition."""
        with self._moved:
            return dict(self._positions)

    def wait_until(self, ends: dict[Place, int], within: float) -> bool:
        """Wait up to *within* seconds until all before *ends* is read; return whether it is."""
        deadline = time.monotonic() + within
        with self._moved:
            while not self._has_reached(ends):
                left = deadline - time.monotonic()
                if left <= 0:
                    return False
                self._moved.wait(left)
            return True

    def close(self) -> None:
        """Close the consumer; no thread may be reading."""
        self._consumer.close()

    def _has_reached(self, ends: dict[Place, int]) -> bool:
        return all(self._positions[place] >= end for place, end in ends.items())

    def _bounds(self, place: Place, stop: threading.Event, deadline: float) -> tuple[int, int]:
        """Return the first and the next offset of *place*, retrying while it has no leader."""
        while True:
            try:
                return self._consumer.get_watermark_offsets(
                    TopicPartition(*place), timeout=_ASK_SECONDS
                )
            except KafkaException as error:
                failure = clients.translated(error, f"cannot read topic {place[0]}")
                is_denied = isinstance(failure, BrokerDeniedError)
                if is_denied or time.monotonic() > deadline or stop.wait(_POLL_SECONDS):
                    raise failure from error

    def _move(self, message: Message) -> None:
        place = (message.topic() or "", message.partition() or 0)
        offset, error = message.offset(), message.error()
        if offset is None or place not in self._positions:
            return
        if error is None and self._is_forged(place, offset):
            self._pass_by(place, self._positions[place])
        elif error is None:
            self._positions[place] = offset + 1
        elif error.code() == Code._PARTITION_EOF:  # noqa: SLF001 - librdkafka's own name
            self._positions[place] = offset
        elif error.code() in _UNREADABLE:
            self._pass_by(place, max(offset, self._positions[place]))

    def _is_forged(self, place: Place, offset: int) -> bool:
        """Return whether *offset*, which librdkafka takes from the record, is beyond the end."""
        if offset <= self._positions[place]:
            return False
        _, end = self._consumer.get_watermark_offsets(TopicPartition(*place), cached=True)
        return bool(offset >= end)

    def _pass_by(self, place: Place, offset: int) -> None:
        """Continue after *offset*: librdkafka would not skip it by itself."""
        self._positions[place] = offset + 1
        with contextlib.suppress(KafkaException):  # not assigned any more
            self._consumer.seek(TopicPartition(*place, offset + 1))

    @staticmethod
    def _check(error: Code) -> None:
        if error.code() == Code.GROUP_AUTHORIZATION_FAILED:
            return  # librdkafka looks up its group, which reading by assignment does not need
        translated = clients.translated(KafkaException(error), "cannot read what workers publish")
        if isinstance(translated, BrokerDeniedError):
            raise translated
        logger.debug("kafka: %s", error.str())
