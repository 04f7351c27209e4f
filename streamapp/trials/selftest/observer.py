"""Reads the workers' acknowledgements and reports of quarantined records."""

from __future__ import annotations

import time

from typing import TYPE_CHECKING, Final

from confluent_kafka import OFFSET_BEGINNING, KafkaException, TopicPartition
from confluent_kafka import KafkaError as Code

from streamapp.errors import BlockMalformedError, ClusterError
from streamapp.kafka import clients, groups, topic_admin
from streamapp.protocol import messages


if TYPE_CHECKING:
    from confluent_kafka import Message

    from streamapp.protocol.messages import BlockAck
    from streamapp.settings import Settings

_BATCH: Final = 500
_POLL_SECONDS: Final = 0.1
_SECONDS: Final = 3 * clients.REQUEST_SECONDS


class Observer:
    """Collects all acknowledgements and quarantined records from the first record on."""

    def __init__(self, settings: Settings) -> None:
        self.acks: list[BlockAck] = []
        self.set_aside: set[tuple[int, int]] = set()  # partition and offset
        self._settings = settings
        self._acks, status = topic_admin.names(settings).acks, topic_admin.names(settings).status
        places = [*topic_admin.file_places(self._acks), *topic_admin.file_places(status)]
        self._read = dict.fromkeys(places, 0)
        self._consumer = clients.consumer(settings)
        self._consumer.assign([TopicPartition(*place, OFFSET_BEGINNING) for place in self._read])

    def look(self, seconds: float) -> None:
        """Read the available records; wait up to *seconds* for the first one.

        Raises:
            ClusterError: the topics may not be read.
        """
        first = self._consumer.poll(seconds)
        if first is not None:
            for message in [first, *self._consumer.consume(_BATCH, timeout=0)]:
                self._note(message)

    def catch_up(self) -> None:
        """Read to the current end of the topics.

        Raises:
            ClusterError: the topics may not be read, or do not answer.
        """
        deadline = time.monotonic() + _SECONDS
        ends = groups.ends(clients.admin(self._settings), self._read)
        while any(self._read[place] < end for place, end in ends.items()):
            if time.monotonic() > deadline:
                raise ClusterError(f"cannot read {self._acks} to its end: no answer")
            self.look(_POLL_SECONDS)

    def answer(self, file_id: str, attempt: int) -> BlockAck | None:
        """Return the last acknowledgement of an attempt at a file's first block."""
        found = [a for a in self.acks if (a.file_id, a.attempt) == (file_id, attempt)]
        return found[-1] if found else None

    def close(self) -> None:
        """Close the consumer."""
        self._consumer.close()

    def _note(self, message: Message) -> None:
        if error := message.error():
            if error.code() == Code.TOPIC_AUTHORIZATION_FAILED:
                doing = "cannot read what the workers say"
                raise clients.translated(KafkaException(error), doing)
            return  # the end of a partition, or an error that librdkafka retries
        topic, partition, offset = message.topic(), message.partition(), message.offset()
        self._read[topic or "", partition or 0] = (offset or 0) + 1
        try:
            if topic == self._acks:
                self.acks.append(messages.decode_ack(message.value()))
            else:
                status = messages.decode_status(message.value())
                if isinstance(status, messages.Quarantined):
                    self.set_aside.add((status.partition, status.offset))
        except BlockMalformedError:
            return  # a malformed record counts as a missing one
