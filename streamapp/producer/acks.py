"""Reads what the machines of the group have answered, from the first record on, and goes on.

The acknowledgements are the record of what is delivered: a second run learns from them what
is missing, without opening a file. The status topic is read as well: up to the present, to
learn which files are recorded there as complete, and from then on for the machines' heartbeats.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time

from typing import TYPE_CHECKING, Final

from confluent_kafka import OFFSET_BEGINNING, KafkaException, TopicPartition
from confluent_kafka import KafkaError as Code

from streamapp import kafka, records, topics
from streamapp.errors import BlockMalformedError, BrokerDeniedError
from streamapp.records import FileStatus, Heartbeat


if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from confluent_kafka import Consumer, Message

    from streamapp.records import BlockAck

logger = logging.getLogger(__name__)

BATCH: Final = 500
POLL_SECONDS: Final = 0.2
_ASK_SECONDS: Final = 3.0
_UNREADABLE: Final = (Code._BAD_MSG, Code._BAD_COMPRESSION, Code._NOT_IMPLEMENTED)  # noqa: SLF001
"""What librdkafka says of a batch that it cannot read, a bomb; it would ask for it for ever."""

Place = tuple[str, int]


class AckReader:
    """Follows both topics with *consumer*, and hands on what it reads.

    *on_status* is given the files' status records until `catch_up` has returned, and the
    heartbeats of machines, of any group, all the time.
    """

    def __init__(
        self,
        consumer: Consumer,
        *,
        group: str,
        on_acks: Callable[[list[BlockAck]], None],
        on_status: Callable[[FileStatus | Heartbeat], None],
        names: topics.Names = topics.PLAIN_NAMES,
    ) -> None:
        self._consumer = consumer
        self._group = group
        self._names = names
        self._on_acks = on_acks
        self._on_status = on_status
        self._is_caught_up = False
        self._places = [
            (name, number)
            for name in (names.acks, names.status)
            for number in range(topics.FILE_PARTITIONS)
        ]
        self._positions = dict.fromkeys(self._places, 0)
        self._moved = threading.Condition()

    def catch_up(self, stop: threading.Event) -> None:
        """Read what is there now.

        Raises:
            KafkaError: the topics cannot be read.
        """
        deadline = time.monotonic() + kafka.FAILOVER_SECONDS
        ends = {place: self._end(place, stop, deadline) for place in self._places}
        self._consumer.assign([TopicPartition(*p, OFFSET_BEGINNING) for p in self._places])
        while not (stop.is_set() or self._has_reached(ends)):
            self._read()
        self._is_caught_up = True

    def follow(self, stop: threading.Event) -> None:
        """Go on reading until *stop*; a thread's whole life.

        Raises:
            KafkaError: the topic cannot be read any more.
        """
        while not stop.is_set():
            self._read()

    def wait_until(self, ends: dict[Place, int], within: float) -> bool:
        """Wait until everything before *ends* was read; return whether it was *within* seconds."""
        deadline = time.monotonic() + within
        with self._moved:
            while not self._has_reached(ends):
                left = deadline - time.monotonic()
                if left <= 0:
                    return False
                self._moved.wait(left)
            return True

    def close(self) -> None:
        """Let go of the consumer, when no thread reads any more."""
        self._consumer.close()

    def _has_reached(self, ends: dict[Place, int]) -> bool:
        return all(self._positions[place] >= end for place, end in ends.items())

    def _end(self, place: Place, stop: threading.Event, deadline: float) -> int:
        """Return where *place* ends now. A topic just made may have no leader for a moment."""
        while True:
            try:
                _, end = self._consumer.get_watermark_offsets(
                    TopicPartition(*place), timeout=_ASK_SECONDS
                )
            except KafkaException as error:
                failure = kafka.translated(error, f"cannot read topic {place[0]}")
                is_denied = isinstance(failure, BrokerDeniedError)
                if is_denied or time.monotonic() > deadline or stop.wait(POLL_SECONDS):
                    raise failure from error
            else:
                return int(end)

    def _read(self) -> None:
        first = self._consumer.poll(POLL_SECONDS)
        if first is None:
            return
        messages = [first, *self._consumer.consume(BATCH, timeout=0)]
        if acks := list(self._acks_among(messages)):
            self._on_acks(acks)
        with self._moved:
            for message in messages:
                self._move(message)
            self._moved.notify_all()

    def _acks_among(self, messages: Iterable[Message]) -> Iterable[BlockAck]:
        for message in messages:
            if error := message.error():
                self._check(error)
                continue
            try:
                if message.topic() == self._names.acks:
                    ack = records.decode_ack(message.value())
                    if ack.group == self._group:
                        yield ack
                else:
                    self._pass_on(records.decode_status(message.value()))
            except BlockMalformedError as error:
                logger.debug("ignored a record on %s: %s", message.topic(), error)

    def _pass_on(self, status: records.Status) -> None:
        wanted = (Heartbeat,) if self._is_caught_up else (Heartbeat, FileStatus)
        if isinstance(status, wanted):
            self._on_status(status)

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
        """Whether no record of *place* can have *offset*: it says so itself, and is believed."""
        if offset <= self._positions[place]:
            return False
        _, end = self._consumer.get_watermark_offsets(TopicPartition(*place), cached=True)
        return bool(offset >= end)

    def _pass_by(self, place: Place, offset: int) -> None:
        """Go on behind *offset*, where librdkafka would not by itself."""
        self._positions[place] = offset + 1
        with contextlib.suppress(KafkaException):  # it is not read any more, or is met again
            self._consumer.seek(TopicPartition(*place, offset + 1))

    @staticmethod
    def _check(error: Code) -> None:
        if error.code() == Code.GROUP_AUTHORIZATION_FAILED:
            return  # librdkafka looks for its group, which is not needed to read by assignment
        translated = kafka.translated(KafkaException(error), "cannot read acknowledgements")
        if isinstance(translated, BrokerDeniedError):
            raise translated
        logger.debug("kafka: %s", error.str())
