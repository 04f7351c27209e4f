"""Wraps the Kafka producer of a run: bounds its buffer, polls it, replaces it when it fails.

librdkafka copies a record's bytes into each delivery report, so only the first and the last frame
of an attempt have one. That is safe: between two acknowledged records of a partition, no record can
be missing. librdkafka retries records without end, and any other error that would leave a gap is
fatal (``enable.gapless.guarantee``). After a fatal error a producer refuses all records; `renew`
replaces it.
"""

from __future__ import annotations

import logging
import threading
import time

from typing import TYPE_CHECKING, Any, Final

from confluent_kafka import KafkaError as Code
from confluent_kafka import KafkaException

from streamapp.kafka import clients


if TYPE_CHECKING:
    from collections.abc import Callable

    from confluent_kafka import Producer

    from streamapp.settings import Settings

logger = logging.getLogger(__name__)

POLL_SECONDS: Final = 0.1
FULL_SECONDS: Final = 0.05
"""Pause until a full buffer is tried again: 32 MiB are still half full then, at 320 MiB/s."""

_PURGE_SECONDS: Final = 2.0


class BoundedProducer:
    """Passes records to a Kafka producer (librdkafka's); *make* returns a new one."""

    def __init__(self, make: Callable[[], Producer]) -> None:
        self._make = make
        self._producer = make()
        self._pause = threading.Event()  # never set: `wait` is a sleep
        self.is_broken = False  # the producer had a fatal error
        self.reason = ""  # of the last fatal error

    @classmethod
    def for_topic(cls, settings: Settings, *, max_message_bytes: int) -> BoundedProducer:
        """Return one for the topic of the blocks, which accepts batches of *max_message_bytes*."""
        extra: dict[str, Any] = {
            "enable.gapless.guarantee": True,
            "delivery.timeout.ms": 0,  # retry without end
        }
        return cls(lambda: clients.producer(settings, max_message_bytes=max_message_bytes, **extra))

    @property
    def producer(self) -> Producer:
        """The producer in use. All frames of an attempt must go to the same one."""
        return self._producer

    def send(
        self,
        producer: Producer,
        topic: str,
        value: bytes,
        *,
        is_wanted: Callable[[], bool],
        **how: Any,  # noqa: ANN401 - confluent's arguments
    ) -> bool:
        """Pass a record to *producer*; wait for room in the buffer while the record *is_wanted*.

        Return whether the record was passed.

        Raises:
            ClusterError: *producer* refuses the record; it may have been replaced meanwhile.
        """
        while is_wanted():
            if self._hand_over(producer, topic, value, **how):
                return True
            self._pause.wait(FULL_SECONDS)
        return False

    def post(self, topic: str, value: bytes, **how: Any) -> bool:  # noqa: ANN401 - confluent's arguments
        """Pass a record to the producer if its buffer has room; return whether it had.

        Raises:
            ClusterError: the producer refuses the record.
        """
        return self._hand_over(self._producer, topic, value, **how)

    def serve(self, stop: threading.Event) -> None:
        """Serve delivery reports until *stop* is set; runs in a thread of its own."""
        while not stop.is_set():
            self._poll(self._producer)

    def renew(self) -> None:
        """Replace the broken producer, whose records are all reported as failed."""
        old = self._producer
        self._producer = self._make()
        self.is_broken = False
        old.purge()
        self._flush(old, _PURGE_SECONDS)
        logger.warning("the Kafka producer failed and was replaced: %s", self.reason)

    def flush(self, seconds: float) -> bool:
        """Wait until Kafka has every record; return whether it has within *seconds*."""
        return self._flush(self._producer, seconds)

    def _hand_over(self, producer: Producer, topic: str, value: bytes, **how: Any) -> bool:  # noqa: ANN401 - confluent's arguments
        try:
            producer.produce(topic, value, **how)
        except BufferError:
            return False
        except KafkaException as error:
            self._note(error, producer)
            raise clients.translated(error, f"cannot send to {topic}") from error
        return True

    def _note(self, error: KafkaException, producer: Producer) -> None:
        """Note an error of *producer*, which may have been replaced meanwhile."""
        cause = error.args[0]
        was_fatal_before = cause.code() == Code._FATAL  # noqa: SLF001 - librdkafka's own name
        if not (cause.fatal() or was_fatal_before):
            logger.debug("kafka: %s", cause.str())
            return
        if producer is self._producer:
            self.is_broken = True
        if not (was_fatal_before and self.reason):
            self.reason = cause.str()

    def _poll(self, producer: Producer) -> None:
        try:
            producer.poll(POLL_SECONDS)
        except KafkaException as error:
            self._note(error, producer)
            self._pause.wait(POLL_SECONDS)

    def _flush(self, producer: Producer, seconds: float) -> bool:
        """Poll until *producer* is empty: `Producer.flush` raises SystemError on a fatal error."""
        deadline = time.monotonic() + seconds
        while len(producer) and time.monotonic() < deadline:
            self._poll(producer)
        return not len(producer)
