"""The Kafka producer of a run: bounded, polled by a thread of its own, replaced when it dies.

librdkafka copies a record's bytes into each delivery report, so the frames in the middle of
a block have none. That is safe because nothing can be missing between two records of one
partition that have been acknowledged: records are repeated without end, and any other error
that would leave a gap is fatal (``enable.gapless.guarantee``). A producer that had a fatal
error takes nothing any more; `renew` puts another in its place.
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
"""How long a full buffer is left to empty: at 32 MiB it is still half full at 320 MiB/s."""

_PURGE_SECONDS: Final = 2.0


class BoundedProducer:
    """Takes records for Kafka; *make* returns a producer."""

    def __init__(self, make: Callable[[], Producer]) -> None:
        self._make = make
        self._producer = make()
        self._pause = threading.Event()  # never set: waiting on it is a sleep
        self.is_broken = False  # it takes nothing any more
        self.reason = ""  # why, the last time

    @classmethod
    def for_topic(cls, settings: Settings, *, max_message_bytes: int) -> BoundedProducer:
        """Return an outbox with a producer for the blocks' topic, which takes such batches."""
        extra: dict[str, Any] = {
            "enable.gapless.guarantee": True,
            "delivery.timeout.ms": 0,  # no end
        }
        return cls(lambda: clients.producer(settings, max_message_bytes=max_message_bytes, **extra))

    @property
    def producer(self) -> Producer:
        """The one in use. All frames of an attempt go to one: nothing is missing between them."""
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
        """Hand a record to *producer*, waiting for room while it *is_wanted*.

        Returns whether it was.

        Raises:
            ClusterError: the producer does not take it; it may have been replaced since.
        """
        while is_wanted():
            if self._hand_over(producer, topic, value, **how):
                return True
            self._pause.wait(FULL_SECONDS)
        return False

    def post(self, topic: str, value: bytes, **how: Any) -> bool:  # noqa: ANN401 - confluent's arguments
        """Hand over a record if there is room; return whether there was.

        Raises:
            ClusterError: the producer does not take it.
        """
        return self._hand_over(self._producer, topic, value, **how)

    def serve(self, stop: threading.Event) -> None:
        """Call back for what Kafka acknowledged, until *stop*; a thread's whole life."""
        while not stop.is_set():
            self._poll(self._producer)

    def renew(self) -> None:
        """Put a new producer in place of a broken one, whose records all come back failed."""
        old = self._producer
        self._producer = self._make()
        self.is_broken = False
        old.purge()
        self._flush(old, _PURGE_SECONDS)
        logger.warning("the Kafka producer failed and was replaced: %s", self.reason)

    def flush(self, seconds: float) -> bool:
        """Wait until Kafka has everything; return whether it has after *seconds*."""
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
        """Note what happened to *producer*, which may have been replaced since."""
        cause = error.args[0]
        was_fatal_before = cause.code() == Code._FATAL  # noqa: SLF001 - librdkafka's own name
        if not (cause.fatal() or was_fatal_before):
            logger.debug("kafka: %s", cause.str())
            return
        self.is_broken |= producer is self._producer
        if not (was_fatal_before and self.reason):
            self.reason = cause.str()

    def _poll(self, producer: Producer) -> None:
        try:
            producer.poll(POLL_SECONDS)
        except KafkaException as error:
            self._note(error, producer)
            self._pause.wait(POLL_SECONDS)

    def _flush(self, producer: Producer, seconds: float) -> bool:
        """Poll instead of `Producer.flush`, which a fatal error turns into a SystemError."""
        deadline = time.monotonic() + seconds
        while len(producer) and time.monotonic() < deadline:
            self._poll(producer)
        return not len(producer)
